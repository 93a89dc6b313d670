"""Bytes that an op reads and writes when each operand passes the memory bus once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..schema import Dim, TensorMeta
from .formulas import named_class
from .formulas.sizes import broadcast
from .subgraphs import roll_up

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
    "aten._embedding_bag_per_sample_weights_backward": "weight",
    "aten._unsafe_masked_index": "self",
    "onnx.Gather": "data",
    "onnx.GatherElements": "data",
    "onnx.GatherND": "data",
    "onnx.Slice": "data",
}
"""Ops that read only the rows of an operand that an index names."""

SCATTERS = frozenset(
    f"aten.{name}_"
    for name in (
        "embedding_renorm",
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

_NO_DATA = frozenset(
    f"aten.{name}"
    for name in (
        "_fused_sdp_choice",
        "as_strided_",
        "detach_",
        "_efficientzerotensor",
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "numel",
        "resize_",
        "resize_as_",
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
) | {
    "onnx.Shape",
    "onnx.Size",
    *(
        f"{namespace}.{name}"
        for namespace in ("_c10d_functional", "c10d_functional")
        for name in ("_wrap_tensor_autograd", "wait_tensor", "wait_tensors")
    ),
}
"""Ops that touch a tensor's description, or set memory aside, without looking at elements."""

_UPDATED = frozenset({"running_mean", "running_var"})


def traffic(graph: ModelGraph) -> None:
    """Write `bytes_read` and `bytes_written` to every op node.

    A view moves nothing. Every other op reads each distinct operand once, a broadcast one only
    as far as it is stored, and writes what it produces. An op in place reads what it changes,
    but not what it overwrites; a gather reads the rows that its index names, and a scatter in
    place touches no others. A control flow op moves what its bodies move (see `roll_up`).
    """
    known: dict[tuple[int, int], tuple[Dim, Dim]] = {}
    for name, node in op_nodes(graph):
        # Nodes that repeat one another share their arguments.
        same = id(node["args"]), id(node["outputs"])
        if same in known:
            node["bytes_read"], node["bytes_written"] = known[same]
            continue
        if "subgraphs" in node:
            for body in node["subgraphs"].values():
                traffic(body)
            moved = roll_up(node, ("bytes_read", "bytes_written"))
            if moved is not None:
                node.update(moved)
                continue
        if _moves_nothing(node):
            node["bytes_read"] = node["bytes_written"] = 0
        elif node["op"] in SCATTERS:
            touched = _scattered(node)
            summed = touched if _combines(node) else 0
            node["bytes_read"] = summed + _operands(graph, name, frozenset({"self"}))
            node["bytes_written"] = touched
        else:
            sparse = GATHERS.get(node["op"])
            unread = _unread(node["op"], node.get("writes", ()))
            skipped = unread | {sparse} if sparse else unread
            gathered = _gathered(node, sparse) if sparse else 0
            node["bytes_read"] = gathered + _operands(graph, name, skipped)
            node["bytes_written"] = _written(node)
        known[same] = node["bytes_read"], node["bytes_written"]


def _moves_nothing(node: Mapping[str, Any]) -> bool:
    if "view" in node.get("tags", ()) or node["op"] in _NO_DATA:
        return True
    # Outside training, and with nothing to drop, dropout hands its operand on.
    args = node["args"]
    idle = args.get("train") is False or args.get("p") == 0
    dropout = node["op"].endswith(("dropout", "dropout_")) and node["op"] != "aten.native_dropout"
    return bool(idle and dropout)


@cache
def _unread(op: str, writes: tuple[str, ...]) -> frozenset[str]:
    """Return the arguments that `op` overwrites, or of which it takes only the shape.

    >>> _unread("aten.add_", ("self",)), _unread("aten.copy_", ("self",))
    (frozenset(), frozenset({'self'}))
    >>> _unread("aten.zeros_like", ()), _unread("aten.mm", ("out",))
    (frozenset({'self'}), frozenset({'out'}))
    >>> _unread("aten._foreach_copy_", ("self",)), _unread("aten._foreach_add_", ("self",))
    (frozenset({'self'}), frozenset())
    """
    namespace, _, name = op.replace("._foreach_", ".").partition(".")
    if not name.endswith("_"):
        shape_only = name.endswith("_like") or name.startswith("new_") or name in ("fill", "zero")
        return frozenset(writes) - _UPDATED | ({"self"} if shape_only else frozenset())
    plain = f"{namespace}.{name}"
    overwrites = name in ("copy_", "masked_scatter_") or named_class(plain) == "creation"
    return frozenset({"self"} if overwrites else ())


