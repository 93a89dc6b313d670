"""Commands that say what a model costs, and what it would take: `summary`, `cost`, `estimate`.

`devices` and `calibrate` say, and measure, what a device can do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from .application import app
from .models import captured, is_file, loaded
from .options import (
    Arguments,
    Depth,
    Dynamic,
    Fake,
    Frontend,
    Input,
    Mode,
    Places,
    Train,
    Trust,
)
from .printing import printable, show

if TYPE_CHECKING:
    from ..devices import Device
    from ..graph import ModelGraph

Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Let products of float32 run as TF32 where there is such.")
]


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
            "flops_other, flops_effective, int_ops, bytes, comm_bytes, intensity, share, roofline."
        ),
    ] = None,
    frontend: Frontend = "auto",
    train: Train = False,
    fake: Fake = False,
    mode: Mode = "forward",
    trust: Trust = False,
    device: Places = [],  # noqa: B006
    roofline: Annotated[
        str | None,
        typer.Option(help="Add the least time on a device: its name, or a file of calibrate."),
    ] = None,
    tf32: Tf32 = False,
) -> None:
    """Print the module tree of a model, or of one in a file."""
    limits = _limits(roofline, tf32)
    if is_file(model, trust, device):
        graph = loaded(model, trust)
    else:
        graph = captured(model, input, arg, frontend, train, fake, mode=mode, device=device)
    chosen = [name.strip() for name in columns.split(",")] if columns else None
    if limits is not None:
        from ..annotations.roofline import roofline as add_roofline
        from ..text import COLUMNS

        add_roofline(graph, limits, tf32=tf32)
        chosen = chosen or [*COLUMNS, "roofline"]
    show(graph.summary(depth=depth, sort=sort, columns=chosen))


def _limits(roofline: str | None, tf32: bool) -> Device | None:
    """Return the device of a roofline; raise UsageError for an unknown one before the capture."""
    from ..devices import resolve

    if roofline is not None:
        return resolve(roofline)
    if tf32:
        raise UsageError("--tf32 is for rooflines", hint="say for which device: --roofline DEVICE")
    return None


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
def estimate(
    model: Annotated[
        str, typer.Argument(help="A .json, .pt2 or .onnx file, or a model as in capture.")
    ],
    on: Annotated[
        list[str],
        typer.Option("--on", help="A device of `torchatlas devices`; several for a comparison."),
    ] = [],  # noqa: B006
    limits: Annotated[
        list[Path], typer.Option(help="A device in a file that calibrate wrote; with or for --on.")
    ] = [],  # noqa: B006
    input: Input = [],  # noqa: B006
    arg: Arguments = [],  # noqa: B006
    dynamic: Dynamic = [],  # noqa: B006
    batch: Annotated[
        int | None,
        typer.Option(help="The size `batch`: the leading one of every input without --dynamic."),
    ] = None,
    at: Annotated[str, typer.Option(help="Other symbolic sizes: seq=4096,height=224.")] = "",
    dtype: Annotated[
        str | None,
        typer.Option(help="Put all floating-point tensors in float32, bfloat16 or another type."),
    ] = None,
    tf32: Tf32 = False,
    fuse: Annotated[
        bool, typer.Option(help="Count runs of pointwise ops as one kernel, as when compiled.")
    ] = True,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    frontend: Frontend = "auto",
    train: Train = False,
    fake: Fake = False,
    trust: Trust = False,
) -> None:
    """Print what a model would take on devices that need not be there: time, memory, throughput."""
    from ..devices import resolve
    from ..estimates import estimate as make_estimate
    from ..exporters import check_target
    from .limits import estimate_table, write_estimates

    devices = [resolve(device) for device in (*on, *map(str, limits))]
    if not devices:
        raise UsageError(
            "an estimate is for a device", hint='say for which: --on "NVIDIA H200", --limits FILE'
        )
    sizes = _sizes(batch, at)
    if json is not None:
        check_target(json)
    if is_file(model, trust):
        graph = loaded(model, trust)
    else:
        symbols = dynamic or (["batch"] if batch is not None else [])
        graph = captured(model, input, arg, frontend, train, fake, dynamic=symbols)
    found = [
        make_estimate(graph, device, dtype=dtype, tf32=tf32, fuse=fuse, **sizes)
        for device in devices
    ]
    show(estimate_table(found)) if len(found) > 1 else print(printable(found[0]))
    if json is not None:
        write_estimates(found, json)
        print(f"wrote {json}")


def _sizes(batch: int | None, at: str) -> dict[str, int]:
    from ..frontends.loading import parse_sizes

    sizes = parse_sizes(at) if at else {}
    reserved = sizes.keys() & {"device", "dtype", "fuse", "graph", "tf32"}
    if reserved:
        name = min(reserved)
        raise UsageError(f"{name!r} is no size", hint="--at is for symbolic sizes: seq=4096")
    if batch is not None and sizes.setdefault("batch", batch) != batch:
        raise UsageError("--batch and --at give `batch` two sizes", hint="leave one out")
    return sizes


@app.command()
def devices(
    complete: Annotated[
        bool, typer.Option("--all", help="Every data type, name and address.")
    ] = False,
) -> None:
    """List the devices whose limits are known, for rooflines and estimates."""
    from ..devices import DEVICES
    from .limits import device_table

    show(device_table(DEVICES, complete=complete))


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
    if found.cache is not None and found.cache_bandwidth is not None:
        print(
            f"{'cache':>9} {found.cache_bandwidth / 1e9:10.1f} GB/s, {found.cache / 2**20:.4g} MiB"
        )
    if found.special is not None:
        print(f"{'exp':>9} {found.special / 1e9:10.3f} G/s")
    print(f"{'launch':>9} {found.launch_us:10.2f} us")
    save(found, out)
    print(f"wrote {out}")
