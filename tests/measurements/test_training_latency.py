"""Training steps that are timed: what is run, that it adds up, and what it leaves untouched."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

import torchatlas as ta
import training_models
from torchatlas.errors import MeasurementError
from torchatlas.frontends.replay import Program
from torchatlas.graph import op_nodes
from torchatlas.measurements.training import ready_step
from torchatlas.measurements.values import generators_kept, stand_ins

OPTIMIZERS = {
    "none": None,
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
}


def latencies(graph):
    return {n: at["latency_us"] for n, at in op_nodes(graph) if "latency_us" in at}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["attention", "tied and shared", "checkpoint", "parametrized"])
def test_the_sum_of_the_ops_and_the_residual_are_the_whole(name, optimizer):
    model, example = training_models.make(name)
    graph = ta.capture(model, example, mode="training", optimizer=OPTIMIZERS[optimizer])
    timed = ta.measure(graph, steps=3)
    found, whole = latencies(timed), timed.graph["measured"]
    assert len(found) == sum(1 for _ in op_nodes(timed))
    assert math.isclose(math.fsum(found.values()) + whole.residual_us, whole.median_us)
    assert (whole.mode, whole.samples, whole.steps) == ("training", 3, 3)
    phases = {timed.nodes[name]["phase"] for name in found}
    assert ("optimizer" in phases) == (optimizer != "none") and "backward" in phases
    ta.validate(timed)


def test_the_mode_is_in_the_file(tmp_path):
    model, example = training_models.make("two losses")
    graph = ta.measure(ta.capture(model, example, mode="training"), steps=2)
    graph.export(tmp_path / "step.json")
    assert ta.load(tmp_path / "step.json").graph["measured"] == graph.graph["measured"]


class Restless(nn.Module):
    """Changes its buffers, an attribute, its input and the random numbers as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.norm, self.drop = nn.GRU(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(1))
        self.held = [nn.Parameter(torch.ones(4)) for _ in range(2)]
        self.scale = self.held[0]
        self.calls = 0

    def forward(self, x, z):
        self.calls += 1
        self.count += 1
        self.seen = x.detach().mean()
        random.random()
        z.mul_(1.5)
        y = self.drop(self.norm(self.rnn(x)[0].flatten(0, 1)))
        return y * self.scale * self.held[0] * self.held[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_is_left_behind(optimizer):
    """Not on the model, whose parameters stand in lists too, nor on what the loss closes over."""
    model, x, z = Restless(), torch.randn(3, 2, 4, requires_grad=True), torch.ones(2)
    factor = nn.Parameter(torch.ones(6, 4))
    make = OPTIMIZERS[optimizer]
    made = None if make is None else make(model.parameters())
    tensors = [*model.parameters(), *model.held, factor, x]
    for i, tensor in enumerate(tensors[::2]):
        tensor.grad = torch.full_like(tensor, i)
    if made is not None:
        made.step()
    graph = ta.capture(
        model, (x, z), mode="training", loss=lambda y: (y * factor).sum(), optimizer=made
    )
    held = {path: dict(vars(part)) for path, part in model.named_modules()}
    lists = [list(model.held), list(model.rnn._flat_weights)]
    kept = [*tensors, *model.buffers(), z]
    before = [(tensor.detach().clone(), tensor._version) for tensor in kept]
    gradients = [(t.grad, None if t.grad is None else t.grad.clone()) for t in tensors]
    state = None if made is None else repr(made.state_dict())
    drawn = torch.get_rng_state(), random.getstate()
    timed = ta.measure(graph, steps=3)
    assert latencies(timed)
    for tensor, (values, version) in zip(kept, before, strict=True):
        assert torch.equal(tensor, values) and tensor._version == version
    for tensor, (gradient, values) in zip(tensors, gradients, strict=True):
        assert tensor.grad is gradient
        assert gradient is None or torch.equal(gradient, values)
    assert {path: dict(vars(part)) for path, part in model.named_modules()} == held
    now = [list(model.held), list(model.rnn._flat_weights)]
    assert [list(map(id, one)) for one in now] == [list(map(id, one)) for one in lists]
    assert state is None or repr(made.state_dict()) == state
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert model.calls == 0 and not hasattr(model, "seen")


def run(graph, times):
    """Return the losses of a step that is run `times` times, and set back between."""
    found = []
    with generators_kept(), torch.no_grad():
        program = Program(graph.source, gradients=False, make=stand_ins())
        with ready_step(graph.source, program) as (call, started):
            for _ in range(times):
                started.set_back()
                found.append((float(call()), float(call())))
            assert not torch.is_grad_enabled()
    return found


@pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.AdamW, torch.optim.SGD])
def test_every_run_begins_with_the_same_state(optimizer):
    """The loss of the second of two steps depends on all that the first one changed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    graph = ta.capture(
        model,
        torch.randn(5, 4),
        mode="training",
        loss=lambda y: (y - 1).square().mean(),
        optimizer=lambda parameters: optimizer(parameters, lr=0.1),
    )
    losses = run(graph, 3)
    assert len(set(losses)) == 1
    first, second = losses[0]
    assert first != second


def test_what_a_run_did_not_change_by_chance_is_set_back_too():
    """All parameters are, where there is an optimizer: a part may be left out at random."""

    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.runs = nn.Linear(2, 2), iter([0.0])  # for the capture

        def forward(self, x):
            return self.layer(x) * next(self.runs, 1.0)

    model = Skips()
    graph = ta.capture(model, torch.ones(3, 2), mode="training", optimizer=plain_sgd)
    assert len(set(run(graph, 3))) == 1


def test_an_optimizer_that_cannot_make_a_step_is_named():
    graph = ta.capture(nn.Linear(2, 1), torch.ones(3, 2), mode="training", optimizer=plain_sgd)
    step = graph.source.step
    graph.source.step = type(step)(step.args, step.loss, torch.optim.LBFGS)  # needs a closure
    with pytest.raises(MeasurementError, match="the optimizer cannot make a step: TypeError"):
        run(graph, 1)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def test_it_is_the_step_that_a_user_runs():
    """The same losses as in a loop of its own, and the optimizer's own settings."""
    torch.manual_seed(0)
    model, x = nn.Linear(4, 2), torch.randn(5, 4)
    own = torch.optim.SGD(model.parameters(), lr=0.25, weight_decay=0.5)

    def loss(y):
        return y.square().mean()

    graph = ta.capture(model, x, mode="training", loss=loss, optimizer=own)
    (found,) = run(graph, 1)
    expected = []
    for _ in range(2):
        own.zero_grad()
        error = loss(model(x))
        expected.append(float(error.detach()))
        error.backward()
        own.step()
    assert found == tuple(expected)


