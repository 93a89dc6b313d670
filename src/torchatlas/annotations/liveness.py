"""How long every result is needed, and how much memory is in use while each node runs."""

from __future__ import annotations

from ..graph import ModelGraph
from ..memory import lifetimes, timeline


def liveness(graph: ModelGraph) -> None:
    """Write `first_use`, `last_use` and `live_bytes`.

    `first_use` is the index of the first node that reads what a node produces, absent where none
    does; `last_use` that of the last node which needs the memory behind it, through a view or
    after a write in place too. `live_bytes` is what an eager run in the order of the graph holds
    while a node runs: what the caller holds, the node's operands and results, the arguments of
    the module calls around it, and what later nodes still need. Memory that a kernel takes for
    itself is not known and not counted. While a control flow op runs, what its bodies set aside
    is in use as well; each of them gets the same keys, as if it ran alone.
    """
    found = lifetimes(graph)
    nodes = dict(found.nodes)
    for name, live in timeline(found):
        node = nodes[name]
        node["live_bytes"] = live
        if "subgraphs" in node:
            for body in node["subgraphs"].values():
                liveness(body)
        for key in ("first_use", "last_use"):
            node.pop(key, None)  # of an earlier annotation
        if name in found.first_use:
            node["first_use"] = found.first_use[name]
        if name in found.behind:
            node["last_use"] = max([storage.last for storage in found.behind[name]])
