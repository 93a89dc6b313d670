"""Measure what a capture costs, step by step, beside torch.export and other tools.

    python benchmarks/capture.py --json results.json --markdown results.md

Every tool runs in a process of its own for each model, on one thread. Before anything is
measured it runs once on a tiny model, so that no import counts, and then once on the model: the
peak of that first run, above the memory of the loaded model, is the memory reported. Seconds
are the median of the runs after it, which take turns with torch.export on the same model, so
that ratios hold on a busy machine too. Needs `pip install torchatlas[bench,zoo]`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import capture_scale

TARGET = 25.0
"""Percent of torch.export's own time that read, build and annotate may take together."""

TIMEOUT = 1800
Made = tuple[Any, Any]
Timings = dict[str, float]

# -- models ------------------------------------------------------------------------------------


def _resnet50() -> Made:
    import torch
    import torchvision

    return torchvision.models.resnet50().eval(), torch.randn(1, 3, 224, 224)


def _transformer(kind: str, auto: str, length: int, **config: Any) -> Made:
    import torch
    import transformers

    made = transformers.AutoConfig.for_model(kind, **config)
    model = getattr(transformers, auto).from_config(made).eval()
    model.config.use_cache = False
    return model, {"input_ids": torch.zeros(1, length, dtype=torch.int64)}


def _llama() -> Made:
    return _transformer(
        "llama", "AutoModelForCausalLM", 128,
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True,
    )  # fmt: skip


def _tiny() -> Made:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    return model.eval(), torch.randn(1, 4)


MODELS: dict[str, Callable[[], Made]] = {
    "tiny": _tiny,
    "resnet50": _resnet50,
    "llama-1b": _llama,
    "bert-base": lambda: _transformer("bert", "AutoModel", 128),
    "gpt2": lambda: _transformer("gpt2", "AutoModelForCausalLM", 128),
}
WITHOUT_WEIGHTS = {"llama-1b"}
"""Models that tools which need no weights get on the meta device, for want of memory."""

DEFAULT = [name for name in MODELS if name != "tiny"]


def _load(model: str, weights: str) -> Made:
    import torch

    if weights == "meta" or (weights == "any" and model in WITHOUT_WEIGHTS):
        with torch.device("meta"):
            return MODELS[model]()
    if weights == "fake":
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return MODELS[model]()
    return MODELS[model]()


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((), example) if isinstance(example, dict) else ((example,), {})


# -- tools: each runs once and returns the seconds of its steps --------------------------------


