"""Formulas that a user gives, composites by their decomposition, and what stays unknown."""

from __future__ import annotations

import pytest
import torch

import torchatlas as ta
from torchatlas.annotations.own_formulas import OWN
from torchatlas.errors import GraphError
from torchatlas.graph import op_nodes


@torch.library.custom_op("torchatlas_test::mix", mutates_args=())
def mix(x: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
    return (x @ weight) * scale


@mix.register_fake
def _(x, weight, scale):
    return x.new_empty(x.shape[0], weight.shape[1])


@pytest.fixture
def graph() -> ta.ModelGraph:
    return ta.capture(lambda x, w: mix(x, w, 2.0), (torch.zeros(3, 4), torch.zeros(4, 5)))


@pytest.fixture(autouse=True)
def _forget():
    before = dict(OWN)
    yield
    OWN.clear()
    OWN.update(before)


def node_of(graph: ta.ModelGraph) -> dict:
    (node,) = (node for _, node in op_nodes(graph))
    return node


def test_an_op_without_a_rule_is_unknown_and_strict_names_it(graph):
    node = node_of(graph)
    assert (node["macs"], node["flops"], node["flops_other"]) == (None, None, None)
    assert node["cost_source"] == "unknown"
    assert ta.totals(graph).unknown == {"torchatlas_test.mix": 1}
    with pytest.raises(GraphError, match=r"no rule says what torchatlas_test\.mix costs") as error:
        ta.annotate(graph, strict=True)
    assert "@torchatlas.flop_formula('torchatlas_test::mix')" in str(error.value)


def test_a_formula_for_good(graph):
    @ta.flop_formula("torchatlas_test::mix")
    def cost(x, weight, out, scale=1.0):
        assert scale == 2.0
        return ta.Cost(macs=out.numel * x.shape[-1], other=out.numel)

    node = node_of(ta.annotate(graph, strict=True))
    assert (node["macs"], node["flops"], node["flops_other"]) == (60, 120, 15)
    assert node["cost_source"] == "user"
    assert cost(torch.zeros(3, 4), None, ta.schema.TensorMeta((3, 5)), 2.0).macs == 60


def test_a_formula_for_a_block(graph):
    with ta.flop_formula("torchatlas_test::mix", formula=lambda x, weight: 7):
        assert node_of(ta.annotate(graph))["flops"] == 6  # an odd FLOP is no multiply-add
        assert node_of(graph)["flops_other"] == 1
        with ta.flop_formula("torchatlas_test.mix", formula=lambda out: 2 * out.numel):
            assert node_of(ta.annotate(graph))["flops"] == 30
        assert node_of(ta.annotate(graph))["flops"] == 6
    assert node_of(ta.annotate(graph))["flops"] is None


def test_a_block_forgets_its_formula_after_an_error(graph):
    with (
        pytest.raises(KeyError),
        ta.flop_formula("torchatlas_test::mix", formula=lambda out: 2),
    ):
        raise KeyError
    assert node_of(ta.annotate(graph))["flops"] is None


def test_a_formula_comes_before_our_own():
    graph = ta.capture(torch.mm, (torch.zeros(3, 4), torch.zeros(4, 5)))
    with ta.flop_formula("aten::mm", formula=lambda self, out: ta.Cost(out.numel, integer=True)):
        node = node_of(ta.annotate(graph))
    assert (node["macs"], node["flops"], node["int_ops"]) == (15, 0, 30)
    assert node_of(ta.annotate(graph))["flops"] == 120


def test_a_formula_that_gives_no_count(graph):
    with (
        ta.flop_formula("torchatlas_test::mix", formula=lambda x: "much"),
        pytest.raises(TypeError, match=r"torchatlas_test\.mix returned 'much'"),
    ):
        ta.annotate(graph)
    with pytest.raises(TypeError, match="formula=function"), ta.flop_formula("a::b"):
        pass


def test_a_formula_that_knows_too_little_leaves_the_op_unknown(graph):
    with ta.flop_formula("torchatlas_test::mix", formula=lambda missing: 2):
        assert node_of(ta.annotate(graph))["cost_source"] == "unknown"


def test_a_composite_costs_what_it_is_made_of(tmp_path):
    # (8, 16) @ (16, 8) then @ (8, 16), the cheaper order, 2 x 8 x 8 x 16 multiply-adds
    graph = ta.capture(lambda x: torch.linalg.multi_dot([x, x.t(), x]), torch.zeros(8, 16))
    node = next(node for _, node in op_nodes(graph) if "multi_dot" in node["op"])
    assert node["cost_source"] in ("decomposition", "formula")
    assert node["macs"] == 2 * 8 * 8 * 16
    graph = ta.capture(torch.trapezoid, torch.zeros(8, 16))
    node = node_of(graph)
    assert node["cost_source"] == "decomposition"
    count = node["flops_other"]
    assert count > 0
    graph.export(tmp_path / "graph.json")
    loaded = ta.load(tmp_path / "graph.json")
    assert loaded.source is None
    # There is no model to take apart any more: what was counted stays.
    assert node_of(ta.annotate(loaded))["flops_other"] == count
    assert node_of(loaded)["cost_source"] == "decomposition"


def test_a_composite_inside_a_region_is_found():
    def model(x):
        with torch.no_grad():
            return torch.trapezoid(x) + 1

    graph = ta.capture(model, torch.zeros(8, 16, requires_grad=True))
    node = next(node for _, node in op_nodes(graph) if "trapezoid" in node["op"])
    assert node["cost_source"] == "decomposition"


def test_a_triton_kernel_has_its_own_name():
    triton = pytest.importorskip("triton")
    wrap = pytest.importorskip("torch._higher_order_ops.triton_kernel_wrap")
    from torch import fx

    from torchatlas.frontends.fx_graph import Recorder
    from torchatlas.graph import build

    def double_kernel(x_ptr, y_ptr, n, BLOCK):
        pass

    table = wrap.kernel_side_table
    index = table.add_kernel(triton.jit(double_kernel))
    constants = table.add_constant_args({"n": 256, "BLOCK": 128})
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    for node in (x, y):
        node.meta["val"] = torch.zeros(256)
    call = graph.call_function(
        wrap.triton_kernel_wrapper_mutation,
        kwargs={
            "kernel_idx": index,
            "constant_args_idx": constants,
            "grid": [(2, 1, 1)],
            "tma_descriptor_metadata": {},
            "kwargs": {"x_ptr": x, "y_ptr": y},
        },
    )
    recorder = Recorder()
    for node in (x, y):
        recorder.placeholder(node, "input", node.name)
    recorder.call(call)
    recorder.output("output", (), y)
    made, _ = build(recorder.records, name="kernel")
    (node,) = (node for _, node in op_nodes(made))
    assert node["op"] == "triton.double_kernel"
    assert node["args"]["BLOCK"] == 128
    assert "double_kernel" in {source for source, _ in made.in_edges("output")}
    with ta.flop_formula("triton::double_kernel", formula=lambda n: ta.Cost(other=n)):
        assert node_of(ta.annotate(made))["flops_other"] == 256
