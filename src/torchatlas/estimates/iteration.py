"""What a kernel of an op goes over: every element, or rows that it reduces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..annotations.formulas import named_class
from ..schema import TensorMeta

_ELEMENTWISE = frozenset(
    {
        "aten._to_copy",
        "aten.clone",
        "aten.contiguous",
        "aten.dropout",
        "aten.dropout_",
        "aten.flatten",
        "aten.native_dropout",
        "aten.reshape",
        "aten.to",
        "aten.type_as",
    }
)
"""Ops on one element at a time that neither a tag nor a list calls pointwise; not views here."""

_GIVEN_STATISTICS = frozenset(
    {"aten.batch_norm", "aten.native_batch_norm", "aten.cudnn_batch_norm"}
)
"""Norms that are pointwise outside training, when their statistics are given."""

GATHERS = frozenset({"aten.embedding", "aten.gather", "aten.index", "aten.index_select"})
"""Ops that read at places which indices say: what reads their result can read there itself."""

_JOINED = 8
"""Tensors that a concatenation may have to be part of a loop, as torch's compiler limits them."""

_ROWS: dict[str, str] = {
    "aten._fused_rms_norm": "normalized_shape",
    "aten._log_softmax": "dim",
    "aten._safe_softmax": "dim",
    "aten._softmax": "dim",
    "aten.group_norm": "num_groups",
    "aten.layer_norm": "normalized_shape",
    "aten.log_softmax": "dim",
    "aten.native_group_norm": "group",
    "aten.native_layer_norm": "normalized_shape",
    "aten.rms_norm": "normalized_shape",
    "aten.softmax": "dim",
}
"""Ops that reduce rows and then go over them again, and the argument that says what a row is."""

_REDUCING = frozenset(
    {
        *("aten.all", "aten.amax", "aten.amin", "aten.any", "aten.linalg_vector_norm"),
        *("aten.logsumexp", "aten.mean", "aten.prod", "aten.std", "aten.std_mean"),
        *("aten.sum", "aten.var", "aten.var_mean"),
    }
)
"""Reductions over the dimensions in their argument ``dim``."""


class Iteration(NamedTuple):
    """How many elements a kernel goes over; and how many rows it reduces them to, if it does.

    Rows are the trailing dimensions, which lie together in memory.
    """

    elements: int
    rows: int | None


def iteration_of(node: Mapping[str, Any]) -> Iteration | None:
    """Return what a fusible op goes over; None for one that no other op can join.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x = T((2, 4, 8))
    >>> def op(name, **args):
    ...     return {"kind": "op", "op": name, "args": {"self": x, **args}, "outputs": (x,)}
    >>> iteration_of(op("aten.mul") | {"tags": ("pointwise",)})
    Iteration(elements=64, rows=None)
    >>> iteration_of(op("aten.softmax", dim=-1))
    Iteration(elements=64, rows=8)
    >>> iteration_of(op("aten.softmax", dim=1)) is None
    True
    """
    if is_pointwise(node) or (node["op"] in GATHERS and not is_idle(node)):
        sizes = [math.prod(map(int, m.shape)) for m in node["outputs"] if m is not None]
        return Iteration(max(sizes, default=0), None)
    args = node.get("args", {})
    given = args.get("self", args.get("input"))
    if not isinstance(given, TensorMeta) or is_idle(node):
        return None
    row = _row(node["op"], args, tuple(map(int, given.shape)))
    elements = math.prod(map(int, given.shape))
    return Iteration(elements, elements // row) if row else None


def _row(op: str, args: Mapping[str, Any], shape: tuple[int, ...]) -> int:
    """Return how many elements a row has; 0 where the op reduces no rows."""
    if op in _REDUCING:
        return _trailing(args.get("dim"), shape)
    kind = _ROWS.get(op)
    value = args.get(kind) if kind is not None else None
    if value is None:
        return 0
    if kind == "dim":
        return _trailing(value, shape)
    if kind == "normalized_shape":
        return math.prod(map(int, value))
    return math.prod(shape[1:]) // int(value)  # channels and places of a group


def _trailing(dims: Any, shape: tuple[int, ...]) -> int:
    """Return the size of the dimensions `dims` together; 0 if they are not the last ones."""
    if dims is None:
        return 0
    chosen = {int(d) % len(shape) for d in (dims if isinstance(dims, tuple) else (dims,)) if shape}
    if not chosen or chosen != set(range(len(shape) - len(chosen), len(shape))):
        return 0
    return math.prod(shape[-len(chosen) :])


def is_pointwise(node: Mapping[str, Any]) -> bool:
    """Say whether an op computes each element of its result from one of each operand.

    >>> is_pointwise({"kind": "op", "op": "aten.mul", "tags": ("pointwise",)})
    True
    >>> is_pointwise({"kind": "op", "op": "aten.batch_norm", "args": {"training": True}})
    False
    """
    if node["kind"] != "op" or "subgraphs" in node or is_idle(node):
        return False
    op = node["op"]
    if op in _GIVEN_STATISTICS:
        return not node["args"].get("training", True)
    if op == "aten.cat":
        return len(node["args"].get("tensors", ())) <= _JOINED
    known = "pointwise" in node.get("tags", ()) or node.get("cost_source") == "class:pointwise"
    return known or op in _ELEMENTWISE or named_class(op) == "pointwise"


def is_idle(node: Mapping[str, Any]) -> bool:
    """Say whether an op hands its operand on, as a view does, or dropout outside training."""
    idle = node.get("bytes_read") == 0 == node.get("bytes_written")
    return idle or "view" in node.get("tags", ())
