"""Compare torchatlas's latencies with those of torch.utils.benchmark and torch.profiler.

The three take turns, round after round and each for a short time, so that what else the machine
does weighs on all of them alike; a figure is the median of the rounds. `ratio` is the whole model
by `torchatlas.measure` over the whole model by torch.utils.benchmark, on as many threads. `ops` is
what the latencies of the nodes add up to, and `residual` what the whole takes beyond that;
`profiler` is what the operators that the model calls add up to in torch.profiler, which watches
and so slows them.

On a machine that does other things too only one thread gives figures that can be compared: two
wait for each other, and for whoever else has a processor.

    python benchmarks/latency.py --markdown benchmarks/results/latency.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

import torchatlas as ta

LIMIT = 0.03


def _vision(name: str) -> tuple[nn.Module, Any]:
    from torchvision import models

    return models.get_model(name), torch.randn(1, 3, 224, 224)


def _bert() -> tuple[nn.Module, Any]:
    import transformers

    model = transformers.BertModel(transformers.BertConfig())
    return model, torch.randint(0, 30000, (1, 128))


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet50": lambda: _vision("resnet50"),
    "mobilenet_v3_large": lambda: _vision("mobilenet_v3_large"),
    "bert": _bert,
}


@dataclass
class Row:
    """One model: milliseconds, a number for each round."""

    model: str
    confirmed: int = 0
    device: str = ""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ops: list[float] = field(default_factory=list)
    profiler: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def ms(self, key: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(getattr(self, key))

    @property
    def ratio(self) -> float:
        """Return ours divided by torch.utils.benchmark's: the median over the pairs of a round."""
        return statistics.median(map(truediv, self.ours, self.theirs))

    @property
    def residual(self) -> float:
        """Return the part of the whole that no op takes."""
        whole = zip(self.ours, self.ops, strict=True)
        return statistics.median(1 - ops / ours for ours, ops in whole)


def profiled(model: nn.Module, example: Any, runs: int) -> float:
    """Return the milliseconds of a run that torch.profiler attributes to operators."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(runs):
            model(example)
    return sum(event.self_cpu_time_total for event in found.key_averages()) / runs / 1e3


def compare(name: str, rounds: int, seconds: float) -> Row:
    """Measure one model by all three, in turn, for `seconds` each time."""
    torch.manual_seed(0)
    model, example = MODELS[name]()
    model.eval()
    graph, row = ta.capture(model, example), Row(name)
    threads = torch.get_num_threads()
    timer = Timer("with torch.no_grad(): model(x)", "import torch", num_threads=threads,
                  globals={"model": model, "x": example})  # fmt: skip
    steps = max(5, round(seconds / timer.timeit(3).mean))
    for _ in range(rounds):
        began = time.perf_counter()
        timed = ta.measure(graph, steps=steps).graph
        row.seconds.append(time.perf_counter() - began)
        whole, row.confirmed = timed["measured"], timed["confirmed"]
        row.device = whole.device_name
        row.ours.append(whole.median_us / 1e3)
        row.ops.append(whole.sum_us / 1e3)
        row.spread.append(whole.iqr_us / whole.median_us)
        row.theirs.append(timer.blocked_autorange(min_run_time=seconds).median * 1e3)
        row.profiler.append(profiled(model, example, steps))
    return row


def markdown(rows: list[Row], rounds: int) -> str:
    """Return the rows as a page."""
    lines = [
        "# Latency: torchatlas beside torch.utils.benchmark and torch.profiler",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{rows[0].device}, {torch.get_num_threads()} of {os.cpu_count()} threads; milliseconds, "
        f"medians of {rounds} rounds. What each column is stands in `benchmarks/latency.py`.",
        "",
        "| model | torchatlas | benchmark | ratio | IQR | ops | residual | profiler "
        "| ops confirmed | seconds to measure |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {r.model} | {r.ms('ours'):.2f} | {r.ms('theirs'):.2f} | {r.ratio:.3f} "
            f"| {r.ms('spread'):.1%} | {r.ms('ops'):.2f} | {r.residual:+.1%} "
            f"| {r.ms('profiler'):.2f} | {r.confirmed} | {r.ms('seconds'):.1f} |"
            for r in rows
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15, help="turns that each of the three takes")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        rows.append(compare(name, options.rounds, options.seconds))
        print(f"{name:20} ratio {rows[-1].ratio:.3f}", flush=True)
    page = markdown(rows, options.rounds)
    if options.markdown:
        options.markdown.write_text(page)
    sys.stdout.write(f"\n{page}")
    return int(any(abs(row.ratio - 1) > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
