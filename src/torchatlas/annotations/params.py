"""How many numbers a model has learned, and their size."""

from __future__ import annotations

from ..graph import ModelGraph


def params(graph: ModelGraph) -> None:
    """Write `params` and `param_bytes` to every parameter node; a tied weight is one node."""
    for _, node in graph.nodes(data=True):
        if node["kind"] == "parameter":
            meta = node["outputs"][0]
            node["params"], node["param_bytes"] = meta.numel, meta.nbytes
