"""What the nodes of a training step say of each other: forward, parameter, gradient, state."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.graph import inputs_of, op_nodes
from training_models import MODELS, make, step

SMALL = ["tiny", "residual", "shared_and_tied", "dataclasses", "attention", "lstm"]


def backward_ops(graph):
    return {n: node for n, node in op_nodes(graph) if node["phase"] == "backward"}


def check_backward(graph):
    """Check that each op of the backward pass stands where its forward op does."""
    nodes, without = graph.nodes, []
    for name, node in backward_ops(graph).items():
        if "gradient_of" in node:  # sums up a parameter's gradient, and stands where it does
            assert nodes[node["gradient_of"]]["module"] == node["module"]
            continue
        other = node.get("differentiates", node.get("recomputes"))
        if other is None:
            without.append(node["op"])
            continue
        origin = nodes[other]
        assert origin["kind"] == "op" and origin["index"] < node["index"]
        assert origin["phase"] == "forward" or "recomputes" in origin, name
        assert (node["module"], node["module_stack"]) == (origin["module"], origin["module_stack"])
        if "recomputes" in node:
            assert (node["op"], node["outputs"]) == (origin["op"], origin["outputs"])
    # The gradient of the loss itself is a one, which nothing stands behind.
    assert without == ["aten.ones_like"]


@pytest.mark.parametrize("name", MODELS)
def test_each_backward_op_has_its_forward_op_and_its_module(name):
    check_backward(step(name))


@pytest.mark.parametrize("name", SMALL)
def test_of_the_models_of_all_tests_too(name):
    model, example = models.make(name)
    check_backward(ta.capture(model.train(), example, mode="training"))


SAME = {
    # backward op: what it differentiates, where that is not in its name
    "aten.threshold_backward": {"aten.relu", "aten.relu_"},
    "aten._softmax_backward_data": {"aten._softmax", "aten._safe_softmax"},
    "aten._log_softmax_backward_data": {"aten._log_softmax"},
    "aten.embedding_dense_backward": {"aten.embedding"},
    "aten.nll_loss_backward": {"aten.nll_loss_forward"},
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_op_whose_formula_the_backward_op_is(name):
    graph = step(name)
    found = 0
    for node in backward_ops(graph).values():
        stem, backward, _ = node["op"].partition("_backward")
        if backward and "differentiates" in node:
            origin = graph.nodes[node["differentiates"]]["op"]
            assert origin in SAME.get(node["op"], {stem, f"{stem}_"}), node
            found += 1
    assert found or name in ("two losses", "parametrized", "dropout", "custom", "views")


def test_in_place_ops_and_their_copies():
    """hardswish_ copies its operand for the backward pass before it runs."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Hardswish(inplace=True))
    graph = ta.capture(model, torch.zeros(2, 4), mode="training")
    assert graph.nodes["1/hardswish"]["op"] == "aten.hardswish_"
    assert graph.nodes["1/hardswish_backward"]["differentiates"] == "1/hardswish"
    assert graph.nodes["1/clone"]["saved"] == (0,)
    assert "saved" not in graph.nodes["1/hardswish"]


@pytest.mark.parametrize("name", ["checkpoint", "reentrant checkpoint"])
def test_what_a_checkpoint_runs_again(name):
    graph = step(name)
    again = {
        node["recomputes"]: n for n, node in backward_ops(graph).items() if "recomputes" in node
    }
    ops = [(graph.nodes[n]["module"], graph.nodes[n]["op"]) for n in again]
    assert ("first", "aten.addmm") in ops and ("second", "aten.addmm") in ops
    assert ("drop", "aten.bernoulli_") in ops and ("", "aten.tanh") in ops
    assert ("head", "aten.addmm") not in ops
    # What is read to run it again is kept; what it computes meanwhile is not.
    assert graph.nodes["first/addmm"]["saved"] == (0,)
    assert "saved" not in graph.nodes["tanh"] and "tanh" in again
    reads = Counter(
        graph.nodes[source]["phase"] for source, _ in inputs_of(graph, again["tanh"]).values()
    )
    assert reads == {"backward": 1}


def test_layers_that_run_again_repeat_their_own():
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = torch.utils.checkpoint.checkpoint(
                    lambda y, layer=layer: layer(y).tanh() * 2, x, use_reentrant=False
                )
            return x

    graph = ta.capture(Layers(), torch.zeros(2, 4), mode="training")
    again = [n["recomputes"] for n in backward_ops(graph).values() if "recomputes" in n]
    assert again == [
        *("layers/2/t", "layers/2/addmm", "tanh_2"),
        *("layers/1/t", "layers/1/addmm", "tanh_1"),
        *("layers/0/t", "layers/0/addmm", "tanh"),
    ]
    check_backward(graph)


def test_a_gradient_inside_the_forward_pass():
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x):
            x = x.clone().requires_grad_()
            energy = self.outer(torch.tanh(self.inner(x))).sum()
            return energy, torch.autograd.grad(energy, x, create_graph=True)[0]

    torch.manual_seed(0)
    model, x = Force(), torch.randn(4, 3)
    graph = ta.capture(model, x, mode="training")
    inside = {
        node["differentiates"]: node["module"]
        for _, node in op_nodes(graph)
        if node["phase"] == "forward" and "differentiates" in node
    }
    assert inside.items() >= {("tanh", ""), ("outer/addmm", "outer"), ("inner/addmm", "inner")}
    results = graph.source.run()
    energy, force = model(x)
    (energy + force.sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found = results[f"gradient/{name.replace('.', '/')}"]
            torch.testing.assert_close(found, parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_lead_to_their_gradients_and_back(name):
    graph, (model, _) = step(name), make(name)
    gradients = {n for n in graph if n.startswith("gradient/")}
    linked = {n: node["gradient"] for n, node in graph.nodes(data=True) if "gradient" in node}
    assert set(linked.values()) == gradients and len(linked) == len(gradients)
    for parameter, gradient in linked.items():
        assert graph.nodes[gradient]["gradient_of"] == parameter
        assert graph.nodes[gradient]["phase"] == "backward"
        assert graph.nodes[gradient]["target"] == f"gradient/{parameter}"
        made = inputs_of(graph, gradient)["value"]
        shape = graph.nodes[made[0]]["outputs"][made[1]].shape
        assert shape == graph.nodes[parameter]["outputs"][0].shape
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(linked) == len(trained)  # a tied weight is one


def test_states_of_an_optimizer_lead_to_their_parameters():
    model, example = make("tied and shared")
    graph = ta.capture(model, example, mode="training", optimizer=torch.optim.AdamW)
    states = {n: node["state_of"] for n, node in graph.nodes(data=True) if "state_of" in node}
    assert Counter(states.values()) == {"embed/weight": 3, "block/0/weight": 3, "block/0/bias": 3}
    for state, parameter in states.items():
        key = state.split("/")[1]
        assert graph.nodes[state]["target"] == f"optimizer.{key}.{parameter.replace('/', '.')}"


def test_links_survive_a_file(tmp_path):
    graph = step("checkpoint")
    graph.export(tmp_path / "step.json")
    again = ta.load(tmp_path / "step.json")
    for key in ("differentiates", "recomputes", "saved", "frees", "gradient", "gradient_of"):
        wanted = {n: node[key] for n, node in graph.nodes(data=True) if key in node}
        assert wanted and wanted == {
            n: node[key] for n, node in again.nodes(data=True) if key in node
        }
    assert ta.totals(again).peak == ta.totals(graph).peak
