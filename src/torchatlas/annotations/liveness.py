"""How long every result is needed, and how much memory is in use while each node runs."""

from __future__ import annotations

from ..graph import ModelGraph, in_order
from ..memory import storages, timeline


def liveness(graph: ModelGraph) -> None:
    """Write `first_use`, `last_use` and `live_bytes`.

    `first_use` is the index of the first node that reads what a node produces, absent where none
    does; `last_use` that of the last node which needs the memory behind it, through a view or
    after a write in place too. `live_bytes` is what a run in the order of the graph holds while
    a node runs: what the caller holds, the node's operands and results, and what later nodes
    still need. Memory that a kernel takes for itself is not known and not counted.
    """
    found = storages(graph)
    live = timeline(graph, found)
    last: dict[str, int] = {}
    for storage in found:
        for name in storage.nodes:
            last[name] = max(last.get(name, 0), storage.last)
    for name, node in in_order(graph):
        node["live_bytes"] = live[name]
        readers = [
            graph.nodes[target]["index"]
            for _, target, edge in graph.out_edges(name, data=True)
            if any(use.output is not None for use in edge["uses"])
        ]
        if readers:
            node["first_use"] = min(readers)
        if name in last:
            node["last_use"] = last[name]
