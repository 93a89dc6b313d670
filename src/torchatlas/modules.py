"""The tree of modules that a graph's nodes stand in, with sums for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import ModelGraph, in_order
from .memory import saved_for_backward
from .schema import Dim, TensorMeta
from .sums import SUMMED, add_up, ops_of


def shape_text(meta: TensorMeta) -> str:
    """Return a shape as the command line takes it.

    >>> shape_text(TensorMeta((1, 64, 7, 7))), shape_text(TensorMeta(()))
    ('1x64x7x7', 'scalar')
    """
    return "x".join(map(str, meta.shape)) or "scalar"


TIMES = ("roofline_us", "latency_us")
"""The keys of nodes that are times, in microseconds."""


@dataclass(slots=True)
class Row:
    """One module of the tree, with the sums of all that stands inside it."""

    path: str
    type: str
    shape: str = ""
    ops: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    terms: dict[str, list[Dim]] = field(default_factory=dict)
    """What is symbolic, until it is added to `sums`: all at once, which is many times faster."""
    unknown: Counter[str] = field(default_factory=Counter)
    times: dict[str, float] = field(default_factory=dict)
    """Microseconds, by the key of the nodes; a key that is not there was never written."""
    untimed: Counter[str] = field(default_factory=Counter)
    """How many nodes have a key of `TIMES` without knowing the time."""
    children: dict[str, Row] = field(default_factory=dict)


def module_tree(graph: ModelGraph) -> Row:
    """Return the tree of modules that the graph's nodes stand in, with sums for each."""
    root = Row("", graph.graph.get("modules", {}).get("", graph.graph.get("name", "")))
    # Ops first, so that modules come in the order in which they run.
    trained = any("saved" in node or "saved_bytes" in node for _, node in graph.nodes(data=True))
    saved = saved_for_backward(graph) if trained else {}
    for name, node in sorted(in_order(graph), key=lambda item: item[1]["kind"] != "op"):
        for row in _rows_around(root, node):
            _add(row, node)
            _add_term(row, "saved", saved.get(name))
    _add_terms(root)
    return root


def _add_terms(row: Row) -> None:
    for key, terms in row.terms.items():
        row.sums[key] = add_up([row.sums[key], *terms])
    row.terms.clear()
    for child in row.children.values():
        _add_terms(child)


def _rows_around(root: Row, node: Mapping[str, Any]) -> Iterator[Row]:
    yield root
    row = root
    for module in node.get("module_stack", ()):
        if module.path:
            row = row.children.setdefault(module.path, Row(module.path, module.type))
            yield row


def _add(row: Row, node: Mapping[str, Any]) -> None:
    if node["kind"] == "op":
        inside, uncounted = ops_of(node)
        row.ops += sum(inside.values())
        row.unknown.update(uncounted)
        shaped = [out for out in node["outputs"] if out is not None]
        row.shape = shape_text(shaped[0]) if shaped else row.shape
    for key in SUMMED:
        _add_term(row, key, node.get(key))
    for key in ("bytes_read", "bytes_written"):
        _add_term(row, "bytes", node.get(key))
    for key in TIMES:
        if key in node:
            row.times[key] = row.times.get(key, 0.0) + (node[key] or 0.0)
            row.untimed[key] += node[key] is None


def _add_term(row: Row, key: str, value: Dim | None) -> None:
    if isinstance(value, int):
        row.sums[key] += value
    elif value is not None:
        row.terms.setdefault(key, []).append(value)
