"""Compare our multiply-adds and parameters with those that torchvision publishes.

Every classification weight of torchvision carries ``meta["_ops"]`` (giga multiply-adds, three
decimals) and ``meta["num_params"]``. The models are made without values for their weights, so
that the whole table needs little memory and nothing is downloaded.

    python benchmarks/torchvision_ops.py --filter 'resnet*'
    python benchmarks/torchvision_ops.py --markdown benchmarks/results/torchvision_ops.md
"""

from __future__ import annotations

import argparse
import fnmatch
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

import torchatlas as ta
from torchatlas.frontends.weightless import fake_buffers, weightless


@dataclass(frozen=True)
class Row:
    """One weight: what we count and what torchvision prints."""

    weight: str
    size: int
    gmacs: float
    published: float
    params: int
    published_params: int
    unknown: str

    @property
    def agrees(self) -> bool:
        """Say whether both numbers agree at the printed digits, and nothing went uncounted."""
        same = round(self.gmacs, 3) == self.published and self.params == self.published_params
        return same and not self.unknown


def weights(pattern: str) -> Iterator[tuple[str, torchvision.models.WeightsEnum]]:
    """Yield every published classification weight with the name of its architecture."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if fnmatch.fnmatch(name, pattern):
            for weight in torchvision.models.get_model_weights(name):
                yield name, weight


def count(name: str, size: int) -> ta.ModelGraph:
    """Capture an architecture on one image of `size`."""
    options: dict[str, object] = {}
    if name.startswith("vit"):
        options["image_size"] = size
    if name == "googlenet":  # its published weights come without the auxiliary heads
        options["aux_logits"] = False
    with weightless() as mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **options)
    fake_buffers(model, mode)
    return ta.capture(model.eval(), torch.zeros(1, 3, size, size))


def measure(pattern: str, limit: int | None) -> Iterator[Row]:
    """Yield a row for each weight; one capture for each architecture and size."""
    found: dict[tuple[str, int], ta.totals] = {}
    for i, (name, weight) in enumerate(weights(pattern)):
        if limit is not None and i >= limit:
            return
        crop = weight.transforms().crop_size
        size = crop[0] if isinstance(crop, list | tuple) else crop
        if (name, size) not in found:
            found[name, size] = ta.totals(count(name, size))
        totals = found[name, size]
        meta = weight.meta
        yield Row(
            str(weight),
            size,
            totals.macs / 1e9,
            meta["_ops"],
            totals.params,
            meta["num_params"],
            ", ".join(totals.unknown),
        )


def table(rows: list[Row], seconds: float) -> str:
    """Return the rows as a Markdown table with a line that sums them up."""
    agreeing = sum(row.agrees for row in rows)
    lines = [
        f"{agreeing} of {len(rows)} weights agree in multiply-adds (3 decimals of a giga) and "
        "parameters.",
        "",
        f"torchvision {torchvision.__version__.partition('+')[0]}, "
        f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}; "
        f"{seconds:.0f} s on one CPU.",
        "",
        "| weight | size | GMACs, torchatlas | GMACs, published | parameters | agree |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        verdict = "yes" if row.agrees else f"NO {row.published_params} {row.unknown}".strip()
        lines.append(
            f"| {row.weight} | {row.size} | {row.gmacs:.3f} | {row.published:.3f} "
            f"| {row.params} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table; exit 1 where a weight disagrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="*", help="architectures, as resnet* (default: all)")
    parser.add_argument("--limit", type=int, help="stop after so many weights")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    asked = parser.parse_args()
    start = time.perf_counter()
    rows = []
    for row in measure(asked.filter, asked.limit):
        rows.append(row)
        print("." if row.agrees else "x", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    text = table(rows, time.perf_counter() - start)
    print(text)
    if asked.markdown is not None:
        asked.markdown.write_text(text)
    return 0 if rows and all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
