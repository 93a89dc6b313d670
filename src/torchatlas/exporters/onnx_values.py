"""Tensors, names and attributes in ONNX's terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..graph import ModelGraph, in_order, inputs_of
from ..names import UniqueNames
from ..schema import TensorMeta, dtype_bytes
from .onnx_metadata import bytes_text, text

if TYPE_CHECKING:
    from onnx import AttributeProto, ValueInfoProto

_NAMES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "float8_e8m0fnu": "FLOAT8E8M0",
    "float4_e2m1fn_x2": "FLOAT4E2M1",
    "quint8": "UINT8",
    "qint8": "INT8",
    "qint32": "INT32",
    "SymInt": "INT64",
    "SymFloat": "DOUBLE",
    "SymBool": "BOOL",
}
_BY_BYTES = {2: "UINT16", 4: "UINT32", 8: "UINT64", 16: "COMPLEX128"}
_LARGEST = 2**63 - 1


def data_type(dtype: str) -> int:
    """Return ONNX's number for a data type; one that ONNX lacks becomes raw bytes of its size.

    >>> from onnx import TensorProto
    >>> data_type("bfloat16") == TensorProto.BFLOAT16, data_type("bits16") == TensorProto.UINT16
    (True, True)
    """
    from onnx import TensorProto

    for name in (_NAMES.get(dtype), dtype.upper().replace("_", "")):
        if name in TensorProto.DataType.keys():  # noqa: SIM118
            return int(TensorProto.DataType.Value(name))
    return int(TensorProto.DataType.Value(_BY_BYTES.get(int(dtype_bytes(dtype)), "UINT8")))


def value_info(name: str, meta: TensorMeta) -> ValueInfoProto:
    """Return the type of a value; its size in bytes stands in the description."""
    from onnx import ValueInfoProto

    info = ValueInfoProto(name=name, doc_string=bytes_text(meta))
    tensor = info.type.tensor_type
    tensor.elem_type = data_type(meta.dtype)
    tensor.shape.SetInParent()
    for size in meta.shape:
        dim = tensor.shape.dim.add()
        if isinstance(size, int) and size <= _LARGEST:
            dim.dim_value = size
        else:
            dim.dim_param = str(size)
    return info


def value_names(graph: ModelGraph) -> dict[tuple[str, int], str]:
    """Return a name for every output of every node.

    It is the node's id, or, for one of several outputs, ``id:1``. A value that leaves the graph
    is called by the id of the output node instead, as it is in the file's interface.
    """
    unique = UniqueNames()
    for name in graph:
        unique.take(name)
    values: dict[tuple[str, int], str] = {}
    for name, node in in_order(graph):
        count = len(node["outputs"])
        for i in range(count):
            values[name, i] = name if count == 1 else unique.take(f"{name}:{i}")
        source = returned(graph, name)
        if source is not None and _may_rename(graph, source, values[source]):
            values[source] = name
    return values


def returned(graph: ModelGraph, name: str) -> tuple[str, int] | None:
    """Return where the tensor comes from that an output node returns; None for any other."""
    if graph.nodes[name]["kind"] != "output":
        return None
    return next(iter(inputs_of(graph, name).values()), None)


def _may_rename(graph: ModelGraph, source: tuple[str, int], value: str) -> bool:
    is_renamed = value in graph and graph.nodes[value]["kind"] == "output"
    return graph.nodes[source[0]]["kind"] == "op" and not is_renamed


def arguments(graph: ModelGraph, name: str) -> dict[str, tuple[str, int]]:
    """Return where the tensor at each argument's path comes from, in the order of arguments."""
    args = graph.nodes[name].get("args", {})
    paths = [path for key, arg in args.items() for path, _ in leaves(arg, key)]
    order = {path: i for i, path in enumerate(paths)}
    found = inputs_of(graph, name)
    return {p: found[p] for p in sorted(found, key=lambda p: (order.get(p, len(order)), p))}


def names_text(paths: Iterable[str]) -> str:
    """Return names of arguments in the one form that Netron takes them from.

    >>> names_text(["input", "tensors.1"])
    "['input', 'tensors.1']"
    """
    quoted = (f"'{path}'" for path in paths)
    return f"[{', '.join(quoted)}]"


def leaves(arg: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what an argument is made of, with the path of each part.

    >>> list(leaves((1, (2,)), "sizes"))
    [('sizes.0', 1), ('sizes.1.0', 2)]
    """
    if isinstance(arg, tuple):
        for i, item in enumerate(arg):
            yield from leaves(item, f"{path}.{i}")
    elif isinstance(arg, Mapping):
        for key, item in arg.items():
            yield from leaves(item, f"{path}.{key}")
    else:
        yield path, arg


def literals(args: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments that are more than tensors, with tensors inside as their names.

    >>> literals({"self": TensorMeta((1,)), "size": (TensorMeta(()), 4)}, {"size.0": "n"})
    {'size': ('n', 4)}
    """
    return {
        name: _named(arg, name, inputs)
        for name, arg in args.items()
        if any(not isinstance(leaf, TensorMeta | None) for _, leaf in leaves(arg, name))
    }


def _named(arg: Any, path: str, inputs: Mapping[str, str]) -> Any:
    if isinstance(arg, tuple):
        return tuple(_named(item, f"{path}.{i}", inputs) for i, item in enumerate(arg))
    if isinstance(arg, Mapping):
        return {key: _named(item, f"{path}.{key}", inputs) for key, item in arg.items()}
    return inputs.get(path, str(arg)) if isinstance(arg, TensorMeta) else arg


def attribute(name: str, value: Any) -> AttributeProto:
    """Return an attribute: integers, text and lists of them as such, all else as text.

    Floats are text too: an attribute holds 32 bits of one, and 1e-05 would read as
    0.000009999999747378752.
    """
    from onnx import AttributeProto

    found = AttributeProto(name=name)
    if _is_integer(value):
        found.type, found.i = AttributeProto.INT, int(value)
    elif isinstance(value, tuple) and all(map(_is_integer, value)):
        found.type = AttributeProto.INTS
        found.ints.extend(map(int, value))
    elif isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        found.type = AttributeProto.STRINGS
        found.strings.extend(item.encode() for item in value)
    else:
        found.type, found.s = AttributeProto.STRING, text(value).encode()
    return found


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and -_LARGEST <= value <= _LARGEST
