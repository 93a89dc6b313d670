"""The command line application, which the modules beside it add their commands to."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="An atlas of your PyTorch model: every operation with its shape, cost and place.",
    epilog="Exit status: 0 done, 1 the model or file could not be handled, 2 wrong usage.",
)