def test_a_step_is_compiled_with_its_loss_and_optimizer(monkeypatch):
    model, example = training_models.make("two losses")
    graph = ta.capture(model, example, mode="training", optimizer=plain_sgd)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile(function, backend="eager"))
    timed = ta.measure(graph, steps=2, warmup=1, compare=["compile", "cuda-graph"])
    compiled, recorded = timed.graph["measured"].others
    assert (compiled.error, compiled.samples) == ("", 2) and "graphs" in compiled.note
    assert recorded.error == "a CUDA graph needs a CUDA device, and this is cpu"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_new_in_every_run():
    """They would otherwise be added up, and hooks on them called with the sum."""
    seen = []
    model = nn.Linear(2, 1, bias=False)
    model.weight.register_hook(lambda gradient: seen.append(gradient.tolist()))
    graph = ta.capture(model, torch.ones(3, 2), mode="training")
    seen.clear()
    ta.measure(graph, steps=2)
    assert len(seen) > 3 and all(gradient == [[3.0, 3.0]] for gradient in seen)


def test_a_model_without_weights_is_timed():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        x = torch.randn(3, 4)
    graph = ta.capture(model, x, mode="training", optimizer=plain_sgd)
    timed = ta.measure(graph, steps=2)
    assert len(latencies(timed)) == sum(1 for _ in op_nodes(timed))


def test_a_step_that_cannot_be_run_says_so():
    model, x = nn.Linear(2, 1), torch.ones(3, 2)
    strict = []

    def loss(y):
        if strict:
            raise ValueError("not today\nnor tomorrow")
        return y.sum()

    graph = ta.capture(model, x, mode="training", loss=loss)
    strict.append(1)
    with pytest.raises(MeasurementError, match="the model cannot be run: ValueError: not today"):
        ta.measure(graph, steps=2)


def test_a_training_step_of_lightning_is_timed():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.cross_entropy(self.layer(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module, batch = Module(), (torch.randn(3, 4), torch.tensor([0, 1, 1]))
    graph = ta.capture(module, batch, mode="training", optimizer="configured")
    timed = ta.measure(graph, steps=2)
    assert timed.graph["measured"].mode == "training" and latencies(timed)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_source_keeps_the_step_and_no_file_does(tmp_path):
    import pickle

    secret = lambda y: y.sum()  # noqa: E731, which cannot be pickled
    graph = ta.capture(nn.Linear(2, 1), torch.ones(3, 2), mode="training", loss=secret)
    assert graph.source.step.loss is secret
    assert pickle.loads(pickle.dumps(graph)).source is None
    assert ta.capture(nn.Linear(2, 1), torch.ones(3, 2)).source.step is None
