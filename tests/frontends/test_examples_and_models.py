"""All the forms that a model and an example may take, and those that are refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models
import torchatlas as ta
from torchatlas.errors import CaptureError, InputError, UsageError


class Two(nn.Module):
    def forward(self, x, y=None, *, scale=None):
        x = x if y is None else x + y
        return x if scale is None else x * scale


X, Y = torch.ones(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("example", "inputs"),
    [
        (X, ["x"]),
        ((X, Y), ["x", "y"]),
        ({"x": X, "scale": Y}, ["x", "scale"]),
        (((X,), {"scale": Y}), ["x", "scale"]),
    ],
)
def test_example_forms(example, inputs):
    graph = ta.capture(Two(), example)
    assert [n for n, node in graph.nodes(data=True) if node["kind"] == "input"] == inputs


def test_mapping_for_a_dict_argument():
    class Batch(nn.Module):
        def forward(self, batch):
            return batch["a"] + batch["b"]

    graph = ta.capture(Batch(), {"a": X, "b": Y})
    assert {"batch/a", "batch/b"} <= set(graph)


def test_functions_and_graph_modules():
    assert ta.capture(lambda x: x @ x.t(), X).nodes["matmul"]["macs"] == 2 * 2 * 3
    traced = torch.fx.symbolic_trace(models.Tiny().eval())
    graph = ta.capture(traced, torch.randn(2, 3, 8, 8))
    assert graph.graph["frontend"] == "fx"


@pytest.mark.parametrize("kind", ["meta", "fake", "fake input"])
@pytest.mark.parametrize("name", ["tiny", "shared_and_tied", "attention"])
def test_weights_need_not_exist(kind, name, captured):
    if kind == "meta":
        with torch.device("meta"):
            model, _ = models.SMALL[name]()
        example = models.make(name)[1]
    elif kind == "fake":
        with FakeTensorMode():
            model, _ = models.SMALL[name]()
        example = models.make(name)[1]
    else:
        model, example = models.make(name)
        mode = FakeTensorMode()
        example = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, example)
    graph = ta.capture(model.eval(), example)
    expected = captured(name)
    assert list(graph) == list(expected)
    for node in graph:
        shapes = [(out.shape, out.dtype, out.stride) for out in graph.nodes[node]["outputs"]]
        wanted = [(out.shape, out.dtype, out.stride) for out in expected.nodes[node]["outputs"]]
        assert shapes == wanted, node
    assert ta.totals(graph) == ta.totals(expected)


def test_wrappers_are_taken_off():
    model, example = models.make("residual")
    plain = list(ta.capture(model, example))
    assert list(ta.capture(torch.compile(model), example)) == plain
    assert list(ta.capture(nn.DataParallel(model), example)) == plain


# -- bad input -----------------------------------------------------------------------------


def test_wrong_shape_names_module_op_shapes_and_hint():
    model = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Linear(6, 7)))
    with pytest.raises(InputError) as caught:
        ta.capture(model, torch.ones(2, 4))
    text = str(caught.value)
    assert "'1.0' (Linear)" in text
    assert "linear(float32[2, 5], float32[7, 6], float32[7])" in text
    assert "hint: " in text and "in_features=6" in text
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.skipif(models.OLD_TORCH, reason="fake tensors did not check data types yet")
def test_wrong_dtype_is_named():
    with pytest.raises(InputError, match=r"embedding\((.|\n)*float32\[3\]"):
        ta.capture(nn.Embedding(4, 2), torch.ones(3))


def test_a_forward_that_raises_is_reported_as_it_is():
    class Raises(nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    with pytest.raises(InputError, match="in Raises itself\n  ValueError: not today"):
        ta.capture(Raises(), X)


def test_missing_argument_shows_the_signature():
    with pytest.raises(InputError, match=r"missing a required argument: 'x'(.|\n)*forward\(x"):
        ta.capture(Two(), {"scale": X})


def test_branching_on_data_says_what_each_front_end_met(capfd):
    class Branch(nn.Module):
        def forward(self, x):
            print("looking", file=sys.stderr)
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError) as caught:
        ta.capture(Branch(), X.to("meta"))
    assert not isinstance(caught.value, InputError)
    for step in ("trace: ", "trace, on values: ", "export: ", "export, strict: ", "fx: "):
        assert step in str(caught.value)
    assert "(at frontends/test_examples_and_models.py:" in str(caught.value)
    # What the model prints is shown; what torch prints of its half-made graphs is not.
    out, err = capfd.readouterr()
    assert out == "" and set(err.split()) <= {"looking"} and "looking" in err


def test_what_only_fake_tensors_cannot_do_is_no_fault_of_the_model():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 4)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]))
            return self.gru(packed)[1]

    with pytest.raises(CaptureError) as caught:
        ta.capture(Packed(), torch.ones(5, 2, 3).to("meta"))
    assert not isinstance(caught.value, InputError)


def test_the_graph_says_which_front_end_served_and_why_others_did_not(monkeypatch):
    from torchatlas.frontends import exported, traced

    def refuse(*args, **kwargs):
        raise RuntimeError("not\x1b today")

    here = f"frontends/test_examples_and_models.py:{refuse.__code__.co_firstlineno + 1}"

    monkeypatch.setattr(traced, "_run", refuse)
    monkeypatch.setattr(exported, "_export", refuse)
    graph = ta.capture(*models.make("residual"))
    assert graph.graph["frontend"] == "fx"
    assert graph.graph["attempts"] == (
        f"trace: RuntimeError: not\N{REPLACEMENT CHARACTER} today (at {here})",
        f"export: RuntimeError: not\N{REPLACEMENT CHARACTER} today (at {here})",
        f"export, strict: RuntimeError: not\N{REPLACEMENT CHARACTER} today (at {here})",
    )
    monkeypatch.undo()
    graph = ta.capture(*models.make("residual"))
    assert (graph.graph["frontend"], graph.graph["attempts"]) == ("trace", ())


def test_failures_are_quiet(capfd):
    with pytest.raises(InputError):
        ta.capture(nn.Linear(4, 5), torch.ones(2, 3))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_module_that_contains_itself():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].back = model
    with pytest.raises(CaptureError, match=r"'0\.back' contains itself"):
        ta.capture(model, torch.ones(1, 2))


def test_lazy_modules_ask_for_a_run_and_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(CaptureError, match=r"'0\.weight' has no shape yet"):
        ta.capture(model, torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert ta.totals(ta.capture(model, torch.ones(1, 2))).macs == 6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear, "is a class, not a model"),
        ("resnet18", "a str cannot be captured"),
        (torch.jit.script(nn.Linear(2, 2)), "TorchScript"),
    ],
)
def test_what_is_no_model(model, message):
    with pytest.raises(CaptureError, match=message):
        ta.capture(model, X)


def test_unknown_front_end_lists_the_known():
    with pytest.raises(UsageError, match="auto, trace, export, fx"):
        ta.capture(Two(), X, frontend="jit")
