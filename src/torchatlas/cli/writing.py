"""Files that commands write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from ..graph import ModelGraph


def checked_formats(names: Sequence[str]) -> list[str]:
    """Return the formats that are meant; raises UsageError for one that does not exist."""
    from ..exporters import FORMATS, format_of

    if "all" in names:
        return list(FORMATS)
    return [format_of("", name) for name in names]


def suffix(format: str) -> str:
    """Return what the names of files of a format end with."""
    from ..exporters import suffix_of

    return suffix_of(format)


def check_weights(choice: str) -> None:
    """Raise UsageError for a choice that does not exist."""
    if choice not in ("include", "external", "none"):
        raise UsageError(
            f"there is no choice {choice!r} of weights", hint="choose include, external or none"
        )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises FormatError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(
            f"cannot make the folder {str(folder)!r}: {error.strerror}",
            hint="choose one that you may write to",
        ) from error


def write(
    graph: ModelGraph,
    path: Path,
    format: str,
    weights: str | None = None,
    functions: bool = False,
    *,
    optional: bool = False,
) -> None:
    """Write a file and say so; an `optional` one is left out where its package is missing."""
    from ..exporters import export

    options: dict[str, Any] = {"weights": weights} if weights and format == "onnx" else {}
    options |= {"functions": True} if functions and format.startswith("onnx") else {}
    try:
        export(graph, path, format, **options)
    except MissingExtraError as error:
        if not optional:
            raise
        print(f"left out {path}: {error}", file=sys.stderr)
    else:
        print(f"wrote {path}")


def is_same(one: Path, other: Path) -> bool:
    """Say whether two paths lead to one file."""
    return one.resolve() == other.resolve()
