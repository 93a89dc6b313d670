"""FLOPs of every op: multiply-adds of contractions, and whatever else is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..schema import SCALARS, TensorMeta
from .formulas import FORMULAS, Cost, evaluate


def flops(graph: ModelGraph) -> None:
    """Write `macs`, `flops`, `flops_other` and `cost_source` to every op node.

    The formula of the op comes first (``cost_source="formula"``), then the class of the op
    (``"class:view"``); where there is neither the counts are None and the source ``"unknown"``.
    """
    known: dict[Hashable, tuple[Cost | None, str]] = {}
    for _, node in op_nodes(graph):
        signature = (node["op"], _hashable(node["args"]), node["outputs"], node.get("tags"))
        if signature not in known:
            known[signature] = _cost(node)
        cost, node["cost_source"] = known[signature]
        node["macs"] = None if cost is None else cost.macs
        node["flops"] = None if cost is None else 2 * cost.macs
        node["flops_other"] = None if cost is None else cost.other


def _hashable(arg: Any) -> Hashable:
    if isinstance(arg, Mapping):
        return tuple((key, _hashable(value)) for key, value in arg.items())
    if isinstance(arg, tuple):
        return tuple(map(_hashable, arg))
    return (type(arg).__name__, arg)


def _cost(node: Mapping[str, Any]) -> tuple[Cost | None, str]:
    op, outputs, tags = node["op"], node["outputs"], node.get("tags", ())
    base = op.rstrip("_") if op not in FORMULAS else op
    formula = FORMULAS.get(base)
    cost = evaluate(formula, node["args"], outputs) if formula is not None else None
    if cost is not None:
        return cost, "formula"
    tensors = [out for out in outputs if out is not None and out.dtype not in SCALARS]
    if "view" in tags or (outputs and not tensors):
        return Cost(), "class:view" if "view" in tags else "class:scalar"
    if "pointwise" in tags and tensors:
        return Cost(0, sum((out.numel for out in tensors), 0)), "class:pointwise"
    if "reduction" in tags:
        read = [arg for arg in node["args"].values() if isinstance(arg, TensorMeta)]
        return Cost(0, read[0].numel if read else 0), "class:reduction"
    return None, "unknown"
