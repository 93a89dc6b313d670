"""Show where `torch.compile` stops: graph breaks, recompilations and what each part costs.

A model that looks at its values makes torch cut it into several graphs; a batch of another size
makes it compile once more. Nothing but torch is needed: eager torch runs what is compiled.

    python examples/graph_breaks.py
"""

import torch
from torch import nn

import torchatlas as ta


class Classifier(nn.Module):
    """Prints, branches on a value and reads one: three graph breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256))
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of each class."""
        x = self.body(x)
        print("the body is done")
        if x.abs().max() > 100:
            x = x / 100
        scale = x.norm().item()
        return self.head(x) / scale


def main() -> None:
    model = torch.compile(Classifier(), backend="eager")  # any backend is seen
    with ta.recording() as found, torch.no_grad():
        model(torch.randn(8, 64))
        model(torch.randn(32, 64))
    print(f"\n{found}\n")

    for one in found.breaks:
        print(f"{one.file}, line {one.line}: {one.reason}")
    for one in found.compilations:
        again = ", compiled again" if any(r.compiled is one for r in found.recompilations) else ""
        print(f"{one.function}: {ta.totals(one.forward).flops} FLOPs{again}")


if __name__ == "__main__":
    main()