@contextlib.contextmanager
def _timed(timings: Timings, step: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    timings[step] = time.perf_counter() - begin


def _torch_export(model: Any, example: Any) -> Timings:
    import torch

    timings: Timings = {}
    args, kwargs = _as_call(example)
    with _timed(timings, "torch.export"):
        torch.export.export(model, args, kwargs, strict=False)
    return timings


def _capture(model: Any, example: Any) -> Timings:
    import torchatlas as ta

    timings: Timings = {}
    with _timed(timings, "capture"):
        ta.capture(model, example)
    return timings


def _trace(model: Any, example: Any) -> Timings:
    import torchatlas as ta

    timings: Timings = {}
    with _timed(timings, "trace"):
        ta.capture(model, example, frontend="trace")
    return timings


STEPS = ("torch.export", "read", "build", "annotate")


def _steps(model: Any, example: Any, executable: bool = False) -> Timings:
    """Time what `torchatlas.capture` does, each step after the other, and then the exporters."""
    import torch

    from torchatlas.annotations import annotate
    from torchatlas.exporters import render
    from torchatlas.frontends import Source, exported
    from torchatlas.graph import build

    timings: Timings = {}
    args, kwargs = _as_call(example)
    with _timed(timings, "torch.export"):
        program = torch.export.export(model, args, kwargs, strict=False)
    with _timed(timings, "read"):
        found = exported.read(program, model)
    with _timed(timings, "build"):
        graph, ids = build(found.records, **found.attrs)
    with _timed(timings, "annotate"):
        annotate(graph)
    graph.source = Source("export", program, found.placeholders, model, ids)
    formats = ["json", "dot", "onnx-structure", *(["onnx"] if executable else [])]
    for format in formats:
        with _timed(timings, format):
            render(graph, format)
    return timings


def _torchview(model: Any, example: Any) -> Timings:
    import torchview

    timings: Timings = {}
    with _timed(timings, "torchview"):
        torchview.draw_graph(model, input_data=example, depth=100, device="meta")
    return timings


def _torchlens(model: Any, example: Any) -> Timings:
    import torch
    import torchlens

    timings: Timings = {}
    args, kwargs = _as_call(example)
    with _timed(timings, "torchlens"), torch.no_grad():
        torchlens.trace(model, args, kwargs)
    return timings


def _flop_counter(model: Any, example: Any) -> Timings:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    timings: Timings = {}
    args, kwargs = _as_call(example)
    mode = next(model.parameters()).fake_mode
    with _timed(timings, "FlopCounterMode"), mode, torch.no_grad(), FlopCounterMode(display=False):
        model(*args, **kwargs)
    return timings


@dataclass(frozen=True)
class Tool:
    """One tool: how it runs, which weights it takes (real, meta, fake, any), what it is."""

    run: Callable[..., Timings]
    weights: str
    doc: str
    patches_torch: bool = False
    """Whether torch stays changed after a run, so that nothing else can be timed beside it."""


TOOLS = {
    "torch.export": Tool(_torch_export, "any", "torch.export alone, not strict"),
    "capture": Tool(_capture, "any", "torchatlas.capture, whole"),
    "trace": Tool(_trace, "any", "torchatlas.capture with the front end trace, whole"),
    "steps": Tool(_steps, "any", "the steps of torchatlas.capture, and its exporters"),
    "torchview": Tool(_torchview, "meta", "torchview.draw_graph, depth=100, on the meta device"),
    "torchlens": Tool(_torchlens, "real", "torchlens.trace, which runs the model", True),
    "FlopCounterMode": Tool(_flop_counter, "fake", "torch's FlopCounterMode on fake tensors"),
}

# -- one process: one tool on one model --------------------------------------------------------


def _memory(key: str) -> int | None:
    """Return VmRSS (now) or VmHWM (the peak) in bytes; None where the system does not say."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        return int(found[1]) * 1024 if found else None
    return None


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def work(model: str, name: str, repeat: int, threads: int, executable: bool) -> dict[str, Any]:
    """Run one tool on one model in this process; return its peak memory and every timing."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tool = TOOLS[name]
    options = {"executable": True} if executable and name == "steps" else {}
    tool.run(*_load("tiny", tool.weights), **options)
    module, example = _load(model, tool.weights)
    gc.collect()
    resets, before = _reset_peak(), _memory("VmRSS")
    first = tool.run(module, example, **options)
    peak = _memory("VmHWM") if resets else None
    above = None if peak is None or before is None else max(0, peak - before)
    alone = tool.patches_torch or "torch.export" in first
    runs = []
    for _ in range(repeat):
        gc.collect()
        beside = {} if alone else _torch_export(module, example)
        gc.collect()
        runs.append(beside | tool.run(module, example, **options))
    return {"peak_bytes": above, "first": first, "runs": runs}


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"/\S*/", "", f"{type(error).__name__}: {lines[0] if lines else ''}")[:160]


