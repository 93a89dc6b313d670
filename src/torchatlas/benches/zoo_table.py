"""The results of a zoo run as a table, in words, and as a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import UsageError
from ..names import clean
from ..schema import Way
from ..text import Summary, duration, number
from .ledger import Settings, ZooResult, label
from .result import Benchmark, Run

Value = float | None

_UNSTABLE, _UNKNOWN = "~", " +?"
_LEFT = ("model", "status")
"""The columns of words; the others are numbers."""


class Column(NamedTuple):
    """A column: what it sorts by, largest first, and how that is written."""

    title: str
    value: Callable[[Benchmark], Value]
    text: Callable[[Benchmark], str]


def _time(run: Run | None) -> str:
    if run is None:
        return ""
    if run.median_us is None:
        return "failed"
    unstable = "" if run.stable else _UNSTABLE
    return f"{unstable}{duration(run.median_us)} ± {duration(run.iqr_us)}"


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"


def _flops(found: Benchmark) -> str:
    return number(found.flops) + (_UNKNOWN if found.uncounted else "")


def _rate(value: Value) -> str:
    if not value:
        return "?"
    return number(round(value)) if value >= 100 else f"{value:.3g}"


def _memory(found: Sequence[Benchmark]) -> Column:
    """Return the column of the memory that was measured, or that is predicted if none was."""
    if any(one.peak_bytes is not None for one in found):
        return Column("peak memory", lambda b: b.peak_bytes, lambda b: number(b.peak_bytes, "B"))
    return Column(
        "predicted peak",
        lambda b: b.predicted_peak_bytes,
        lambda b: number(b.predicted_peak_bytes, "B"),
    )


def _other(found: Benchmark, way: str) -> Run | None:
    return next((run for run in found.runs if run.way == way), None)


def _throughput(found: Benchmark) -> Value:
    return max((run.throughput or 0.0 for run in found.runs), default=None)


def _roofline(found: Benchmark) -> Value:
    return found.limits.roofline_share if found.limits else None


def _way_columns(way: str) -> dict[str, Column]:
    def median(found: Benchmark) -> Value:
        run = _other(found, way)
        return run.median_us if run else None

    def speedup(found: Benchmark) -> Value:
        run = _other(found, way)
        return run.speedup if run else None

    def times(found: Benchmark) -> str:
        factor = speedup(found)
        return "" if factor is None else f"{factor:.2f}x"

    return {
        way: Column(way, median, lambda found: _time(_other(found, way))),
        f"{way}-speedup": Column("speed-up", speedup, times),
    }


def columns(found: Sequence[Benchmark]) -> dict[str, Column]:
    """Return the columns of a table of benchmarks, by what `sort` calls them."""
    ways = dict.fromkeys(run.way for one in found for run in one.runs if run.way != "eager")
    return {
        "params": Column("params", lambda b: b.params, lambda b: number(b.params)),
        "flops": Column("FLOPs", lambda b: b.flops, _flops),
        "eager": Column("eager", lambda b: b.eager.median_us, lambda b: _time(b.eager)),
        **{name: column for way in ways for name, column in _way_columns(way).items()},
        "throughput": Column("samples/s", _throughput, lambda b: _rate(_throughput(b))),
        "roofline": Column("roofline", _roofline, lambda b: _share(_roofline(b))),
        "memory": _memory(found),
    }


def check_sort(sort: str, compare: Sequence[Way]) -> None:
    """Raise UsageError where `sort` is no column of a table that compares these ways."""
    ways = [name for way in compare for name in (way, f"{way}-speedup")]
    known = ["model", "params", "flops", "eager", *ways, "throughput", "roofline", "memory"]
    if sort not in known:
        raise UsageError(
            f"there is no column {sort!r} to sort by", hint=f"choose {', '.join(known)}"
        )


def ordered(results: Sequence[ZooResult], sort: str) -> list[ZooResult]:
    """Return results by name, or by a column: largest first, and what has no number at the end."""
    by_name = sorted(results, key=lambda result: (result.name, result.zoo))
    column = columns([result.benchmark for result in results if result.benchmark]).get(sort)
    if column is None:
        return by_name

    def size(result: ZooResult) -> float:
        value = column.value(result.benchmark) if result.benchmark else None
        return math.inf if value is None else -value

    return sorted(by_name, key=size)


def rows(results: Sequence[ZooResult], sort: str = "model") -> list[list[str]]:
    """Return the titles of the columns, and then a row for each model."""
    known = columns([result.benchmark for result in results if result.benchmark])
    name = _namer(results)
    lines = [["model", "status", *(column.title for column in known.values())]]
    for result in ordered(results, sort):
        found = result.benchmark
        cells = [column.text(found) if found else "" for column in known.values()]
        lines.append([name(result), result.status, *cells])
    return lines


def _namer(results: Sequence[ZooResult]) -> Callable[[ZooResult], str]:
    """Return what names a model: with its zoo where there are several."""
    several = len({result.zoo for result in results}) > 1
    return lambda one: clean(label(one.zoo, one.name) if several else one.name)


def table(
    results: Sequence[ZooResult], settings: Settings, sort: str = "model", left: int = 0
) -> Summary:
    """Return a table of all models, and below it what failed, and how many are `left`."""
    from rich.table import Table
    from rich.text import Text

    titles, *body = rows(results, sort)
    drawn = Table(box=None, pad_edge=False)
    for title in titles:
        first = title in _LEFT
        fold: Any = {"overflow": "fold"} if title == "model" else {"no_wrap": True}
        drawn.add_column(title, justify="left" if first else "right", **fold)
    for cells in body:
        drawn.add_row(*map(Text, cells))
    words = (summary(results, left), *_legend(results), failures(results))
    return Summary(drawn, "\n".join(filter(None, words)), head=_origin(results, settings))


def _legend(results: Sequence[ZooResult]) -> list[str]:
    """Return what marks mean, and what is to be known of all benchmarks."""
    found = [result.benchmark for result in results if result.benchmark]
    parts = []
    if any(not run.stable for one in found for run in one.runs if run.median_us is not None):
        parts.append(f"{_UNSTABLE} unstable")
    if any(one.uncounted for one in found):
        parts.append(f"{_UNKNOWN.strip()} some ops are not counted")
    notes = [one.notes for one in found]
    shared = [note for note in notes[0] if all(note in other for other in notes)] if notes else []
    return [*(["; ".join(parts)] if parts else []), *shared]


def summary(results: Sequence[ZooResult], left: int = 0) -> str:
    """Return how many models came to what.

    >>> two = [ZooResult("timm", "a", "failed", 1.0), ZooResult("timm", "b", "timeout", 1.0)]
    >>> summary(two), summary(two, left=1)
    ('2 models: 1 failed, 1 timeout', '3 models: 1 failed, 1 timeout, 1 not run yet')
    """
    counts = Counter(result.status for result in results)
    parts = [
        f"{counts[status]} {status}"
        for status in ("ok", "failed", "killed", "timeout")
        if counts[status]
    ]
    parts += [f"{left} not run yet"] if left else []
    return f"{_plural(len(results) + left, 'model')}: {', '.join(parts) or 'none'}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def failures(results: Sequence[ZooResult]) -> str:
    """Return a line for each model that failed, and one for each way that did not work."""
    lines, name = [], _namer(results)
    for result in ordered(results, "model"):
        where = f" at {clean(result.node)!r}" if result.node else ""
        if result.benchmark is None:
            lines.append(f"{name(result)}: {result.status}: {clean(result.error)}{where}")
            continue
        lines += [
            f"{name(result)}: {run.way}: {clean(run.error)}"
            for run in result.benchmark.runs
            if run.error
        ]
    return "\n".join(lines)


def page(
    results: Sequence[ZooResult], settings: Settings, sort: str = "model", left: int = 0
) -> str:
    """Return the same as a page in Markdown."""
    titles, *body = rows(results, sort)
    rule = ["---" if title in _LEFT else "---:" for title in titles]
    parts = [
        "# Benchmark of a zoo",
        f"{_escaped(_origin(results, settings))}.",
        f"{summary(results, left)}.",
        "\n".join([_row(titles), f"| {' | '.join(rule)} |", *map(_row, body)]),
        *(_escaped(line) for line in _legend(results)),
    ]
    if bad := failures(results):
        parts += ["## Failures", "\n".join(f"* {_escaped(one)}" for one in bad.splitlines())]
    return "\n\n".join(parts) + "\n"


def _origin(results: Sequence[ZooResult], settings: Settings) -> str:
    """Say on what, with what and when the results were measured."""
    found = [result.benchmark for result in results if result.benchmark]
    plan = settings["plan"]
    days = sorted({result.finished[:10] for result in results if result.finished})
    said = [
        ", ".join(sorted({_device(one) for one in found})) or plan["device"],
        *(f"{name} {version}" for name, version in settings["versions"].items()),
        *([f"batch {settings['batch']}"] if settings["batch"] else []),
        *([plan["dtype"]] if plan["dtype"] else []),
        *([_plural(plan["steps"], "step")] if plan["steps"] is not None else []),
        " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
    ]
    return ", ".join(part for part in said if part)


def _device(found: Benchmark) -> str:
    if found.device != "cpu":
        return f"{found.device_name} ({found.device})"
    return f"{found.device_name} ({_plural(found.threads, 'thread')})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is.

    >>> _escaped("a|b *") == "a" + chr(92) + "|b " + chr(92) + "*"
    True
    """
    return "".join(f"\\{c}" if c in "\\|*_`~<>[]" else c for c in text)
