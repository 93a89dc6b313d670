"""FLOPs of every op: multiply-adds of contractions, and whatever else is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..names import body_id, join_body
from ..schema import SCALARS, TensorMeta
from .formulas import FORMULAS, Cost, Formula, evaluate, named_class
from .own_formulas import own_cost
from .subgraphs import PER_SCORE, per_score, roll_up

_COUNTS = ("macs", "flops", "flops_other", "flops_effective", "int_ops")
_SUMS = (*_COUNTS, "comm_bytes")
_KEYS = (*_SUMS, "cost_source")


def flops(graph: ModelGraph) -> None:
    """Write `macs`, `flops`, `flops_other`, `flops_effective`, `int_ops`, `cost_source`.

    Each op node gets them from the first rule that knows it: the user's own formula
    (``cost_source="user"``); nothing for a view; the formula of the op (``"formula"``); its
    class (``"class:pointwise"``, 1 per output element; ``"class:reduction"``, 1 per input
    element; ``"class:movement"`` and ``"class:creation"``, 0); and for a composite op the ops
    that it is made of (``"decomposition"``), while the model that it was captured from is at
    hand. Where no rule knows it the counts are None and the source is ``"unknown"``.

    ``2 * macs == flops + int_ops``: a contraction is in floating point or in integers. A
    collective also gets `comm_bytes`, its message: the larger of what goes in and what comes
    out on one device.

    A control flow op counts what its bodies compute (``"subgraphs"``; see `roll_up`), each of
    which gets the same keys.
    """
    _annotate(graph, {}, getattr(graph, "source", None), "")


def _annotate(
    graph: ModelGraph, known: dict[Hashable, dict[str, Any]], source: Any, prefix: str
) -> None:
    for name, node in op_nodes(graph):
        if "subgraphs" in node:
            for key, body in node["subgraphs"].items():
                _annotate(body, known, source, join_body(body_id(prefix + name, key), ""))
            node.update(_by_bodies(node))
            continue
        # Nodes that repeat one another share their arguments.
        same = id(node["args"]), id(node["outputs"])
        found = known.get(same)
        if found is None:
            signature = _signature(node)
            found = known.get(signature)
            if found is None:
                found = _by_rule(node)
                if found["flops"] is None:
                    found = _by_decomposition(source, prefix + name, node)
                known[signature] = found
            known[same] = found
        node.update(found)


def _by_bodies(node: Mapping[str, Any]) -> dict[str, Any]:
    if node["op"] in PER_SCORE:
        work = per_score(node)
        # Inside its kernel a function of a score is one more operation on each of them.
        return _keys(None) if work is None else _by_rule(node, per_score=work)
    own = own_cost(node["op"], node["args"], node["outputs"])
    sums = roll_up(node, _SUMS) if own is None else None
    if sums is None:
        return _by_rule(node)
    if None in sums.values():
        return _keys(None)
    comm_bytes = sums.pop("comm_bytes")
    keys = {**sums, "cost_source": "subgraphs"}
    return keys if comm_bytes == 0 else {**keys, "comm_bytes": comm_bytes}


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


def _by_rule(node: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    cost, source = _cost(node, more)
    outputs = node["outputs"]
    integer = bool(outputs and outputs[0] and _is_integer(outputs[0].dtype))
    return _keys(cost, source, integer=integer)


def _keys(cost: Cost | None, source: str = "unknown", *, integer: bool = False) -> dict[str, Any]:
    if cost is None:
        return {**dict.fromkeys(_COUNTS), "cost_source": "unknown"}
    integer = integer or cost.integer
    keys = {
        "macs": cost.macs,
        "flops": 0 if integer else 2 * cost.macs,
        "flops_other": cost.other,
        "flops_effective": 0 if integer else 2 * (cost.macs - cost.skipped),
        "int_ops": 2 * cost.macs if integer else 0,
        "cost_source": source,
    }
    return {**keys, "comm_bytes": cost.comm_bytes} if cost.comm_bytes != 0 else keys


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint", "qint", "quint"))


def _cost(node: Mapping[str, Any], more: Mapping[str, Any]) -> tuple[Cost | None, str]:
    op, args, outputs = node["op"], node["args"], node["outputs"]
    tags = node.get("tags", ())
    own = own_cost(op, args, outputs)
    if own is not None:
        return own, "user"
    if "view" in tags:
        return Cost(), "class:view"
    formula = _formula(op)
    given = {**args, **more} if more else args
    cost = evaluate(formula, given, outputs) if formula is not None else None
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


# -- composite ops -------------------------------------------------------------------------


def _by_decomposition(source: Any, name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Add up the ops that a composite op is made of, as torch takes it apart."""
    if source is None:  # loaded from a file: what was counted before stays
        counted = node.get("cost_source") == "decomposition"
        return {key: node[key] for key in _KEYS if key in node} if counted else _keys(None)
    parts = [_by_rule(part) for part in source.decompose(name)]
    if not parts or any(part["flops"] is None for part in parts):
        return _keys(None)
    sums = {key: sum(part[key] for part in parts) for key in _COUNTS}
    return {**sums, "cost_source": "decomposition"}
