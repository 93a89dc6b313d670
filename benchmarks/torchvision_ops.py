"""Compare torchatlas with the multiply-adds and parameters that torchvision publishes.

For every torchvision weight with ``meta["_ops"]`` (GMACs, 3 decimals) and ``meta["num_params"]``,
build the model as its own builder does for that weight, but without weights or download, capture
it, and print our totals beside the published ones. The input is what the weight's transforms make
of a 512 x 512 image (a clip of 16 for video), as in torchvision's own tests
(`test/common_extended_utils.py`). Detection models are left out: what they compute depends on how
many regions an image holds.

    python benchmarks/torchvision_ops.py --filter resnet --limit 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torchvision import models

from torchatlas import capture
from torchatlas.errors import AtlasError
from torchatlas.sums import totals

KINDS = {
    "classification": models,
    "quantization": models.quantization,
    "segmentation": models.segmentation,
    "video": models.video,
    "optical_flow": models.optical_flow,
}


@dataclass
class Row:
    """One weight: our numbers and the published ones."""

    kind: str
    weight: str
    input: list[list[int]]
    gmacs: float | None
    published_gmacs: float
    params: int | None
    published_params: int
    unknown: dict[str, int]
    seconds: float
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Say whether both numbers agree at the printed digits."""
        return self.gmacs == self.published_gmacs and self.params == self.published_params


def published(kinds: list[str], text: str) -> Iterator[tuple[str, str, Any]]:
    """Yield kind, architecture and weight of what torchvision publishes."""
    for kind in kinds:
        for name in models.list_models(module=KINDS[kind]):
            for weight in models.get_model_weights(name):
                if "_ops" in weight.meta and text in f"{name} {weight}".lower():
                    yield kind, name, weight


def example(kind: str, weight: Any) -> tuple[torch.Tensor, ...]:
    """Return the input of a weight on the meta device."""
    image = torch.zeros(1, 16, 3, 512, 512) if kind == "video" else torch.zeros(1, 3, 512, 512)
    transforms = weight.transforms()
    made = transforms(image, image) if kind == "optical_flow" else (transforms(image),)
    return tuple(tensor.to("meta") for tensor in made)


@contextlib.contextmanager
def no_download() -> Iterator[None]:
    """Let a builder take its arguments from a weight, but load nothing."""
    enum = models.WeightsEnum
    with (
        mock.patch.object(enum, "get_state_dict", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict", return_value=None),
    ):
        yield


def build(name: str, weight: Any) -> nn.Module:
    """Build a model on the meta device, or on the CPU where its builder reads numbers back.

    A quantised model has the products of the one that it was made from, which can be captured.
    """
    weight = weight.meta.get("unquantized", weight)
    model: nn.Module
    with no_download():
        try:
            with torch.device("meta"):
                model = models.get_model(name, weights=weight)
        except RuntimeError:
            model = models.get_model(name, weights=weight).to("meta")
    return model.eval()


def measure(kind: str, name: str, weight: Any, cache: dict[Any, Any]) -> Row:
    """Capture a model, unless the same architecture met the same input before."""
    inputs = example(kind, weight)
    shapes = [list(tensor.shape) for tensor in inputs]
    key = (name, str(shapes), len(weight.meta.get("categories") or ()))
    begin = time.perf_counter()
    error = ""
    if key not in cache:
        try:
            cache[key] = totals(capture(build(name, weight), inputs))
        except AtlasError as failure:
            cache[key] = None
            error = str(failure).partition("\n")[0]
    total = cache[key]
    return Row(
        kind=kind,
        weight=f"{name} {weight.name}",
        input=shapes,
        gmacs=None if total is None else round(total.macs / 1e9, 3),
        published_gmacs=weight.meta["_ops"],
        params=None if total is None else total.params,
        published_params=weight.meta["num_params"],
        unknown={} if total is None else dict(total.unknown),
        seconds=round(time.perf_counter() - begin, 2),
        error=error,
    )


def show(row: Row) -> None:
    size = "x".join(map(str, row.input[0]))
    verdict = "agree" if row.agrees else "DIFFER"
    rest = row.error or (f"  unknown: {row.unknown}" if row.unknown else "")
    gmacs = "failed" if row.gmacs is None else f"{row.gmacs:.3f}"
    params = "failed" if row.params is None else row.params
    print(
        f"{row.weight:<58} {size:<18} {gmacs:>9} {row.published_gmacs:>9.3f}"
        f" {params:>11} {row.published_params:>11}  {verdict:<6} {row.seconds:>6.2f}s{rest}",
        flush=True,
    )


def summarise(rows: list[Row]) -> None:
    for kind in dict.fromkeys(row.kind for row in rows):
        of_kind = [row for row in rows if row.kind == kind]
        macs = sum(row.gmacs == row.published_gmacs for row in of_kind)
        params = sum(row.params == row.published_params for row in of_kind)
        print(f"{kind}: of {len(of_kind)}, {macs} agree in GMACs and {params} in parameters")


def arguments() -> argparse.Namespace:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--filter", default="", help="only weights whose name contains this")
    parser.add_argument("--limit", type=int, help="stop after so many weights")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the table here")
    return parser.parse_args()


def main() -> int:
    """Print the table; return 1 if anything differs."""
    options = arguments()
    chosen = list(published(options.kind, options.filter.lower()))[: options.limit]
    print(
        f"{'weight':<58} {'input':<18} {'GMACs':>9} {'published':>9}"
        f" {'params':>11} {'published':>11}"
    )
    cache: dict[Any, Any] = {}
    rows = []
    for kind, name, weight in chosen:
        rows.append(measure(kind, name, weight, cache))
        show(rows[-1])
    summarise(rows)
    if options.json is not None:
        table = [asdict(row) | {"agrees": row.agrees} for row in rows]
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
