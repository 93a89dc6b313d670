"""Costs of ONNX ops: against numbers by hand, torch's own ops, forged shapes, and the schemas."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_models import I64, MS, graph_of, info, model, node, ops, scalar, values, weight
from torchatlas.annotations.formulas import FORMULAS, Cost, evaluate
from torchatlas.annotations.formulas.onnx_checked import onnx_formula
from torchatlas.expressions import symbol
from torchatlas.frontends.onnx_operators import operands_of, tags_of
from torchatlas.schema import TensorMeta, is_dim
from torchatlas.schema import TensorMeta as T
from torchatlas.sums import totals

OLD_ONNX = tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23)
ONNX = {op: formula for op, formula in FORMULAS.items() if op.startswith("onnx.")}


def schema_of(op: str):
    """Return the newest schema of ``onnx.domain.Name``, None where ONNX has none."""
    domain, _, name = op.removeprefix("onnx.").rpartition(".")
    return onnx.defs.get_schema(name, domain) if onnx.defs.has(name, domain) else None


@pytest.mark.parametrize("op", ONNX)
def test_formulas_take_operands_and_attributes_of_their_op(op):
    domain, _, name = op.removeprefix("onnx.").rpartition(".")
    schema = schema_of(op)
    known = {"out", "outs"} | {*operands_of(name, domain, 10_000)[0]}
    if schema is not None:
        known |= {*schema.attributes}
        for attribute, told in schema.attributes.items():
            parameter = inspect.signature(ONNX[op]).parameters.get(attribute)
            if parameter is None or told.default_value.type not in (1, 2, 3):
                continue
            default = helper.get_attribute_value(told.default_value)
            default = default.decode() if isinstance(default, bytes) else default
            assert parameter.default == pytest.approx(default), (op, attribute)
        # Scatter and Upsample are older names, which lack what is newer, as an older ONNX does.
        older = schema.deprecated or OLD_ONNX
        assert older or {*inspect.signature(ONNX[op]).parameters} <= known, op
    else:  # of ONNX Runtime, whose attributes no schema tells, or of a newer ONNX
        wanted = {
            parameter.name
            for parameter in inspect.signature(ONNX[op]).parameters.values()
            if parameter.annotation == "TensorMeta"
        }
        assert wanted <= known or not known - {"out", "outs"}, op


def test_every_operator_of_onnx_has_a_rule_or_is_known_to_have_none():
    without = set()
    for schema in onnx.defs.get_all_schemas():
        name = f"{schema.domain}.{schema.name}".lstrip(".")
        if f"onnx.{name}" not in FORMULAS and not tags_of(name):
            without.add(name)
    assert without <= {
        "If", "Loop", "Scan", "SequenceMap",  # cost what their bodies do
        "ImageDecoder", "TfIdfVectorizer",
        "ai.onnx.preview.FlexAttention",
        "ai.onnx.ml.LinearClassifier", "ai.onnx.ml.SVMClassifier", "ai.onnx.ml.SVMRegressor",
        "ai.onnx.ml.TreeEnsemble", "ai.onnx.ml.TreeEnsembleClassifier",
        "ai.onnx.ml.TreeEnsembleRegressor",
        *(f"ai.onnx.preview.training.{n}" for n in ("Adagrad", "Adam", "Gradient", "Momentum")),
    }  # fmt: skip


def test_no_operator_has_a_formula_and_a_class():
    assert not [op for op in ONNX if tags_of(op.removeprefix("onnx."))]


# -- against torch's rules ---------------------------------------------------------------------

X, W, C = T((2, 4, 9, 9)), T((8, 4, 3, 3)), T((8,))
SAME = [
    ("Conv", {"W": W, "B": C}, "aten.conv2d", {"weight": W, "bias": C}, T((2, 8, 7, 7))),
    (
        "ConvTranspose",
        {"X": T((2, 8, 9, 9)), "W": W},
        "aten.conv_transpose2d",
        {"input": T((2, 8, 9, 9)), "weight": W},
        T((2, 4, 11, 11)),
    ),
    ("MatMul", {"A": T((5, 3, 4))}, "aten.matmul", {"self": T((5, 3, 4))}, T((5, 3, 7))),
    (
        "Gemm",
        {"A": T((3, 4)), "C": C, "transB": 1},
        "aten.linear",
        {"weight": T((8, 4)), "bias": C},
        T((3, 8)),
    ),
    (
        "Attention",
        dict.fromkeys("QKV", T((2, 4, 7, 8))) | {"is_causal": 1},
        "aten.scaled_dot_product_attention",
        dict.fromkeys(("query", "key", "value"), T((2, 4, 7, 8))) | {"is_causal": True},
        T((2, 4, 7, 8)),
    ),
    (
        "LSTM",
        {"X": T((5, 3, 8)), "W": T((1, 64, 8)), "R": T((1, 64, 16)), "B": T((1, 128))},
        "aten.lstm",
        {
            "input": T((5, 3, 8)),
            "hx": (T((1, 3, 16)), T((1, 3, 16))),
            "params": (T((64, 8)), T((64, 16)), T((64,)), T((64,))),
        },
        T((5, 1, 3, 16)),
    ),
    ("Softmax", {"input": T((4, 9))}, "aten.softmax", {"self": T((4, 9))}, T((4, 9))),
    (
        "LayerNormalization",
        {"X": T((4, 9)), "Scale": T((9,)), "B": T((9,))},
        "aten.layer_norm",
        {"input": T((4, 9)), "weight": T((9,)), "bias": T((9,))},
        T((4, 9)),
    ),
    (
        "MaxPool",
        {"kernel_shape": (3, 3)},
        "aten.max_pool2d",
        {"kernel_size": 3},
        T((1, 8, 5, 5)),
    ),
    (
        "Resize",
        {"X": T((1, 3, 4, 4)), "mode": "linear"},
        "aten.upsample_bilinear2d",
        {},
        T((1, 3, 8, 8)),
    ),
    (
        "Einsum",
        {"equation": "bij,bjk->bik", "Inputs": (T((2, 3, 4)), T((2, 4, 5)))},
        "aten.einsum",
        {"equation": "bij,bjk->bik", "tensors": (T((2, 3, 4)), T((2, 4, 5)))},
        T((2, 3, 5)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args", "like", "given", "out"), SAME, ids=[r[0] for r in SAME])
def test_ops_cost_what_torchs_do(op, args, like, given, out):
    found = evaluate(FORMULAS[f"onnx.{op}"], args, (out,))
    assert found is not None and found == evaluate(FORMULAS[like], given, (out,))


# -- models by hand ----------------------------------------------------------------------------


def test_a_convolutional_network():
    made = model(
        [
            node("Conv", "x k b", "c", strides=[2, 2], pads=[1, 1, 1, 1]),  # 1 x 8 x 16 x 16
            node("Relu", "c", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),  # 1 x 8 x 8 x 8
            node("GlobalAveragePool", "p", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "f w v", "y", transB=1),
            node("Softmax", "y", "s"),
        ],
        {"x": [1, 3, 32, 32]},
        "s",
        [weight("k", 8, 3, 3, 3), weight("b", 8), weight("w", 10, 8), weight("v", 10)],
    )
    graph = graph_of(made)
    macs = {name: data["macs"] for name, data in ops(graph).items() if data["macs"]}
    assert macs == {"Conv": 2048 * 27, "Gemm": 80}
    other = {name: data["flops_other"] for name, data in ops(graph).items()}
    assert other == {
        "Conv": 2048, "Relu": 2048, "MaxPool": 512 * 4, "GlobalAveragePool": 512, "Flatten": 0,
        "Gemm": 10, "Softmax": 50,
    }  # fmt: skip
    sums = totals(graph)
    assert sums.params == 216 + 8 + 80 + 10
    conv = graph.nodes["Conv"]
    assert conv["bytes_read"] == 4 * (3 * 32 * 32 + 216 + 8) and conv["bytes_written"] == 4 * 2048
    # input and weights, with the convolution's result before and after its activation
    assert sums.peak_bytes == 4 * (3072 + 314 + 2048 + 2048)


def test_a_block_of_a_transformer():
    made = model(
        [
            node("LayerNormalization", "x s t", "n"),
            node("Attention", "q k v _ pk pv", "a present_k present_v",
                 q_num_heads=4, kv_num_heads=2, is_causal=1),
            node("MatMul", "a w", "o"),
            node("Add", "o x", "r"),
            node("Gelu", "r", "g"),
        ],
        {
            "x": [1, 3, 32], "q": [1, 3, 32], "k": [1, 3, 16], "v": [1, 3, 16],
            "pk": [1, 2, 5, 8], "pv": [1, 2, 5, 8],
        },
        "n g",
        [weight("s", 32), weight("t", 32), weight("w", 32, 32)],
        opset=23,
    )  # fmt: skip
    found = ops(graph_of(made))
    attention = found["Attention"]
    scores = 4 * 3 * 8  # heads, queries, past and present keys
    assert attention["macs"] == scores * (8 + 8)
    assert attention["flops_other"] == scores * 7  # scale, mask, softmax 5
    hidden = 4 * (2 + 1 + 0)  # the first of three queries sees 6 of 8 keys
    assert attention["flops_effective"] == 2 * (scores - hidden) * 16
    assert found["MatMul"]["macs"] == 3 * 32 * 32
    assert found["LayerNormalization"]["flops_other"] == 96 * 7


def test_quantised_layers_count_as_integers():
    made = model(
        [
            node("DynamicQuantizeLinear", "x", "q scale zero"),
            node("MatMulInteger", "q w zero", "i"),
            node("Cast", "i", "f", to=1),
            node("Mul", "f scale", "y"),
        ],
        {"x": [4, 16]},
        "y",
        [weight("w", 16, 8, dtype=np.int8)],
    )
    found = totals(graph_of(made))
    assert (found.int_ops, found.flops) == (2 * 4 * 8 * 16, 0)
    assert found.flops_other == 2 * 64 + 32
    assert found.params == 128 and found.param_bytes == 128


def test_recurrent_layers():
    made = model(
        [node("GRU", "x w r b", "y h", hidden_size=16, direction="bidirectional")],
        {"x": [5, 3, 8]},
        "y h",
        [weight("w", 2, 48, 8), weight("r", 2, 48, 16), weight("b", 2, 96)],
    )
    gru = graph_of(made).nodes["GRU"]
    assert gru["macs"] == 2 * 5 * 3 * 48 * (8 + 16)
    assert gru["outputs"][0].shape == (5, 2, 3, 16)


def test_a_fused_block_costs_what_it_was_fused_from():
    plain = model(
        [
            node("MatMul", "x w", "h"), node("Add", "h b", "p"), node("Split", "p thirds", "q k v",
            axis=2),
            *(node("Reshape", f"{n} heads", f"{n}4") for n in "qkv"),
            *(node("Transpose", f"{n}4", f"{n}t", perm=[0, 2, 1, 3]) for n in "qv"),
            node("Transpose", "k4", "kt", perm=[0, 2, 3, 1]),
            node("MatMul", "qt kt", "s"), node("Div", "s eight", "d"), node("Softmax", "d", "a"),
            node("MatMul", "a vt", "y"),
        ],
        {"x": [2, 5, 32]},
        "y",
        [
            weight("w", 32, 96), weight("b", 96), values("thirds", 32, 32, 32),
            values("heads", 0, 0, 4, 8), weight("eight"),
        ],
    )  # fmt: skip
    fused = model(
        [node("Attention", "x w b", "y", domain=MS, num_heads=4)],
        {"x": [2, 5, 32]},
        "y",
        [weight("w", 32, 96), weight("b", 96)],
    )
    one, other = totals(graph_of(plain)), totals(graph_of(fused))
    assert one.macs == other.macs and one.flops_other == other.flops_other


def test_limits_that_are_numbers_count():
    made = model([node("Max", "x zero", "y")], {"x": [3, 4]}, "y", [weight("zero")])
    found = graph_of(made).nodes["Max"]
    assert found["args"]["data_0"][1] == 1.0 and found["flops_other"] == 12


def test_dropout_counts_in_training_only():
    for mode, cost in ((False, 0), (True, 12)):
        weights = [weight("r"), weight("t", dtype=np.bool_)] if mode else []
        operands = "x r t" if mode else "x"
        graph = graph_of(model([node("Dropout", operands, "y")], {"x": [3, 4]}, "y", weights))
        assert totals(graph).flops_other == cost


def test_scatters_count_what_they_combine():
    for reduction, cost in (("none", 0), ("add", 6)):
        made = model(
            [node("ScatterElements", "x i u", "y", axis=0, reduction=reduction)],
            [info("x", [4, 3]), info("i", [2, 3], I64), info("u", [2, 3])],
            "y",
        )
        assert totals(graph_of(made)).flops_other == cost


def test_topk_reads_its_number():
    made = model([node("TopK", "x k", "v i")], {"x": [3, 40]}, "v i", [values("k", 5)])
    found = graph_of(made).nodes["TopK"]
    assert found["flops_other"] == 120 and found["outputs"][0].shape == (3, 5)
    assert found["args"]["K"] == (5,)


def test_ranges_and_casts_are_free():
    made = model(
        [node("Range", "a b c", "r"), node("Cast", "r", "f", to=1)],
        {},
        "f",
        [scalar("a", 0), scalar("b", 10), scalar("c", 2)],
    )
    graph = graph_of(made)
    assert totals(graph).flops_other == 0 and totals(graph).coverage == 1
    assert graph.nodes["Range"]["outputs"][0].shape == (5,)


# -- what does not fit -------------------------------------------------------------------------


def test_symbolic_sizes_give_symbolic_costs():
    batch = symbol("batch")
    found = evaluate(FORMULAS["onnx.Conv"], {"W": W}, (T((batch, 8, 7, 7)),))
    assert found is not None and found.macs == batch * 8 * 49 * 36


def test_operands_of_unknown_rank_make_costs_unknown():
    nowhere = T((symbol("elements0"),))
    assert evaluate(FORMULAS["onnx.MatMul"], {"A": nowhere}, (T((3, 4)),)) is None
    assert evaluate(FORMULAS["onnx.Concat"], {}, (nowhere,)) is not None


def test_arguments_of_another_type_make_costs_unknown():
    # A text times a size would be a text that fills the memory.
    forged = {"query": T((10**12, 10**12)), "num_heads": "none"}
    assert evaluate(FORMULAS[f"onnx.{MS}.MultiHeadAttention"], forged, (T(()),)) is None


def test_a_formula_that_gives_nonsense_gives_nothing():
    for i, found in enumerate((-1, 0.5, None)):
        name = f"test_only_{i}"

        def nonsense(out: TensorMeta, found: object = found) -> Cost:
            return Cost(found)

        onnx_formula(name)(nonsense)
        try:
            assert evaluate(FORMULAS[f"onnx.{name}"], {}, (T((2,)),)) is None
        finally:
            del FORMULAS[f"onnx.{name}"]


SIZES = st.one_of(st.integers(0, 5), st.just(10**12), st.just(symbol("n")))
TENSORS = st.lists(SIZES, max_size=5).map(lambda dims: T(tuple(dims)))
ARGUMENTS = st.one_of(
    TENSORS,
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-2, 9),
    st.floats(),
    st.sampled_from(["", "none", "ij,jk->ik", "cubic", "add", "<graph x>"]),
    st.lists(st.integers(-3, 9), max_size=4).map(tuple),
    st.lists(TENSORS, max_size=3).map(tuple),
)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("op", ONNX)
def test_forged_arguments_give_a_count_or_nothing(op, data):
    parameters = [p for p in inspect.signature(ONNX[op]).parameters if p not in ("out", "outs")]
    args = {name: data.draw(ARGUMENTS) for name in parameters}
    outputs = tuple(data.draw(st.lists(TENSORS, min_size=1, max_size=2)))
    cost = evaluate(ONNX[op], args, outputs)
    if cost is not None:
        assert all(map(is_dim, (cost.macs, cost.other, cost.skipped, cost.comm_bytes)))
