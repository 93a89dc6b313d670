"""Reads models from files: graphs of torchatlas, `.pt2` archives of torch.export, ONNX models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .annotations import annotate
from .errors import AtlasError, FormatError, UsageError
from .graph import ModelGraph, build
from .text import progress
from .transforms.bind import bind

if TYPE_CHECKING:
    from .records import OpRecord

SUFFIXES = (".json", ".onnx", ".pt2")
"""What `load` reads."""


def load(
    path: str | PathLike[str],
    *,
    sizes: Mapping[str, int] | None = None,
    trust: bool = False,
    include_source: bool = False,
) -> ModelGraph:
    """Return the graph of the model in a file; nothing in the file is executed.

    A ``.json`` file is a graph that torchatlas wrote, and comes back equal. A ``.pt2`` file is
    what `torch.export.save` wrote: the graph is that of the program, with the ids, shapes, costs
    and symbolic sizes that `capture` gives it, but without what the file does not hold (the
    classes of modules in which no op runs; which weights of a model exported on fake tensors are
    tied; what composite ops without a formula consist of). A ``.onnx`` file is any ONNX model.

    `sizes` puts numbers in place of symbolic sizes: ``{"batch": 8}``. `include_source` keeps the
    line of code that called each op (``file:line``), where a ``.pt2`` file has it.

    With `trust` a ``.pt2`` file is loaded by torch itself, which can run any code that somebody
    planted in it, and then captured: the graph can then be written as an ONNX model that
    executes, weights included.

    Raises FormatError, which says what is wrong, for anything that is no such file, UsageError
    for `trust` where there is nothing to trust, and GraphError where `sizes` are not possible.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FormatError(
            f"a model cannot be read from {path.name!r}",
            hint=f"it must be one of {', '.join(SUFFIXES)}: a graph that torchatlas wrote, an ONNX "
            "model, or a program that torch.export.save wrote",
        )
    if trust and suffix != ".pt2":
        raise UsageError(
            f"nothing in a {suffix} file is executed", hint="leave trust out: it is for .pt2 files"
        )
    _check(path)
    with progress(f"reading {path.name}"):
        if trust:
            graph = _load_program(path, include_source)
        else:
            graph = _READERS[suffix](path, sizes, include_source)
        bound = {name: n for name, n in (sizes or {}).items() if suffix != ".onnx"}
        return bind(graph, **bound) if bound else graph


def _check(path: Path) -> None:
    """Raise FormatError for a file that cannot be read, or that is surely no model."""
    from .frontends.archive_file import identify, read_head

    found = identify(read_head(path))
    if found is not None:
        raise FormatError(f"{str(path)!r} is {found}", hint="get the model file itself")


def _load_json(path: Path, sizes: Mapping[str, int] | None, include_source: bool) -> ModelGraph:
    from .exporters import load as load_graph

    return load_graph(path)


def _load_archive(path: Path, sizes: Mapping[str, int] | None, include_source: bool) -> ModelGraph:
    from .frontends import archive

    records, attrs = archive.read(path)
    return _graph(path, records, attrs, include_source)


def _load_onnx(path: Path, sizes: Mapping[str, int] | None, include_source: bool) -> ModelGraph:
    from .frontends import onnx_file

    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(f"cannot read {str(path)!r}: {reason}", hint="check the path") from error
    records, attrs = onnx_file.read(content, str(path), sizes)
    return _graph(path, records, attrs, include_source)


_READERS: dict[str, Callable[[Path, Mapping[str, int] | None, bool], ModelGraph]] = {
    ".json": _load_json,
    ".onnx": _load_onnx,
    ".pt2": _load_archive,
}


def _graph(
    path: Path, records: Sequence[OpRecord], attrs: Mapping[str, Any], include_source: bool
) -> ModelGraph:
    if not include_source:
        _drop_source(records)
    graph, _ = build(records, **attrs)
    try:
        return annotate(graph)
    except AtlasError:
        raise
    except Exception as error:  # a formula met arguments that the operator itself would refuse
        raise FormatError(
            f"{str(path)!r}: what its operators cost cannot be computed: "
            f"{type(error).__name__}: {str(error)[:200]}",
            hint="their arguments are not what the operators take; the file may be damaged",
        ) from error


def _drop_source(records: Sequence[OpRecord]) -> None:
    from .records import with_bodies

    for record in with_bodies(records):
        record.source = ""


def _load_program(path: Path, include_source: bool) -> ModelGraph:
    """Load a program with torch, which can run code in it, and capture it."""
    from .frontends import record
    from .frontends.archive import load_program

    found, source = record(load_program(path))
    if not include_source:
        _drop_source(found.records)
    graph, source.ids = build(found.records, **found.attrs)
    graph.source = source
    return annotate(graph)
