"""Measure how the time of a capture grows with the number of like blocks in a model.

    python benchmarks/capture_scale.py --markdown results.md

The model has the shape of Llama 405B (width 16384, 128 heads on 8 key-value heads, MLP 53248,
vocabulary 128256, bfloat16) and sees 1x2048 tokens; its weights are fake tensors, which take no
memory. Each number of layers has a process of its own, on one thread. In it one capture runs
first, cold; then forward passes on fake tensors and captures take turns, so that their ratio
holds on a busy machine, and at the end torch.export runs once. Needs `pip install
torchatlas[zoo]`; `python benchmarks/capture.py --scale` prints the same after its own tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

LAYERS = (16, 126)


def model(layers: int) -> tuple[Any, Any, Any]:
    """Return the mode of the fake tensors, the model, and its arguments."""
    import torch
    import transformers
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = transformers.AutoConfig.for_model(
        "llama", hidden_size=16384, num_hidden_layers=layers, num_attention_heads=128,
        num_key_value_heads=8, intermediate_size=53248, vocab_size=128256,
        tie_word_embeddings=False, use_cache=False, dtype=torch.bfloat16,
    )  # fmt: skip
    mode = FakeTensorMode()
    with mode:
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        return mode, made, {"input_ids": torch.zeros(1, 2048, dtype=torch.int64)}


def _seconds(function: Any) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _memory(key: str) -> int:
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def work(layers: int, repeat: int, export: bool) -> dict[str, Any]:
    """Measure one number of layers in this process."""
    import torch

    import torchatlas as ta

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mode, made, inputs = model(layers)
    nodes = []

    def forward() -> None:
        with mode:
            made(**inputs)

    def capture() -> None:
        nodes.append(len(ta.capture(made, inputs)))

    before = _memory("VmRSS")
    cold = _seconds(capture)
    peak = _memory("VmHWM")
    forward()
    pairs = [(_seconds(forward), _seconds(capture)) for _ in range(repeat)]
    found = {"layers": layers, "nodes": nodes[0], "cold": cold, "pairs": pairs}
    found |= {"peak": peak, "above": peak - before}
    if export:
        found["export"] = _seconds(lambda: torch.export.export(made, (), inputs, strict=False))
    return found


def measure(layers: int, repeat: int, export: bool = True) -> dict[str, Any]:
    """Measure one number of layers in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(layers)]
    command += ["--repeat", str(repeat), *(["--export"] if export else [])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def page(found: list[dict[str, Any]]) -> str:
    """Return the results in Markdown."""
    head = (
        "layers", "nodes", "forward on fakes, s", "capture, s", "capture / forward",
        "torch.export / capture", "cold capture, s", "peak MB of the process",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'--:|' * len(head)}"]
    medians = {}
    for row in found:
        forward, capture = (statistics.median(column) for column in zip(*row["pairs"], strict=True))
        ratio = statistics.median(b / a for a, b in row["pairs"])
        medians[row["layers"]] = capture
        export = f"{row['export'] / capture:.1f}" if "export" in row else ""
        cells = (
            row["layers"], row["nodes"], f"{forward:.3f}", f"{capture:.3f}", f"**{ratio:.2f}**",
            export, f"{row['cold']:.2f}", f"{row['peak'] / 1e6:.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    few, *_, many = (row["layers"] for row in found)
    cold = found[-1]["cold"] / found[0]["cold"]
    warm = medians[many] / medians[few]
    lines += [
        "",
        f"From {few} to {many} layers a warm capture takes {warm:.2f} times as long, the first one "
        f"in a process {cold:.2f} times.",
    ]
    return "\n".join(lines)


def options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=7, help="pairs of forward and capture (7)")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the table to a file")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--export", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for, and print it as Markdown."""
    chosen = options()
    if chosen.worker:
        print(json.dumps(work(chosen.worker, chosen.repeat, chosen.export)))
        return
    text = page([measure(layers, chosen.repeat) for layers in LAYERS])
    print(text)
    if chosen.markdown:
        chosen.markdown.write_text(f"# How a capture grows\n\n{text}\n")


if __name__ == "__main__":
    main()
