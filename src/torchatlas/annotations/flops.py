"""FLOPs of every op: multiply-adds of contractions, and whatever else is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..schema import SCALARS, TensorMeta
from .formulas import FORMULAS, Cost, Formula, evaluate, named_class


def flops(graph: ModelGraph) -> None:
    """Write `macs`, `flops`, `flops_other` and `cost_source` to every op node.

    A view is free. Then comes the formula of the op (``cost_source="formula"``), then its class
    (``"class:pointwise"``, 1 per output element; ``"class:reduction"``, 1 per input element;
    ``"class:movement"`` and ``"class:creation"``, 0). Where there is neither, the counts are
    None and the source is ``"unknown"``.
    """
    known: dict[Hashable, dict[str, Any]] = {}
    for _, node in op_nodes(graph):
        signature = _signature(node)
        found = known.get(signature)
        if found is None:
            found = known[signature] = _keys(*_cost(node))
        node.update(found)


def _signature(node: Mapping[str, Any]) -> Hashable:
    signature = (node["op"], node["outputs"], node.get("tags"), *node["args"].items())
    try:
        hash(signature)
    except TypeError:  # a mapping among the arguments
        return (node["op"], node["outputs"], node.get("tags"), _hashable(node["args"]))
    return signature


def _hashable(arg: Any) -> Hashable:
    if isinstance(arg, Mapping):
        return tuple((key, _hashable(value)) for key, value in arg.items())
    if isinstance(arg, tuple):
        return tuple(map(_hashable, arg))
    return arg  # type: ignore[no-any-return]


def _keys(cost: Cost | None, source: str) -> dict[str, Any]:
    if cost is None:
        return {"macs": None, "flops": None, "flops_other": None, "cost_source": source}
    macs, other = cost
    return {"macs": macs, "flops": 2 * macs, "flops_other": other, "cost_source": source}


def _cost(node: Mapping[str, Any]) -> tuple[Cost | None, str]:
    op, args, outputs = node["op"], node["args"], node["outputs"]
    tags = node.get("tags", ())
    if "view" in tags:
        return Cost(), "class:view"
    formula = _formula(op)
    cost = evaluate(formula, args, outputs) if formula is not None else None
    if cost is not None:
        return cost, "formula"
    kind = _class(op, tags, outputs)
    cost = _class_cost(kind, args, outputs)
    return (cost, f"class:{kind}") if cost is not None else (None, "unknown")


def _formula(op: str) -> Formula | None:
    return FORMULAS.get(op) or FORMULAS.get(op.removesuffix("_"))


def _class(op: str, tags: tuple[str, ...], outputs: tuple[TensorMeta | None, ...]) -> str | None:
    named = named_class(op)
    if named is not None:
        return named
    if outputs and all(out is None or out.dtype in SCALARS for out in outputs):
        return "scalar"
    return next((tag for tag in tags if tag in ("pointwise", "reduction")), None)


def _class_cost(
    kind: str | None, args: Mapping[str, Any], outputs: tuple[TensorMeta | None, ...]
) -> Cost | None:
    if kind in ("movement", "creation", "scalar"):
        return Cost()
    if kind == "pointwise":
        produced = [out.numel for out in outputs if out is not None]
        return Cost(0, sum(produced, 0)) if produced else None
    if kind == "reduction":
        operand = next((arg for arg in args.values() if isinstance(arg, TensorMeta)), None)
        return Cost(0, operand.numel) if operand is not None else None
    return None
