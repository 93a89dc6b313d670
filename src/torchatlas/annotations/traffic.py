"""Bytes that an op reads and writes when each operand passes the memory bus once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..schema import Dim, TensorMeta
from .formulas import named_class
from .formulas.sizes import broadcast, product

GATHERS = {
    "aten.embedding": "weight",
    "aten.index_select": "self",
    "aten.gather": "self",
    "aten.index": "self",
    "aten._unsafe_index": "self",
    "aten.take": "self",
    "aten.take_along_dim": "self",
    "aten.embedding_bag": "weight",
    "aten._embedding_bag": "weight",
    "aten._embedding_bag_forward_only": "weight",
}
"""Ops that read only the rows of an operand that an index names."""

SCATTERS = frozenset(
    f"aten.{name}_"
    for name in (
        "index_add",
        "index_copy",
        "index_fill",
        "index_put",
        "_index_put_impl",
        "index_reduce",
        "put",
        "scatter",
        "scatter_add",
        "scatter_reduce",
    )
)
"""Ops in place that touch only the places that an index names."""

_COMBINES = frozenset(f"aten.{name}_" for name in ("index_add", "scatter_add"))
_REDUCES = frozenset(f"aten.{name}_" for name in ("index_reduce", "scatter_reduce"))

_NO_DATA = frozenset(
    f"aten.{name}"
    for name in (
        "as_strided_",
        "detach_",
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "numel",
        "resize_",
        "set_",
        "size",
        "squeeze_",
        "storage_offset",
        "stride",
        "swapaxes_",
        "swapdims_",
        "sym_numel",
        "sym_size",
        "sym_storage_offset",
        "sym_stride",
        "t_",
        "transpose_",
        "unsqueeze_",
    )
)
"""Ops that touch a tensor's description, or set memory aside, without looking at elements."""

_OVERWRITES = frozenset({"aten.copy_", "aten.masked_scatter_"})
_UPDATED = frozenset({"running_mean", "running_var"})


def traffic(graph: ModelGraph) -> None:
    """Write `bytes_read` and `bytes_written` to every op node.

    A view moves nothing. Every other op reads each distinct operand once, a broadcast one only
    as far as it is stored, and writes what it produces. An op in place reads what it changes,
    but not what it overwrites; a gather reads the rows that its index names, and a scatter in
    place writes no others.
    """
    for name, node in op_nodes(graph):
        if moves_nothing(node):
            node["bytes_read"] = node["bytes_written"] = 0
        elif node["op"] in SCATTERS:
            node["bytes_read"], node["bytes_written"] = _scattered(graph, name, node)
        else:
            node["bytes_written"] = _written(node)
            node["bytes_read"] = _read(graph, name, node)


def moves_nothing(node: Mapping[str, Any]) -> bool:
    """Say whether an op touches no element of a tensor.

    >>> moves_nothing({"op": "aten.dropout_", "args": {"p": 0.5, "train": False}})
    True
    """
    if "view" in node.get("tags", ()) or node["op"] in _NO_DATA:
        return True
    in_place_dropout = node["op"].endswith("dropout_")
    return in_place_dropout and node["args"].get("train") is False


def _written(node: Mapping[str, Any]) -> Dim:
    """Return the bytes of what the op produces, and of the statistics that it updates."""
    produced = sum((out.nbytes for out in node["outputs"] if out is not None), 0)
    updated = [node["args"].get(name) for name in node.get("writes", ()) if name in _UPDATED]
    return produced + sum((arg.nbytes for arg in updated if isinstance(arg, TensorMeta)), 0)


def _read(graph: ModelGraph, name: str, node: Mapping[str, Any]) -> Dim:
    op = node["op"]
    if named_class(op) == "creation":
        return 0
    left_out = GATHERS.get(op, "self" if op in _OVERWRITES else None)
    total: Dim = sum((t.stored_bytes for t in _operands(graph, name, left_out)), 0)
    return total + (_rows(node) if op in GATHERS else 0)


def _rows(node: Mapping[str, Any]) -> Dim:
    """Return the bytes of the rows that a gather reads; a bag reads several for each output."""
    out = node["outputs"][0]
    if "embedding_bag" not in node["op"]:
        return out.nbytes
    weight, indices = node["args"]["weight"], node["args"]["indices"]
    row = TensorMeta(weight.shape[1:], weight.dtype)
    return product((indices.numel, row.nbytes))


def _scattered(graph: ModelGraph, name: str, node: Mapping[str, Any]) -> tuple[Dim, Dim]:
    """Return the bytes that a scatter in place reads and writes: those of the places touched."""
    touched = _touched(node)
    read: Dim = sum((t.stored_bytes for t in _operands(graph, name, "self")), 0)
    combines = node["op"] in _COMBINES | _REDUCES or node["args"].get("accumulate") is True
    return read + (touched if combines else 0), touched


def _touched(node: Mapping[str, Any]) -> Dim:
    args, out = node["args"], node["outputs"][0]
    index = args.get("index", args.get("indices"))
    if isinstance(index, tuple):  # index_put: one index a dimension, the rest whole
        shapes = [i.shape for i in index if isinstance(i, TensorMeta)]
        rest = [n for n, i in zip(out.shape, index, strict=False) if i is None]
        sizes = (*broadcast(*shapes), *rest, *out.shape[len(index) :])
    elif index is None:
        return out.nbytes
    elif "dim" in args and node["op"].removeprefix("aten.").startswith("index_"):
        dim = args["dim"]
        sizes = (index.numel, *(n for i, n in enumerate(out.shape) if i != dim % len(out.shape)))
    else:
        sizes = index.shape
    return TensorMeta(tuple(sizes), out.dtype).nbytes


def _operands(graph: ModelGraph, name: str, left_out: str | None) -> Iterator[TensorMeta]:
    for source, _, edge in graph.in_edges(name, data=True):
        outputs = graph.nodes[source]["outputs"]
        used = {use.output for use in edge["uses"] if use.argument != left_out}
        for index in used - {None}:
            if outputs[index] is not None:
                yield outputs[index]
