"""The table of formulas, the classes, and what becomes of an op that neither knows."""

from __future__ import annotations

import doctest
import inspect
import itertools

import pytest
import sympy
import torch

from models import OLD_TORCH
from torchatlas.annotations import annotate
from torchatlas.annotations.formulas import FORMULAS, Cost, classes, evaluate, flop_formula
from torchatlas.annotations.formulas.classes import named_class
from torchatlas.expressions import parse
from torchatlas.graph import build
from torchatlas.records import OpRecord
from torchatlas.schema import TensorMeta
from torchatlas.schema import TensorMeta as T
from torchatlas.sums import totals


@pytest.mark.parametrize(
    "formula", dict.fromkeys(FORMULAS.values()), ids=lambda formula: formula.__name__
)
def test_every_formula_has_an_example(formula):
    (found,) = doctest.DocTestFinder(recurse=False).find(formula, formula.__name__)
    wanted = [example.want for example in found.examples]
    assert any(want.startswith(("Cost(", "(Cost(")) for want in wanted)


def test_every_formula_names_arguments_of_its_ops():
    for op, formula in FORMULAS.items():
        namespace, _, name = op.partition(".")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if namespace != "aten" or packet is None:
            continue
        overloads = [getattr(packet, overload)._schema for overload in packet.overloads()]
        known = {argument.name for schema in overloads for argument in schema.arguments}
        wanted = inspect.signature(formula).parameters.values()
        for parameter in wanted:
            optional = parameter.default is not parameter.empty
            assert optional or parameter.name in known | {"out", "outs"}, op
        assert known & {parameter.name for parameter in wanted} or "out" in {
            parameter.name for parameter in wanted
        }, op


def test_defaults_are_those_of_the_schema():
    for op, formula in FORMULAS.items():
        namespace, _, name = op.partition(".")
        packet = getattr(getattr(torch.ops, namespace), name, None)
        if namespace != "aten" or packet is None:
            continue
        for overload in packet.overloads():
            for argument in getattr(packet, overload)._schema.arguments:
                parameter = inspect.signature(formula).parameters.get(argument.name)
                if parameter is None or not argument.has_default_value():
                    continue
                if isinstance(argument.default_value, bool | int | float | str):
                    assert parameter.default == argument.default_value, (op, argument.name)


def test_duplicates_raise():
    with pytest.raises(ValueError, match=r"aten\.conv2d has a formula already: conv"):
        flop_formula("aten.test_only", "aten.conv2d")(lambda out: Cost())
    assert "aten.test_only" not in FORMULAS


def test_classes_are_disjoint():
    lists = [classes.POINTWISE, classes.REDUCTIONS, classes.MOVEMENT, classes.CREATION]
    for one, other in itertools.combinations(lists, 2):
        assert not one & other
    with_formula = {op.removeprefix("aten.") for op in FORMULAS}
    assert not with_formula & frozenset().union(*lists)


@pytest.mark.skipif(OLD_TORCH, reason="lacks ops that newer ones have")
def test_classes_name_ops_that_torch_has():
    for name in classes.POINTWISE | classes.REDUCTIONS | classes.MOVEMENT | classes.CREATION:
        assert hasattr(torch.ops.aten, name), name


def test_in_place_and_copying_ops_are_of_the_class_of_their_base():
    assert named_class("aten.hardswish_") == "pointwise"
    assert named_class("aten.fill_") == "creation"
    assert named_class("aten.copy_") == "movement"
    assert named_class("aten.expand_copy") == "movement"


def test_missing_argument_gives_none():
    assert evaluate(FORMULAS["aten.linear"], {}, (T((2, 3)),)) is None
    assert evaluate(FORMULAS["aten.linear"], {"weight": None}, (T((2, 3)),)) is None
    assert evaluate(FORMULAS["aten.gru"], {"hx": T((1, 3, 4)), "params": ()}, ()) is None


