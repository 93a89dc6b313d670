"""Measure what every exporter takes, and whether that grows linearly with the nodes.

    python benchmarks/exporters.py --markdown benchmarks/results/exporters.md

First every format that needs no model writes graphs of a transformer of 10,000 and 100,000 nodes,
made as in `annotate.py`, each in a process of its own, so that the memory of one leaves no trace
in the next. Then pictures of resnet50, and its executable ONNX beside `torch.onnx.export` alone,
which takes turns with it. Seconds are those of the processor. Needs `pip install torchatlas[test]`.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from torchatlas.exporters import FORMATS, render

NEED_A_MODEL = ("onnx", "svg", "png", "pdf")
SIZES = (10_000, 100_000)
LIMITS = {10_000: 3.0, 100_000: 30.0}
"""Seconds that writing so many nodes may take."""

SVG_LIMIT, ONNX_LIMIT = 1.0, 1.10


def work(format: str, nodes: int) -> dict[str, Any]:
    """Write one graph in one format; return seconds, bytes and the peak of memory."""
    import torchatlas as ta
    from annotate import transformer

    render(ta.annotate(transformer(100, distinct=False)), format)  # imports
    graph = ta.annotate(transformer(nodes, distinct=False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    content, _ = render(graph, format)
    seconds = time.process_time() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "nodes": len(graph),
        "seconds": seconds,
        "bytes": len(content),
        "memory": grown * 1024,
    }


def _alone(*arguments: object) -> Any:
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def growing(formats: list[str], sizes: list[int]) -> dict[str, dict[int, Any]]:
    """Write every size in every format."""
    found: dict[str, dict[int, Any]] = {}
    for format in formats:
        for size in sizes:
            print(f"{format}, {size:,} nodes …", file=sys.stderr)
            found.setdefault(format, {})[size] = _alone("--worker", format, size)
    return found


def models(repeat: int) -> dict[str, Any]:
    """Time pictures, and executable ONNX files beside `torch.onnx.export`."""
    import torch
    import torchvision
    import transformers

    import torchatlas as ta

    torch.set_num_threads(1)
    bert = transformers.BertModel(transformers.BertConfig()).eval()
    cases: dict[str, tuple[Any, Any]] = {
        "resnet50": (torchvision.models.resnet50().eval(), torch.zeros(1, 3, 224, 224)),
        "bert-base": (bert, {"input_ids": torch.zeros(1, 128, dtype=torch.int64)}),
    }
    found: dict[str, Any] = {}
    for name, (model, example) in cases.items():
        graph = ta.capture(model, example)
        found[name] = {"svg": _least(lambda graph=graph: render(graph, "svg"), repeat)}
        pairs = [_pair(model, example) for _ in range(repeat + 1)][1:]  # the first one imports
        found[name] |= {
            "torch.onnx.export": statistics.median(alone for alone, _ in pairs),
            "onnx": statistics.median(ours for _, ours in pairs),
            "ratio": statistics.median(ours / alone for alone, ours in pairs),
        }
    return found


def _least(run: Any, repeat: int) -> float:
    seconds = []
    for _ in range(repeat):
        begin = time.process_time()
        run()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def _pair(model: Any, example: Any) -> tuple[float, float]:
    """Return the seconds of `torch.onnx.export` alone, and of our export, of one program."""
    import io

    import torch

    import torchatlas as ta

    # Both from a program that is there already: our graph was captured from it.
    kwargs = example if isinstance(example, dict) else {}
    args = () if kwargs else (example,)
    program = torch.export.export(model, args, kwargs)
    graph = ta.capture(program)
    begin = time.process_time()
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    made.save(io.BytesIO())
    middle = time.process_time()
    render(graph, "onnx")
    return middle - begin, time.process_time() - middle


def page(found: dict[str, dict[int, Any]], timed: dict[str, Any]) -> str:
    """Return what was measured as Markdown."""
    sizes = sorted({size for rows in found.values() for size in rows})
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnx"))
    lines = [
        "# What an export costs", "",
        f"{versions}. Seconds of the processor, of one run in a process of its own; memory is "
        "what the process grew by. The power is that of the nodes by which the time grows: "
        "linear is 1.", "",
        f"| format | {' | '.join(f'{size:,} nodes, s' for size in sizes)} | power "
        f"| {sizes[-1]:,} nodes, MB of file | MB of memory | |",
        f"|---|{'--:|' * (len(sizes) + 3)}---|",
    ]  # fmt: skip
    for format, rows in found.items():
        if errors := [row["error"] for row in rows.values() if "error" in row]:
            lines.append(f"| {format} | {errors[0]} |{' |' * (len(sizes) + 3)}")
            continue
        first, last = rows[sizes[0]], rows[sizes[-1]]
        within = all(rows[size]["seconds"] <= LIMITS.get(size, math.inf) for size in rows)
        seconds = " | ".join(f"{rows[size]['seconds']:.2f}" for size in sizes)
        growth = math.log(last["seconds"] / first["seconds"], last["nodes"] / first["nodes"])
        lines.append(
            f"| {format} | {seconds} | {growth:.2f} | {last['bytes'] / 1e6:.1f} "
            f"| {last['memory'] / 1e6:.0f} | {'within' if within else 'ABOVE'} |"
        )
    limits = ", ".join(f"{limit:g} s for {size:,} nodes" for size, limit in LIMITS.items())
    lines += ["", f"Limits: {limits}."]
    if timed:
        lines += [
            "", "| model | SVG, s | torch.onnx.export, s | .onnx, s | ratio |",
            "|---|--:|--:|--:|--:|",
            *(
                f"| {name} | {row['svg']:.2f} | {row['torch.onnx.export']:.2f} | {row['onnx']:.2f} "
                f"| **{row['ratio']:.3f}** |"
                for name, row in timed.items()
            ),
            "", "Both write the same exported program and encode the file. "
            f"Limits: {SVG_LIMIT:g} s for the SVG of resnet50, a ratio of {ONNX_LIMIT:.2f}.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", help="comma-separated; by default all that need no model")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="nodes, comma-separated")
    parser.add_argument("--repeat", type=int, default=5, help="runs on each model (5); 0 for none")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the page to a file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(json.dumps(work(chosen.worker[0], int(chosen.worker[1]))))
        return
    known = [name for name in FORMATS if name not in NEED_A_MODEL]
    formats = chosen.formats.split(",") if chosen.formats else known
    found = growing(formats, [int(size) for size in chosen.sizes.split(",")])
    text = page(found, models(chosen.repeat) if chosen.repeat else {})
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(text)


if __name__ == "__main__":
    main()
