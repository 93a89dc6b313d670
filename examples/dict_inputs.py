"""Capture a model with dict inputs and outputs, a module called twice, and a tied weight.

    python examples/dict_inputs.py

Every input and output has the name of its argument and of the keys inside it; a tied weight is
one node that lists its other names; a module's second call is a node of its own.
"""

import torch
from torch import Tensor, nn

import torchatlas as ta


class Tagger(nn.Module):
    """Embeds words, mixes them twice with one layer, and scores them with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, batch: dict[str, Tensor], *, temperature: Tensor) -> dict[str, Tensor]:
        """Return the scores (batch, words, vocabulary) and how many words were kept (batch)."""
        x = self.embed(batch["words"]) * batch["mask"].unsqueeze(-1)
        x = self.mix(torch.relu(self.mix(x)))
        return {"scores": self.head(x) / temperature, "kept": batch["mask"].sum(-1)}


def main() -> None:
    batch = {"words": torch.zeros(2, 7, dtype=torch.int64), "mask": torch.ones(2, 7)}
    # A tuple holds positional arguments and a mapping keyword arguments; a pair holds both.
    graph = ta.capture(Tagger(), ((batch,), {"temperature": torch.tensor(1.0)}))
    print(ta.to_text(graph))

    for name, node in graph.nodes(data=True):
        if node["kind"] == "input":
            print(f"input   {name}: {node['outputs'][0]}")
        elif node["kind"] == "output":
            print(f"output  {name}, from {', '.join(graph.predecessors(name))}")
        elif "aliases" in node:
            users = ", ".join(graph.successors(name))
            print(f"tied    {name} is also {', '.join(node['aliases'])}; used by {users}")
    calls = [
        name for name, node in graph.nodes(data=True) if node["op"] and node["module"] == "mix"
    ]
    print(f"shared  the module 'mix' runs as {' and '.join(calls)}")
    print(f"\n{ta.totals(graph).params:,} parameters: shared and tied ones count once")


if __name__ == "__main__":
    main()
