"""The command line: what to capture, where to write it, and how to read it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from ..errors import AtlasError, UsageError
from . import benches, costs, graphs  # noqa: F401
from .application import app
from .printing import plain_warnings, printable


def _run(command: Callable[[], Any]) -> int:
    try:
        with plain_warnings():
            command()
    except AtlasError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
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
            f"error: {type(error).__name__}: {printable(error)}\n"
            "  hint: this is a fault of torchatlas; set TORCHATLAS_DEBUG=1 to see where",
            file=sys.stderr,
        )
        return 1
    return 0


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(_run(app))
