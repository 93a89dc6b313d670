"""Shapes in ONNX files: beside ONNX's own node tests, ONNX Runtime's operators, and symbols."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_models import I64, MS, F, graph_of, info, model, node, ops, scalar, shapes, values, weight
from torchatlas.errors import UsageError
from torchatlas.expressions import parse
from torchatlas.graph import inputs_of, op_nodes
from torchatlas.sums import totals

# -- ONNX's own cases --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases():
    """One of eleven of ONNX's node tests, in the order of their names."""
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):
        found = sorted(collect_testcases(None), key=lambda case: case.name)
    return found[::11]


def real_shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of what a node test expects; None for a sequence or an optional value."""
    if isinstance(value, onnx.TensorProto):
        return tuple(value.dims)
    return None if isinstance(value, list | tuple) or value is None else np.shape(value)


def returned(graph):
    """Return what the outputs of a graph are, in order."""
    found = []
    for id, data in graph.nodes(data=True):
        if data["kind"] == "output":
            ((source, output),) = inputs_of(graph, id).values()
            found.append(graph.nodes[source]["outputs"][output])
    return found


def fits(meta, shape) -> bool:
    if str(meta.shape[:1]).startswith("(elements"):
        return True
    known = zip(meta.shape, shape, strict=False)
    return len(meta.shape) == len(shape) and all(n == m for n, m in known if isinstance(n, int))


@pytest.mark.parametrize("told", [True, False], ids=["as it is", "without declared results"])
def test_node_tests_have_the_shapes_that_they_compute(cases, told):
    assert len(cases) > 150
    exact = 0
    for case in cases:
        copy = onnx.ModelProto()
        copy.CopyFrom(case.model)
        for result in () if told else copy.graph.output:
            if result.type.HasField("tensor_type"):
                result.type.tensor_type.ClearField("shape")
        graph = graph_of(copy)
        for meta, value in zip(returned(graph), case.data_sets[0][1], strict=True):
            shape = real_shape(value)
            assert (meta is None) == (shape is None), case.name
            if meta is not None:
                assert fits(meta, shape), (case.name, meta, shape)
                exact += all(isinstance(n, int) for n in meta.shape)
    # What remains depends on values: Compress, NonZero, Range, StringSplit, Unique …
    assert exact >= (0.98 if told else 0.8) * len(cases)


def test_node_tests_are_counted(cases):
    known = unknown = 0
    for case in cases:
        found = totals(graph_of(case.model))
        known, unknown = known + found.ops, unknown + sum(found.unknown.values())
    assert unknown < 0.02 * known


# -- ONNX Runtime's operators ------------------------------------------------------------------

RANDOM = np.random.default_rng(0)


def tensor(*shape: int, dtype: str = "float32") -> np.ndarray:
    if dtype == "float32":
        return RANDOM.standard_normal(shape).astype(dtype)
    return RANDOM.integers(0, 5, shape).astype(dtype)


def case(op: str, inputs: list[Any], outputs: int = 1, **attributes: Any) -> tuple[Any, ...]:
    return op, inputs, outputs, attributes


U8, ONE, ZERO = "uint8", np.float32(1), np.uint8(0)
HIDDEN = tensor(2, 5, 32)
CONTRIB = {
    "matmul": case("FusedMatMul", [tensor(2, 3, 5, 4), tensor(2, 3, 4, 7)]),
    "matmul, A": case("FusedMatMul", [tensor(4, 5), tensor(4, 7)], transA=1),
    "matmul, B": case("FusedMatMul", [tensor(3, 5, 4), tensor(3, 7, 4)], transB=1),
    "matmul, batch": case(
        "FusedMatMul", [tensor(7, 8, 4), tensor(7, 8, 4)], transBatchA=1, transBatchB=1, transB=1
    ),
    "bias and gelu": case("BiasGelu", [tensor(2, 8), tensor(8)]),
    "fast gelu": case("FastGelu", [tensor(2, 8), tensor(8)]),
    "residual and norm": case(
        "SkipLayerNormalization", [HIDDEN, HIDDEN, tensor(32), tensor(32)], 4, epsilon=1e-5
    ),
    "residual and rms norm": case(
        "SkipSimplifiedLayerNormalization", [HIDDEN, HIDDEN, tensor(32)], 4, epsilon=1e-5
    ),
    "attention": case("Attention", [HIDDEN, tensor(32, 96), tensor(96)], num_heads=4),
    "attention, other values": case(
        "Attention",
        [HIDDEN, tensor(32, 80), tensor(80)],
        num_heads=4,
        qkv_hidden_sizes=[32, 32, 16],
    ),
    "many heads": case(
        "MultiHeadAttention", [HIDDEN, tensor(2, 7, 32), tensor(2, 7, 16)], num_heads=4
    ),
    "shared heads": case(
        "GroupQueryAttention",
        [
            tensor(1, 4, 8 * 16 + 2 * 2 * 16),
            None,
            None,
            None,
            None,
            np.array([3], "int32"),
            np.array(4, "int32"),
        ],
        num_heads=8,
        kv_num_heads=2,
    ),
    "quantised attention": case(
        "QAttention",
        [tensor(2, 5, 32, dtype=U8), tensor(32, 96, dtype=U8), tensor(96), ONE, ONE],
        num_heads=4,
    ),
    "quantised matmul": case(
        "DynamicQuantizeMatMul", [tensor(4, 6), tensor(6, 3, dtype=U8), ONE, ZERO]
    ),
    "quantised lstm": case(
        "DynamicQuantizeLSTM",
        [
            tensor(5, 3, 8),
            tensor(1, 8, 64, dtype="int8"),
            tensor(1, 16, 64, dtype="int8"),
            tensor(1, 128),
            *[None] * 4,
            tensor(1),
            np.zeros(1, "int8"),
            tensor(1),
            np.zeros(1, "int8"),
        ],
        hidden_size=16,
    ),
    "integers to float": case(
        "MatMulIntegerToFloat", [tensor(4, 6, dtype=U8), tensor(6, 3, dtype=U8), ONE, ONE]
    ),
    "4 bits": case(
        "MatMulNBits",
        [tensor(2, 3, 32), tensor(5, 1, 16, dtype=U8), tensor(5)],
        K=32,
        N=5,
        bits=4,
        block_size=32,
    ),
    "quantised gemm": case(
        "QGemm",
        [tensor(4, 6, dtype=U8), ONE, ZERO, tensor(3, 6, dtype=U8), ONE, ZERO],
        transB=1,
    ),
    "fused convolution": case(
        "FusedConv",
        [tensor(1, 3, 9, 9), tensor(8, 3, 3, 3), tensor(8)],
        activation="Relu",
        strides=[2, 2],
    ),
    "quantised sum": case(
        "QLinearAdd",
        [tensor(3, 4, dtype=U8), ONE, ZERO, tensor(4, dtype=U8), ONE, ZERO, ONE, ZERO],
    ),
    "quantised pool": case(
        "QLinearGlobalAveragePool", [tensor(1, 3, 4, 4, dtype=U8), ONE, ZERO, ONE, ZERO]
    ),
    "embedding": case(
        "EmbedLayerNormalization",
        [
            tensor(2, 5, dtype="int32"),
            None,
            tensor(9, 8),
            tensor(9, 8),
            None,
            tensor(8),
            tensor(8),
        ],
        2,
    ),
    "rotary": case(
        "RotaryEmbedding",
        [tensor(1, 5, 32), np.array([0]), tensor(9, 4), tensor(9, 4)],
        num_heads=4,
    ),
}


@pytest.mark.parametrize("name", CONTRIB)
def test_operators_of_onnx_runtime_have_the_shapes_that_it_computes(name):
    op, operands, count, attributes = CONTRIB[name]
    names = [f"i{i}" if operand is not None else "_" for i, operand in enumerate(operands)]
    results = [f"o{i}" for i in range(count)]
    weights = [
        numpy_helper.from_array(np.asarray(operand), names[i])
        for i, operand in enumerate(operands)
        if i > 0 and operand is not None
    ]
    first = operands[0]
    dtype = helper.np_dtype_to_tensor_dtype(first.dtype)
    made = model(
        [node(op, " ".join(names), " ".join(results), domain=MS, **attributes)],
        [info("i0", first.shape, dtype)],
        results[0] if count == 1 else f"{results[0]} {results[-1]}",
        weights,
        opset=17,
    )
    (found,) = ops(graph_of(made)).values()
    session = onnxruntime.InferenceSession(_typed(made), providers=["CPUExecutionProvider"])
    real = session.run(None, {"i0": first})
    told = [found["outputs"][0], found["outputs"][-1]] if count == 4 else [found["outputs"][0]]
    for meta, array in zip(told, real, strict=False):
        assert meta.shape == array.shape and meta.dtype == str(array.dtype)
    assert found["macs"] is not None and found["cost_source"] in ("formula", "class:pointwise")


def _typed(made: onnx.ModelProto) -> bytes:
    """Give results the type that ONNX Runtime insists on."""
    op = made.graph.node[0].op_type
    kind = TensorProto.UINT8 if op.startswith("QLinear") else F
    for i, result in enumerate(made.graph.output):
        is_mask = op == "EmbedLayerNormalization" and i == 1
        result.type.tensor_type.elem_type = TensorProto.INT32 if is_mask else kind
    return made.SerializeToString()


# -- symbols -----------------------------------------------------------------------------------


def symbolic(nodes, inputs, outputs, weights=(), **options: Any) -> dict[str, list[Any]]:
    graph = graph_of(model(nodes, inputs, outputs, weights, opset=18), **options)
    return {id: shapes(graph)[id] for id, _ in op_nodes(graph)}


def test_named_sizes_go_through():
    found = symbolic(
        [node("MatMul", "x w", "y")], {"x": ["batch", "past + seq", 4]}, "y", [weight("w", 4, 5)]
    )
    assert found == {"MatMul": ["batch", "past_seq", 5]}
    found = symbolic(
        [node("MatMul", "x w", "y")], {"x": ["past", "past + 1", 4]}, "y", [weight("w", 4, 5)]
    )
    assert found == {"MatMul": ["past", "past + 1", 5]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch", "batch"),
        ("batch-size", "batch_size"),
        ("batch size", "batch_size"),
        ("?", "size"),
        ("lambda", "size_lambda"),
        ("unk7", "size_unk7"),
        ("3", 3),
        ("__import__('os')", "import___os"),
        ("9**9**9", "size_9_9_9"),
    ],
)
def test_names_of_sizes_become_symbols(name, expected):
    assert symbolic([node("Relu", "x", "y")], {"x": [name, 2]}, "y") == {"Relu": [expected, 2]}


def test_names_that_come_to_the_same_stay_apart():
    found = symbolic([node("Add", "x y", "z")], {"x": ["a b"], "y": ["a-b"]}, "z")
    graph = graph_of(model([node("Concat", "x y", "z", axis=0)], {"x": ["a b"], "y": ["a-b"]}, "z"))
    assert {str(s) for s in graph.nodes["Concat"]["outputs"][0].shape[0].free_symbols} == {
        "a_b",
        "a_b_1",
    }
    assert found["Add"] not in (["a_b"], ["a_b_1"])


SPATIAL = {"x": ["n", 3, "h", "w"]}


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("Conv", {"strides": [2, 2], "pads": [1] * 4}, "floor(h/2 - 1/2) + 1"),
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "ceiling(h/2)"),
        ("Conv", {"dilations": [2, 2]}, "h - 4"),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, "floor(h/2)"),
        ("ConvTranspose", {"strides": [2, 2]}, "2*h + 1"),
    ],
)
def test_windows_over_symbols(op, attributes, expected):
    weights = [weight("k", 3, 3, 3, 3)]
    inputs = "x" if op == "MaxPool" else "x k"
    graph = graph_of(model([node(op, inputs, "y", **attributes)], SPATIAL, "y", weights, opset=18))
    (found,) = (shapes(graph)[id] for id, _ in op_nodes(graph))
    assert found[2] == expected
    for height in (7, 8, 31):
        fixed = graph_of(
            model(
                [node(op, inputs, "y", **attributes)],
                {"x": [1, 3, height, height]},
                "y",
                weights,
                opset=18,
            )
        )
        assert shapes(fixed)[op][2] == parse(expected.replace("h", str(height)))


def test_shapes_computed_from_shapes():
    """The way in which exporters split heads: batch and length are read off the input."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Gather", "shape one", "length", axis=0),
        node("Unsqueeze", "batch axis", "b1"),
        node("Unsqueeze", "length axis", "l1"),
        node("Concat", "b1 l1 heads", "target", axis=0),
        node("Reshape", "x target", "split"),
        node("Transpose", "split", "q", perm=[0, 2, 1, 3]),
        node("MatMul", "q k", "scores"),
        node("Mul", "length minus", "negative"),
        node("Div", "length two", "half"),
        node("Unsqueeze", "half axis", "h1"),
        node("Slice", "x zeros h1 ones", "first"),
    ]
    weights = [
        *(scalar(n, i) for n, i in (("zero", 0), ("one", 1), ("two", 2), ("minus", -1))),
        values("axis", 0),
        values("zeros", 0),
        values("ones", 1),
        values("heads", 4, 8),
        weight("k", 4, 8, 6),
    ]
    found = symbolic(nodes, {"x": ["batch", "seq", 32]}, "scores first", weights)
    assert found["Reshape"] == ["batch", "seq", 4, 8]
    assert found["MatMul"] == ["batch", 4, "seq", 6]
    assert found["Slice"] == ["batch", "floor(seq/2)", 32]