def measure(model: str, tool: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one tool on one model in a process of its own; a failure is a result too."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", model, tool]
    command += ["--repeat", str(options.repeat), "--threads", str(options.threads)]
    command += ["--executable"] if options.executable else []
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(options.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return {"fails": f"takes more than {TIMEOUT} s"}
    if done.returncode != 0:
        return {"fails": f"the process ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


# -- report ------------------------------------------------------------------------------------


def _own_share(run: Timings) -> float:
    return 100 * sum(run[step] for step in STEPS[1:]) / run["torch.export"]


def _verdict(model: str, found: dict[str, Any]) -> str:
    shares = [_own_share(run) for run in found["runs"]]
    median = statistics.median(shares)
    return (
        f"- {model}: **{median:.1f} %** ({min(shares):.1f} to {max(shares):.1f} % over "
        f"{len(shares)} runs; first run {_own_share(found['first']):.1f} %): "
        f"{'within the target' if median <= TARGET else 'ABOVE THE TARGET'}"
    )


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    alone = found.get("torch.export", {}).get("runs", [])
    for tool, result in found.items():
        if "fails" in result:
            yield tool, f"fails: {result['fails']}", "", "", ""
            continue
        peak, runs = result["peak_bytes"], result["runs"]
        memory = "" if tool == "steps" else "?" if peak is None else f"{peak / 1e6:.0f}"
        for step, first in result["first"].items():
            seconds = [run[step] for run in runs]
            beside = alone if TOOLS[tool].patches_torch else runs
            ratios = [s / run["torch.export"] for s, run in zip(seconds, beside, strict=False)]
            name = f"- {step}" if tool == "steps" else step
            ratio = f"{statistics.median(ratios):.3f}" if ratios else "?"
            yield name, f"{statistics.median(seconds):.3f}", ratio, f"{first:.3f}", memory


HEAD = ("tool or step", "seconds", "ratio to torch.export", "first run, seconds", "peak MB")

NOTES = """\
Seconds are the median of {repeat} warm runs; the ratio is the median over those of a run to the
torch.export beside it (torchlens leaves torch patched, so for it to the one in the first row).
The first run is the one before them, with caches cold. Lines with a dash are the steps of one
capture, and its exporters. Peak memory is above the loaded model.

Compare ratios, and only within this page: the seconds are those of one machine with whatever
else it was doing. llama-1b has 16 layers of width 2048, 32 heads on 8 key-value heads, MLP 8192,
vocabulary 128256 and sees 128 tokens; only torchlens, which runs the model, gets its weights.
"""


def page(results: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    about = results["about"]
    versions = [f"{name} {version}" for name, version in about["versions"].items()]
    machine = [about["cpu"], f"{about['threads']} thread(s)", f"Python {about['python']}"]
    lines = ["# What a capture costs", "", f"{', '.join(machine + versions)}.", ""]
    measured = {m: tools["steps"] for m, tools in results["models"].items() if "steps" in tools}
    verdicts = [_verdict(model, found) for model, found in measured.items() if "runs" in found]
    if verdicts:
        lines += [f"read + build + annotate, in percent of torch.export (target: {TARGET:.0f} %):"]
        lines += ["", *verdicts, ""]
    lines += [NOTES.format(repeat=about["repeat"])]
    for model, found in results["models"].items():
        lines += [f"## {model}", "", f"| {' | '.join(HEAD)} |", "|---|--:|--:|--:|--:|"]
        lines += [*(f"| {' | '.join(row)} |" for row in _rows(found)), ""]
    return "\n".join(lines)


def _cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    names = ("torch", "torchatlas", "torchvision", "transformers", "torchview", "torchlens")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _chosen(known: dict[str, Any]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not among {', '.join(known)}")
        return names

    return parse


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tools:\n" + "\n".join(f"  {name:16} {tool.doc}" for name, tool in TOOLS.items()),
    )  # fmt: skip
    names = ",".join
    parser.add_argument("--models", type=_chosen(MODELS), default=DEFAULT, metavar="A,B",
                        help=f"default: {names(DEFAULT)}")  # fmt: skip
    parser.add_argument("--tools", type=_chosen(TOOLS), default=list(TOOLS), metavar="A,B",
                        help=f"default: {names(TOOLS)}")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=7, help="timed runs after the first (7)")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (1)")
    parser.add_argument("--executable", action="store_true", help="time the executable ONNX too")
    parser.add_argument("--scale", action="store_true", help="add benchmarks/capture_scale.py")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every timing to a file")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the tables to a file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for, and print it as Markdown."""
    chosen = options()
    if chosen.worker:
        try:
            found = work(*chosen.worker, chosen.repeat, chosen.threads, chosen.executable)
        except Exception as error:
            found = {"fails": _reason(error)}
        print(json.dumps(found))
        return
    about = {"cpu": _cpu(), "threads": chosen.threads, "repeat": chosen.repeat}
    about |= {"python": platform.python_version(), "versions": _versions()}
    results: dict[str, Any] = {"about": about, "models": {}}
    for model in chosen.models:
        found = results["models"][model] = {}
        for tool in chosen.tools:
            print(f"{model}: {TOOLS[tool].doc} …", file=sys.stderr)
            found[tool] = measure(model, tool, chosen)
    text = page(results)
    if chosen.scale:
        scale = [capture_scale.measure(layers, chosen.repeat) for layers in capture_scale.LAYERS]
        text += f"\n## llama-405b, with 16 and with 126 layers\n\n{capture_scale.page(scale)}\n"
    print(text)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(text)


if __name__ == "__main__":
    main()
