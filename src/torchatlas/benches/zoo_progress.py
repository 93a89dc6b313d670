"""How far a zoo run is, on stderr: a bar on a terminal, else a line for each model."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..names import clean
from ..text import duration
from .ledger import ZooResult


class Progress:
    """Shows which model is at work, how many are done and failed, and the time that is left.

    `total` models are chosen, of which earlier runs did `before`.
    """

    def __init__(self, total: int, before: int, quiet: bool = False) -> None:
        self._total, self._done, self._failed, self._quiet = total, before, 0, quiet
        self._before, self._began = before, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet:
            self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> None:
        if self._before:
            print(f"{self._before} of {self._total} were done before", file=sys.stderr)
        if not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[said]}", markup=False),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,  # what moves all the time would disturb what is measured
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=self._total, completed=self._done, said=self._said()
        )
        self._bar.start()

    def begin(self, name: str) -> None:
        """Say that a model is at work now."""
        if self._bar is not None:
            self._bar.update(self._task, description=clean(name), said=self._said(), refresh=True)

    def end(self, result: ZooResult) -> None:
        """Say what became of a model."""
        self._done += 1
        self._failed += result.status != "ok"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, said=self._said(), refresh=True)
            if result.status != "ok":
                self._bar.console.print(line(result), markup=False, soft_wrap=True)
        elif not self._quiet:
            print(f"[{self._done}/{self._total}] {line(result)}", file=sys.stderr, flush=True)

    def _said(self) -> str:
        failed = f"{self._failed} failed" if self._failed else ""
        return ", ".join(part for part in (failed, self._left()) if part)

    def _left(self) -> str:
        """Return the time that is left if the other models take as long as those of this run."""
        count = self._done - self._before
        if not count:
            return ""
        seconds = (time.monotonic() - self._began) / count * (self._total - self._done)
        return f"{clock(seconds)} left"


def clock(seconds: float) -> str:
    """Return a time in hours, minutes and seconds.

    >>> clock(59.6), clock(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(result: ZooResult) -> str:
    """Return what became of a model, in a line.

    >>> line(ZooResult("timm", "vgg11", "timeout", 60.2, error="stopped after 60 s"))
    'vgg11: timeout: stopped after 60 s'
    """
    name = clean(result.name)
    if result.benchmark is None:
        where = f" at {clean(result.node)!r}" if result.node else ""
        return f"{name}: {result.status}: {clean(result.error)}{where}"
    eager = result.benchmark.eager
    return f"{name}: {duration(eager.median_us)} ± {duration(eager.iqr_us)}"
