"""Where a node's result lives."""

from __future__ import annotations

from ..graph import ModelGraph


def placement(graph: ModelGraph) -> None:
    """Write `device`, that of the first tensor which a node produces; not to nodes without one."""
    for _, node in graph.nodes(data=True):
        devices = (out.device for out in node["outputs"] if out is not None and out.device)
        device = next(devices, None)
        if device is not None:
            node["device"] = device
        if "subgraphs" in node:
            for body in node["subgraphs"].values():
                placement(body)
