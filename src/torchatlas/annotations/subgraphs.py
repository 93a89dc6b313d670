"""What an op costs that runs others: the bodies of control flow, rolled up to their op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..memory import LOOPS, never_less
from ..schema import Dim
from ..sums import add_up
from .formulas.sizes import larger

BRANCHES = frozenset({"higher_order.cond", "higher_order.switch", "onnx.If"})
"""Ops that run one of their bodies."""

ONCE = frozenset(
    f"higher_order.{name}"
    for name in (
        "checkpoint",
        "dynamo_bypassing_wrapper",
        "hints_wrapper",
        "invoke_quant",
        "invoke_quant_packed",
        "invoke_subgraph",
        "local_map_hop",
        "strict_mode",
        "tag_activation_checkpoint",
        "wrap",
        "wrap_activation_checkpoint",
    )
)
"""Ops that run their one body, and mean something else by it than what it computes."""

PER_SCORE = frozenset({"higher_order.flex_attention", "higher_order.flex_attention_backward"})
"""Ops that run their bodies on every score of attention, inside a kernel of their own."""

_WORK = ("flops", "int_ops", "flops_other")
_BYTES = ("bytes_read", "bytes_written")

Sums = dict[str, Dim | None]


def roll_up(node: Mapping[str, Any], keys: Sequence[str]) -> Sums | None:
    """Return for each of `keys` what the bodies of `node` cost as often as they run.

    Of branches that is the one which computes most; where symbols decide which that is, the
    largest of each key. The condition of a loop runs once more than its body. A key is None
    where an op inside does not know it, and the whole is None where nobody knows how often the
    op runs its bodies.
    """
    op, bodies = node["op"], node["subgraphs"]
    if op in BRANCHES:
        return _heaviest(list(bodies.values()), keys)
    if op not in LOOPS and op not in ONCE:
        return None
    trips = node.get("trips", 1)
    terms = {
        name: _times(_sums(body, keys), trips + 1 if name == "cond" else trips)
        for name, body in bodies.items()
    }
    return {key: _add([sums[key] for sums in terms.values()]) for key in keys}


def _times(sums: Sums, trips: Dim) -> Sums:
    return {key: None if value is None else value * trips for key, value in sums.items()}


def _sums(body: ModelGraph, keys: Sequence[str]) -> Sums:
    return {key: _add([node.get(key, 0) for _, node in op_nodes(body)]) for key in keys}


def _add(terms: Sequence[Dim | None]) -> Dim | None:
    known = [term for term in terms if term is not None]
    return add_up(known) if len(known) == len(terms) else None


def _heaviest(branches: Sequence[ModelGraph], keys: Sequence[str]) -> Sums:
    candidates = list(branches)
    for measure in (_WORK, _BYTES):
        sizes = [_add(list(_sums(branch, measure).values())) for branch in candidates]
        candidates = [
            branch
            for branch, size in zip(candidates, sizes, strict=True)
            if size is not None and all(_larger(size, other) == size for other in sizes)
        ]
    costs = [_sums(branch, keys) for branch in candidates[:1] or branches]
    return {key: reduce(_larger, (cost[key] for cost in costs)) for key in keys}


def _larger(one: Dim | None, other: Dim | None) -> Dim | None:
    if one is None or other is None:
        return None
    if never_less(one, other):
        return one
    return other if never_less(other, one) else larger(one, other)


def per_score(node: Mapping[str, Any]) -> Dim | None:
    """Return the operations that the functions of flex attention take on one score.

    None where an op inside them is not known.
    """
    sums = (_sums(body, _WORK).values() for body in node["subgraphs"].values())
    return _add([value for values in sums for value in values])
