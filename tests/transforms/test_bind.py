"""Symbolic sizes: what a bound graph says is what a fresh capture at those sizes says."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from symbolic_models import CASES, Positions, UNet
from torchatlas.errors import FormatError, GraphError, InputError, UsageError
from torchatlas.expressions import parse, symbol
from torchatlas.frontends import resize
from torchatlas.schema import SCALARS, Symbol
from torchatlas.sums import SUMMED


@lru_cache
def _symbolic(name):
    case = CASES[name]
    model, example = case.make()
    return model, example, ta.capture(model, example, dynamic=case.dynamic)


_WRONG = pytest.mark.xfail(models.OLD_TORCH, reason="fake LSTM states had a dimension too many")
BINDINGS = [
    pytest.param(
        name, i, marks=[pytest.mark.xdist_group(name), *([_WRONG] if name == "lstm" else [])]
    )
    for name, case in CASES.items()
    for i in range(len(case.bindings))
]


@pytest.mark.parametrize(("name", "i"), BINDINGS, ids=lambda v: str(v))
def test_bound_totals_are_those_of_a_fresh_capture(name, i):
    model, example, graph = _symbolic(name)
    sizes = CASES[name].bindings[i]
    bound = ta.bind(graph, **sizes)
    ta.validate(bound)
    fresh = ta.capture(model, resize(model, example, CASES[name].dynamic, sizes), frontend="export")
    found, expected = ta.totals(bound), ta.totals(fresh)
    for field in dataclasses.fields(found):
        if field.name != "ops":  # a view that the model makes at other sizes only may be there
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert _computing(bound) == _computing(fresh)
    if len(bound) == len(fresh):
        assert found.ops == expected.ops
        for node in fresh:
            assert _said(bound.nodes[node]) == _said(fresh.nodes[node]), node


def _said(node):
    shapes = [out and (out.shape, out.dtype, out.device) for out in node["outputs"]]
    return node["op"], shapes, {key: node.get(key) for key in (*SUMMED, "live_bytes")}


def _computing(graph):
    return [
        _said(node)
        for _, node in graph.nodes(data=True)
        if "view" not in node.get("tags", ()) and node["kind"] == "op"
    ]


def test_there_are_enough_models():
    assert len(CASES) >= 12
    assert all(len(case.bindings) >= 4 for case in CASES.values())
    assert sum(any(sizes["batch"] == 1 for sizes in c.bindings) for c in CASES.values()) >= 12


# -- polynomials by hand -----------------------------------------------------------------------


def test_linear():
    graph = ta.capture(nn.Linear(8, 4), torch.zeros(1, 8), dynamic={"input": {0: "batch"}})
    batch = symbol("batch")
    found = ta.totals(graph)
    assert found.flops == 2 * 8 * 4 * batch and found.macs == 8 * 4 * batch
    assert graph.nodes["linear"]["outputs"][0].shape == (batch, 4)
    assert found.bytes_written == 4 * 4 * batch
    assert found.bytes_read == 4 * (8 * batch + 8 * 4 + 4)
    assert "64*batch FLOP" in str(found)


def test_attention_is_quadratic_in_the_sequence():
    _, _, graph = _symbolic("attention")  # width 16
    batch, seq = symbol("batch"), symbol("seq")
    projections, scores = 4 * 2 * 16 * 16, 2 * 2 * 16
    assert ta.totals(graph).flops == batch * seq * projections + batch * seq**2 * scores


def test_convolutions_round_up():
    _, _, graph = _symbolic("resnet18")
    height, width = symbol("height"), symbol("width")
    flops = graph.nodes["conv1/conv2d"]["flops"]
    first = 2 * 64 * 3 * 7 * 7 * symbol("batch")
    assert flops == first * parse("ceiling(height/2)") * parse("ceiling(width/2)")
    assert {height, width} <= ta.totals(graph).flops.free_symbols


def test_recurrent_layers_have_any_length():
    _, _, graph = _symbolic("gru")  # 4 -> 5, both directions, three gates
    per_step = 2 * 2 * 3 * 5 * (4 + 5)
    assert ta.totals(graph).flops == per_step * symbol("batch") * symbol("seq")


# -- what the model demands --------------------------------------------------------------------


def test_a_multiple():
    _, _, graph = _symbolic("unet")
    assert graph.graph["symbols"]["height"] == Symbol(8, None, 8)
    assert ta.totals(graph).flops == parse("300*batch*height*width")  # 8 divides: no floors
    with pytest.raises(UsageError, match=r"height=36.*\n.*a multiple of 8"):
        ta.bind(graph, height=36)


def test_a_maximum():
    _, _, graph = _symbolic("positions")
    assert graph.graph["symbols"]["seq"].max == 16
    with pytest.raises(UsageError, match=r"seq=17.*\n.*at most 16"):
        ta.bind(graph, batch=2, seq=17)
    assert _symbolic("bert")[2].graph["symbols"]["seq"] == Symbol(1, 512)


class Branches(nn.Module):
    def forward(self, x, y):
        if x.shape[0] > 6:
            return x * 2
        return x + 1 if x.shape[1] % 2 == 0 else x.exp()


def test_a_branch_of_the_model():
    example = torch.zeros(9, 5), torch.zeros(1)
    graph = ta.capture(Branches(), example, dynamic={"x": ["n", "m"]})
    assert graph.graph["symbols"]["n"] == Symbol(7)
    example = torch.zeros(3, 8), torch.zeros(1)
    graph = ta.capture(Branches(), example, dynamic={"x": ["n", "m"]})
    assert graph.graph["symbols"] == {"n": Symbol(1, 6), "m": Symbol(2, None, 2)}


def test_a_size_of_one_is_left_out_where_it_costs_otherwise():
    _, _, graph = _symbolic("attention")
    # With one step, transposing moves nothing, and the reshape after it need not copy.
    assert graph.graph["symbols"] == {"batch": Symbol(1), "seq": Symbol(2)}
    with pytest.raises(UsageError, match="seq=1 is not a size"):
        ta.bind(graph, seq=1)
    squeezed = ta.capture(lambda x: x.squeeze() + 1, torch.zeros(6, 5), dynamic=["n"])
    assert squeezed.graph["symbols"] == {"n": Symbol(2)}


def test_two_names_for_equal_sizes():
    model = lambda x, y: torch.cat([x, y], 1)  # noqa: E731
    example = torch.zeros(3, 5), torch.zeros(3, 7)
    graph = ta.capture(model, example, dynamic={"x": {0: "n"}, "y": {0: "n"}})
    assert graph.nodes["cat"]["outputs"][0].shape == (symbol("n"), 12)
    with pytest.raises(InputError, match="could not be captured at b="):
        ta.capture(model, example, dynamic={"x": {0: "a"}, "y": {0: "b"}})


def test_a_relation_between_sizes():
    model = lambda x, y: x.reshape(-1, 2).sum(1) + y  # noqa: E731
    example = torch.zeros(6), torch.zeros(3)
    graph = ta.capture(model, example, dynamic={"x": ["long"], "y": ["short"]})
    assert graph.graph["symbols"]["long"].multiple_of == 2
    assert ta.bind(graph, long=8, short=4).nodes["add"]["flops_other"] == 4
    with pytest.raises(UsageError, match="long=8, short=5 breaks the constraint"):
        ta.bind(graph, long=8, short=5)
    with pytest.raises(UsageError, match="breaks the constraint"):
        ta.bind(ta.bind(graph, long=8), short=5)


class FixedLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(16, 8))

    def forward(self, x):
        return x + self.positions


def test_a_size_that_the_model_fixes():
    with pytest.raises(InputError, match="the model fixes 'seq' to 16") as error:
        ta.capture(FixedLength(), torch.zeros(2, 16, 8), dynamic=["batch", "seq"])
    assert "leave 'seq' out" in error.value.hint
    graph = ta.capture(FixedLength(), torch.zeros(1, 16, 8), dynamic=["batch"])
    assert ta.totals(graph).flops_other == parse("128*batch")


# -- naming ------------------------------------------------------------------------------------


def test_forms_of_dynamic():
    shapes = []
    for dynamic in (
        {"x": {0: "batch", -1: "width"}},
        {"x": ["batch", None, None, "width"]},
        {"x": ("batch", None, None, "width")},
    ):
        graph = ta.capture(lambda x: x * 2, torch.zeros(1, 3, 4, 4), dynamic=dynamic)
        shapes.append(graph.nodes["mul"]["outputs"][0].shape)
    assert shapes == [(symbol("batch"), 3, 4, symbol("width"))] * 3


def test_nested_inputs_and_dataclasses():
    model, example = models.make("shared_and_tied")
    dynamic = {"batch/ids": ["batch", "seq"], "batch/mask": ["batch"]}
    graph = ta.capture(model, example, dynamic=dynamic)
    assert graph.nodes["batch/ids"]["outputs"][0].shape == (symbol("batch"), symbol("seq"))
    assert ta.totals(graph).flops == parse("544*batch*seq")  # (3 * 8 * 8 + 8 * 10) * 2
    model, example = models.make("dataclasses")
    graph = ta.capture(model, example, dynamic={"pair/left": ["n"], "pair/right": ["n"]})
    assert ta.totals(graph).flops == parse("18*n")


WRONG = [
    ({"y": ["batch"]}, "'y' is no tensor"),
    ({"x": {7: "batch"}}, "has no dimension 7"),
    ({"x": ["a", "b", "c"]}, "has no dimension 2"),
    ({"x": {0: "two words"}}, "cannot be the name"),
    ({"x": {0: "lambda"}}, "cannot be the name"),
    ({"x": {0: "Max"}}, "cannot be the name"),
    ({"x": {0: "n", 1: "n"}}, "stands for the sizes 2 and 8"),
    ({"x": [None]}, "names no dimension"),
    ("batch", "names no dimensions"),
    (["a", "b", "c"], "no input has 3 dimensions"),
]


@pytest.mark.parametrize(("dynamic", "said"), WRONG, ids=str)
def test_wrong_forms_of_dynamic(dynamic, said):
    with pytest.raises(UsageError, match=said):
        ta.capture(lambda x: x * 2, torch.zeros(2, 8), dynamic=dynamic)


def test_only_export_makes_sizes_symbolic():
    with pytest.raises(UsageError, match="only the front end 'export'"):
        ta.capture(nn.ReLU(), torch.zeros(2), dynamic=["n"], frontend="fx")


def test_a_program_that_somebody_else_exported():
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(
        nn.Linear(8, 4), (torch.zeros(2, 8),), dynamic_shapes=({0: batch},), strict=False
    )
    graph = ta.capture(program)
    (name,) = graph.graph["symbols"]
    assert graph.graph["symbols"][name].max == 64
    assert ta.totals(ta.bind(graph, **{name: 3})).flops == 2 * 3 * 8 * 4


# -- bind --------------------------------------------------------------------------------------


def test_the_graph_itself_stays_and_a_part_can_be_bound():
    _, _, graph = _symbolic("bert")
    before = ta.to_text(graph), ta.totals(graph)
    part = ta.bind(graph, batch=2)
    assert (ta.to_text(graph), ta.totals(graph)) == before and graph.source is not None
    assert part.source is None and set(part.graph["symbols"]) == {"seq"}
    assert ta.totals(part).flops.free_symbols == {symbol("seq")}
    assert ta.totals(ta.bind(part, seq=6)) == ta.totals(ta.bind(graph, batch=2, seq=6))
    done = ta.bind(part, seq=6)
    assert "symbols" not in done.graph
    assert all(type(ta.totals(done).__getattribute__(key)) is int for key in SUMMED)


def test_errors():
    _, _, graph = _symbolic("mlp")
    with pytest.raises(UsageError, match=r"no symbol 'bath'.*\n.*its symbols are batch"):
        ta.bind(graph, bath=2)
    with pytest.raises(UsageError, match="all of its sizes are numbers"):
        ta.bind(ta.bind(graph, batch=1), batch=1)
    for size in (0, -1, True, 2.0, "2"):
        with pytest.raises(UsageError, match="is no size"):
            ta.bind(graph, batch=size)


def test_a_fraction_is_an_error():
    _, _, graph = _symbolic("mlp")
    broken = graph.copy()
    broken.nodes["0/linear"]["flops"] = symbol("batch") / 2
    assert ta.bind(broken, batch=2).nodes["0/linear"]["flops"] == 1
    with pytest.raises(GraphError, match="no whole number") as error:
        ta.bind(broken, batch=3)
    assert error.value.node == "0/linear"


def test_no_op_computes_sizes():
    _, _, graph = _symbolic("attention")
    ops = {node["op"] for _, node in graph.nodes(data=True)}
    assert "aten.sym_size" not in ops and graph.graph["dropped"]["aten.sym_size"] > 0
    assert not any(
        out.dtype in SCALARS for _, node in graph.nodes(data=True) for out in node["outputs"]
    )


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "unet", "positions", "bags"])
def test_files(name, tmp_path):
    _, _, graph = _symbolic(name)
    for file in ("g.json", "g.dot", "g.structure.onnx"):
        graph.export(tmp_path / file)
    loaded = ta.load(tmp_path / "g.json")
    assert loaded.graph == graph.graph and dict(loaded.nodes) == dict(graph.nodes)
    sizes = CASES[name].bindings[2]
    assert ta.totals(ta.bind(loaded, **sizes)) == ta.totals(ta.bind(graph, **sizes))
    for text in (b"not a condition", b"__import__('os')"):
        constraint = graph.graph.get("constraints", ("",))[0].encode()
        content = (tmp_path / "g.json").read_bytes()
        if constraint:
            (tmp_path / "bad.json").write_bytes(content.replace(constraint, text))
            with pytest.raises(FormatError, match="is no condition"):
                ta.load(tmp_path / "bad.json")


def test_executable_onnx_has_the_names_of_the_sizes(tmp_path):
    import onnx

    _, _, graph = _symbolic("mlp")
    graph.export(tmp_path / "g.onnx")
    value = onnx.load(tmp_path / "g.onnx").graph.input[0]
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_summary_says_what_the_sizes_may_be():
    text = str(_symbolic("positions")[2].summary())
    assert "batch: at least 1; seq: at least 1, at most 16" in text


def test_examples_keep_their_values_and_their_layout():
    x = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(memory_format=torch.channels_last)
    wanted = {"x": {0: "batch", 2: "height"}}
    (made,), _ = resize(lambda x: x, x, wanted, {"batch": 5, "height": 6})
    assert made.shape == (5, 3, 6, 4) and made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made[4, :, 5], x[0, :, 1])


def test_models_here_do_compute():
    assert UNet()(torch.zeros(1, 3, 16, 8)).shape == (1, 4, 16, 8)
    assert Positions()(torch.zeros(1, 16, 8)).shape == (1, 16, 8)
