"""What a report says in words: the totals, the notes on them, and the table of modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..graph import ModelGraph
from ..modules import Row
from ..names import clean, path_to_id
from ..schema import Dim, Measured
from ..sums import Totals, totals
from ..text import duration, number

TIMES = "\N{MULTIPLICATION SIGN}"
_LONGEST = 400
"""Characters of an expression, from which on it is said only what it depends on."""

MAX_ROWS = 400
"""Modules in the table that is there without JavaScript; the deepest ones are left out."""


@dataclass(frozen=True, slots=True)
class Card:
    """One total: what it is, its value, and what else there is to say of it."""

    label: str
    value: str
    detail: str = ""
    symbolic: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know before believing the numbers; `kind` is ``warning`` or ``info``."""

    kind: str
    title: str
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ModuleLine:
    """One row of the table of modules."""

    level: int
    name: str
    path: str
    type: str
    shape: str
    cells: list[str]


# -- totals ----------------------------------------------------------------------------------


def cards(graph: ModelGraph, found: Totals) -> list[Card]:
    """Return the totals of a graph, the most asked for first; times come last."""
    moved = found.bytes_read + found.bytes_written
    shown = [
        _card("Parameters", found.params, "", number(found.param_bytes, "B")),
        _card("FLOPs", found.flops, "FLOP", _effective(found)),
        _card("MACs", found.macs, "MAC", "multiply-adds"),
        _card("Other FLOPs", found.flops_other, "FLOP", "outside contractions"),
        _card("Memory traffic", moved, "B", _traffic(found)),
    ]
    if found.int_ops != 0:
        shown.append(_card("Integer OPs", found.int_ops, "OP", "in integer arithmetic"))
    if found.comm_bytes != 0:
        shown.append(_card("Sent", found.comm_bytes, "B", "by collectives"))
    if found.peak is not None:
        at = f"at {found.peak.node}" if found.peak.node else "depends on the sizes"
        shown.append(_card("Peak memory", found.peak.nbytes, "B", at))
    if found.roofline_us is not None:
        shown.append(Card("At the roofline", duration(found.roofline_us), f"on {_limits(graph)}"))
    measured = graph.graph.get("measured")
    if measured is not None:
        shown += _measured_cards(measured)
    return shown


def _limits(graph: ModelGraph) -> str:
    return clean(str(graph.graph.get("roofline_device", "a device")))


def _measured_cards(measured: Measured) -> Iterator[Card]:
    unstable = "" if measured.stable else ", unstable"
    how = f"on {clean(measured.device_name)}, IQR {duration(measured.iqr_us)}{unstable}"
    yield Card("Measured", duration(measured.median_us), how)
    for other in measured.others:
        label = {"compile": "Compiled", "cuda-graph": "CUDA graph"}[other.way]
        if other.median_us is not None:
            yield Card(label, duration(other.median_us), clean(other.note))
    if measured.peak_bytes is not None:
        yield Card("Measured peak", number(measured.peak_bytes, "B"), "allocated in one run")


def _card(label: str, value: Dim, unit: str, detail: str) -> Card:
    symbolic = not isinstance(value, int)
    return Card(label, short(value, unit), "" if symbolic else detail, symbolic)


def short(value: Any, unit: str = "") -> str:
    """Return a count; of an expression that nobody would read, what it depends on.

    >>> from torchatlas.expressions import parse
    >>> short(4_096, "B"), short(parse("2*batch"), "B")
    ('4.1 kB', '2*batch B')
    """
    text = number(value, unit)
    if len(text) <= _LONGEST:
        return text
    return f"depends on {', '.join(sorted(map(str, value.free_symbols)))}"


def _effective(found: Totals) -> str:
    if found.flops_effective != found.flops:
        return f"{number(found.flops_effective, 'FLOP')} without what masks skip"
    return "2 for each multiply-add"


def _traffic(found: Totals) -> str:
    return f"{short(found.bytes_read, 'B')} read, {short(found.bytes_written, 'B')} written"


# -- notes -----------------------------------------------------------------------------------


