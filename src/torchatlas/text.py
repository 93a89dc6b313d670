"""The graph in words: numbers with units, one line a node, and the module tree as a table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .graph import ModelGraph, in_order, inputs_of
from .modules import Row, module_tree
from .names import path_to_id
from .schema import Dim, TensorMeta
from .sums import SUMMED, Totals, add_up, totals

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STEPS = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def number(value: Dim | None, unit: str = "") -> str:
    """Return a count with a prefix and three digits; symbolic ones in full, unknown as ``?``.

    >>> number(1_814_073_344, "FLOP"), number(512, "B"), number(1500), number(None)
    ('1.81 GFLOP', '512 B', '1.5 k', '?')
    >>> number(999_999), number(0, "B")
    ('1 M', '0 B')
    """
    if value is None:
        return "?"
    if not isinstance(value, int):
        return f"{polynomial(value)} {unit}".strip()
    for i, (size, prefix) in enumerate(_STEPS):
        if value >= size:
            digits = f"{value / size:.3g}"
            if digits in ("1e+03", "1000") and i > 0:
                return f"1 {_STEPS[i - 1][1]}{unit}"
            return f"{digits} {prefix}{unit}"
        if value >= size - size // 2000:
            return f"1 {prefix}{unit}"
    return f"{value} {unit}".strip()


def duration(us: float | None) -> str:
    """Return a time in microseconds with a unit and three digits, unknown as ``?``.

    >>> duration(1111.3), duration(3.8), duration(2.5e6), duration(999.9), duration(0.0)
    ('1.11 ms', '3.8 µs', '2.5 s', '1 ms', '0 µs')
    """
    if us is None:
        return "?"
    size, unit = next((s for s in ((1e6, "s"), (1e3, "ms")) if us >= 0.9995 * s[0]), (1.0, "µs"))
    return f"{us / size:.0f} {unit}" if us >= 999.5 * size else f"{us / size:.3g} {unit}"


def polynomial(value: Any) -> str:
    """Return a symbolic count as a sum of products, unless that is longer than it is.

    >>> from torchatlas.expressions import parse
    >>> polynomial(parse("2*batch*(seq + 3) + 4*batch*seq"))
    '6*batch*seq + 6*batch'
    """
    import sympy

    text = str(value)
    if value.count_ops() > 200:
        return text
    return min(str(sympy.expand(value)), text, key=len)


def decisions_line(graph: ModelGraph) -> str:
    """Return what the graph says of the values that the model looked at; nothing if it did not."""
    decisions = graph.graph.get("decisions", ())
    if not graph.graph.get("specialised") or not decisions:
        return ""
    places = {decision.source for decision in decisions}
    return (
        f"specialised to the values of the example: {len(decisions)} read at "
        f"{len(places)} place{'s' if len(places) > 1 else ''}, first {decisions[0]}"
    )


def measured_line(graph: ModelGraph) -> str:
    """Return how long the whole model took, and what of it the ops did; nothing if not measured.

    >>> from torchatlas.schema import Measured
    >>> run = Measured("cpu", "a CPU", 1000.0, 120.0, 1300.0, -90.0, 100, 50)
    >>> measured_line(ModelGraph(schema=1, name="m", measured=run))
    '1 ms on a CPU (IQR 120 µs, p90 1.3 ms: unstable), ops 1.09 ms, residual -9.0%'
    """
    run = graph.graph.get("measured")
    if run is None:
        return ""
    stable = "" if run.stable else ": unstable"
    return (
        f"{duration(run.median_us)} on {run.device_name} (IQR {duration(run.iqr_us)}, "
        f"p90 {duration(run.p90_us)}{stable}), ops {duration(run.sum_us)}, "
        f"residual {run.residual_us / run.median_us:+.1%}"
    )


def symbols_line(graph: ModelGraph) -> str:
    """Return what the symbols of `graph` may stand for, in words; nothing where it has none.

    >>> import torch, torchatlas as ta
    >>> symbols_line(ta.capture(torch.nn.ReLU(), torch.zeros(2, 8), dynamic=["batch"]))
    'batch: at least 1'
    """
    parts = [f"{name}: {known}" for name, known in graph.graph.get("symbols", {}).items()]
    return "; ".join([*parts, *graph.graph.get("constraints", ())])


def totals_line(found: Totals) -> str:
    """Return totals as a sentence: what is computed, moved, held and sent, and what is unknown."""
    parts = [
        f"{number(found.params)} parameters ({number(found.param_bytes, 'B')})",
        number(found.flops, "FLOP") + _effective(found),
        f"{number(found.flops_other, 'FLOP')} outside contractions",
        *([f"{number(found.int_ops, 'OP')} in integers"] if found.int_ops != 0 else []),
        f"{number(found.bytes_read, 'B')} read",
        f"{number(found.bytes_written, 'B')} written",
        *([f"{number(found.comm_bytes, 'B')} sent"] if found.comm_bytes != 0 else []),
        *([f"{number(found.peak_bytes, 'B')} at the peak"] if found.peak is not None else []),
        *([f"{_least_time(found)} at the roofline"] if found.roofline_us is not None else []),
        f"{found.coverage:.1%} of {found.ops} ops counted",
    ]
    unknown = ", ".join(f"{op} x{count}" for op, count in sorted(found.unknown.items()))
    return ", ".join(parts) + (f"; unknown: {unknown}" if unknown else "")


def _least_time(found: Totals) -> str:
    missing = sum(found.untimed.values())
    return duration(found.roofline_us) + (f" without {missing} ops" if missing else "")


def _effective(found: Totals) -> str:
    if found.flops_effective == found.flops:
        return ""
    return f" ({number(found.flops_effective, 'FLOP')} without what masks skip)"


@contextmanager
def progress(label: str, delay: float = 1.0) -> Iterator[None]:
    """Show `label` with a spinner on a terminal's error stream while the block takes longer.

    Nothing is shown before `delay` seconds have passed, nor where no one would see it.
    """
    from rich.console import Console
    from rich.status import Status
    from rich.text import Text

    console = Console(stderr=True)
    status = Status(Text(f"{label} …"), console=console)
    timer = threading.Timer(delay, status.start)
    timer.daemon = True
    if console.is_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        status.stop()


# -- one line a node -----------------------------------------------------------------------


def to_text(graph: ModelGraph) -> str:
    """Return the graph with one line a node, in the order of execution.

    A line reads ``id = op(argument=source, …) -> outputs``; ``after`` names the nodes whose
    writes, or reads, have to come first. The bodies of a control flow op stand below it,
    indented; ``operands/0 = input(x)`` says which argument of the op an input of a body is.
    """
    return "".join(f"{line}\n" for line in _all_lines(graph, {}))


def _all_lines(graph: ModelGraph, given: Mapping[str, str]) -> Iterator[str]:
    for name, node in in_order(graph):
        line = _line(graph, name, node)
        yield line.replace("input()", f"input({given[name]})", 1) if name in given else line
        for key, body in node.get("subgraphs", {}).items():
            yield f"  {key}:"
            sources = _argument_sources(graph, name)
            yield from (f"    {inner}" for inner in _all_lines(body, sources))


def _argument_sources(graph: ModelGraph, name: str) -> dict[str, str]:
    """Return where each tensor argument comes from, by the name that it has inside a body."""
    refs = inputs_of(graph, name)
    return {path.replace(".", "/"): _source(graph, *refs[path]) for path in refs}


def _source(graph: ModelGraph, source: str, output: int) -> str:
    several = source in graph and len(graph.nodes[source]["outputs"]) > 1
    return f"{source}:{output}" if several else source


def _line(graph: ModelGraph, name: str, node: Mapping[str, Any]) -> str:
    refs = inputs_of(graph, name)
    args = ", ".join(f"{k}={_arg(graph, v, k, refs)}" for k, v in node["args"].items())
    after = sorted(
        (graph.nodes[source]["index"], source)
        for source, _, edge in graph.in_edges(name, data=True)
        if any(use.output is None for use in edge["uses"])
    )
    what = node["op"] or node["kind"]
    tail = f" after {', '.join(source for _, source in after)}" if after else ""
    made = ", ".join(str(out) for out in node["outputs"])
    tail = f" ({node['trips']} times){tail}" if "trips" in node else tail
    aliases = f" alias {', '.join(node['aliases'])}" if "aliases" in node else ""
    return f"{name} = {what}({args}){aliases}{f' -> {made}' if made else ''}{tail}"


def _arg(graph: ModelGraph, arg: Any, path: str, refs: Mapping[str, tuple[str, int]]) -> str:
    if isinstance(arg, TensorMeta):
        return _source(graph, *refs.get(path, ("?", 0)))
    if isinstance(arg, tuple):
        return f"[{', '.join(_arg(graph, a, f'{path}.{i}', refs) for i, a in enumerate(arg))}]"
    if isinstance(arg, Mapping):
        items = (f"{k}: {_arg(graph, v, f'{path}.{k}', refs)}" for k, v in arg.items())
        return f"{{{', '.join(items)}}}"
    return repr(arg) if isinstance(arg, str) else str(arg)


# -- the module tree -----------------------------------------------------------------------


def _share(row: Row, root: Row) -> str:
    whole, part = root.sums["flops"], row.sums["flops"]
    if not isinstance(whole, int) or not isinstance(part, int):
        return ""
    return f"{part / whole:.1%}" if whole else ""


def _counted(row: Row, key: str, unit: str) -> str:
    mark = " +?" if row.unknown else ""
    return number(row.sums[key], unit) + mark


def _time(row: Row, key: str) -> str:
    if key not in row.times:
        return ""
    return duration(row.times[key]) + (" +?" if row.untimed[key] else "")


def _intensity(row: Row, root: Row) -> str:
    done = row.sums["flops"] + row.sums["flops_other"] + row.sums["int_ops"]
    moved = row.sums["bytes"]
    if not isinstance(done, int) or not isinstance(moved, int) or not moved:
        return ""
    return f"{done / moved:.3g}" + (" +?" if row.unknown else "")


_COLUMNS: dict[str, tuple[str, Callable[[Row, Row], str]]] = {
    "type": ("type", lambda row, root: row.type.rpartition(".")[2]),
    "shape": ("output shape", lambda row, root: row.shape),
    "ops": ("ops", lambda row, root: str(row.ops)),
    "params": ("params", lambda row, root: number(row.sums["params"])),
    "param_bytes": ("param bytes", lambda row, root: number(row.sums["param_bytes"], "B")),
    "macs": ("MACs", lambda row, root: _counted(row, "macs", "")),
    "flops": ("FLOPs", lambda row, root: _counted(row, "flops", "")),
    "flops_other": ("other FLOPs", lambda row, root: _counted(row, "flops_other", "")),
    "flops_effective": ("effective FLOPs", lambda row, root: _counted(row, "flops_effective", "")),
    "int_ops": ("integer OPs", lambda row, root: _counted(row, "int_ops", "")),
    "bytes": ("bytes", lambda row, root: number(row.sums["bytes"], "B")),
    "comm_bytes": ("bytes sent", lambda row, root: number(row.sums["comm_bytes"], "B")),
    "saved": ("saved for backward", lambda row, root: number(row.sums["saved"], "B")),
    "intensity": ("operations per byte", _intensity),
    "share": ("% of FLOPs", _share),
    "roofline": ("roofline", lambda row, root: _time(row, "roofline_us")),
    "latency": ("latency", lambda row, root: _time(row, "latency_us")),
}
COLUMNS = ("type", "shape", "params", "flops", "bytes", "share")
"""The columns that `summary` shows unless asked for others."""


class Summary:
    """A table of the module tree; prints in a terminal and shows in a notebook."""

    def __init__(self, table: Table, foot: str, head: str = "") -> None:
        self._table, self._foot, self._head = table, foot, head

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        shown = (Text(self._head), self._head), (self._table, self._rows), (Text(self._foot), True)
        return Group(*(part for part, there in shown if there))

    @property
    def _rows(self) -> int:
        return self._table.row_count

    def __str__(self) -> str:
        from io import StringIO

        from rich.console import Console

        console = Console(file=StringIO(), width=140, color_system=None, legacy_windows=False)
        console.print(self._table)
        table = console.file.getvalue() if self._rows else ""  # type: ignore[attr-defined]
        lines = [line.rstrip() for line in table.splitlines()]
        # What is said in words stays on one line, however long.
        head, foot = (text.split("\n") if text else [] for text in (self._head, self._foot))
        return "\n".join([*head, *lines, *foot])

    __repr__ = __str__


def summary(
    graph: ModelGraph,
    depth: int = 2,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
) -> Summary:
    """Return the module tree down to `depth` as a table; sums include everything inside.

    `columns` are names among ``type, shape, ops, params, param_bytes, macs, flops, flops_other,
    flops_effective, int_ops, bytes, comm_bytes, saved, intensity, share, roofline, latency``;
    `sort` orders the modules under each parent by one of the numbers, largest first, in place of
    the order of execution. ``+?`` marks sums that miss an op whose cost is unknown; ``saved`` is
    what a training step keeps for its backward pass, ``intensity`` is in operations per byte,
    ``roofline`` is the least time on the device that ``annotate(graph, roofline=…)`` was given,
    and ``latency`` is what the ops took when `measure` timed them.
    Raises UsageError for a column that does not exist.
    """
    from rich.table import Table

    chosen = tuple(columns or COLUMNS)
    sortable = ("ops", *SUMMED, "bytes", "saved", "roofline", "latency")
    for name in chosen:
        _known(name, tuple(_COLUMNS))
    if sort is not None:
        _known(sort, sortable)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("module", no_wrap=True)
    for name in chosen:
        left = name in ("type", "shape")
        table.add_column(_COLUMNS[name][0], justify="left" if left else "right", no_wrap=True)
    root = module_tree(graph)
    for level, row in _walk(root, depth, sort):
        cells = [_plain(_COLUMNS[name][1](row, root)) for name in chosen]
        table.add_row(_plain("  " * level + _own_name(row, graph)), *cells)
    words = (symbols_line, decisions_line, measured_line)
    lines = [totals_line(totals(graph)), *(line(graph) for line in words)]
    return Summary(table, "".join(f"\n{line}" for line in lines if line))


def _known(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UsageError(f"there is no column {name!r}", hint=f"choose among {', '.join(names)}")


def _plain(text: str) -> Text:
    # rich would read a module's name as markup: a Text is shown as it stands.
    from rich.text import Text

    return Text(text)


def _own_name(row: Row, graph: ModelGraph) -> str:
    return path_to_id(row.path).rpartition("/")[2] or graph.graph.get("name", "model")


def _walk(row: Row, depth: int, sort: str | None, level: int = 0) -> Iterator[tuple[int, Row]]:
    yield level, row
    if level < depth:
        children = list(row.children.values())
        if sort is not None:
            children.sort(key=lambda child: _amount(child, sort), reverse=True)
        for child in children:
            yield from _walk(child, depth, sort, level + 1)


def _amount(row: Row, key: str) -> float:
    if key in ("roofline", "latency"):
        return row.times.get(f"{key}_us", 0.0)
    value = row.ops if key == "ops" else row.sums[key]
    return value if isinstance(value, int) else float("inf")


# -- costs at several sizes ----------------------------------------------------------------

_COSTS: dict[str, tuple[str, Callable[[Totals], Dim | None]]] = {
    "FLOPs": ("", lambda found: found.flops),
    "other FLOPs": ("", lambda found: found.flops_other),
    "bytes": ("B", lambda found: add_up([found.bytes_read, found.bytes_written])),
    "params": ("", lambda found: found.params),
    "peak memory": ("B", lambda found: found.peak_bytes),
}


def _short(value: Dim | None, unit: str) -> str:
    text = number(value, unit)
    return text if len(text) < _LONGEST else f"depends on {', '.join(map(str, _free(value)))}"


def _free(value: Any) -> list[Any]:
    return sorted(value.free_symbols, key=str)


_LONGEST = 1000
"""Characters of an expression, from which on nobody would read it."""


def costs(graph: ModelGraph, bound: Sequence[tuple[str, ModelGraph]]) -> Summary:
    """Return the costs of `graph` as expressions, and a table of those of the `bound` graphs.

    Each bound graph comes with the sizes that it is bound to, in words.
    """
    from rich.table import Table

    whole = totals(graph)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sizes", no_wrap=True)
    for name in _COSTS:
        table.add_column(name, justify="right", no_wrap=True)
    for sizes, one in bound:
        found = totals(one)
        cells = [number(amount(found), unit) for unit, amount in _COSTS.values()]
        table.add_row(_plain(sizes), *map(_plain, cells))
    lines = [f"{name} = {_short(amount(whole), unit)}" for name, (unit, amount) in _COSTS.items()]
    if graph.graph.get("symbols"):
        lines.append(f"for {symbols_line(graph)}")
    return Summary(table, "", "\n".join([*lines, ""]) if bound else "\n".join(lines))
