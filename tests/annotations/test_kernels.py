"""Quantised layers, optimisers, collectives and torchvision's ops, captured where torch can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import OLD_TORCH
from torchatlas.annotations import traffic
from torchatlas.annotations.formulas import FORMULAS, Cost, evaluate
from torchatlas.annotations.formulas.optimizers import STEPS
from torchatlas.annotations.formulas.recurrent import BACKWARD
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import TensorMeta as T

# -- quantised -----------------------------------------------------------------------------


def counts(node):
    return {key: node[key] for key in ("macs", "flops", "flops_other", "int_ops")}


def test_integers(sample):
    a, b = torch.ones(32, 64, dtype=torch.int8), torch.ones(64, 16, dtype=torch.int8)
    node = sample(torch._int_mm, a, b).node("aten._int_mm")
    macs = 32 * 16 * 64
    assert counts(node) == {"macs": macs, "flops": 0, "flops_other": 0, "int_ops": 2 * macs}
    assert node["flops_effective"] == 0


def test_weights_alone_in_integers(sample):
    x = torch.zeros(4, 64, dtype=torch.bfloat16)
    w, scales = torch.zeros(32, 64, dtype=torch.int8), torch.zeros(32, dtype=torch.bfloat16)
    node = sample(torch._weight_int8pack_mm, x, w, scales).node("aten._weight_int8pack_mm")
    macs = 4 * 32 * 64
    assert counts(node) == {"macs": macs, "flops": 2 * macs, "flops_other": 128, "int_ops": 0}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(OLD_TORCH, reason="packed weights cannot be captured")
def test_dynamically_quantised_layer(sample):
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 16)), {nn.Linear})
    node = sample(model, (3, 8)).node("quantized.linear_dynamic")
    macs = 3 * 16 * 8
    # the result is in floating point, its arithmetic in integers
    other = 2 * 3 * 8 + 3 * 16
    assert counts(node) == {"macs": macs, "flops": 0, "flops_other": other, "int_ops": 2 * macs}


def test_quantisation_written_out(sample):
    pytest.importorskip("torch.ao.quantization.fx._decomposed")
    ops = torch.ops.quantized_decomposed

    def rounded(x):
        levels = ops.quantize_per_tensor(x, 0.1, 0, -128, 127, torch.int8)
        return ops.dequantize_per_tensor(levels, 0.1, 0, -128, 127, torch.int8)

    found = sample(rounded, (4, 5))
    assert found.totals.flops_other == 20 + 20
    assert found.totals.coverage == 1


def test_packed_convolution_needs_its_weight():
    out, operand = T((1, 8, 6, 6), "quint8"), {"qx": T((1, 3, 8, 8), "quint8")}
    formula = FORMULAS["quantized.conv2d"]
    assert evaluate(formula, operand | {"packed_weight": "<ScriptObject>"}, (out,)) is None
    known = evaluate(formula, operand | {"packed_weight": T((8, 3, 3, 3), "qint8")}, (out,))
    assert known == Cost(8 * 36 * 3 * 9, 8 * 36, integer=True)


def test_quantised_recurrent_layers_by_shape():
    state = T((4, 3, 16))  # two layers in two directions
    args = {
        "input": T((5, 3, 8)),
        "hx": (state, state),
        "has_biases": True,
        "num_layers": 2,
        "bidirectional": True,
    }
    cost = evaluate(FORMULAS["aten.quantized_lstm"], args, (T((5, 3, 32)),))
    assert cost is not None
    assert cost.integer
    assert cost.macs == 15 * 2 * 64 * ((8 + 16) + (32 + 16))
    half = evaluate(FORMULAS["aten.quantized_lstm"], args | {"dtype": "torch.float16"}, ())
    assert half is not None
    assert not half.integer


# -- optimisers ----------------------------------------------------------------------------


def adam(p, g, m, v):
    m = 0.9 * m + 0.1 * g
    v = 0.99 * v + 0.01 * g * g
    return p - 0.001 * m / (v.sqrt() / 0.3 + 1e-8), m, v


def adagrad(p, g, s):
    s = s + g * g
    return p - 0.01 * g / (s.sqrt() + 1e-10), s


def sgd(p, g):
    return p - 0.1 * g


def lstm_backward(dh, dc, cx, cy, i, f, g, o):
    t = cy.tanh()
    dc = dc + dh * o * (1 - t * t)
    gates = dc * g * i * (1 - i), dc * cx * f * (1 - f), dc * i * (1 - g * g)
    return *gates, dh * t * o * (1 - o), dc * f


def gru_backward(dh, r, z, n, h, y):
    dn = dh * (1 - z) * (1 - n * n)
    return dn, dh * (h - n) * z * (1 - z), dn * y * r * (1 - r), dn * r, dh * z


@pytest.mark.parametrize(
    ("written_out", "operands", "constant"),
    [
        (adam, 4, STEPS["adam"]),
        (adagrad, 3, STEPS["adagrad"]),
        (sgd, 2, STEPS["sgd"]),
        (lstm_backward, 8, BACKWARD["lstm"]),
        (gru_backward, 6, BACKWARD["gru"]),
    ],
)
def test_constants_are_what_the_formula_costs(sample, written_out, operands, constant):
    found = sample(written_out, *[(4, 5)] * operands)
    assert found.totals.flops_other == 20 * constant


def test_lists_of_tensors(sample):
    def lists(a, b):
        copies = [a.clone(), b.clone()]
        torch._foreach_mul_(copies, 2.0)
        return torch._foreach_add(copies, [a, b]), torch._foreach_norm([a, b])

    found = sample(lists, (2, 3), (4,))
    assert found.totals.coverage == 1
    assert found.totals.flops_other == 10 + 10 + 2 * 10
    scaled = found.node("aten._foreach_mul_")
    assert (scaled["bytes_read"], scaled["bytes_written"]) == (40, 40)


def test_every_foreach_op_has_a_rule():
    names = {
        name.partition("::")[2].partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::_foreach_")
    }
    ruled = {op.removeprefix("aten.") for op in FORMULAS}
    assert {name.removesuffix("_") for name in names} <= ruled


def one_list_op(op, args, shapes, writes=()):
    records = [OpRecord(key=k, kind="input", target=k, outputs=(m,)) for k, m in shapes.items()]
    record = OpRecord(key="op", kind="op", op=op, args=args, outputs=(), writes=writes)
    graph, ids = build([*records, record], name="lists")
    traffic(graph)
    return graph.nodes[ids["op"]]


def test_copy_between_lists_does_not_read_what_it_overwrites():
    shapes = {"a": T((2, 3)), "b": T((4,)), "c": T((2, 3)), "d": T((4,))}
    args = {"self": (Value("a"), Value("b")), "src": (Value("c"), Value("d"))}
    node = one_list_op("aten._foreach_copy_", args, shapes, ("self",))
    assert (node["bytes_read"], node["bytes_written"]) == (40, 40)


# -- collectives ---------------------------------------------------------------------------


@pytest.fixture
def four_devices():
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    distributed = torch.distributed
    distributed.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=4)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


def test_messages(sample, four_devices):
    functional = pytest.importorskip("torch.distributed._functional_collectives")
    group = four_devices

    def exchange(x):
        reduced = functional.all_reduce(x, "sum", group)
        whole = functional.all_gather_tensor(reduced, 0, group)
        shard = functional.reduce_scatter_tensor(whole, "sum", 0, group)
        return functional.all_to_all_single(shard, None, None, group)

    found = sample(exchange, (8, 4))
    assert found.totals.coverage == 1
    assert (found.totals.flops, found.totals.flops_other) == (0, 0)
    part, everything = 8 * 4 * 4, 32 * 4 * 4
    assert {
        node["op"].partition(".")[2]: node.get("comm_bytes") for node in found.nodes.values()
    } == {
        "all_reduce": part,
        "all_gather_into_tensor": everything,
        "reduce_scatter_tensor": everything,
        "all_to_all_single": part,
        "wait_tensor": None,
    }
    waits = [node for node in found.nodes.values() if node["op"].endswith("wait_tensor")]
    assert all(node["bytes_read"] == node["bytes_written"] == 0 for node in waits)


# -- torchvision ---------------------------------------------------------------------------


def test_regions(sample):
    vision = pytest.importorskip("torchvision.ops")
    boxes = torch.tensor([[0.0, 0.0, 0.0, 9.0, 9.0]] * 5)
    aligned = sample(
        lambda x, r: vision.roi_align(x, r, 7, sampling_ratio=2), (1, 3, 14, 14), boxes
    )
    assert aligned.node("torchvision.roi_align")["flops_other"] == 5 * 3 * 49 * 4 * 8
    pooled = sample(lambda x, r: vision.roi_pool(x, r, 7), (1, 3, 14, 14), boxes)
    assert pooled.node("torchvision.roi_pool")["flops_other"] == 5 * 3 * 49 * 4


def test_suppression_looks_at_all_pairs_at_most(sample):
    vision = pytest.importorskip("torchvision.ops")
    found = sample(lambda b, s: vision.nms(b, s, 0.5), torch.rand(8, 4), torch.rand(8))
    assert found.node("torchvision.nms")["flops_other"] == 8 * 3 + 8 * 3 + 28 * 13


def test_deformable_convolution(sample):
    vision = pytest.importorskip("torchvision.ops")
    shapes = [(1, 4, 7, 7), (1, 18, 5, 5), (8, 4, 3, 3)]
    total = sample(vision.deform_conv2d, *shapes).totals
    assert total.macs == 8 * 25 * 4 * 9
