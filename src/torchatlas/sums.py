"""Sums over a graph: what the whole model costs, how much of it is known, and its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .graph import in_order
from .memory import Peak, peak
from .schema import Dim

if TYPE_CHECKING:
    import networkx as nx

    _DiGraph = nx.DiGraph[str]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a graph. Counts leave out what `unknown` lists: ops for which no rule is known."""

    params: Dim
    param_bytes: Dim
    macs: Dim
    flops: Dim
    flops_other: Dim
    flops_effective: Dim
    int_ops: Dim
    bytes_read: Dim
    bytes_written: Dim
    comm_bytes: Dim
    ops: int
    unknown: Mapping[str, int]
    peak: Peak | None = None
    """The node at which the most memory is in use, and for what; None without `live_bytes`."""
    roofline_us: float | None = None
    """Microseconds at a device's limits, one op after the other; None without a roofline."""
    untimed: Mapping[str, int] = field(default_factory=dict)
    """Ops for which a roofline was asked and is not known; `roofline_us` leaves them out."""

    @property
    def peak_bytes(self) -> Dim | None:
        """Bytes that a run needs at once: parameters, inputs, and what is computed."""
        return None if self.peak is None else self.peak.nbytes

    @property
    def intensity(self) -> float | None:
        """Arithmetic intensity in operations per byte moved; None where a size is symbolic."""
        done = self.flops + self.flops_other + self.int_ops
        moved = self.bytes_read + self.bytes_written
        known = isinstance(done, int) and isinstance(moved, int) and moved > 0
        return done / moved if known else None

    @property
    def coverage(self) -> float:
        """Share of ops whose cost is known, 0 to 1; 1 for a graph without ops."""
        return 1 - sum(self.unknown.values()) / self.ops if self.ops else 1.0

    def __str__(self) -> str:
        from .text import totals_line

        return totals_line(self)


SUMMED = (
    "params",
    "param_bytes",
    "macs",
    "flops",
    "flops_other",
    "flops_effective",
    "int_ops",
    "bytes_read",
    "bytes_written",
    "comm_bytes",
)
"""The keys that `totals` adds up."""


def totals(graph: _DiGraph) -> Totals:
    """Sum costs over the nodes of `graph`; a tied parameter is one node and counts once."""
    terms: dict[str, list[Dim]] = {key: [] for key in SUMMED}
    unknown: Counter[str] = Counter()
    untimed: Counter[str] = Counter()
    times: list[float] = []
    ops = 0
    for _, node in in_order(graph):
        if "roofline_us" in node:
            us = node["roofline_us"]
            times += [us] if us is not None else []
            untimed[node["op"]] += us is None
        if node["kind"] == "op":
            inside, uncounted = ops_of(node)
            ops += sum(inside.values())
            unknown.update(uncounted)
        for key in SUMMED:
            value = node.get(key)
            if value is not None:
                terms[key].append(value)
    sums: Any = {key: add_up(values) for key, values in terms.items()}
    roofline_us = sum(times, 0.0) if untimed else None  # every op with the key has a count there
    return Totals(
        **sums,
        ops=ops,
        unknown=dict(unknown),
        peak=peak(graph),
        roofline_us=roofline_us,
        untimed=dict(+untimed),
    )


def ops_of(node: Mapping[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the ops that an op node stands for, and those whose cost is unknown; how many each.

    >>> ops_of({"op": "aten.svd", "flops": None})
    ({'aten.svd': 1}, {'aten.svd': 1})
    >>> ops_of({"op": "module.Block", "contains": {"aten.mm": 2, "aten.svd": 1}, "flops": 64})
    ({'aten.mm': 2, 'aten.svd': 1}, {})
    """
    inside = node.get("contains") or {node["op"]: 1}
    return inside, inside if node.get("flops") is None else node.get("uncounted", {})


def add_up(terms: Sequence[Dim]) -> Dim:
    """Add up counts; symbolic ones all at once, which is many times faster than one by one."""
    numbers = sum(term for term in terms if isinstance(term, int))
    symbolic = [term for term in terms if not isinstance(term, int)]
    if not symbolic:
        return numbers
    import sympy

    total = sympy.Add(numbers, *symbolic)
    return int(total) if total.is_Integer else total
