"""Runs of pointwise ops, which a compiler makes one kernel of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..annotations.formulas import named_class
from ..graph import ModelGraph, in_order, inputs_of, op_nodes
from ..schema import Dim

_WITHOUT_REDUCTION = frozenset(
    {
        "aten._to_copy",
        "aten.dropout",
        "aten.dropout_",
        "aten.native_dropout",
        "aten.to",
        "aten.type_as",
    }
)
"""Ops on one element at a time that neither a tag nor a list calls pointwise."""

_NORMS = frozenset({"aten.batch_norm", "aten.native_batch_norm", "aten.cudnn_batch_norm"})
"""Norms that are pointwise outside training, when their statistics are given."""


class Fusion:
    """Finds the runs of two or more pointwise ops of a graph, and what they move.

    An op joins the run of its reader where both are pointwise and it has no other reader; views
    in between do not count. The last op of a run is the one that others read. Norms over given
    statistics, casts and dropout are pointwise; reductions, gathers and products are not. An op
    that writes memory which the caller holds, or a part of a tensor, ends its run.

    >>> import torch, torchatlas as ta
    >>> gate = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Tanh())
    >>> fusion = Fusion(ta.capture(gate, torch.zeros(8)))
    >>> fusion.runs, fusion.bytes_moved(fusion.runs["1/tanh"])
    ({'1/tanh': ('0/gelu', '1/tanh')}, 64)
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._origin = _origins(graph)
        self._held = _held(graph)
        self.runs: dict[str, tuple[str, ...]] = self._find()
        """The ops of each run in the order of execution, by the last of them."""

    def _find(self) -> dict[str, tuple[str, ...]]:
        joins = self._joins()
        runs: dict[str, list[str]] = {}
        for name, node in in_order(self._graph):
            last = name
            while last in joins:
                last = joins[last]
            if node["kind"] == "op":
                runs.setdefault(last, []).append(name)
        return {last: tuple(run) for last, run in runs.items() if len(run) > 1}

    def _joins(self) -> dict[str, str]:
        """Return the ops whose result only one other needs, by whose run they join."""
        readers: dict[str, set[str]] = {}
        for source, target, edge in self._graph.edges(data=True):
            if target not in self._origin and any(u.output is not None for u in edge["uses"]):
                readers.setdefault(self._origin.get(source, source), set()).add(target)
        joins = {}
        for name, node in op_nodes(self._graph):
            read_by = readers.get(name, set())
            if len(read_by) == 1 and is_pointwise(node) and self._may_vanish(name, node):
                (reader,) = read_by
                after = self._graph.nodes[reader]
                if is_pointwise(after) and node.get("device") == after.get("device"):
                    joins[name] = reader
        return joins

    def _may_vanish(self, name: str, node: Mapping[str, Any]) -> bool:
        """Say whether what an op writes need not reach memory where its one reader has it."""
        if "writes" not in node:
            return True
        sources = inputs_of(self._graph, name)
        written = [sources[argument][0] for argument in node["writes"] if argument in sources]
        whole = all(source not in self._origin for source in written)
        return whole and self._held.isdisjoint(node.get("storages", ()))

    def bytes_moved(self, run: Sequence[str]) -> int:
        """Return the bytes that a run moves as one kernel: what enters it once, and its result."""
        nodes, inside = self._graph.nodes, frozenset(run)
        entering: dict[tuple[str, int], Dim] = {}
        for name in run:
            for source, output in inputs_of(self._graph, name).values():
                if self._origin.get(source, source) not in inside:
                    meta = nodes[source]["outputs"][output]
                    entering[source, output] = 0 if meta is None else meta.stored_bytes
        moved = sum(map(int, entering.values())) + int(nodes[run[-1]]["bytes_written"])
        # Of an operand that an op only overwrites, its own count knows that it is not read.
        apart = (nodes[name][key] for name in run for key in ("bytes_read", "bytes_written"))
        return min(moved, sum(map(int, apart)))


def is_pointwise(node: Mapping[str, Any]) -> bool:
    """Say whether an op computes each element of its result from one of each operand.

    >>> is_pointwise({"kind": "op", "op": "aten.mul", "tags": ("pointwise",)})
    True
    >>> is_pointwise({"kind": "op", "op": "aten.batch_norm", "args": {"training": True}})
    False
    """
    if node["kind"] != "op" or "subgraphs" in node or _is_view(node):
        return False
    op = node["op"]
    if op in _NORMS:
        return not node["args"].get("training", True)
    known = "pointwise" in node.get("tags", ()) or node.get("cost_source") == "class:pointwise"
    return known or op in _WITHOUT_REDUCTION or named_class(op) == "pointwise"


def _is_view(node: Mapping[str, Any]) -> bool:
    """Say whether an op hands its operand on, as a view does, or dropout outside training."""
    idle = node.get("bytes_read") == 0 == node.get("bytes_written")
    return idle or "view" in node.get("tags", ())


def _origins(graph: ModelGraph) -> dict[str, str]:
    """Return for every view the node whose result it looks at."""
    origin: dict[str, str] = {}
    for name, node in in_order(graph):
        if node["kind"] == "op" and _is_view(node):
            sources = inputs_of(graph, name)
            if sources:
                base, _ = sources.get("self") or next(iter(sources.values()))
                origin[name] = origin.get(base, base)
    return origin


def _held(graph: ModelGraph) -> frozenset[int]:
    """Return the memory that is there before anything runs."""
    nodes = (node for _, node in graph.nodes(data=True) if node["kind"] not in ("op", "output"))
    return frozenset(number for node in nodes for number in node.get("storages", ()))
