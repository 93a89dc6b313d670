"""Commands that say what a model costs: `summary`, `cost` and `calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .application import app
from .models import captured, is_file, loaded
from .options import Arguments, Depth, Dynamic, Fake, Frontend, Input, Mode, Places, Train, Trust
from .printing import show

if TYPE_CHECKING:
    from ..graph import ModelGraph


@app.command()
def summary(
    model: Annotated[
        str, typer.Argument(help="A .json, .pt2 or .onnx file, or a model as in capture.")
    ],
    input: Input = [],  # noqa: B006
    arg: Arguments = [],  # noqa: B006
    depth: Depth = 2,
    sort: Annotated[
        str | None, typer.Option(help="Largest first: ops, params, macs, flops or bytes.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: type, shape, ops, params, param_bytes, macs, flops, "
            "flops_other, flops_effective, int_ops, bytes, comm_bytes, intensity, share."
        ),
    ] = None,
    frontend: Frontend = "auto",
    train: Train = False,
    fake: Fake = False,
    mode: Mode = "forward",
    trust: Trust = False,
    device: Places = [],  # noqa: B006
) -> None:
    """Print the module tree of a model, or of one in a file."""
    if is_file(model, trust, device):
        graph = loaded(model, trust)
    else:
        graph = captured(model, input, arg, frontend, train, fake, mode=mode, device=device)
    chosen = [name.strip() for name in columns.split(",")] if columns else None
    show(graph.summary(depth=depth, sort=sort, columns=chosen))


@app.command()
def cost(
    model: Annotated[
        str, typer.Argument(help="A .json, .pt2 or .onnx file, or a model as in capture.")
    ],
    input: Input = [],  # noqa: B006
    arg: Arguments = [],  # noqa: B006
    dynamic: Dynamic = [],  # noqa: B006
    at: Annotated[
        list[str], typer.Option("--at", help="Sizes for a row of the table: batch=8,seq=4096.")
    ] = [],  # noqa: B006
    frontend: Frontend = "auto",
    train: Train = False,
    fake: Fake = False,
    trust: Trust = False,
    device: Places = [],  # noqa: B006
) -> None:
    """Print what a model costs, over its symbolic sizes and at given ones."""
    from ..text import costs

    saved = is_file(model, trust, device)
    if at and not saved and not dynamic:
        raise UsageError("--at needs symbolic sizes", hint="name them with --dynamic")
    if saved:
        graph = loaded(model, trust)
    else:
        graph = captured(model, input, arg, frontend, train, fake, dynamic=dynamic, device=device)
    show(costs(graph, [(text, _bound(graph, text)) for text in at]))


def _bound(graph: ModelGraph, text: str) -> ModelGraph:
    from ..frontends.loading import parse_sizes
    from ..transforms.bind import bind

    return bind(graph, **parse_sizes(text))


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The file to write, such as mine.json.")],
    device: Annotated[str, typer.Option(help="As torch calls it: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Measure what a device can do, for rooflines and estimates, and write it to OUT."""
    from ..devices import save
    from ..measurements.calibration import calibrate as measure

    found = measure(device)
    for name, rate in found.matrix.items():
        print(f"{name:>9} {rate / 1e12:10.3f} TFLOP/s")
    print(f"{'copy':>9} {found.bandwidth / 1e9:10.1f} GB/s")
    print(f"{'launch':>9} {found.launch_us:10.2f} us")
    save(found, out)
    print(f"wrote {out}")
