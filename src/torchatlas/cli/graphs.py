"""Commands that make files of a model, `capture` and `export`, and `view`, which shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .application import app
from .models import captured, loaded
from .options import (
    Arguments,
    Depth,
    Dynamic,
    Fake,
    Frontend,
    Functions,
    Input,
    Mode,
    Model,
    Places,
    Train,
    Trust,
    Weights,
)
from .printing import show
from .writing import check_weights, checked_formats, is_same, make_folder, suffix, write


@app.command()
def capture(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is missing.")],
    input: Input = [],  # noqa: B006
    arg: Arguments = [],  # noqa: B006
    format: Annotated[
        list[str], typer.Option("--format", help="svg, html, netron and others, or all.")
    ] = ["onnx", "dot", "json"],  # noqa: B006
    weights: Weights = "include",
    frontend: Frontend = "auto",
    train: Train = False,
    fake: Fake = False,
    depth: Depth = 2,
    include_source: Annotated[
        bool, typer.Option("--include-source", help="Keep the line of code of each op.")
    ] = False,
    dynamic: Dynamic = [],  # noqa: B006
    mode: Mode = "forward",
    functions: Functions = False,
    device: Places = [],  # noqa: B006
) -> None:
    """Capture MODEL, print its summary and write it to OUT."""
    formats = checked_formats(format)
    check_weights(weights)
    name = re.sub(r"[^\w.-]", "_", model.rpartition(":")[2]) or "model"
    graph = captured(
        model, input, arg, frontend, train, fake, include_source, dynamic, mode, device
    )
    show(graph.summary(depth=depth))
    make_folder(out)
    for chosen in formats:
        path = out / f"{name}{suffix(chosen)}"
        write(graph, path, chosen, weights, functions, optional="all" in format)


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="A saved .json graph, a .pt2 of torch.export.save, or an .onnx.")
    ],
    to: Annotated[
        list[str], typer.Option("--to", help="onnx, svg, html and others, or all; may be repeated.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default beside FILE.")
    ] = None,
    trust: Trust = False,
    functions: Functions = False,
) -> None:
    """Write a model or graph from a file in other formats.

    The ONNX holds the structure, no weights, unless a .pt2 file was loaded with --trust.
    """
    formats = checked_formats(to)
    folder = out if out is not None else file.parent
    targets = [folder / f"{file.stem}{suffix(chosen)}" for chosen in formats]
    if "all" in to:  # but for the file itself
        rows = [row for row in zip(formats, targets, strict=True) if not is_same(row[1], file)]
        formats, targets = [row[0] for row in rows], [row[1] for row in rows]
    if file.suffix != ".json" and any(is_same(target, file) for target in targets):
        raise UsageError(f"this would overwrite {str(file)!r}", hint="give another folder as --out")
    graph = loaded(file, trust)
    make_folder(folder)
    for chosen, target in zip(formats, targets, strict=True):
        write(graph, target, chosen, functions=functions, optional="all" in to)


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files."""
    import json

    from ..exporters.json_graph import schema as json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def view(
    file: Annotated[
        Path,
        typer.Argument(
            help="What torchatlas wrote, a .pt2 or .onnx model, or a folder of TensorBoard's."
        ),
    ],
    viewer: Annotated[
        str | None,
        typer.Option(
            "--with",
            help="netron, model-explorer, tensorboard or browser; by default the one that the "
            "suffix means.",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port on loopback; free by default.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Show FILE in a viewer, on this machine only, until Ctrl-C."""
    from ..viewing import view as open_viewer

    def announce(url: str) -> None:
        print(f"{file} is shown at {url}", flush=True)

    open_viewer(file, viewer=viewer, port=port, browser=browser, announce=announce)
