"""Takes composite ops apart: what torch runs in their place, on tensors without values."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import build, op_nodes
from . import torch_api
from .capture import Source
from .fx_graph import read_trace


def decompose(source: Source, node: str) -> list[dict[str, Any]]:
    """Return the op nodes that the composite op at `node` is made of, if it is one."""
    call = _find(source, node)
    if call is None or not torch_api.is_composite(call.target):
        return []
    args, kwargs = fx.node.map_arg((call.args, call.kwargs), lambda n: n.meta.get("val"))
    try:
        with torch_api.quiet(), torch.no_grad():
            traced = torch_api.trace_decomposed(call.target, args, kwargs)
    except Exception:
        return []
    graph, _ = build(read_trace(traced), name="")
    return [attrs for _, attrs in op_nodes(graph)]


def _find(source: Source, node: str) -> fx.Node | None:
    """Return the fx node of the program that became `node`."""
    keys = [key for key, name in source.ids.items() if name == node]
    module = getattr(source.program, "graph_module", source.program)
    for part in (keys[0] if keys else "").split("/")[:-1]:
        region = next((n for n in module.graph.nodes if n.name == part), None)
        found = torch_api.region(region.target) if region is not None else None
        if region is None or found is None:
            return None
        module = getattr(module, str(region.args[found[0]].target))
    name = keys[0].rpartition("/")[2] if keys else ""
    return next((n for n in module.graph.nodes if n.name == name and n.op == "call_function"), None)
