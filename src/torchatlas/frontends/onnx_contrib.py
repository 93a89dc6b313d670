"""Stand-ins for ONNX Runtime's own operators, so that ONNX can infer the shapes of results.

ONNX knows none of the domain ``com.microsoft``: at the first of its operators, and every
optimised transformer has them, inference would end. Each is replaced, in a copy that only
inference sees, by operators of ONNX whose results have the same shape. Source of the shapes:
ONNX Runtime's `docs/ContribOperators.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

DOMAIN = "com.microsoft"
_FLOAT = 1
_NOT_OF_ONNX = frozenset({"activation", "activation_params", "activation_alpha",
                          "activation_beta", "activation_gamma", "channels_last"})  # fmt: skip


def stand_ins(node: NodeProto, graph: GraphProto) -> None:
    """Add to `graph` what has the shapes of `node`: the node itself, or what stands in for it."""
    build = None
    if node.domain == DOMAIN or node.op_type == "SimplifiedLayerNormalization":
        build = _STAND_INS.get(node.op_type)
    if build is None or not node.output:
        graph.node.append(node)
    else:
        build(_Place(node, graph))


class _Place:
    """A node of ONNX Runtime's domain, and the graph that its stand-ins go into."""

    def __init__(self, node: NodeProto, graph: GraphProto) -> None:
        self._node, self._graph = node, graph
        self._made = 0

    def input(self, position: int) -> str:
        """Return the name of an operand, empty where it is left out."""
        return str(self._node.input[position]) if position < len(self._node.input) else ""

    def output(self, position: int = 0) -> str:
        """Return the name of a result, empty where it is left out."""
        return str(self._node.output[position]) if position < len(self._node.output) else ""

    def integers(self, name: str) -> list[int]:
        """Return an attribute that is a list of integers, empty where it is left out."""
        found = (list(a.ints) for a in self._node.attribute if a.name == name)
        return next(found, [])

    def number(self, name: str) -> int:
        """Return an attribute that is an integer, 0 where it is left out."""
        found = (a.i for a in self._node.attribute if a.name == name and a.type == a.INT)
        return int(next(found, 0))

    def dims(self, name: str) -> list[int]:
        """Return the shape of a weight in the graph; empty for anything else."""
        found = (list(tensor.dims) for tensor in self._graph.initializer if tensor.name == name)
        return next(found, [])

    def shaped(self, *dims: int) -> str:
        """Return the name of a new tensor of that shape, which has no values."""
        tensor = self._graph.initializer.add()
        tensor.name, tensor.data_type = self._fresh(), _FLOAT
        tensor.dims.extend(dims)
        return str(tensor.name)

    def numbers(self, *values: int) -> str:
        """Return the name of a new list of integers."""
        tensor = self._graph.initializer.add()
        tensor.name, tensor.data_type = self._fresh(), tensor.INT64
        tensor.dims.append(len(values))
        tensor.int64_data.extend(values)
        return str(tensor.name)

    def copy(self, op: str, operands: int) -> NodeProto:
        """Add the node itself as an operator of ONNX; return it."""
        copy = self._graph.node.add()
        copy.CopyFrom(self._node)
        copy.op_type, copy.domain = op, ""
        del copy.input[operands:], copy.attribute[:]
        kept = (a for a in self._node.attribute if a.name not in _NOT_OF_ONNX)
        copy.attribute.extend(kept)
        return copy

    def add(self, op: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """Add an operator of ONNX; its result is the node's own, or a new one for ``""``."""
        from onnx import helper

        name = self.output() if result is None else result or self._fresh()
        self._graph.node.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def _fresh(self) -> str:
        self._made += 1
        return f"{self._node.output[0]}::{self._made}"


Build = Callable[[_Place], object]


def _like(operand: int, *results: int) -> Build:
    """Give the first result, and others, the shape of an operand."""

    def build(place: _Place) -> None:
        for result in (0, *results):
            if place.output(result):
                place.add("Identity", place.input(operand), result=place.output(result))

    return build


def _as(op: str, operands: int = 3) -> Build:
    """Take the operator of ONNX of that name, with the same operands and attributes."""
    return lambda place: place.copy(op, operands)


def _of(op: str, *operands: int) -> Build:
    """Take the operator of ONNX of that name with those operands, and no attributes."""
    return lambda place: place.add(op, *map(place.input, operands))


def _matmul(place: _Place) -> None:
    """Multiply; ``transBatchA`` brings the first dimension of `A` to where rows stand."""
    first = _term("ik", place.number("transA"), place.number("transBatchA"))
    second = _term("kj", place.number("transB"), place.number("transBatchB"))
    equation = f"{first},{second}->...ij"
    place.add("Einsum", place.input(0), place.input(1), equation=equation)


def _term(rows_and_columns: str, transposed: int, batch_is_inside: int) -> str:
    rows, columns = reversed(rows_and_columns) if transposed else iter(rows_and_columns)
    return f"{rows}...{columns}" if batch_is_inside else f"...{rows}{columns}"


def _matmul_nbits(place: _Place) -> None:
    weight = place.shaped(place.number("K"), place.number("N"))
    place.add("MatMul", place.input(0), weight)


def _float_matmul(place: _Place) -> None:
    product = place.add("MatMul", place.input(0), place.input(1), result="")
    place.add("Cast", product, to=_FLOAT)


def _lstm(place: _Place) -> None:
    """Transpose weights (directions, in, 4 H) into the form of ONNX's own operator."""
    turned = [place.add("Transpose", place.input(i), result="", perm=[0, 2, 1]) for i in (1, 2)]
    place.copy("LSTM", 8).input[1:3] = turned


def _qgemm(place: _Place) -> None:
    transposed = {name: place.number(name) for name in ("transA", "transB")}
    product = place.add("Gemm", place.input(0), place.input(3), result="", **transposed)
    if place.input(7):  # a scale for the result: it is quantised again
        place.add("Identity", product)
    else:
        place.add("Cast", product, to=_FLOAT)


def _embed_layer_norm(place: _Place) -> None:
    for result in filter(None, (place.output(0), place.output(2))):
        place.add("Gather", place.input(2), place.input(0), result=result)


def _projected(place: _Place, result: str | None = None) -> str:
    """Return the result of attention that projects an input (B, S, in) itself: (B, S, v)."""
    dims = place.dims(place.input(1))
    if len(dims) != 2:
        return place.add("Identity", place.input(0), result=result)
    sizes = place.integers("qkv_hidden_sizes")
    values = sizes[2] if len(sizes) == 3 else dims[1] // 3
    return place.add("MatMul", place.input(0), place.shaped(dims[0], values), result=result)


def _quantised_attention(place: _Place) -> None:
    place.add("Cast", _projected(place, ""), to=_FLOAT)


def _multi_head_attention(place: _Place) -> None:
    query, key, value = map(place.input, range(3))
    if value:  # (B, S, Hq * Dk) and (B, T, H * Dv) give (B, S, H * Dv)
        place.add("Einsum", query, value, equation="bsd,bte->bse")
    elif key:  # keys and values in one tensor
        place.add("Identity", query)


def _group_query_attention(place: _Place) -> None:
    query, key = place.input(0), place.input(1)
    heads, shared = place.number("num_heads"), place.number("kv_num_heads")
    if key or heads <= 0 or shared <= 0:
        place.add("Identity", query)
        return
    # Queries, keys and values stand side by side in the last dimension: keep the queries.
    split = place.add("Reshape", query, place.numbers(0, 0, heads + 2 * shared, -1), result="")
    bounds = (place.numbers(0), place.numbers(heads), place.numbers(2))
    queries = place.add("Slice", split, *bounds, result="")
    place.add("Reshape", queries, place.numbers(0, 0, -1))


_STAND_INS: Mapping[str, Build] = {
    "Attention": _projected,
    "DequantizeLinear": _as("DequantizeLinear"),
    "DynamicQuantizeLSTM": _lstm,
    "DynamicQuantizeMatMul": _of("MatMul", 0, 1),
    "EmbedLayerNormalization": _embed_layer_norm,
    "FusedConv": _as("Conv"),
    "FusedGemm": _as("Gemm"),
    "FusedMatMul": _matmul,
    "GroupQueryAttention": _group_query_attention,
    "MatMulIntegerToFloat": _float_matmul,
    "MatMulNBits": _matmul_nbits,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _quantised_attention,
    "QGemm": _qgemm,
    "QLinearAdd": _of("Add", 0, 3),
    "QLinearAveragePool": _as("AveragePool", 1),
    "QLinearGlobalAveragePool": _of("GlobalAveragePool", 0),
    "QLinearMul": _of("Mul", 0, 3),
    "QuantizeLinear": _as("QuantizeLinear"),
    "SkipGroupNorm": _like(0, 1),
    "SkipLayerNormalization": _like(0, 3),
    "SkipSimplifiedLayerNormalization": _like(0, 3),
    "TransposeMatMul": _matmul,
    **dict.fromkeys(
        (
            "BiasAdd",
            "BiasGelu",
            "FastGelu",
            "Gelu",
            "GroupNorm",
            "QLinearLeakyRelu",
            "QLinearSigmoid",
            "QuickGelu",
            "RotaryEmbedding",
            "SimplifiedLayerNormalization",
        ),
        _like(0),
    ),
}
