"""Compare the peak of memory that torchatlas predicts with torch's own MemTracker.

Both look at tensors without values. MemTracker follows the tensors that an eager run makes and
drops; torchatlas reads the peak off the graph. Four cases for each model: a forward pass without
gradients, as an exported graph lets it be inferred and as ``mode="inference"`` records it; forward
and backward; and both followed by a step of AdamW whose state exists already.

    python benchmarks/peak_memory.py --models resnet50 vit_b_16
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

import torchatlas as ta
from torchatlas.frontends.training import default_loss

CASES = ("forward", "inference", "forward + backward", "with AdamW")


def _vision(name: str, batch: int, size: int = 224) -> tuple[Callable[[], nn.Module], Any]:
    from torchvision import models

    return partial(models.get_model, name), (torch.zeros(batch, 3, size, size),)


def _text(kind: str, **config: Any) -> tuple[Callable[[], nn.Module], Any]:
    import transformers

    settings = transformers.AutoConfig.for_model(kind, use_cache=False, **config)
    ids = torch.zeros(4, 128, dtype=torch.long)
    example = (ids, None, ids) if kind == "t5" else (ids,)
    return partial(transformers.AutoModel.from_config, settings), example


MODELS: dict[str, Callable[[], tuple[Callable[[], nn.Module], Any]]] = {
    "resnet18": lambda: _vision("resnet18", 8),
    "resnet50": lambda: _vision("resnet50", 8),
    "mobilenet_v3_large": lambda: _vision("mobilenet_v3_large", 8),
    "efficientnet_b0": lambda: _vision("efficientnet_b0", 4),
    "convnext_tiny": lambda: _vision("convnext_tiny", 4),
    "densenet121": lambda: _vision("densenet121", 4),
    "vgg11": lambda: _vision("vgg11", 4),
    "vit_b_16": lambda: _vision("vit_b_16", 4),
    "swin_t": lambda: _vision("swin_t", 4),
    "bert, 4 layers": lambda: _text("bert", num_hidden_layers=4),
    "gpt2, 4 layers": lambda: _text("gpt2", n_layer=4),
    "llama, 4 layers": lambda: _text(
        "llama",
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        vocab_size=8000,
    ),
    "t5, 3 layers": lambda: _text("t5", num_layers=3),
    "lstm, 2 layers": lambda: (lambda: nn.LSTM(128, 256, 2), (torch.zeros(32, 8, 128),)),
}


@dataclass
class Row:
    """One model in one case: bytes at the peak."""

    model: str
    case: str
    ours: int
    tracker: int
    node: str

    @property
    def ratio(self) -> float:
        """Return ours divided by the tracker's."""
        return self.ours / self.tracker


def fake_copy(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Return a copy of `model` whose state has no values; what is tied stays tied."""
    copied = copy.deepcopy(model)
    made: dict[int, nn.Parameter] = {}
    for module in copied.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and id(parameter) not in made:
                faked = mode.from_tensor(parameter.detach())
                made[id(parameter)] = nn.Parameter(faked, parameter.requires_grad)
            if parameter is not None:
                module._parameters[name] = made[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = None if buffer is None else mode.from_tensor(buffer)
    return copied


@contextmanager
def tracking(*state: Any) -> Iterator[MemTracker]:
    """Follow what an eager run allocates besides `state`."""
    tracker = MemTracker()
    tracker.track_external(*state)
    with tracker:
        yield tracker


def tracked(model: nn.Module, example: Any, case: str) -> int:
    """Return MemTracker's peak in bytes."""
    mode = FakeTensorMode()
    faked = fake_copy(model, mode)
    with mode:
        args = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in example]
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if case in ("forward", "inference"):
            with tracking(faked, *tensors) as tracker, torch.no_grad():
                faked(*args)
        else:
            optimizers = [_warm_adamw(faked)] if case == "with AdamW" else []
            with tracking(faked, *optimizers, *tensors) as tracker:
                output = faked(*args)
                loss = default_loss(output)
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
    return max(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())


def _warm_adamw(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def captured(model: nn.Module, example: Any, case: str) -> tuple[int, str]:
    """Return torchatlas's peak in bytes, and the node that it is at."""
    modes = {"forward": "forward", "inference": "inference"}
    options: dict[str, Any] = {"mode": modes.get(case, "training")}
    if case == "with AdamW":
        options["optimizer"] = torch.optim.AdamW
    peak = ta.totals(ta.capture(model, example, **options)).peak
    assert peak is not None and isinstance(peak.nbytes, int)
    return peak.nbytes, peak.node


def measure(name: str, cases: list[str]) -> Iterator[Row]:
    """Yield a row for each case of one model."""
    make, example = MODELS[name]()
    torch.manual_seed(0)
    model = make().train()
    for case in cases:
        ours, node = captured(model, example, case)
        yield Row(name, case, ours, tracked(model, example, case), node)


def markdown(rows: list[Row]) -> str:
    """Return the rows as a page."""
    within = {c: sum(abs(r.ratio - 1) <= 0.02 for r in rows if r.case == c) for c in CASES}
    equal = {c: sum(r.ours == r.tracker for r in rows if r.case == c) for c in CASES}
    total = len({r.model for r in rows})
    lines = [
        "# Peak of memory: torchatlas beside torch's MemTracker",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, fake tensors on the CPU. "
        "Both in bytes; ratio = ours / MemTracker's.",
        "",
        "| model | case | torchatlas | MemTracker | ratio | at |",
        "|---|---|--:|--:|--:|---|",
        *(
            f"| {r.model} | {r.case} | {r.ours:,} | {r.tracker:,} | {r.ratio:.4f} | `{r.node}` |"
            for r in rows
        ),
        "",
        "Within 2 %: " + ", ".join(f"{case} {n} of {total}" for case, n in within.items()) + ".",
        "To the byte: " + ", ".join(f"{case} {n} of {total}" for case, n in equal.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    for name in options.models:
        for row in measure(name, options.cases):
            rows.append(row)
            print(f"{name:20} {row.case:20} {row.ratio:.4f} at {row.node}", flush=True)
    page = markdown(rows)
    if options.markdown:
        options.markdown.write_text(page)
    sys.stdout.write(f"\n{page}")


if __name__ == "__main__":
    main()
