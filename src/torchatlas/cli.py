"""The command line: what to capture, where to write it, and how to read it."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import AtlasError, FormatError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from .graph import ModelGraph

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="An atlas of your PyTorch model: every operation with its shape, cost and place.",
    epilog="Exit status: 0 done, 1 the model or file could not be handled, 2 wrong usage.",
)

Model = Annotated[
    str,
    typer.Argument(
        help="module:NAME, path/to/file.py:NAME, timm:NAME, or hf:TYPE (random weights)."
    ),
]
Input = Annotated[
    list[str],
    typer.Option("--input", help="Input as [name=]SHAPE[:DTYPE]: 1x3x224x224, ids=1x128:int64."),
]
Arguments = Annotated[
    list[str], typer.Option("--arg", help="Argument of the model's constructor, name=value.")
]
Train = Annotated[bool, typer.Option("--train", help="Training mode in place of eval mode.")]
Frontend = Annotated[str, typer.Option(help="auto, trace, export or fx.")]
Mode = Annotated[
    str,
    typer.Option(
        help="forward, inference (without gradients) or training (forward, loss and backward)."
    ),
]
Fake = Annotated[
    bool, typer.Option("--fake", help="Make no weights: for models larger than the memory.")
]
Places = Annotated[
    list[str],
    typer.Option(
        "--device",
        help="Place the model on a device that need not exist, cuda or cuda:1, or parts of it: "
        "PATH=DEVICE for each, =DEVICE for the rest.",
    ),
]
Depth = Annotated[int, typer.Option(min=0, help="Levels of modules in the summary.")]
Dynamic = Annotated[
    list[str],
    typer.Option(
        "--dynamic",
        help="Symbolic sizes: x=batch,_,height,width, or batch,seq for the leading dimensions "
        "of every input that has as many.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Let torch load a .pt2 file, which can run any code planted in it."
    ),
]
Weights = Annotated[str, typer.Option(help="Weights in ONNX files: include, external or none.")]
Functions = Annotated[
    bool,
    typer.Option("--functions", help="Modules as functions in ONNX files, which open in Netron."),
]


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
    formats = _formats(format)
    _weights(weights)
    name = re.sub(r"[^\w.-]", "_", model.rpartition(":")[2]) or "model"
    graph = _capture(
        model, input, arg, frontend, train, fake, include_source, dynamic, mode, device
    )
    _print(graph.summary(depth=depth))
    _make_folder(out)
    for chosen in formats:
        path = out / f"{name}{_suffix(chosen)}"
        _write(graph, path, chosen, weights, functions, optional="all" in format)


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
    formats = _formats(to)
    folder = out if out is not None else file.parent
    targets = [folder / f"{file.stem}{_suffix(chosen)}" for chosen in formats]
    if "all" in to:  # but for the file itself
        rows = [row for row in zip(formats, targets, strict=True) if not _is_same(row[1], file)]
        formats, targets = [row[0] for row in rows], [row[1] for row in rows]
    if file.suffix != ".json" and any(_is_same(target, file) for target in targets):
        raise UsageError(f"this would overwrite {str(file)!r}", hint="give another folder as --out")
    graph = _load(file, trust)
    _make_folder(folder)
    for chosen, target in zip(formats, targets, strict=True):
        _write(graph, target, chosen, functions=functions, optional="all" in to)


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
    if _is_file(model, trust, device):
        graph = _load(model, trust)
    else:
        graph = _capture(model, input, arg, frontend, train, fake, mode=mode, device=device)
    chosen = [name.strip() for name in columns.split(",")] if columns else None
    _print(graph.summary(depth=depth, sort=sort, columns=chosen))


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
    from .text import costs

    saved = _is_file(model, trust, device)
    if at and not saved and not dynamic:
        raise UsageError("--at needs symbolic sizes", hint="name them with --dynamic")
    if saved:
        graph = _load(model, trust)
    else:
        graph = _capture(model, input, arg, frontend, train, fake, dynamic=dynamic, device=device)
    _print(costs(graph, [(text, _bound(graph, text)) for text in at]))


def _bound(graph: ModelGraph, text: str) -> ModelGraph:
    from .frontends.loading import parse_sizes
    from .transforms.bind import bind

    return bind(graph, **parse_sizes(text))


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files."""
    import json

    from .exporters.json_graph import schema as json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The file to write, such as mine.json.")],
    device: Annotated[str, typer.Option(help="As torch calls it: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Measure what a device can do, for rooflines and estimates, and write it to OUT."""
    from .devices import save
    from .measurements.calibration import calibrate as measure

    found = measure(device)
    for name, rate in found.matrix.items():
        print(f"{name:>9} {rate / 1e12:10.3f} TFLOP/s")
    print(f"{'copy':>9} {found.bandwidth / 1e9:10.1f} GB/s")
    print(f"{'launch':>9} {found.launch_us:10.2f} us")
    save(found, out)
    print(f"wrote {out}")


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
    from .viewing import view as show

    def announce(url: str) -> None:
        print(f"{file} is shown at {url}", flush=True)

    show(file, viewer=viewer, port=port, browser=browser, announce=announce)


def _is_file(model: str, trust: bool, places: Sequence[str] = ()) -> bool:
    """Say whether a command's MODEL is a file to read, rather than a model to make."""
    from .reading import SUFFIXES

    found = model.lower().endswith(SUFFIXES)
    if found and places:
        raise UsageError(
            "what is in a file keeps its devices", hint="give --device with a model to capture"
        )
    if trust and not found:
        raise UsageError("--trust is for .pt2 files", hint="leave it out")
    return found


def _load(file: Path | str, trust: bool) -> ModelGraph:
    from .reading import load

    return load(file, trust=trust)


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _capture(
    model: str,
    inputs: list[str],
    arguments: list[str],
    frontend: str,
    train: bool,
    fake: bool,
    include_source: bool = False,
    dynamic: Sequence[str] = (),
    mode: Any = "forward",
    device: Sequence[str] = (),
) -> ModelGraph:
    from .text import progress

    with progress(f"loading {model}"):
        from .api import capture as capture_graph
        from .frontends.loading import (
            load_model,
            make_example,
            parse_argument,
            parse_dynamic,
            parse_input,
        )
        from .frontends.placing import parse_places

        places = parse_places(device)
        made = dict(map(parse_argument, arguments))
        symbols = parse_dynamic(dynamic)
        for text in inputs:
            parse_input(text)
        module = load_model(model, made, fake=fake).train(train)
        example = make_example(inputs, module)
    return capture_graph(
        module,
        example,
        mode=mode,
        frontend=frontend,
        include_source=include_source,
        dynamic=symbols,
        device=places,
    )


def _formats(names: Sequence[str]) -> list[str]:
    from .exporters import FORMATS, format_of

    if "all" in names:
        return list(FORMATS)
    return [format_of("", name) for name in names]


def _suffix(format: str) -> str:
    from .exporters import suffix_of

    return suffix_of(format)


def _weights(choice: str) -> None:
    if choice not in ("include", "external", "none"):
        raise UsageError(
            f"there is no choice {choice!r} of weights", hint="choose include, external or none"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}",
            hint="choose one that you may write to",
        ) from error


def _write(
    graph: ModelGraph,
    path: Path,
    format: str,
    weights: str | None = None,
    functions: bool = False,
    *,
    optional: bool = False,
) -> None:
    from .exporters import export as write

    options: dict[str, Any] = {"weights": weights} if weights and format == "onnx" else {}
    options |= {"functions": True} if functions and format.startswith("onnx") else {}
    try:
        write(graph, path, format, **options)
    except MissingExtraError as error:
        if not optional:
            raise
        print(f"left out {path}: {error}", file=sys.stderr)
    else:
        print(f"wrote {path}")


def _print(renderable: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe or a file has no width to fit into.
    console.print(renderable) if console.is_terminal else print(renderable)


def _printable(text: object) -> str:
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )


@contextmanager
def _plain_warnings() -> Iterator[None]:
    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        print(f"warning: {_printable(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="torchatlas")
        warnings.showwarning = show
        yield


def _run(command: Callable[[], Any]) -> int:
    try:
        with _plain_warnings():
            command()
    except AtlasError as error:
        print(f"error: {_printable(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if os.environ.get("TORCHATLAS_DEBUG"):
            raise
        print(
            f"error: {type(error).__name__}: {_printable(error)}\n"
            "  hint: this is a fault of torchatlas; set TORCHATLAS_DEBUG=1 to see where",
            file=sys.stderr,
        )
        return 1
    return 0


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(_run(app))


if __name__ == "__main__":
    main()
