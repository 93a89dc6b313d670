"""How a benchmark reads: in a terminal as tables with colours, elsewhere as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from ..names import clean
from ..text import duration, number
from .result import Benchmark, Limits, Run

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100
"""Characters of a line of plain text."""

_CLASS = 26
"""Characters of the class of a module, and of an operator."""

_UNSTABLE = "~"


class Report:
    """A benchmark to print: what was run, the ways to run it, and where the time goes."""

    def __init__(self, found: Benchmark) -> None:
        self.found = found

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        found = self.found
        title, *head = _head(found)
        parts: list[RenderableType] = [Text(title, style="bold"), *map(Text, head)]
        for table in (_ways(found), _modules(found), _nodes(found)):
            if table.row_count:
                parts += [Text(), table]
        parts += [Text(), *(Text(line) for line in _foot(found))]
        return Group(*parts)

    def __str__(self) -> str:
        from rich.console import Console

        file = StringIO()
        console = Console(file=file, width=WIDTH, color_system=None, legacy_windows=False)
        console.print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    __repr__ = __str__


def _head(found: Benchmark) -> list[str]:
    """Return what was run, and on what."""
    where = [found.device_name, *([found.device] if found.device != "cpu" else [])]
    if found.device == "cpu":
        where.append(f"{found.threads} thread{'s' if found.threads != 1 else ''}")
    what = [
        f"{found.ops} ops",
        f"{number(found.params)} parameters ({number(found.param_bytes, 'B')}, {found.dtype})",
        number(found.flops, "FLOP") + ("" if found.coverage == 1 else " +?"),
        f"batch {found.batch}",
    ]
    how = [found.mode, f"{found.cache} cache", f"torch {found.torch}"]
    return [_shortened(found.model, WIDTH), ", ".join(where), ", ".join(what), ", ".join(how)]


def _foot(found: Benchmark) -> list[str]:
    """Return how the parts add up, what memory it takes, and how far the device's limits are."""
    spent = [f"ops {duration(found.sum_us)}", f"residual {_part(found.residual_us, found)}"]
    if found.critical_path_us is not None:
        spent.append(f"critical path {duration(found.critical_path_us)}")
    if found.launches is not None:
        spent.append(f"{found.launches} launches")
    memory = [f"{number(found.predicted_peak_bytes, 'B')} predicted"]
    if found.peak_bytes is not None:
        memory.insert(0, f"{number(found.peak_bytes, 'B')} measured")
    phases = [f"{name} {duration(us)}" for name, us in found.phases.items()]
    lines = [_line("time", spent), *([_line("", phases)] if phases else [])]
    lines.append(_line("peak memory", memory))
    if found.limits is not None:
        lines += [_line("roofline", _reached(found.limits))]
    said = [(run.way, text) for run in found.runs for text in (run.error, run.note) if text]
    lines += [
        _line(way, [clean(_shortened(" ".join(text.split()), 2 * WIDTH))]) for way, text in said
    ]
    if found.unstable or not all(run.stable or run.median_us is None for run in found.runs):
        lines.append(_line(f"{_UNSTABLE} unstable", [_spread(found)]))
    return [*lines, *found.notes]


def _line(name: str, parts: Sequence[str]) -> str:
    return f"{name:<11}  {', '.join(parts)}"


def _part(us: float, found: Benchmark) -> str:
    median = found.eager.median_us
    return f"{us / median:+.1%}" if median else "?"


def _reached(limits: Limits) -> list[str]:
    """Return the least time on the device and which part of it is reached."""
    whole = sum(limits.bounds.values())
    bounds = ", ".join(f"{name} {us / whole:.0%}" for name, us in limits.bounds.items() if whole)
    unknown = ", ".join(f"{op} x{count}" for op, count in limits.untimed.items())
    least = f"{duration(limits.roofline_us)} on {limits.device}"
    return [
        least + (f" ({bounds})" if bounds else ""),
        f"{_share(limits.roofline_share)} reached",
        f"bandwidth {_share(limits.bandwidth_share)}",
        *([f"unknown: {unknown}"] if unknown else []),
    ]


def _spread(found: Benchmark) -> str:
    return (
        f"quartiles more than a tenth of the median apart, or a drift: {found.unstable} of "
        f"{found.ops} ops"
    )


# -- tables --------------------------------------------------------------------------------


def _ways(found: Benchmark) -> Table:
    mfu = found.limits is not None
    titles = ["median", "IQR", "p90", "samples/s", "speed-up", "FLOP/s"]
    rows = []
    for run in found.runs:
        if run.median_us is None:
            rows.append([run.way, "failed"])
            continue
        cells = [
            _marked(duration(run.median_us), run.stable),
            duration(run.iqr_us),
            duration(run.p90_us),
            _rate(run.throughput),
            "?" if run.speedup is None else f"{run.speedup:.2f}x",
            number(_flops_per_second(found, run)),
            *([_share(run.mfu)] if mfu else []),
            str(run.samples),
        ]
        rows.append([run.way, *cells])
    return _table(["way"], [*titles, *(["MFU"] if mfu else []), "runs"], rows)


def _flops_per_second(found: Benchmark, run: Run) -> int | None:
    if found.flops is None or not run.median_us:
        return None
    return round(found.flops / run.median_us * 1e6)


def _modules(found: Benchmark) -> Table:
    known = found.limits is not None
    rows = []
    for row in found.modules:
        name = (row.path or "the model") + (" itself" if row.own else "")
        name += f" x{row.count}" if row.count > 1 else ""
        cells = [str(row.ops), duration(row.latency_us), _share(row.share)]
        cells += [_share(row.roofline_share)] if known else []
        rows.append([name, _shortened(row.type.rpartition(".")[2], _CLASS), *cells])
    titles = ["ops", "time", "share", *(["roofline"] if known else [])]
    return _table(["module", "class"], titles, rows)


def _nodes(found: Benchmark) -> Table:
    known = found.limits is not None
    rows = []
    for row in found.nodes:
        cells = [_marked(duration(row.latency_us), row.stable), _share(row.share)]
        cells += [row.bound or "", _share(row.roofline_share)] if known else []
        rows.append([row.id, _shortened(row.op, _CLASS), *cells])
    titles = ["time", "share", *(["bound", "roofline"] if known else [])]
    return _table(["op", "operator"], titles, rows)


def _table(names: Sequence[str], figures: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of at most `WIDTH`: what is first in a row gives way, in its middle."""
    # rich would read a module's name as markup: a Text is shown as it stands.
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in names:
        table.add_column(title, no_wrap=True)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    others = [*names, *figures][1:]
    taken = [
        2 + max([len(title), *(len(row[i]) for row in rows if i < len(row))])
        for i, title in enumerate(others, 1)
    ]
    for name, *cells in rows:
        table.add_row(*map(Text, [_shortened(name, WIDTH - sum(taken)), *cells]))
    return table


def _marked(text: str, stable: bool) -> str:
    return text if stable else f"{_UNSTABLE}{text}"


def _rate(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    """Return a share in per cent.

    >>> _share(0.1234), _share(0.0012), _share(None)
    ('12.3%', '0.1%', '?')
    """
    return "?" if value is None else f"{value:.1%}"


def _shortened(name: str, width: int) -> str:
    """Return a name without its middle where it is longer than `width`.

    >>> _shortened("encoder/layer/0/attention/self/query", 21)
    'encoder/la…self/query'
    """
    if len(name) <= width:
        return name
    half = (width - 1) // 2
    return f"{name[: width - 1 - half]}…{name[-half:]}"
