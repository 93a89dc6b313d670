"""What an ONNX file holds, read with suspicion: messages, data types, literals, metadata.

Weights are never looked at and files that a model names never opened: `parse` drops the data of
every tensor but the smallest, whose values say how an op works (the shape of a Reshape).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..names import clean
from ..schema import Arg

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_LITERAL = 64
"""Elements that a tensor, or a list among the attributes, may have to be told in full."""

_SMALL = 1024
"""Bytes of a tensor that are kept: more than `MAX_LITERAL` elements of any type."""

_DATA = (
    "raw_data",
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
)
_NO_MODEL = "the file is no ONNX model"
_HINT = "an .onnx file holds a ModelProto; torch.onnx.export and torchatlas write such files"


def parse(content: bytes, name: str) -> ModelProto:
    """Return the model in `content`, without its weights' values; `name` is for messages.

    Raises FormatError for anything else, saying what it looks like.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise FormatError(f"{clean(name)}: {_what(content)}", hint=_HINT) from error
    if not model.HasField("graph") or not (model.ir_version or model.opset_import):
        raise FormatError(f"{clean(name)}: {_what(content)}", hint=_HINT)
    for tensor in _tensors_of_model(model):
        _drop_data(tensor)
    if not _is_text(model):
        raise FormatError(
            f"{clean(name)}: a name in the file is not text", hint="names are in UTF-8"
        )
    return model


