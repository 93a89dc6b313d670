"""Takes composite ops apart: what torch runs in their place, on tensors without values."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..graph import build, op_nodes
from . import metadata, torch_api
from .capture import Source
from .control_flow import take_bodies
from .fx_graph import read_trace
from .segments import Segment


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
    *path, name = (keys[0] if keys else "").split("/")
    while path:
        op = next((n for n in module.graph.nodes if n.name == path[0]), None)
        if op is not None and isinstance(op.target, Segment):
            path.pop(0)  # what it repeats stands in the same graph
            continue
        inside = None if op is None else _graph_in(op, path)
        if inside is None:
            return None
        module = getattr(module, str(inside.target))
    return next((n for n in module.graph.nodes if n.name == name and n.op == "call_function"), None)


def _graph_in(op: fx.Node, path: list[str]) -> fx.Node | None:
    """Return the node of the graph inside `op` that `path` leads into, and shorten the path."""
    path.pop(0)
    found = torch_api.region(op.target)
    if found is not None:
        region: fx.Node = op.args[found[0]]  # type: ignore[assignment]
        return region
    info = metadata.op_info(op.target)
    named = metadata.named_arguments(info, op.args, op.kwargs)
    graphs: dict[str, fx.Node] = take_bodies(named, _is_graph).graphs
    return graphs.get(path.pop(0)) if path else None


def _is_graph(arg: Any) -> bool:
    # Nothing else that an operator takes is without a value.
    return isinstance(arg, fx.Node) and arg.op == "get_attr" and "val" not in arg.meta