def test_pads_computed_as_torchscript_does():
    """Its pads come last dimension first: turned round by rows of a matrix, read backwards."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape two", "height", axis=0),
        node("Mod", "height seven", "over"),
        node("Sub", "seven over", "lack"),
        node("Unsqueeze", "lack axis", "bottom"),
        node("Concat", "zeros bottom four", "flat", axis=0),
        node("Reshape", "flat rows", "matrix"),
        node("Slice", "matrix last first axis back", "reversed"),
        node("Transpose", "reversed", "turned", perm=[1, 0]),
        node("Reshape", "turned all", "pads"),
        node("Pad", "x pads", "y", mode="constant"),
        node("Slice", "y axis lots two_ two_", "z"),
    ]
    weights = [
        scalar("two", 2), scalar("seven", 7),
        values("axis", 0), values("zeros", 0, 0, 0), values("four", 0, 0, 0, 0),
        values("rows", -1, 2), values("last", -1), values("first", -(2**63) + 1),
        values("back", -1), values("all", -1), values("lots", 2**63 - 1), values("two_", 2),
    ]  # fmt: skip
    found = symbolic(nodes, {"x": [1, 3, 11, 14]}, "z", weights)
    assert found["Pad"] == [1, 3, 14, 14] and found["Slice_1"] == [1, 3, 7, 14]
    found = symbolic(nodes, {"x": [1, 3, "height", 14]}, "z", weights)
    assert parse(found["Pad"][2].replace("height", "11")) == 14


def test_reshapes_copy_and_fill_in():
    nodes = [node("Reshape", "x a", "p"), node("Reshape", "x b", "q"), node("Flatten", "x", "r")]
    weights = [values("a", 0, -1, 8), values("b", -1)]
    found = symbolic(nodes, {"x": ["n", 6, 4]}, "p q r", weights)
    assert [*found.values()] == [["n", 3, 8], ["24*n"], ["n", 24]]


def test_broadcast_sizes_are_the_larger():
    nodes = [
        node("Slice", "table zero length", "rows"),
        node("Add", "x rows", "y"),
        node("Add", "y one", "z"),
    ]
    made = [
        node("Shape", "x", "shape"),
        node("Slice", "shape b e", "length"),
        *nodes,
    ]
    weights = [
        weight("table", 512, 8),
        weight("one", 1, 8),
        values("zero", 0),
        values("b", 1),
        values("e", 2),
    ]
    found = symbolic(made, {"x": ["batch", "seq", 8]}, "z", weights)
    assert found["Slice_1"] == ["Min(512, seq)", 8]
    assert found["Add"] == found["Add_1"] == ["batch", "seq", 8]


def test_what_depends_on_values_is_a_symbol_of_its_own():
    nodes = [node("NonZero", "x", "i"), node("Transpose", "i", "t"), node("GatherND", "x t", "y")]
    graph = graph_of(model(nodes, {"x": [4, 4]}, "y"))
    (name,) = graph.graph["symbols"]
    assert shapes(graph)["GatherND"] == [name]


def test_sizes_given_to_the_reader():
    made = model(
        [node("Resize", "x _ _ s", "y"), node("Relu", "y", "z")],
        [info("x", ["n", 3, "h", "h"]), info("s", [4], I64)],
        "z",
    )
    graph = graph_of(made, sizes={"n": 2, "h": 8})
    assert graph.nodes["x"]["outputs"][0].shape == (2, 3, 8, 8)
    assert len(graph.nodes["Relu"]["outputs"][0].shape) == 4


def test_unknown_sizes_of_different_tensors_stay_apart():
    """A shape that is solved for sends inference round again, which names unknown sizes anew."""
    nodes = [
        node("NonZero", "x", "i"),  # 2 x unknown
        node("NonZero", "y", "j"),
        node("Shape", "i", "s"),
        node("Mod", "s big", "t"),  # inference does not follow this, and loses the rank
        node("Concat", "t one", "u", axis=0),
        node("Reshape", "i u", "r"),
        node("Relu", "j", "k"),
    ]
    weights = [values("big", 1000, 10**6), values("one", 1)]
    made = model(nodes, [info("x", [4, 4], I64), info("y", [4, 4], I64)], "r k", weights)
    found = shapes(graph_of(made))
    assert found["NonZero"] != found["NonZero_1"] == found["Relu"]
    assert len(found["Reshape"]) == 3 and found["Reshape"][2] == 1


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"nobody": 3}, "the model has no size called 'nobody'\n  hint: it has batch_size, n"),
        ({"n": 0}, "'n' cannot be 0"),
        ({"n": "3"}, "'n' cannot be '3'"),
    ],
)
def test_sizes_that_the_model_does_not_have_are_refused(sizes, says):
    made = model([node("Relu", "x", "y")], {"x": ["n", "2*n", "batch size"]}, "y")
    with pytest.raises(UsageError, match=re.escape(says)):
        graph_of(made, sizes=sizes)


def test_sizes_are_called_as_in_the_file_or_as_in_the_graph():
    made = model([node("Relu", "x", "y")], {"x": ["n", "2*n", "batch size"]}, "y")
    for name in ("batch size", "batch_size"):
        graph = graph_of(made, sizes={"n": 3, name: 5})
        assert graph.nodes["Relu"]["outputs"][0].shape == (3, 6, 5)


def test_solving_is_bounded():
    """Sizes that double at every step would grow without end as expressions."""
    nodes = [node("Concat", f"x{i} x{i}", f"x{i + 1}", axis=0) for i in range(200)]
    graph = graph_of(model(nodes, {"x0": ["n", 4]}, "x200"))
    assert str(graph.nodes["Concat_199"]["outputs"][0].shape[0]).count("*") <= 1
