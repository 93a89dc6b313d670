"""A captured training step run on real tensors computes what eager computes, bit by bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas.errors import CaptureError, InputError
from torchatlas.frontends.example import arguments
from torchatlas.frontends.training import default_loss
from torchatlas.graph import op_nodes
from torchatlas.memory import saved_for_backward
from training_models import IDS, MODELS, TINY, language_model, make, step


def eager(model: nn.Module, example) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return a step's gradients and buffers, and its loss; `model` is changed."""
    args, kwargs = arguments(model, example)
    loss = default_loss(model(*args, **kwargs))
    loss.backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {**named, **dict(model.named_buffers())}, loss.detach()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_statistics_equal_those_of_eager(name):
    graph, (model, example) = step(name), make(name)
    torch.manual_seed(1)
    results = graph.source.run()
    random = torch.get_rng_state()
    for key, value in graph.source.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    torch.manual_seed(1)
    wanted, loss = eager(model, example)
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(results["loss" if "loss" in results else "output/loss"], loss)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() <= wanted.keys()
    for node, attrs in graph.nodes(data=True):
        target = attrs.get("target")
        if attrs["kind"] == "parameter" and target in trained:
            assert torch.equal(results[attrs["gradient"]], wanted[target]), node
        elif attrs["kind"] == "buffer":
            assert torch.equal(results[node], wanted[target]), node


def test_a_model_that_knows_fake_tensors_is_close():
    """With fake tensors transformers masks attention by a tensor where eager says `is_causal`."""
    torch.manual_seed(0)
    model = language_model("llama", attention="sdpa", num_key_value_heads=1, **TINY).train()
    example = {"input_ids": IDS, "labels": IDS}
    graph = ta.capture(model, example, mode="training")
    results = graph.source.run()
    wanted, _ = eager(model, example)
    for name, parameter in model.named_parameters():
        found = results[f"gradient/{name.replace('.', '/')}"]
        torch.testing.assert_close(found, wanted[name], rtol=1e-5, atol=1e-7)
        assert parameter.grad is wanted[name]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_after_the_step_equal_those_of_eager(name):
    model, example = make("views")  # one of its parameters has one element
    graph = ta.capture(model, example, mode="training", optimizer=OPTIMIZERS[name])
    results = graph.source.run()
    optimizer = OPTIMIZERS[name](model.parameters())
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # so that its state exists; and without moments
    for state in optimizer.state.values():
        for value in state.values():
            if torch.is_tensor(value) and value.dim() > 0:
                value.zero_()
    model.load_state_dict(before)
    optimizer.zero_grad()
    eager(model, example)
    optimizer.step()
    for target, parameter in model.named_parameters():
        assert torch.equal(results[target.replace(".", "/")], parameter), target
        assert not torch.equal(parameter, before[target])
        states = optimizer.state[parameter]
        for node, attrs in graph.nodes(data=True):
            if attrs.get("state_of") == target.replace(".", "/"):
                key = attrs["target"].split(".")[1]
                assert torch.equal(results[node], states[key]), node


def test_a_loss_may_use_the_parameters():
    model, example = make("dropout")

    def loss(output):
        return output.sum() + sum((p**2).sum() for p in model.parameters())

    graph = ta.capture(model.eval(), example, mode="training", loss=loss)
    results = graph.source.run()
    loss(model(example)).backward()
    assert not [n for n, attrs in graph.nodes(data=True) if attrs["kind"] == "constant"]
    for name, parameter in model.named_parameters():
        assert torch.equal(results[f"gradient/{name.replace('.', '/')}"], parameter.grad)


def test_hooks_on_gradients_are_part_of_the_step():
    model, x = nn.Linear(8, 2), torch.randn(4, 8)
    model.weight.register_hook(lambda gradient: gradient * 3)
    graph = ta.capture(model, x, mode="training")
    model(x).sum().backward()
    results = graph.source.run()
    assert torch.equal(results["gradient/weight"], model.weight.grad)
    scaled = [node for _, node in op_nodes(graph) if node["op"] == "aten.mul"]
    assert [node["gradient_of"] for node in scaled] == ["weight"]


def test_experts_that_are_chosen_by_value():
    torch.manual_seed(0)
    eager_experts = {"experts_implementation": "eager", "num_local_experts": 4}
    model = language_model("mixtral", num_key_value_heads=1, **eager_experts, **TINY).train()
    example = {"input_ids": IDS, "labels": IDS}
    graph = ta.capture(model, example, mode="training")
    results = graph.source.run()
    wanted, loss = eager(model, example)
    assert graph.graph["specialised"] and len(graph.graph["decisions"]) > 1
    assert torch.equal(results["output/loss"], loss)
    for name, gradient in wanted.items():
        if f"gradient/{name.replace('.', '/')}" in results:
            assert torch.equal(results[f"gradient/{name.replace('.', '/')}"], gradient), name


def test_constants_are_copied():
    counter = torch.zeros(())
    model = nn.Linear(8, 2)

    def loss(output):
        return output.sum() * counter.add_(1)

    graph = ta.capture(model, torch.randn(4, 8), mode="training", loss=loss)
    before = counter.clone()
    results = graph.source.run()
    assert torch.equal(counter, before)
    assert torch.equal(results["gradient/bias"], torch.full((2,), 4.0 * (before + 1)))


def test_running_needs_values():
    with torch.device("meta"):
        model = nn.Linear(8, 2)
    graph = ta.capture(model, torch.zeros(4, 8), mode="training", optimizer=torch.optim.AdamW)
    with pytest.raises(CaptureError, match="'weight' has no values to run on"):
        graph.source.run()


def test_what_the_backward_pass_cannot_use_is_an_error_of_the_model():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5, inplace=True))
    with pytest.raises(InputError, match="backward pass raises"):
        ta.capture(model, torch.zeros(4, 8), mode="training")


# -- what autograd keeps -------------------------------------------------------------------


def kept_by_eager(model: nn.Module, example) -> int:
    """Return the bytes of the storages that autograd saves, but those of the caller."""
    args, kwargs = arguments(model, example)
    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    state = [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, leaves)]
    callers = {tensor.untyped_storage().data_ptr() for tensor in state}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        default_loss(model(*args, **kwargs))
    return sum(storage.nbytes() for key, storage in kept.items() if key not in callers)


# Not here: recurrent layers, whose kernel keeps a work space that a fake one does not know.
@pytest.mark.parametrize("name", [n for n in MODELS if n != "lstm"])
def test_saved_bytes_are_those_that_autograd_saves(name):
    graph, (model, example) = step(name), make(name)
    assert sum(saved_for_backward(graph).values()) == kept_by_eager(model, example)
    assert any("saved" in attrs for _, attrs in op_nodes(graph))