def one_op(op: str, *operands: TensorMeta, outputs: tuple[TensorMeta, ...], **literals):
    """Build a graph of one op that reads inputs called a, b, c."""
    from torchatlas.records import Value

    keys = "abc"[: len(operands)]
    records = [
        OpRecord(key=key, kind="input", target=key, outputs=(meta,))
        for key, meta in zip(keys, operands, strict=True)
    ]
    args = {key: Value(key) for key in keys} | literals
    records.append(OpRecord(key="op", kind="op", op=op, args=args, outputs=outputs))
    graph, ids = build(records, name="one op")
    return annotate(graph), graph.nodes[ids["op"]]


@pytest.mark.parametrize("op", ["aten.mystery", "mylib.linear", "higher_order.cond", "aten."])
def test_unknown_op_stays_unknown(op):
    graph, node = one_op(op, T((2, 3)), outputs=(T((2, 3)),))
    assert node["macs"] is node["flops"] is node["flops_other"] is None
    assert node["cost_source"] == "unknown"
    total = totals(graph)
    assert (total.macs, total.flops_other) == (0, 0)
    assert total.unknown == {op: 1}
    assert total.coverage == 0
    # what moves is known even so
    assert (total.bytes_read, total.bytes_written) == (24, 24)


def test_unknown_op_of_a_model_is_listed(sample):
    @torch.library.custom_op("atlas_test::opaque", mutates_args=())
    def opaque(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    opaque.register_fake(torch.empty_like)
    found = sample(lambda x: opaque(x @ x).relu(), (4, 4))
    total = found.totals
    assert total.macs == 64
    assert total.unknown == {"atlas_test.opaque": 1}
    assert total.coverage == pytest.approx(2 / 3)


def test_sources(sample):
    found = sample(lambda x: (x.t() @ x).relu().sum() + torch.zeros(2).repeat(3), (4, 4))
    sources = {node["op"]: node["cost_source"] for node in found.nodes.values()}
    assert sources == {
        "aten.t": "class:view",
        "aten.matmul": "formula",
        "aten.relu": "class:pointwise",
        "aten.sum": "class:reduction",
        "aten.zeros": "class:creation",
        "aten.repeat": "class:movement",
        "aten.add": "class:pointwise",
    }


def test_arguments_that_cannot_be_hashed():
    _, node = one_op("aten.relu", T((2, 3)), outputs=(T((2, 3)),), options={"deep": ({"x": 1},)})
    assert node["cost_source"] == "unknown"  # this relu carries no tag


def test_equal_signatures_share_a_cost(monkeypatch, sample):
    calls = []
    original = FORMULAS["aten.matmul"]

    def counted(self: TensorMeta, out: TensorMeta) -> Cost:
        calls.append(out)
        return original(self, out)

    monkeypatch.delitem(FORMULAS, "aten.matmul")
    flop_formula("aten.matmul")(counted)
    found = sample(lambda x: x @ x @ x @ x, (4, 4))
    assert found.totals.macs == 3 * 64
    assert len(calls) == 1


BATCH, LENGTH = sympy.symbols("batch length", positive=True, integer=True)
SYMBOLIC = [
    ("aten.linear", {"weight": T((8, 4))}, T((BATCH, 8)), BATCH * 32, 0),
    ("aten.conv2d", {"weight": T((8, 3, 2, 2))}, T((BATCH, 8, 5, 5)), BATCH * 8 * 25 * 12, 0),
    ("aten.matmul", {"self": T((BATCH, LENGTH))}, T((BATCH, 6)), BATCH * LENGTH * 6, 0),
    (
        "aten.scaled_dot_product_attention",
        dict.fromkeys(("query", "key", "value"), T((BATCH, 2, LENGTH, 4))),
        T((BATCH, 2, LENGTH, 4)),
        BATCH * 2 * LENGTH**2 * 8,
        BATCH * 2 * LENGTH**2 * 6,
    ),
    (
        "aten.gru",
        {
            "input": T((LENGTH, BATCH, 8)),
            "hx": T((1, BATCH, 4)),
            "params": (T((12, 8)), T((12, 4))),
        },
        T((LENGTH, BATCH, 4)),
        LENGTH * BATCH * 144,
        LENGTH * BATCH * 44,
    ),
    ("aten.softmax", {"self": T((BATCH, 4))}, T((BATCH, 4)), 0, BATCH * 20),
    (
        "aten.adaptive_avg_pool2d",
        {"self": T((BATCH, 3, 8, 8))},
        T((BATCH, 3, 2, 2)),
        0,
        BATCH * 3 * 64,
    ),
    ("aten.sort", {"self": T((BATCH, 16))}, T((BATCH, 16)), 0, BATCH * 64),
    (
        "aten.cross_entropy_loss",
        {"self": T((BATCH, 10)), "target": T((BATCH,))},
        T(()),
        0,
        BATCH * 51,
    ),
    (
        "aten.linalg_cholesky",
        {"self": T((BATCH, LENGTH, LENGTH))},
        T((BATCH, LENGTH, LENGTH)),
        0,
        BATCH * sympy.floor(LENGTH**3 / 3),
    ),
    ("aten.linalg_qr", {"A": T((BATCH, 6, 3))}, T((BATCH, 6, 3)), 0, BATCH * 180),
    (
        "aten._fft_c2c",
        {"self": T((BATCH, 8), "complex64"), "dim": (1,)},
        T((BATCH, 8), "complex64"),
        0,
        BATCH * 120,
    ),
    (
        "aten.einsum",
        {"equation": "ij,kj->ik", "tensors": (T((BATCH, LENGTH)), T((3, LENGTH)))},
        T((BATCH, 3)),
        3 * BATCH * LENGTH,
        0,
    ),
]


@pytest.mark.parametrize(
    ("op", "args", "out", "macs", "other"), SYMBOLIC, ids=[row[0] for row in SYMBOLIC]
)
def test_sizes_may_be_symbols(op, args, out, macs, other):
    cost = evaluate(FORMULAS[op], args, (out,))
    assert cost is not None
    assert sympy.simplify(cost.macs - macs) == 0
    assert sympy.simplify(cost.other - other) == 0


def test_symbolic_matrices_are_bound_later():
    cost = evaluate(FORMULAS["aten.linalg_lu"], {"A": T((BATCH, LENGTH, 6))}, ())
    assert cost is not None
    for length in (3, 6, 12):
        plain = evaluate(FORMULAS["aten.linalg_lu"], {"A": T((2, length, 6))}, ())
        assert plain is not None
        assert cost.other.subs({BATCH: 2, LENGTH: length}) == plain.other


LOGARITHMIC = {
    "aten.sort": {"self": T((3, LENGTH))},
    "aten.fft_rfft": {"self": T((BATCH, LENGTH))},
    "aten.linalg_svd": {"A": T((BATCH, LENGTH, 4))},
}


@pytest.mark.parametrize("op", LOGARITHMIC)
def test_symbolic_counts_are_whole_and_can_be_read_back(op):
    args = LOGARITHMIC[op]
    cost = evaluate(FORMULAS[op], args, tuple(args.values()))
    assert cost is not None
    assert parse(str(cost.other)) == cost.other
    for length in (1, 5, 12, 100):
        assert cost.other.subs({BATCH: 3, LENGTH: length}).is_Integer


def test_symbolic_lengths_are_bound_later():
    cost = evaluate(FORMULAS["aten.sort"], {"self": T((3, LENGTH))}, (T((3, LENGTH)),))
    assert cost is not None
    assert cost.other.subs(LENGTH, 100) == 3 * 100 * 7
    wide = T((BATCH, 3, LENGTH, LENGTH))
    cost = evaluate(FORMULAS["aten.adaptive_avg_pool2d"], {"self": wide}, (T((BATCH, 3, 4, 4)),))
    assert cost is not None
    assert cost.other.subs({BATCH: 2, LENGTH: 10}) == 2 * 3 * 16 * 9