def _operands(graph: ModelGraph, name: str, skipped: frozenset[str]) -> Dim:
    """Add up the operands of a node, each output of another node once."""
    total: Dim = 0
    for source, _, edge in graph.in_edges(name, data=True):
        outputs = graph.nodes[source]["outputs"]
        uses = (u for u in edge["uses"] if u.argument.partition(".")[0] not in skipped)
        for index in {u.output for u in uses}:
            tensor = None if index is None else outputs[index]
            if tensor is not None:
                total += tensor.stored_bytes
    return total


def _written(node: Mapping[str, Any]) -> Dim:
    """Add up what a node produces, and what it writes in place besides."""
    outputs = node["outputs"]
    total = sum((out.nbytes for out in outputs if out is not None), 0)
    for name in node.get("writes", ()):
        argument = node["args"].get(name)
        written = argument if isinstance(argument, tuple) else (argument,)
        for tensor in written:
            if isinstance(tensor, TensorMeta) and tensor not in outputs:
                total += tensor.nbytes
    return total


def _gathered(node: Mapping[str, Any], sparse: str) -> Dim:
    args, out = node["args"], node["outputs"][0]
    table, indices = args.get(sparse), args.get("indices")
    if sparse == "weight" and isinstance(table, TensorMeta) and isinstance(indices, TensorMeta):
        return TensorMeta((*indices.shape, table.shape[-1]), table.dtype).nbytes
    return 0 if out is None else out.nbytes


def _combines(node: Mapping[str, Any]) -> bool:
    """Say whether a scatter reads the places that it writes."""
    args = node["args"]
    adds = node["op"] in ("aten.embedding_renorm_", "aten.index_add_", "aten.scatter_add_")
    return adds or bool(args.get("accumulate")) or args.get("reduce") is not None


def _scattered(node: Mapping[str, Any]) -> Dim:
    """Return the bytes of the places that a scatter names."""
    args, out = node["args"], node["outputs"][0]
    indices, index, source = args.get("indices"), args.get("index"), args.get("source")
    shape = out.shape
    if isinstance(indices, tuple):
        shape = _indexed_shape(out, indices)
    elif isinstance(indices, TensorMeta):  # rows of an embedding
        shape = (indices.numel, *shape[1:])
    elif isinstance(source, TensorMeta):
        shape = source.shape
    elif node["op"] == "aten.index_fill_" and isinstance(index, TensorMeta):
        dim = args["dim"] % len(shape)
        shape = (*shape[:dim], index.numel, *shape[dim + 1 :])
    elif isinstance(index, TensorMeta):
        shape = index.shape
    return TensorMeta(shape, out.dtype).nbytes


def _indexed_shape(base: TensorMeta, indices: tuple[TensorMeta | None, ...]) -> tuple[Dim, ...]:
    """Return the shape, in some order, of what ``base[indices]`` names.

    A mask may name everything that it covers, so that counts.

    >>> base, column = TensorMeta((8, 9, 3)), TensorMeta((5,), "int64")
    >>> _indexed_shape(base, (None, column)), _indexed_shape(base, (TensorMeta((8,), "bool"),))
    ((8, 3, 5), (9, 3, 8))
    """
    whole: list[Dim] = []
    masked: list[Dim] = []
    numbers = []
    dim = 0
    for index in indices:
        if index is None:
            whole.append(base.shape[dim])
            dim += 1
        elif index.dtype in ("bool", "uint8"):
            masked += index.shape
            dim += len(index.shape)
        else:
            numbers.append(index.shape)
            dim += 1
    return (*whole, *base.shape[dim:], *masked, *broadcast(*numbers))
