"""What commands print, and how."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def show(renderable: Any) -> None:
    """Print what rich can draw: as wide as the terminal, and in full where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe or a file has no width to fit into.
    console.print(renderable) if console.is_terminal else print(renderable)


def printable(text: object) -> str:
    """Return `text` without characters that a terminal would obey."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print our own warnings as one line each, and no others."""

    def one_line(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        print(f"warning: {printable(message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="torchatlas")
        warnings.showwarning = one_line
        yield
