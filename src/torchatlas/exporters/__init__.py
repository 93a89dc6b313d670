"""Exporters turn a graph into bytes and open no file; `export` opens files."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from ..errors import FormatError, UsageError
from ..graph import ModelGraph
from ..text import progress

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "check_target",
    "export",
    "format_of",
    "load",
    "render",
    "suffix_of",
    "write_file",
]

FORMATS = {
    "dot": "dot",
    "json": "json_graph",
    "onnx": "onnx_model",
    "onnx-structure": "onnx_structure",
    "netron": "netron_json",
    "netron-attachment": "netron_json:attachment",
    "model-explorer": "model_explorer",
    "model-explorer-overlays": "model_explorer:overlays",
    "tensorboard": "tensorboard_events",
    "html": "html_report",
    "svg": "picture:svg",
    "png": "picture:png",
    "pdf": "picture:pdf",
    "csv": "table:csv",
    "markdown": "table:markdown",
    "graphml": "networkx_formats:graphml",
    "gexf": "networkx_formats:gexf",
}
"""Name of a format to the module that renders it, and its function where that is not `render`."""

SUFFIXES = {
    ".dot": "dot",
    ".json": "json",
    ".onnx": "onnx",
    ".structure.onnx": "onnx-structure",
    ".netron": "netron",
    ".attachment.json": "netron-attachment",
    ".explorer.json": "model-explorer",
    ".overlays.json": "model-explorer-overlays",
    ".tfevents": "tensorboard",
    ".html": "html",
    ".svg": "svg",
    ".png": "png",
    ".pdf": "pdf",
    ".csv": "csv",
    ".md": "markdown",
    ".graphml": "graphml",
    ".gexf": "gexf",
}
"""Suffix of a file to the format that it means; of two that fit, the longer one counts."""


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """Return the format to write to `path`: the one asked for, or what the suffix means.

    >>> format_of("resnet18.dot"), format_of("a.onnx", "onnx-structure")
    ('dot', 'onnx-structure')
    >>> format_of("resnet18.explorer.json"), format_of("v1.json")
    ('model-explorer', 'json')
    """
    if format is not None:
        if format not in FORMATS:
            raise UsageError(
                f"there is no format {format!r}", hint=f"the known ones are {', '.join(FORMATS)}"
            )
        return format
    name = Path(path).name.lower()
    fitting = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    if not fitting:
        raise UsageError(
            f"no format has the suffix {Path(name).suffix!r}",
            hint=f"the known ones are {', '.join(SUFFIXES)}",
        )
    return SUFFIXES[max(fitting, key=len)]


def suffix_of(format: str) -> str:
    """Return the suffix of files in a format.

    >>> suffix_of("onnx-structure"), suffix_of("markdown")
    ('.structure.onnx', '.md')
    """
    return next(suffix for suffix, name in SUFFIXES.items() if name == format)


def render(
    graph: ModelGraph, format: str, **options: Any
) -> tuple[bytes, Mapping[str, bytes | bytearray]]:
    """Return the content of a file, and by name those of the files that must stand beside it.

    ``onnx`` means the executable model where the graph came from a live one, and the structure
    alone where it did not, or where torch cannot translate the model, which is warned about.
    Raises UsageError for an option that the format does not have.
    """
    if format == "onnx" and getattr(graph.source, "program", None) is None:
        format = "onnx-structure"
        options.pop("weights", None)
    module, _, function = FORMATS[format].partition(":")
    chosen = getattr(import_module(f".{module}", __name__), function or "render")
    known = set(signature(chosen).parameters) - {"graph"}
    if "location" not in known:  # export() names it for every format
        options.pop("location", None)
    if unknown := options.keys() - known:
        raise UsageError(
            f"the format {format!r} has no option {min(unknown)!r}",
            hint=f"it has {', '.join(sorted(known)) or 'none'}",
        )
    try:
        found = chosen(graph, **options)
    except FormatError as error:
        if format != "onnx":
            raise
        warnings.warn(f"{error}\n  the ONNX file shows the structure only", stacklevel=3)
        kept = {key: options[key] for key in options.keys() & {"include_source", "functions"}}
        return render(graph, "onnx-structure", **kept)
    return getattr(found, "content", found), getattr(found, "sidecars", {})


def export(
    graph: ModelGraph, path: str | os.PathLike[str], format: str | None = None, **options: Any
) -> None:
    """Write `graph` to `path` in `format`, by default the one that the suffix means.

    `options` are those of the format's ``render``. A file is written to a temporary name and
    renamed, so a failed export leaves the old one. Raises UsageError for an unknown format or
    option, and FormatError where the file cannot be written or the graph not be rendered.
    """
    chosen, path = format_of(path, format), Path(path)
    check_target(path)
    with progress(f"writing {path.name}"):
        content, sidecars = render(graph, chosen, location=f"{path.name}.data", **options)
    with _naming(path):
        for name, data in sidecars.items():
            _replace(path.with_name(name), data)
        _replace(path, content)


def check_target(path: Path) -> None:
    """Raise FormatError where no file can be written to `path`: before the work, not after it."""
    with _naming(path):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {str(path.parent)!r} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"the folder {str(path.parent)!r} is read-only")


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name and rename it; raises FormatError where that fails."""
    check_target(path)
    with _naming(path):
        _replace(path, content)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(
            f"cannot write {str(path)!r}: {reason}",
            hint="create the folder, or choose one that you may write to",
        ) from error


def _replace(path: Path, data: bytes | bytearray) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> ModelGraph:
    """Return the graph that was exported to `path` as JSON; nothing in the file is executed.

    Raises FormatError for a file that is missing, or that is not such a graph.
    """
    from .json_graph import parse_graph

    path = Path(path)
    if path.suffix.lower() != ".json":
        raise FormatError(
            f"a graph cannot be read from {path.name!r}",
            hint="only .json files, as torchatlas writes them, can be read back",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(f"cannot read {str(path)!r}: {reason}", hint="check the path") from error
    return parse_graph(content, str(path))
