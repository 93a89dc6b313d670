"""Every shape, data type, stride and device of a graph, against a run with real tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models
import torchatlas as ta
from torchatlas.errors import CaptureError, MeasurementError, UsageError
from torchatlas.expressions import symbol
from torchatlas.frontends import replay, torch_api
from torchatlas.frontends.opaque import pack
from torchatlas.graph import op_nodes
from torchatlas.measurements.values import ready, stand_ins
from torchatlas.schema import TensorMeta

TWO = torch.randn(2, 3, 8, 8)


def checked(graph, example=None):
    return ta.measure(graph, example, steps=0)


def number_of_ops(graph):
    return sum(1 for _ in op_nodes(graph))


@pytest.mark.parametrize("name", list(models.ALL))
def test_all_models_are_confirmed(name, captured):
    graph = captured(name)
    assert checked(graph).graph["confirmed"] == number_of_ops(graph) > 0


@pytest.mark.parametrize("name", ["tiny", "regions", "swin_t", "gpt2"])
def test_exported_models_are_confirmed(name, exported):
    graph = exported(name)
    assert checked(graph).graph["confirmed"] == number_of_ops(graph) > 0


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_what_runs_below_autograd_is_confirmed(mode):
    graph = ta.capture(*models.make("tiny"), mode=mode)
    assert checked(graph).graph["confirmed"] == number_of_ops(graph) > 5


# -- wrong annotations ---------------------------------------------------------------------------


def planted(graph, node, **changes):
    wrong = graph.copy()
    first, *others = wrong.nodes[node]["outputs"]
    wrong.nodes[node]["outputs"] = (replace(first, **changes), *others)
    return wrong


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (2, 4, 8, 9)}, r"another shape .*: \[2, 4, 8, 8\] in place of \[2, 4, 8, 9\]"),
        ({"shape": (2, 4, 64), "stride": (256, 64, 1)}, "another shape"),
        ({"dtype": "float16"}, "another data type .*: float32 in place of float16"),
        ({"stride": (256, 1, 32, 4)}, r"another stride .*: \[256, 64, 8, 1\] in place of"),
        ({"stride": None}, "another layout"),
    ],
)
def test_a_planted_annotation_is_named(changes, said, captured):
    wrong = planted(captured("tiny"), "norm/batch_norm", **changes)
    with pytest.raises(MeasurementError, match=said) as caught:
        checked(wrong)
    assert caught.value.node == "norm/batch_norm"


def test_without_strict_differences_are_a_warning_and_kept(captured, tmp_path):
    wrong = planted(captured("tiny"), "norm/batch_norm", shape=(2, 4, 8, 9))
    wrong = planted(wrong, "relu/relu", dtype="float16")
    with pytest.warns(
        UserWarning, match=r"another shape [^\n]*\n.*norm/batch_norm[^\n]*\n.* 1 more"
    ):
        graph = ta.measure(wrong, steps=1, strict=False)
    assert graph.graph["contradicted"] == ("norm/batch_norm", "relu/relu")
    assert graph.graph["confirmed"] == number_of_ops(graph) - 2
    assert graph.nodes["relu/relu"]["latency_us"] > 0
    ta.validate(graph)
    graph.export(tmp_path / "graph.json")
    assert ta.load(tmp_path / "graph.json").graph["contradicted"] == graph.graph["contradicted"]


def test_the_workspace_of_a_recurrent_layer_is_the_librarys_own():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 8)

        def forward(self, x):
            return self.lstm(x)[0].sum()

    graph = ta.capture(Last(), torch.randn(3, 2, 4), mode="training")
    assert checked(graph).graph["confirmed"] == number_of_ops(graph)


def test_a_planted_device_is_named(captured):
    wrong = planted(captured("tiny"), "norm/batch_norm", device="cuda:1")
    with pytest.raises(MeasurementError, match="cpu in place of cuda:1") as caught:
        checked(wrong)
    assert caught.value.node == "norm/batch_norm"


def test_the_first_of_several_is_named(captured):
    wrong = planted(captured("tiny"), "head/linear", dtype="int8")
    wrong = planted(wrong, "conv/conv2d", dtype="int8")
    with pytest.raises(MeasurementError) as caught:
        checked(wrong)
    assert caught.value.node == "conv/conv2d"


def test_a_planted_input_is_named(captured):
    with pytest.raises(MeasurementError, match="another shape") as caught:
        checked(planted(captured("tiny"), "x", shape=(1, 3, 8, 8)))
    assert caught.value.node == "x"


def test_a_missing_output_is_named(captured):
    wrong = captured("regions").copy()
    node = next(n for n, at in op_nodes(wrong) if len(at["outputs"]) == 2)
    wrong.nodes[node]["outputs"] = wrong.nodes[node]["outputs"][:1]
    with pytest.raises(MeasurementError, match="makes 1 values, and it made 2") as caught:
        checked(wrong)
    assert caught.value.node == node


def test_strides_of_dimensions_of_one_element_say_nothing(captured):
    graph = ta.capture(nn.Conv2d(3, 1, 8), torch.randn(2, 3, 8, 8))
    assert graph.nodes["conv2d"]["outputs"] == (TensorMeta((2, 1, 1, 1), stride=(1, 1, 1, 1)),)
    assert checked(planted(graph, "conv2d", stride=(1, 7, 9, 5))).graph["confirmed"] == 1
    with pytest.raises(MeasurementError):
        checked(planted(graph, "conv2d", stride=(2, 1, 1, 1)))


# -- what it runs on -----------------------------------------------------------------------------


@pytest.mark.parametrize("frontend", ["trace", "export"])
def test_another_example_of_the_same_sizes(frontend):
    model = models.Tiny().eval()
    graph = ta.capture(model, TWO, frontend=frontend)
    assert checked(graph, torch.zeros(2, 3, 8, 8)).graph["confirmed"] == 5
    with pytest.raises(MeasurementError, match=r"\[3, 3, 8, 8\] in place of") as caught:
        checked(graph, torch.zeros(3, 3, 8, 8))
    assert caught.value.node == "x"
    with pytest.raises(MeasurementError, match="another stride") as caught:
        checked(graph, torch.zeros(2, 8, 8, 3).permute(0, 3, 1, 2))
    with pytest.raises(UsageError, match="not of the form"):
        checked(graph, {"x": [TWO, TWO]})


class Flag(nn.Module):
    def forward(self, x, twice):
        return x * 2 if twice else x


def test_an_example_with_another_flag_is_another_graph():
    graph = ta.capture(Flag(), (TWO, True))
    assert checked(graph, (TWO + 1, True)).graph["confirmed"] == 1
    with pytest.raises(UsageError, match="not of the form"):
        checked(graph, (TWO, False))


def test_a_symbolic_graph_is_bound_to_the_example():
    graph = ta.capture(models.Tiny().eval(), TWO, dynamic=["batch"])
    bound = checked(graph, torch.zeros(5, 3, 8, 8))
    assert bound.nodes["head/linear"]["outputs"][0].shape == (5, 5)
    assert bound.graph["confirmed"] == number_of_ops(graph)
    assert checked(graph).nodes["head/linear"]["outputs"][0].shape == (2, 5)
    with pytest.raises(MeasurementError, match="another shape"):
        checked(graph, torch.zeros(5, 4, 8, 8))


class Picked(nn.Module):
    def forward(self, x):
        found = x[x > 0]
        return found * 2, x.nonzero()


def test_sizes_that_values_decide_have_to_agree_among_themselves():
    x = torch.tensor([1.0, -1.0, 2.0])
    for frontend in ("trace", "export"):
        graph = ta.capture(Picked(), x, frontend=frontend)
        assert checked(graph).graph["confirmed"] == number_of_ops(graph)
    (picked,) = graph.nodes["mul"]["outputs"][0].shape
    assert picked.is_Symbol
    for wrong in (2 * picked, picked + 1):
        with pytest.raises(MeasurementError, match=r"\[2\] in place of") as caught:
            checked(planted(graph, "mul", shape=(wrong,)))
        assert caught.value.node == "mul"


def test_an_op_of_a_size_that_stays_unknown_is_not_confirmed():
    graph = ta.capture(nn.ReLU(), torch.zeros(3))
    assert checked(planted(graph, "relu", shape=(2 * symbol("u"),))).graph["confirmed"] == 0


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("name", ["tiny", "bert", "lstm", "shared_and_tied"])
def test_values_are_made_up_where_there_are_none(name, kind):
    with torch.device("meta") if kind == "meta" else FakeTensorMode():
        model, example = models.ALL[name]()
    graph = ta.capture(model.eval(), example)
    if kind == "meta":
        with pytest.raises(UsageError, match="lies on meta"):
            checked(graph)
    else:
        timed = ta.measure(graph, steps=2)
        assert timed.graph["confirmed"] == number_of_ops(graph)
        assert timed.graph["measured"].median_us > 0


def test_a_model_on_meta_is_placed_and_gets_made_up_values():
    with torch.device("meta"):
        model, x = models.ALL["tiny"]()
    graph = ta.capture(model.eval(), x, device="cpu")
    assert ta.measure(graph, steps=1).graph["confirmed"] == number_of_ops(graph)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.fixture
def elsewhere(monkeypatch):
    """A device that the graph has everything on, and where no original lies."""
    inner, device = replay._place, torch.device("meta")
    monkeypatch.setattr(replay, "_place", lambda node: inner(node) and device)
    return device


@pytest.mark.parametrize("name", ["tiny", "lstm", "shared_and_tied", "bert"])
def test_values_are_copied_to_where_the_graph_has_them(name, captured, elsewhere):
    source = captured(name).source
    program = replay.Program(source, gradients=False, make=stand_ins())
    for key, value in source.placeholders.items():
        if isinstance(value, torch.Tensor) and key in program.inputs:
            copy = program.inputs[key]
            assert copy.device == elsewhere and value.device.type == "cpu"
            assert (copy.shape, copy.stride()) == (value.shape, value.stride())
    before = {n: (x, id(x)) for n, x in source.model.named_parameters(remove_duplicate=False)}
    held = [list(m._flat_weights) for m in source.model.modules() if isinstance(m, nn.RNNBase)]
    size = program.copies.nbytes(elsewhere)
    with ready(source, program.copies) as call:
        assert all(x.device == elsewhere for x in [*source.model.parameters()])
        outputs = [x for x in torch_api.tree_leaves(pack(call())[0]) if isinstance(x, torch.Tensor)]
    assert outputs and all(x.device == elsewhere for x in outputs)
    assert program.copies.nbytes(elsewhere) - size in (0, 2 * 2 * 4 + 2 * 4)  # an unused layer's
    after = dict(source.model.named_parameters(remove_duplicate=False))
    assert all(after[n] is x and id(x) == number for n, (x, number) in before.items())
    now = [m._flat_weights for m in source.model.modules() if isinstance(m, nn.RNNBase)]
    assert all(
        a is b
        for one, other in zip(held, now, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_what_is_tied_stays_tied_on_another_device(captured, elsewhere):
    source = captured("shared_and_tied").source
    copies = replay.Program(source, gradients=False, make=stand_ins()).copies
    with ready(source, copies):
        model = source.model
        assert model.head.weight is model.embed.weight and model.again is model.block
    weight = model.embed.weight
    assert copies.copy("a view", weight[2:]).storage_offset() == 2 * weight.shape[1]


def test_without_made_up_values_nothing_is_moved(captured, elsewhere):
    with pytest.raises(CaptureError, match="was placed on meta, and its values lie on cpu"):
        replay.Program(captured("tiny").source)


def test_an_op_that_cannot_be_run_is_named():
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 2)

        def forward(self, ids):
            return self.embed(ids + 1)

    graph = ta.capture(Lookup(), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(MeasurementError, match="IndexError") as caught:
        checked(graph, torch.full((3,), 9))
    assert caught.value.node == "embed/embedding"
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_device_that_is_too_small_is_said(captured, monkeypatch):
    def run(self, hook=None, invoke=None):
        invoke("conv2d_default", self.fill, (), {})

    def fill():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(replay.Program, "fill", staticmethod(fill), raising=False)
    monkeypatch.setattr(replay.Program, "run", run)
    with pytest.raises(MeasurementError, match="cannot be run: OutOfMemoryError: CUDA") as caught:
        checked(captured("tiny"))
    assert "a smaller example" in caught.value.hint


# -- requests that make no sense -----------------------------------------------------------------


def test_what_cannot_be_measured_is_said(captured):
    graph = captured("tiny")
    with pytest.raises(UsageError, match="no program behind it"):
        ta.measure(ta.collapse(graph, depth=1))
    with ta.recording() as rec:
        rec.run(nn.ReLU(), torch.zeros(3))
    with pytest.raises(UsageError, match="kept without values"):
        ta.measure(rec.graphs[0])
    with pytest.raises(UsageError, match="no numbers of runs"):
        ta.measure(graph, steps=-1)
