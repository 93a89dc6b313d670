"""Measure a model at several batch sizes: what a larger batch is worth, and to which modules.

    python examples/batch_sweep.py out

prints a table, and the modules that gain least from the largest batch; into the folder, made if
there is none, go a benchmark of each size as JSON and the largest as a report page. With a file
of `torchatlas calibrate` as a second argument the table says how much of the device is used.

Needs torchvision. The weights are random: a model takes as long with trained ones.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torchvision

import torchatlas as ta
from torchatlas.benches.model import benchmark
from torchatlas.benches.result import write

SIZES = (1, 2, 4)


def main(folder: Path, limits: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # several wait for each other where other programs run
    model = torchvision.models.resnet18().eval()
    found = {}
    for batch in SIZES:
        graph = ta.capture(model, torch.randn(batch, 3, 32, 32))
        # Three runs say enough here; without `steps` it takes as many as make the median certain.
        found[batch], timed = benchmark(graph, steps=3, warmup=1, limits=limits, top=1000)
        write(found[batch], folder / f"batch{batch}.json")
    timed.export(folder / "report.html")

    print("batch  ms a run  samples/s   MFU")
    for batch, result in found.items():
        run = result.eager
        mfu = "    ?" if run.mfu is None else f"{run.mfu:.1%}"
        unstable = "" if run.stable else "  unstable"
        print(f"{batch:5} {run.median_us / 1e3:9.2f} {run.throughput:10.1f} {mfu}{unstable}")

    one, most = ({row.path: row.latency_us for row in found[n].modules} for n in (1, SIZES[-1]))
    growth = {path: most[path] / one[path] for path in most if one.get(path)}
    print(f"\nThe modules whose time grows most from batch 1 to {SIZES[-1]}:")
    for path in sorted(growth, key=lambda path: growth[path], reverse=True)[:3]:
        print(f"  {path or 'the model itself'}: {growth[path]:.1f} times")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), *sys.argv[2:3])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
