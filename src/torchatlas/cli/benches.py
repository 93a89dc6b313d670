"""The command that measures models, one or many: `bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .application import app
from .options import Arguments, Fake, Frontend, Input, Mode, Train
from .printing import printable, show

if TYPE_CHECKING:
    from ..benches.model import Plan

_ONE = ("input", "arg", "fake", "train", "json", "graph")
"""Options for one model."""

_MANY = ("filter", "sample", "timeout", "out", "retry", "sort", "page", "list", "quiet")
"""Options for a zoo."""


@app.command()
def bench(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="module:NAME, path/to/file.py:NAME, timm:NAME or hf:TYPE."),
    ] = None,
    input: Input = [],  # noqa: B006
    arg: Arguments = [],  # noqa: B006
    batch: Annotated[
        int | None, typer.Option(min=1, help="Repeat, or cut, the example to so many samples.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    compare: Annotated[
        str, typer.Option(help="Ways to run it, comma-separated: eager, compile, cuda-graph.")
    ] = "eager",
    dtype: Annotated[
        str | None, typer.Option(help="Put weights and inputs in bfloat16 or another type.")
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            help="What the device could do: a file of calibrate, or a name of `torchatlas "
            "devices`; by default what the driver reports."
        ),
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Take the limits of TF32 for products of float32.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Runs; by default as many as it takes.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before those that count.")] = 3,
    cache: Annotated[str, typer.Option(help="warm, or cold: caches are emptied.")] = "warm",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of modules and ops.")] = 10,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    graph: Annotated[
        Path | None,
        typer.Option(help="Write the measured graph to this file: .html, .json, .csv, …"),
    ] = None,
    mode: Mode = "forward",
    train: Train = False,
    frontend: Frontend = "auto",
    fake: Fake = False,
    zoo: Annotated[
        str | None,
        typer.Option(
            help="Measure the models of torchvision, timm, or module:NAME, comma-separated, in "
            "place of MODEL."
        ),
    ] = None,
    filter: Annotated[str, typer.Option(help="Zoo: names of models, as 'resnet*,*_tiny'.")] = "*",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Zoo: so many of the models, evenly spread.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Zoo: seconds after which a model is killed.")
    ] = 300.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Zoo: keep results in this file, and go on where it ends."),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Zoo: run those again that failed.")
    ] = False,
    sort: Annotated[
        str, typer.Option(help="Zoo: sort by model, or by a column: eager, params, flops, …")
    ] = "model",
    page: Annotated[
        Path | None, typer.Option(help="Zoo: write the table to this file, as Markdown.")
    ] = None,
    list: Annotated[
        bool, typer.Option("--list", help="Zoo: print what would run, and run nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Zoo: show no progress.")] = False,
) -> None:
    """Measure MODEL, or the models of a zoo: latency, throughput, and where the time goes."""
    from ..benches.model import Plan, parse_ways

    _check_options(context, model, zoo)
    choices: dict[str, Any] = {"mode": mode, "cache": cache}  # the plan is checked
    plan = Plan(
        **choices,
        inputs=tuple(input),
        arguments=tuple(arg),
        train=train,
        fake=fake,
        frontend=frontend,
        device=device,
        dtype=dtype,
        compare=parse_ways(compare),
        steps=steps,
        warmup=warmup,
        limits=limits,
        tf32=tf32,
        top=top,
        threads=threads,
    )
    if model is not None:
        _one(model, plan, batch, json, graph)
        return
    zoos = [name.strip() for name in (zoo or "").split(",") if name.strip()]
    if list:
        _list(zoos, filter, sample)
        return
    _many(
        zoos,
        plan,
        page,
        filter=filter,
        sample=sample,
        batch=batch,
        timeout=timeout,
        out=out,
        retry=retry,
        sort=sort,
        quiet=quiet,
    )


def _check_options(context: typer.Context, model: str | None, zoo: str | None) -> None:
    """Raise UsageError where it is not said what to measure, or options do not go with it."""
    if (model is None) == (zoo is None):
        raise UsageError(
            "MODEL and --zoo exclude each other" if zoo else "it is not said what to measure",
            hint="give either MODEL, such as timm:resnet18, or --zoo",
        )
    for name in _ONE if model is None else _MANY:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            goes = "MODEL" if model is None else "--zoo"
            raise UsageError(f"--{name} goes with {goes}", hint="leave it out")


def _one(model: str, plan: Plan, batch: int | None, json: Path | None, graph: Path | None) -> None:
    """Measure one model, print what was found, and write it."""
    from ..benches.model import bench as measured
    from ..benches.result import write
    from ..benches.tables import Report
    from ..exporters import check_target, export, format_of

    # Before the work, not after it.
    for path in filter(None, (json, graph)):
        check_target(path)
    if graph is not None:
        format_of(graph)
    if json is not None and graph is not None and json.resolve() == graph.resolve():
        raise UsageError("--json and --graph name one file", hint="give each its own")
    found, annotated = measured(model, plan, batch=batch, tell=_tell)
    show(Report(found))
    if json is not None:
        write(found, json)
        print(f"wrote {json}")
    if graph is not None:
        export(annotated, graph)
        print(f"wrote {graph}")


def _tell(text: str) -> None:
    """Say on a terminal what takes long next; nothing that moves, which would take time itself."""
    if sys.stderr.isatty():
        print(f"{printable(text)} …", file=sys.stderr)


def _list(zoos: list[str], filter: str, sample: int | None) -> None:
    """Print the names of the models that a run would measure."""
    from ..benches.zoo import list_zoo

    for name in list_zoo(zoos, filter=filter, sample=sample):
        print(printable(name))


def _many(zoos: list[str], plan: Plan, page: Path | None, **options: Any) -> None:
    """Measure the models of zoos, and print one table."""
    from ..benches.model import check_plan
    from ..benches.zoo import run_zoo
    from ..exporters import check_target, write_file

    check_plan(plan)
    if page is not None:
        check_target(page)
    found = run_zoo(zoos, plan, **options)
    show(found.table())
    if page is not None:
        write_file(page, found.markdown().encode())
        print(f"wrote {page}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)
