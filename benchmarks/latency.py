"""Compare torchatlas's latencies with those of torch.utils.benchmark and torch.profiler.

The three take turns, round after round and each for a short time, so that what else the machine
does weighs on all of them alike; a figure is the median of the rounds. `ratio` is the whole model
by `torchatlas.measure` over the whole model by torch.utils.benchmark, on as many threads. `ops` is
what the latencies of the nodes add up to, and `residual` what the whole takes beyond that;
`profiler` is what the operators that the model calls add up to in torch.profiler, which watches
and so slows them. `node by node` is how far our latency of a node is from what the profiler says
of the call that it stands for, the k-th of its operator: the median of |ours / profiler - 1| over
the nodes that take a hundredth of the time or more. `seconds` is what all of `measure` takes, the
check of every tensor with it.

With `--device cuda` the models are large enough to keep a GPU busy: resnet50 and
mobilenet_v3_large with 64 images, BERT with 16 texts, and the prefill of a Llama of 1.2 billion
parameters in bfloat16. `ops` are the kernels then, and `memory` is the peak that the graph
predicts over the measured one.

On a machine that does other things too only one thread gives figures that can be compared: two
wait for each other, and for whoever else has a processor.

    python benchmarks/latency.py --markdown benchmarks/results/latency.md
    python benchmarks/latency.py --device cuda --markdown benchmarks/results/latency_cuda.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
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


def _vision(name: str, batch: int) -> tuple[nn.Module, Any]:
    from torchvision import models

    return models.get_model(name), torch.randn(batch, 3, 224, 224)


def _bert(batch: int, length: int) -> tuple[nn.Module, Any]:
    import transformers

    model = transformers.BertModel(transformers.BertConfig())
    return model, torch.randint(0, 30000, (batch, length))


def _llama(length: int) -> tuple[nn.Module, Any]:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, use_cache=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    return model, torch.randint(0, 128256, (1, length))


MODELS: dict[str, dict[str, Callable[[], tuple[nn.Module, Any]]]] = {
    "cpu": {
        "resnet50": lambda: _vision("resnet50", 1),
        "mobilenet_v3_large": lambda: _vision("mobilenet_v3_large", 1),
        "bert": lambda: _bert(1, 128),
    },
    "cuda": {
        "resnet50": lambda: _vision("resnet50", 64),
        "mobilenet_v3_large": lambda: _vision("mobilenet_v3_large", 64),
        "bert": lambda: _bert(16, 512),
        "llama-1b": lambda: _llama(2048),
    },
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
    nodes: list[float] = field(default_factory=list)
    compared: int = 0
    memory: float | None = None

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


Calls = dict[str, list[float]]
"""The name of an operator -> microseconds of each of its calls in one run, in order."""


def profiled(model: nn.Module, example: Any, runs: int, device: str) -> tuple[float, Calls]:
    """Return the milliseconds of a run that torch.profiler attributes to operators, or kernels.

    And what each call of an operator takes that the model itself makes: the median of the runs.
    """
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.no_grad(), profile(activities=activities) as found:
        for _ in range(runs):
            model(example)
        if on_gpu:
            torch.cuda.synchronize()
    kind = "device_time_total" if on_gpu else "cpu_time_total"
    calls: defaultdict[str, list[float]] = defaultdict(list)
    for event in found.events():
        if event.cpu_parent is None and event.name.startswith("aten::"):
            calls[event.name].append(getattr(event, kind))
    medians = {
        name: [statistics.median(times[k :: len(times) // runs]) for k in range(len(times) // runs)]
        for name, times in calls.items()
    }
    whole = sum(getattr(event, f"self_{kind}") for event in found.key_averages())
    return whole / runs / 1e3, medians


def beside(graph: ta.ModelGraph, calls: Calls) -> list[float]:
    """Return |ours / profiler - 1| of the nodes that take a hundredth of the time or more."""
    ours: defaultdict[str, list[float]] = defaultdict(list)
    for _, node in sorted(graph.nodes(data=True), key=lambda item: item[1]["index"]):
        if node["kind"] == "op":
            ours[node["op"].replace(".", "::", 1)].append(node["latency_us"])
    least = sum(map(sum, ours.values())) / 100
    return [
        abs(mine / theirs - 1)
        for name, times in ours.items()
        if len(times) == len(calls.get(name, ()))
        for mine, theirs in zip(times, calls[name], strict=True)
        if mine >= least and theirs
    ]


def compare(name: str, rounds: int, seconds: float, device: str) -> Row:
    """Measure one model by all three, in turn, for `seconds` each time."""
    torch.manual_seed(0)
    with torch.device(device):
        model, example = MODELS[device][name]()
    model.eval()
    graph, row = ta.capture(model, example), Row(name)
    threads = torch.get_num_threads()
    timer = Timer("with torch.no_grad(): model(x)", "import torch", num_threads=threads,
                  globals={"model": model, "x": example})  # fmt: skip
    steps = max(5, round(seconds / timer.timeit(3).mean))
    for _ in range(rounds):
        began = time.perf_counter()
        found = ta.measure(graph, device=device, steps=steps, strict=False)
        timed = found.graph
        row.seconds.append(time.perf_counter() - began)
        whole, row.confirmed = timed["measured"], timed["confirmed"]
        row.device = whole.device_name
        row.ours.append(whole.median_us / 1e3)
        row.ops.append(whole.sum_us / 1e3)
        row.spread.append(whole.iqr_us / whole.median_us)
        row.theirs.append(timer.blocked_autorange(min_run_time=seconds).median * 1e3)
        total, calls = profiled(model, example, steps, device)
        row.profiler.append(total)
        apart = beside(found, calls)
        row.compared = len(apart)
        row.nodes += [statistics.median(apart)] if apart else []
        peak, predicted = whole.peak_bytes, ta.totals(found).peak_bytes
        row.memory = predicted / peak if peak and predicted else None
    return row


def markdown(rows: list[Row], rounds: int) -> str:
    """Return the rows as a page."""
    lines = [
        "# Latency: torchatlas beside torch.utils.benchmark and torch.profiler",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{rows[0].device}, {torch.get_num_threads()} of {os.cpu_count()} threads, {date.today()}; "
        f"milliseconds, medians of {rounds} rounds. What each column is stands in "
        "`benchmarks/latency.py`.",
        "",
        "| model | torchatlas | benchmark | ratio | IQR | ops | residual | profiler "
        "| node by node | ops confirmed | seconds | memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {r.model} | {r.ms('ours'):.2f} | {r.ms('theirs'):.2f} | {r.ratio:.3f} "
            f"| {r.ms('spread'):.1%} | {r.ms('ops'):.2f} | {r.residual:+.1%} "
            f"| {r.ms('profiler'):.2f} | {_nodes(r)} | {r.confirmed} | {r.ms('seconds'):.1f} "
            f"| {'' if r.memory is None else f'{r.memory:.3f}'} |"
            for r in rows
        ),
        "",
    ]
    return "\n".join(lines)


def _nodes(row: Row) -> str:
    return f"{row.ms('nodes'):.1%} of {row.compared}" if row.nodes else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(MODELS), default="cpu")
    parser.add_argument("--models", nargs="*", help="only these; by default all of the device")
    parser.add_argument("--rounds", type=int, default=15, help="turns that each of the three takes")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models or MODELS[options.device]:
        rows.append(compare(name, options.rounds, options.seconds, options.device))
        print(f"{name:20} ratio {rows[-1].ratio:.3f}", flush=True)
    page = markdown(rows, options.rounds)
    if options.markdown:
        options.markdown.write_text(page)
    sys.stdout.write(f"\n{page}")
    return int(any(abs(row.ratio - 1) > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
