"""Benchmarks of many models: one killable process each, resumable, and one table at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from ..errors import AtlasError, UsageError
from ..text import Summary
from . import zoo_table
from .ledger import Ledger, Settings, Status, ZooResult, label, settings_of
from .model import Plan
from .processes import Outcome, Workers, interrupts_held
from .result import Benchmark
from .zoo_progress import Progress

_WORKER = "torchatlas.benches.worker"
_LISTING_SECONDS = 300.0

Key = tuple[str, str]
"""A zoo and the name of a model in it."""


@dataclass(frozen=True)
class ZooRun:
    """What became of the models of a zoo, in the order of the zoo."""

    results: tuple[ZooResult, ...]
    settings: Settings
    """What the results depend on: the plan, the batch size, versions."""
    sort: str = "model"
    left: int = 0
    """Models without a result, where the run was interrupted."""
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """What a command ends with: 130 if it was interrupted, 1 if no model was benchmarked.

        A model that fails is a result of a run over a zoo, and no failure of the run.
        """
        if self.interrupted:
            return 130
        return 0 if any(result.status == "ok" for result in self.results) else 1

    def table(self) -> Summary:
        """Return a table of all models to print, with what failed below it."""
        return zoo_table.table(self.results, self.settings, self.sort, self.left)

    def markdown(self) -> str:
        """Return a page with the same, and on what, with what and when it was measured."""
        return zoo_table.page(self.results, self.settings, self.sort, self.left)


def list_zoo(zoos: Sequence[str], *, filter: str = "*", sample: int | None = None) -> list[str]:
    """Return the names of the models that `run_zoo` would run.

    Where there are several zoos, each name begins with its zoo: ``timm:resnet18``. Raises what
    `run_zoo` does.
    """
    told = _listed(_workers(zoos), zoos)
    chosen = _select(told["names"], filter, sample)
    return [name if len(told["names"]) == 1 else label(zoo, name) for zoo, name in chosen]


def run_zoo(
    zoos: Sequence[str],
    plan: Plan,
    *,
    filter: str = "*",
    sample: int | None = None,
    batch: int | None = None,
    timeout: float = 300.0,
    out: str | os.PathLike[str] | None = None,
    retry: bool = False,
    sort: str = "model",
    quiet: bool = False,
) -> ZooRun:
    """Benchmark the models of `zoos`, each in a process of its own; return what became of them.

    A zoo is ``torchvision``, ``timm``, or a user's own: ``module:NAME`` or
    ``path/to/file.py:NAME``, a dict from names to functions that each return a model and an
    example. Of their models those are run whose name `filter` matches (globs, comma-separated),
    or `sample` of them, evenly spread. `batch` is the leading size of the examples. The `plan`
    says how each is measured; it has no `inputs`, no `arguments` and no `fake` here. A model that
    takes more than `timeout` seconds is killed.

    Each result is appended to the file `out`, as a line of JSON, when it is there. What the file
    has already, with the same settings, is not run again; with `retry`, failures are. Progress is
    shown on stderr unless `quiet`. An interrupt ends the run, and what is finished is returned.

    The table is sorted by name, or by `sort`, largest first: params, flops, eager, compile,
    compile-speedup (and the other ways that the plan compares), throughput, roofline, memory.

    Raises UsageError for a zoo or a filter without models, for a plan that does not suit, and
    where another run writes `out`; FormatError where `out` holds something else or cannot be
    written.
    """
    _check(plan, sample, batch, timeout)
    zoo_table.check_sort(sort, plan.compare)
    with Ledger(None if out is None else Path(out)) as ledger:
        workers = _workers(zoos)
        told = _listed(workers, zoos, plan.device)
        chosen = _select(told["names"], filter, sample)
        settings = settings_of(plan=asdict(plan), batch=batch, versions=told["versions"])
        done = {
            key: result
            for key, result in ledger.results(settings).items()
            if result.status == "ok" or not retry
        }
        left = [key for key in chosen if key not in done]
        with Progress(len(chosen), len(chosen) - len(left), quiet) as progress:
            interrupted = False
            try:
                for result in _results(workers, left, plan, batch, timeout, progress):
                    with interrupts_held():
                        ledger.append(result, settings)
                        done[result.key] = result
                    progress.end(result)
            except KeyboardInterrupt:
                interrupted = True
    found = tuple(done[key] for key in chosen if key in done)
    return ZooRun(found, settings, sort, len(chosen) - len(found), interrupted)


def _check(plan: Plan, sample: int | None, batch: int | None, timeout: float) -> None:
    for what, count in (("models", sample), ("samples", batch)):
        if count is not None and count < 1:
            raise UsageError(f"{count} {what} are too few", hint="1 or more")
    if not timeout > 0:
        raise UsageError(f"nothing is done in {timeout:g} seconds", hint="give a longer timeout")
    if plan.inputs or plan.arguments:
        raise UsageError(
            "a zoo makes its models and examples itself",
            hint="leave out --input and --arg; --batch sets the leading size",
        )
    if plan.fake:
        raise UsageError("the models of a zoo have random weights", hint="leave out --fake")


def _workers(zoos: Sequence[str]) -> Workers:
    packages = [zoo for zoo in ("torchvision", "timm") if zoo in zoos]
    return Workers(["torchatlas.benches.preloaded", *packages])


def _listed(workers: Workers, zoos: Sequence[str], device: str | None = None) -> dict[str, Any]:
    """Return the names of all models and the versions of packages, asked in a worker.

    So this process neither imports them nor runs a user's file.
    """
    if not zoos:
        raise UsageError("no zoo is named", hint="name one, such as timm or torchvision")
    task = {"zoos": list(dict.fromkeys(zoos)), "device": device}
    outcome = workers.call(f"{_WORKER}:list_models", task, _LISTING_SECONDS)
    if outcome.status == "returned":
        found: dict[str, Any] = outcome.value
        return found
    if outcome.kind == "UsageError":
        raise UsageError(outcome.problem, hint=outcome.hint)
    hint = outcome.hint or "import the zoo in Python to see the whole reason"
    if outcome.status == "ended":  # what multiprocessing says of it went to stderr
        hint = "in a script, call it below: if __name__ == '__main__'"
    raise AtlasError(
        f"the models of {', '.join(zoos)} cannot be listed: {outcome.error}", hint=hint
    )


def _select(names: Mapping[str, Sequence[str]], filter: str, sample: int | None) -> list[Key]:
    """Return the models whose name `filter` matches, or so many of them, evenly spread.

    >>> _select({"timm": ["resnet18", "resnet34", "vgg11"]}, "vgg*,resnet1?", None)
    [('timm', 'resnet18'), ('timm', 'vgg11')]
    >>> _select({"timm": list("abcdefg")}, "*", 3)
    [('timm', 'a'), ('timm', 'c'), ('timm', 'e')]
    """
    patterns = [pattern.strip() for pattern in filter.split(",")]
    found = [
        (zoo, name)
        for zoo, members in names.items()
        for name in members
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not found:
        raise UsageError(
            f"no model of {', '.join(names)} matches {filter!r}",
            hint="globs on names, comma-separated: 'resnet*,*_tiny'; --list shows what matches",
        )
    if sample is None or sample >= len(found):
        return found
    return [found[i * len(found) // sample] for i in range(sample)]


def _results(
    workers: Workers,
    left: Sequence[Key],
    plan: Plan,
    batch: int | None,
    timeout: float,
    progress: Progress,
) -> Iterator[ZooResult]:
    task = {"plan": asdict(plan), "batch": batch}
    for zoo, name in left:
        progress.begin(name)
        known = {**task, "zoo": zoo, "name": name}
        yield _result(zoo, name, workers.call(f"{_WORKER}:measure_model", known, timeout))


_STATUS: dict[str, Status] = {
    "returned": "ok",
    "raised": "failed",
    "ended": "failed",
    "killed": "killed",
    "timeout": "timeout",
}


def _result(zoo: str, name: str, outcome: Outcome) -> ZooResult:
    """Return what became of a model, as it comes back from the file too."""
    status, error, found = _STATUS[outcome.status], outcome.error, None
    if status == "ok":
        try:
            found = msgspec.json.decode(msgspec.json.encode(outcome.value), type=Benchmark)
        except msgspec.ValidationError as invalid:  # a number that JSON does not have
            status, error = "failed", f"the benchmark cannot be kept: {invalid}"
    return ZooResult(
        zoo,
        name,
        status,
        outcome.seconds,
        benchmark=found,
        error=error,
        hint=outcome.hint,
        node=outcome.node,
        output="" if found else outcome.output,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