def notes(graph: ModelGraph, found: Totals, *, include_source: bool) -> list[Note]:
    """Return what there is to know: ops without a cost, assumptions, front ends that failed."""
    return [note for note in _notes(graph, found, include_source) if note is not None]


def _notes(graph: ModelGraph, found: Totals, include_source: bool) -> Iterator[Note | None]:
    about = graph.graph
    if found.unknown:
        ops = sum(found.unknown.values())
        yield Note(
            "warning",
            f"The cost of {_count(ops, 'op')} is unknown, and in no sum",
            [f"{clean(op)} {TIMES}{count}" for op, count in sorted(found.unknown.items())],
        )
    if about.get("specialised"):
        yield Note(
            "warning",
            "Specialised to the values of the example: other inputs may take other ways",
            [_decision(d, include_source) for d in about.get("decisions", ())],
        )
    if about.get("symbols"):
        bounds = [f"{name}: {known}" for name, known in about["symbols"].items()]
        yield Note("info", "Sizes are symbolic", [*bounds, *about.get("constraints", ())])
    if about.get("attempts"):
        lines = [_private(text, include_source) for text in about["attempts"]]
        yield Note("info", "Front ends that failed before this one", lines)
    if about.get("dropped"):
        dropped = sum(about["dropped"].values())
        lines = [f"{clean(op)} {TIMES}{count}" for op, count in sorted(about["dropped"].items())]
        yield Note("info", f"{_count(dropped, 'op')} left out that compute nothing", lines)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _decision(decision: Any, include_source: bool) -> str:
    return str(decision) if include_source else f"{decision.op} → {decision.value}"


def _private(text: str, include_source: bool) -> str:
    """Return `text` without paths of this machine and, unless asked for, lines of code.

    >>> _private("export: OSError: no /home/me/x.py (at net.py:3)", False)
    'export: OSError: no x.py'
    """
    text = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\":]+[/\\])+", "", text)
    return text if include_source else re.sub(r" \(at [^()]*\)", "", text)


# -- the table of modules --------------------------------------------------------------------

COLUMNS = ("ops", "params", "FLOPs", "bytes", "% of FLOPs")


def module_lines(root: Row, model: str) -> tuple[list[ModuleLine], int]:
    """Return the rows of the table, and how many modules are too deep to be in it."""
    every = list(_walk(root, 0))
    shallow = {id(row) for _, row in sorted(every, key=lambda item: item[0])[:MAX_ROWS]}
    kept = [(level, row) for level, row in every if id(row) in shallow]
    return [_line(level, row, root, model) for level, row in kept], len(every) - len(kept)


def _walk(row: Row, level: int) -> Iterator[tuple[int, Row]]:
    yield level, row
    for child in row.children.values():
        yield from _walk(child, level + 1)


def _line(level: int, row: Row, root: Row, model: str) -> ModuleLine:
    mark = " +?" if row.unknown else ""
    cells = [
        str(row.ops),
        short(row.sums["params"]),
        short(row.sums["flops"]) + mark,
        short(row.sums["bytes"], "B"),
        _share(row.sums["flops"], root.sums["flops"]),
    ]
    name = path_to_id(row.path).rpartition("/")[2] or model
    kind = clean(row.type).rpartition(".")[2]
    return ModuleLine(level, name, row.path, kind, row.shape.replace("x", TIMES), cells)


def _share(part: Any, whole: Any) -> str:
    if not isinstance(part, int) or not isinstance(whole, int) or whole == 0:
        return ""
    return f"{part / whole:.1%}"


def headline(graph: ModelGraph) -> tuple[Totals, str]:
    """Return the totals of a graph, and a line on what was captured, how and how much of it."""
    found = totals(graph)
    about = graph.graph
    parts = [
        _count(found.ops, "op"),
        f"{len(graph)} nodes",
        *([f"captured by {about['frontend']}"] if about.get("frontend") else []),
        *([f"torch {about['torch']}"] if about.get("torch") else []),
        f"cost known of {found.coverage:.0%} of ops" if found.ops else "",
    ]
    return found, " · ".join(part for part in parts if part)
