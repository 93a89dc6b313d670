"""Runs of ops that a compiler makes one kernel of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..graph import ModelGraph, in_order, inputs_of
from .iteration import GATHERS, Iteration, is_idle, is_pointwise, iteration_of

__all__ = ["Fusion", "is_pointwise"]

_MOST = 64
"""Ops in one kernel, as many as torch's compiler puts there."""

_LOOKED_AT = 1000
"""Nodes between two ops, from which on they are too far apart to become neighbours."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Ops that run as one, in order; `widest` is the most elements that one of them goes over.

    `rows` is what its reductions go over, all of them the same.
    """

    members: tuple[str, ...]
    widest: int
    rows: Iteration | None

    def takes_in(self, other: _Kernel) -> bool:
        """Say whether the ops of `other`, which come before, fit into the loop of this kernel."""
        if self.rows is not None and other.rows is not None:
            return self.rows == other.rows
        if other.rows is not None:  # what reads a reduction goes over its rows, or all of them
            return self.widest in other.rows
        return self.rows is None or other.widest <= self.rows.elements


class Fusion:
    """Finds the runs of two or more ops of a graph that are one kernel, and what they move.

    A pointwise op joins those whose results it reads, if they are as large, or if nobody else
    reads them; views in between do not count. A reduction of rows, such as a norm or softmax over
    trailing dimensions, joins them too, and what reads its result joins the reduction, if it goes
    over the same rows. Norms over given statistics, casts, copies, dropout and concatenations of a
    few are pointwise; gathers are part of what reads them; products and other reductions are
    kernels of their own. A kernel never needs a result of what needs
    one of its own, and an op that writes memory which the caller holds, or a part of a tensor,
    ends its run.

    That is what torch's compiler does by default (torch/_inductor/scheduler.py: `can_fuse`,
    `score_fusion`): products run in libraries and take in no neighbour.

    >>> import torch, torchatlas as ta
    >>> gate = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Tanh())
    >>> fusion = Fusion(ta.capture(gate, torch.zeros(8)))
    >>> fusion.runs, fusion.bytes_moved(fusion.runs["1/tanh"])
    ({'1/tanh': ('0/gelu', '1/tanh')}, 64)
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._place = {name: place for place, (name, _) in enumerate(in_order(graph))}
        self._origin = _origins(graph)
        self._held = _held(graph)
        self._readers = self._find_readers()
        self._kernels: dict[str, _Kernel] = {}
        self.runs: dict[str, tuple[str, ...]] = self._find()
        """The ops of each run in the order of execution, by the last of them."""

    def _find_readers(self) -> dict[str, set[str]]:
        """Return for every node who reads what it makes, through views or not."""
        readers: dict[str, set[str]] = {}
        for source, target, edge in self._graph.edges(data=True):
            if target not in self._origin and any(u.output is not None for u in edge["uses"]):
                readers.setdefault(self._origin.get(source, source), set()).add(target)
        return readers

    # -- runs ------------------------------------------------------------------------------

    def _find(self) -> dict[str, tuple[str, ...]]:
        kernels = self._kernels
        for name, node in in_order(self._graph):
            found = iteration_of(node) if node["kind"] == "op" else None
            if found is None:
                continue
            kernel = _Kernel((name,), found.elements, found if found.rows is not None else None)
            # What a gather reads has to be in memory; it is not at the place of its result.
            read = () if node["op"] in GATHERS else self._sources(name)
            for source in sorted(set(read), key=self._place.__getitem__):
                before = kernels.get(source)
                if before is not None and source not in kernel.members:
                    kernel = self._joined(kernel, before, name, source) or kernel
            kernels.update(dict.fromkeys(kernel.members, kernel))
        runs = (kernel.members for kernel in kernels.values() if len(kernel.members) > 1)
        return {members[-1]: members for members in runs}

    def _joined(self, after: _Kernel, before: _Kernel, name: str, source: str) -> _Kernel | None:
        """Return the kernel of both, of which `name` reads `source`; None if there is none."""
        nodes = self._graph.nodes
        if nodes[name].get("device") != nodes[source].get("device"):
            return None
        if len(after.members) + len(before.members) > _MOST or not after.takes_in(before):
            return None
        if not self._may_vanish(source, nodes[source]) or not self._is_near(name, source, before):
            return None
        members = sorted({*after.members, *before.members}, key=self._place.__getitem__)
        if self._is_crossed(members):
            return None
        widest = max(after.widest, before.widest)
        return _Kernel(tuple(members), widest, after.rows or before.rows)

    def _is_near(self, name: str, source: str, before: _Kernel) -> bool:
        """Say whether one loop can make `source` and what reads it."""
        own = iteration_of(self._graph.nodes[name])
        assert own is not None
        made = _elements(self._graph.nodes[source])
        if before.rows is not None:  # a row's result is there for all of the row
            over_rows = made == before.rows.rows and own.elements == before.rows.elements
            return own.elements == made or over_rows
        return own.elements == made or self._readers.get(source) == {name}

    def _is_crossed(self, members: Sequence[str]) -> bool:
        """Say whether what is no member needs the result of one, and is needed by another."""
        inside, first = frozenset(members), self._place[members[0]]
        pending = [s for name in members for s in self._before(name) if s not in inside]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            # What runs together with it has to be able to run before.
            together = self._kernels[name].members if name in self._kernels else (name,)
            seen.update(together)
            if self._place[together[-1]] < first:
                continue
            sources = {s for one in together for s in self._before(one)}
            if len(seen) > _LOOKED_AT or not inside.isdisjoint(sources):
                return True
            pending.extend(sources.difference(together))
        return False

    def _before(self, name: str) -> Iterator[str]:
        """Yield what has to run before a node, and before the views that it reads."""
        for source in self._graph.predecessors(name):
            if source in self._origin:
                yield from self._before(source)
            else:
                yield source

    def _sources(self, name: str) -> Iterable[str]:
        """Yield the nodes whose results a node reads, views left out."""
        return (self._origin.get(s, s) for s, _ in inputs_of(self._graph, name).values())

    def _may_vanish(self, name: str, node: Mapping[str, Any]) -> bool:
        """Say whether what an op writes need not reach memory where what reads it has it."""
        if "writes" not in node:
            return True
        sources = inputs_of(self._graph, name)
        written = [sources[argument][0] for argument in node["writes"] if argument in sources]
        whole = all(source not in self._origin for source in written)
        return whole and self._held.isdisjoint(node.get("storages", ()))

    # -- bytes -----------------------------------------------------------------------------

    def entering(self, run: Sequence[str]) -> dict[str, int]:
        """Return the bytes of what a run reads, once each, by the node in whose memory they are.

        Parts of a tensor are at most all of it, and an op reads no more than its own count says,
        which knows what a gather does not reach and what is only written over.
        """
        nodes, inside = self._graph.nodes, frozenset(run)
        parts: dict[tuple[str, int], int] = {}
        for name in run:
            sizes = {
                at: int(meta.stored_bytes)
                for at in set(inputs_of(self._graph, name).values())
                if (meta := nodes[at[0]]["outputs"][at[1]]) is not None
            }
            part = min(1.0, int(nodes[name]["bytes_read"]) / (sum(sizes.values()) or 1))
            for at, size in sizes.items():
                parts[at] = max(parts.get(at, 0), int(part * size))
        found: dict[str, int] = {}
        for (source, _), size in parts.items():
            base = self._origin.get(source, source)
            if base not in inside:
                found[base] = min(found.get(base, 0) + size, self._made(base))
        return found

    def _made(self, name: str) -> int:
        return sum(int(meta.nbytes) for meta in self._graph.nodes[name]["outputs"] if meta)

    def leaving(self, run: Sequence[str]) -> dict[str, int]:
        """Return the bytes of what a run writes, by the op: what others read, and its end."""
        inside, nodes = frozenset(run), self._graph.nodes
        return {
            name: int(nodes[name]["bytes_written"])
            for name in run
            if not self._readers.get(name, {""}) <= inside
            or not self._may_vanish(name, nodes[name])
        }

    def bytes_moved(self, run: Sequence[str]) -> int:
        """Return the bytes that a run moves as one kernel: what enters it once, and what leaves."""
        return sum(self.entering(run).values()) + sum(self.leaving(run).values())


def _elements(node: Mapping[str, Any]) -> int:
    """Return the number of elements of the largest result of an op."""
    sizes = [math.prod(map(int, meta.shape)) for meta in node["outputs"] if meta is not None]
    return max(sizes, default=0)


def _origins(graph: ModelGraph) -> dict[str, str]:
    """Return for every view the node whose result it looks at."""
    origin: dict[str, str] = {}
    for name, node in in_order(graph):
        if node["kind"] == "op" and is_idle(node):
            sources = inputs_of(graph, name)
            if sources:
                base, _ = sources.get("self") or next(iter(sources.values()))
                origin[name] = origin.get(base, base)
    return origin


def _held(graph: ModelGraph) -> frozenset[int]:
    """Return the memory that is there before anything runs."""
    nodes = (node for _, node in graph.nodes(data=True) if node["kind"] not in ("op", "output"))
    return frozenset(number for node in nodes for number in node.get("storages", ()))