def _is_text(message: Any) -> bool:
    """Say whether every name in a message is text: those that are not come as bytes."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        items = (value,) if isinstance(value, str | bytes) or _is_single(value) else value
        if field.type == field.TYPE_STRING:
            if any(isinstance(item, bytes) for item in items):
                return False
        elif not all(map(_is_text, items)):
            return False
    return True


def _is_single(value: Any) -> bool:
    return hasattr(value, "ListFields")


def _what(content: bytes) -> str:
    """Say what a file is that cannot be a model.

    >>> _what(b""), _what(b"version https://git-lfs.github.com/spec/v1")
    ('the file is empty', 'the file is a git-lfs pointer, not the model that it stands for')
    """
    begin = content[:512].lstrip()
    if not content:
        return "the file is empty"
    if begin.startswith(b"version https://git-lfs"):
        return "the file is a git-lfs pointer, not the model that it stands for"
    if begin[:1] == b"<":
        return "the file is a web page or XML"
    if begin.startswith(b"PK\3\4"):
        return "the file is a zip archive"
    if content[4:8] == b"ORTM":
        return "the file is in ONNX Runtime's own format; its .onnx file can be read"
    if len(content) >= 2**31:
        return "the file has more than 2 GiB, where a model keeps its weights in other files"
    return f"{_NO_MODEL}, or only the beginning of one"


# -- tensors -------------------------------------------------------------------------------


def _tensors_of_model(model: ModelProto) -> Iterator[TensorProto]:
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield sparse.values
            yield sparse.indices
        for graph in graphs(attribute):
            yield from _tensors_of_graph(graph)


def graphs(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs that an attribute holds: the bodies of control flow."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _drop_data(tensor: TensorProto) -> None:
    is_external = tensor.data_location == tensor.EXTERNAL or len(tensor.external_data) > 0
    if is_external or tensor.ByteSize() > _SMALL:
        for field in _DATA:
            tensor.ClearField(field)
        tensor.ClearField("data_location")


_FORMATS = {1: "f", 3: "b", 2: "B", 9: "?", 5: "h", 4: "H", 6: "i", 12: "I", 7: "q", 13: "Q",
            11: "d", 10: "e"}  # fmt: skip
"""ONNX data type to the character of `struct`, for those whose values may be told."""


def values(tensor: TensorProto) -> Arg:
    """Return the values of a small tensor: a number, or a flat tuple; None where they are gone.

    >>> from onnx import TensorProto
    >>> values(TensorProto(dims=[2], data_type=TensorProto.INT64, int64_data=[3, -1]))
    (3, -1)
    >>> values(TensorProto(dims=[], data_type=TensorProto.FLOAT, float_data=[0.1]))
    0.1
    >>> values(TensorProto(dims=[9999], data_type=TensorProto.FLOAT)) is None
    True
    """
    count = math.prod(tensor.dims)
    kind = _FORMATS.get(tensor.data_type)
    if kind is None or not 0 <= count <= MAX_LITERAL or len(tensor.dims) > 1:
        return None
    if tensor.HasField("raw_data"):
        size = struct.calcsize(f"<{count}{kind}")
        if len(tensor.raw_data) != size:
            return None
        found: tuple[Any, ...] = struct.unpack(f"<{count}{kind}", tensor.raw_data)
    else:
        found = _typed_values(tensor)
        if len(found) != count:
            return None
    if kind == "f":
        found = tuple(map(shortest, found))
    return found[0] if not tensor.dims else found


def _typed_values(tensor: TensorProto) -> tuple[Any, ...]:
    kind = _FORMATS[tensor.data_type]
    if kind == "e":  # half floats stand as 16 bits in an integer
        bits = (int(number) & 0xFFFF for number in tensor.int32_data[: MAX_LITERAL + 1])
        return tuple(struct.unpack("<e", struct.pack("<H", number))[0] for number in bits)
    field = {"f": "float_data", "d": "double_data", "q": "int64_data", "Q": "uint64_data",
             "I": "uint64_data"}.get(kind, "int32_data")  # fmt: skip
    found = tuple(getattr(tensor, field))
    return tuple(map(bool, found)) if kind == "?" else found


def shortest(number: float) -> float:
    """Return the shortest number that a float32 stands for.

    >>> shortest(0.10000000149011612), shortest(float("inf"))
    (0.1, inf)
    """
    if not math.isfinite(number) or number == 0:
        return number
    for digits in range(6, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("<f", float(text)) == struct.pack("<f", number):
            return float(text)
    return number


@cache
def dtype(data_type: int) -> str:
    """Return torchatlas's name for a data type of ONNX; ``unknown`` for a number without one.

    >>> [dtype(number) for number in (1, 16, 7, 17, 21, 24, 0, 999)]
    ['float32', 'bfloat16', 'int64', 'float8_e4m3fn', 'uint4', 'float8_e8m0fnu', 'unknown', \
'unknown']
    """
    from onnx import TensorProto

    known: Mapping[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    name = known.get(data_type, "UNDEFINED")
    return _NAMES.get(name) or name.lower()


_NAMES = {
    "UNDEFINED": "unknown",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT8E8M0": "float8_e8m0fnu",
    "FLOAT4E2M1": "float4_e2m1fn",
    "FLOAT6E2M3": "float6_e2m3fn",
    "FLOAT6E3M2": "float6_e3m2fn",
}


# -- attributes and metadata ---------------------------------------------------------------


def literal(attribute: AttributeProto) -> Arg:
    """Return the value of an attribute; what is long, or no number or text, as what it is.

    >>> from onnx import helper
    >>> literal(helper.make_attribute("pads", [1, 1])), literal(helper.make_attribute("alpha", 0.1))
    ((1, 1), 0.1)
    >>> literal(helper.make_attribute("equation", "ij,jk->ik"))
    'ij,jk->ik'
    >>> literal(helper.make_attribute("values", list(range(100))))
    '<100 integers>'
    """
    kinds = attribute.AttributeType
    match attribute.type:
        case kinds.INT:
            return int(attribute.i)
        case kinds.FLOAT:
            return shortest(attribute.f)
        case kinds.STRING:
            return _text(attribute.s)
        case kinds.INTS:
            return _listed(tuple(attribute.ints), "integers")
        case kinds.FLOATS:
            numbers = attribute.floats[:MAX_LITERAL]
            return _listed(tuple(map(shortest, numbers)), "numbers", len(attribute.floats))
        case kinds.STRINGS:
            return _listed(tuple(map(_text, attribute.strings)), "texts")
        case kinds.TENSOR:
            found = values(attribute.t)
            return tensor_text(attribute.t) if found is None else found
        case kinds.GRAPH:
            return f"<graph {clean(attribute.g.name)}>"
        case kinds.GRAPHS:
            return tuple(f"<graph {clean(graph.name)}>" for graph in attribute.graphs)
    return f"<{kinds.Name(attribute.type).lower()}>" if attribute.type in kinds.values() else None


def _listed(items: tuple[Any, ...], what: str, count: int | None = None) -> Arg:
    count = len(items) if count is None else count
    return items if count <= MAX_LITERAL else f"<{count} {what}>"


def _text(data: bytes) -> str:
    return clean(data.decode("utf-8", "replace"))


def tensor_text(tensor: TensorProto) -> str:
    """Say what a tensor among the attributes is.

    >>> from onnx import TensorProto
    >>> tensor_text(TensorProto(dims=[2, 3], data_type=1))
    '<tensor float32[2, 3]>'
    """
    dims = ", ".join(map(str, tensor.dims[:MAX_LITERAL]))
    return f"<tensor {dtype(tensor.data_type)}[{dims}]>"


def facts(proto: Any) -> dict[str, str]:
    """Return the metadata of a message, by key."""
    return {entry.key: entry.value for entry in getattr(proto, "metadata_props", ())}
