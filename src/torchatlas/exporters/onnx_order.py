"""Nodes of ONNX files, nested graphs included: where they come from, what they read, in order."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_GRAPH, _GRAPHS = 5, 10
"""ONNX's numbers for the types of attributes that hold graphs."""


def nested(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that the attributes of a node hold."""
    for attribute in node.attribute:
        kind = attribute.type
        if kind == _GRAPH:
            yield attribute.g
        elif kind == _GRAPHS:
            yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph, and of the graphs nested in it."""
    for node in graph.node:
        yield node
        for body in nested(node):
            yield from all_nodes(body)


def free_names(graph: GraphProto) -> list[str]:
    """Return what a nested graph reads of the graphs around it, each name once."""
    own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in reads_of(node)]
    read += [info.name for info in graph.output]
    return list(dict.fromkeys(name for name in read if name and name not in own))


def ids_of(node: NodeProto) -> list[str]:
    """Return the ids of the graph's nodes that a node of a file stands for, the main one first.

    >>> from onnx import NodeProto, StringStringEntryProto
    >>> entry = StringStringEntryProto(key="id", value="conv")
    >>> ids_of(NodeProto(metadata_props=[entry])), ids_of(NodeProto())
    (['conv'], [])
    """
    found = {entry.key: entry.value for entry in node.metadata_props if entry.key in ("id", "ids")}
    if "ids" in found:
        return list(json.loads(found["ids"]))
    return [found["id"]] if "id" in found else []


def reads_of(node: NodeProto) -> list[str]:
    """Return the names of what a node reads, also inside of it."""
    return [*node.input, *(name for body in nested(node) for name in free_names(body))]


def in_order(
    nodes: Iterable[NodeProto], rank: Callable[[NodeProto], int]
) -> list[tuple[NodeProto, list[str]]]:
    """Return nodes and what each reads, so that what is read comes before, and low ranks first."""
    given = [(node, reads_of(node)) for node in nodes]
    ranks = [rank(node) for node, _ in given]
    makers = {name: i for i, (node, _) in enumerate(given) for name in node.output if name}
    waiting, readers = [0] * len(given), dict[int, list[int]]()
    for i, (_, names) in enumerate(given):
        sources = {makers[name] for name in names if name in makers} - {i}
        waiting[i] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(i)
    ready = [(ranks[i], i) for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (ranks[reader], reader))
    return [given[i] for i in order]
