"""A module that is called like an earlier one is not run again, and the graph does not show it."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.frontends import repeats, traced
from torchatlas.graph import op_nodes

CALLS: list[str] = []
SCALE = 1
SEEN: list[int] = []
TABLE = {"scale": 1.0}
OBJECT = SimpleNamespace()


def add_one(holder):
    holder.inner.count += 1
    return holder.inner.count


@pytest.fixture(autouse=True)
def _clear(monkeypatch):
    CALLS.clear()
    SEEN.clear()
    monkeypatch.setitem(TABLE, "scale", 1.0)
    monkeypatch.setitem(globals(), "SCALE", 1)


class Block(nn.Module):
    """Two layers and a residual connection; what `extra` adds differs from test to test."""

    def __init__(self, index: int = 0, config: object = None) -> None:
        super().__init__()
        self.index, self.config = index, config
        self.norm = nn.LayerNorm(4)
        self.inner = nn.Linear(4, 4)

    def forward(self, x, *args, **kwargs):
        CALLS.append("block")
        return x + self.extra(self.inner(self.norm(x)), *args, **kwargs)

    def extra(self, x):
        return x.relu()


class Stack(nn.Module):
    """Calls its blocks one after the other, and `between` in between."""

    def __init__(self, kind, depth=6, *args, **kwargs) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind(i, *args, **kwargs) for i in range(depth))

    def forward(self, x):
        for i, block in enumerate(self.blocks):
            self.between(i)
            x = self.call(block, x, i)
        return x

    def between(self, i):
        pass

    def call(self, block, x, i):
        return block(x)


X = torch.ones(3, 4)


def runs(model, example=X, **options):
    """Return how many blocks ran, and check that the graph is the one of running all of them."""
    CALLS.clear()
    graph = ta.capture(model, example, frontend="trace", include_source=True, **options)
    ran = len(CALLS)
    whole = ta.capture(
        model, example, frontend="trace", include_source=True, replay=False, **options
    )
    assert ta.to_text(graph) == ta.to_text(whole)
    assert list(graph.nodes(data=True)) == list(whole.nodes(data=True))
    assert sorted(graph.edges(data=True), key=str) == sorted(whole.edges(data=True), key=str)
    assert graph.graph == whole.graph
    ta.validate(graph)
    return ran


# -- where it may ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_same_graph_with_and_without_on_every_model(name):
    model, example = models.make(name)
    graph, whole = (
        ta.capture(model, example, frontend="trace", include_source=True, replay=replay)
        for replay in (True, False)
    )
    assert ta.to_text(graph) == ta.to_text(whole)
    assert list(graph.nodes(data=True)) == list(whole.nodes(data=True))
    assert list(graph.edges(data=True)) == list(whole.edges(data=True))
    assert graph.graph == whole.graph


def test_a_block_that_leaves_something_behind_runs_each_time():
    assert runs(Stack(Block)) == 6  # its name, in a list of the module


class Quiet(Block):
    def forward(self, x, *args, **kwargs):
        return x + self.extra(self.inner(self.norm(x)), *args, **kwargs)


def layer_norms(model, example=X):
    """Return how many layer norms ran, of which a block has one."""
    graph = ta.capture(model, example, frontend="trace")
    nodes = graph.source.program.graph.nodes
    runs(model, example)
    return sum(node.target is torch.ops.aten.layer_norm.default for node in nodes)


def test_a_block_runs_once():
    assert layer_norms(Stack(Quiet)) == 2  # the first of them on what asks for no gradient
    assert layer_norms(Stack(Quiet), X.clone().requires_grad_() * 1) == 1


def test_repeats_of_one_module_called_again_and_again():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Quiet()

        def forward(self, x):
            for _ in range(6):
                x = self.block(x)
            return x

    assert layer_norms(Loop()) == 2  # a first call shows that there are others


def test_blocks_that_differ_in_what_they_hold_run_apart():
    model = Stack(Quiet)
    model.blocks[2].train(False)
    model.blocks[3].norm.weight.requires_grad_(False)
    model.blocks[4].inner.bias = None
    assert layer_norms(model) == 5


def test_a_block_that_reads_its_number_runs_each_time():
    class Numbered(Quiet):
        def extra(self, x):
            return x * 2 if self.index > 3 else x

    assert layer_norms(Stack(Numbered)) == 6


def test_nested_blocks():
    class Outer(nn.Module):
        def __init__(self, index):
            super().__init__()
            self.index = index
            self.layers = nn.Sequential(Quiet(0), Quiet(1), Quiet(2))

        def forward(self, x):
            return self.layers(x) * 2

    assert layer_norms(Stack(Outer, 3)) == 2  # of nine


def test_results_that_are_arguments_views_and_trees():
    class Several(Quiet):
        def forward(self, x, mask=None):
            y = self.inner(self.norm(x))
            return {"y": y, "x": x, "mask": mask, "view": y.t(), "pair": [y[0], 3, None, "text"]}

    class Chain(Stack):
        def call(self, block, x, i):
            found = block(x, mask=self.mask)
            assert (
                found["x"] is x
                and found["mask"] is self.mask
                and found["pair"][1:] == [3, None, "text"]
            )
            found["y"].mul_(2)
            return found["y"] + found["pair"][0]

    model = Chain(Several)
    model.register_buffer("mask", torch.ones(3, 4))
    layer_norms(model)

    class View(Quiet):
        def forward(self, x):
            return self.norm(x.view(-1)[:4]), x.view(-1)[2:6]

    class Views(Stack):
        def call(self, block, x, i):
            one, other = block(x)
            assert other.untyped_storage()._cdata == x.untyped_storage()._cdata
            other.add_(1)
            return x + one

    assert layer_norms(Views(View)) == 2


def test_what_a_block_writes_in_place():
    class Writes(Quiet):
        def __init__(self, *args):
            super().__init__(*args)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count.add_(1)
            x.mul_(2)
            return self.inner(self.norm(x)).relu_()

    class Reads(Stack):
        def call(self, block, x, i):
            y = x * 1
            out = block(y)
            return out + y + y.sum()

    assert layer_norms(Reads(Writes)) == 2


def test_gradients_are_asked_for_behind_a_repeated_block():
    class Asks(Stack):
        def call(self, block, x, i):
            x = block(x)
            assert x.requires_grad and not x.is_leaf and x.grad_fn is not None
            return x.add_(1)

    assert layer_norms(Asks(Quiet)) <= 2


# -- where it may not ------------------------------------------------------------------------


def test_a_global_that_changes():
    class Reads(Quiet):
        def extra(self, x):
            return x * SCALE

    class Changes(Stack):
        def between(self, i):
            globals()["SCALE"] = i // 2

    runs(Changes(Reads))


def test_a_global_container_that_changes():
    class Reads(Quiet):
        def extra(self, x):
            return x * TABLE["scale"] + len(SEEN)

    class Changes(Stack):
        def between(self, i):
            TABLE["scale"] = float(i // 3)
            SEEN[:] = [0] * (i // 2)

    runs(Changes(Reads))


def test_a_global_that_the_block_changes():
    class Counts(Quiet):
        def extra(self, x):
            global SCALE
            SCALE += 1
            return x * SCALE

    class Resets(Stack):
        def forward(self, x):
            globals()["SCALE"] = 0
            return super().forward(x)

    model = Resets(Counts)
    runs(model)
    found = [n["args"]["other"] for _, n in op_nodes(ta.capture(model, X)) if n["op"] == "aten.mul"]
    assert found == [1, 2, 3, 4, 5, 6]


def test_an_attribute_that_the_block_changes():
    class Counts(Quiet):
        def extra(self, x):
            self.config.count += 1
            return x * self.config.count

    class Resets(Stack):
        def forward(self, x):
            self.blocks[0].config.count = 0
            return super().forward(x)

    shared = SimpleNamespace(count=0)
    runs(Resets(Counts, 6, shared))

    class Remembers(Quiet):
        def extra(self, x):
            self.last = x
            return x

    runs(Stack(Remembers))


def test_a_shared_object_that_changes_between_calls():
    class Reads(Quiet):
        def extra(self, x):
            return x * self.config.scale[0]

    class Changes(Stack):
        def between(self, i):
            self.blocks[0].config.scale[0] = float(i // 2)

    runs(Changes(Reads, 6, SimpleNamespace(scale=[1.0])))


def test_a_class_attribute_that_changes():
    class Reads(Quiet):
        scale = 1

        def extra(self, x):
            return x * self.scale

    class Changes(Stack):
        def between(self, i):
            Reads.scale = i // 2

    runs(Changes(Reads))


def test_a_class_attribute_that_the_block_changes():
    class Counts(Quiet):
        count = 0
        found: ClassVar[list[int]] = []

        def extra(self, x):
            type(self).count += 1
            self.found.append(1)
            return x * self.count * len(self.found)

    class Resets(Stack):
        def forward(self, x):
            Counts.count = 0
            Counts.found.clear()
            return super().forward(x)

    runs(Resets(Counts))


def test_a_global_object_that_a_function_of_the_block_changes():
    class Counts(Quiet):
        def extra(self, x):
            return x * add_one(OBJECT)

    class Resets(Stack):
        def forward(self, x):
            OBJECT.inner = SimpleNamespace(count=0)
            return super().forward(x)

    runs(Resets(Counts))


def test_a_variable_of_a_function_that_has_ended():
    count = 0

    class Counts(Quiet):
        def extra(self, x):
            nonlocal count
            count += 1
            return x * count

    class Resets(Stack):
        def forward(self, x):
            nonlocal count
            count = 0
            return super().forward(x)

    runs(Resets(Counts))


def test_an_iterator():
    class Draws(Quiet):
        def extra(self, x):
            return x * next(self.config)

    class Refills(Stack):
        def forward(self, x):
            numbers = iter(range(100))
            for block in self.blocks:
                block.config = numbers
            return super().forward(x)

    runs(Refills(Draws))


def test_random_numbers_of_python():
    class Draws(Quiet):
        def extra(self, x):
            return x if random.random() < 0.5 else x * 2

    class Seeds(Stack):
        def forward(self, x):
            random.seed(0)
            return super().forward(x)

    runs(Seeds(Draws, 12))


def test_modes_of_torch():
    class Modes(Stack):
        def call(self, block, x, i):
            if i == 2:
                with torch.no_grad():
                    return block(x)
            if i == 3:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    return block(x).float()
            if i == 4:
                return block(x.double().float().t().contiguous().t())
            return block(x)

    runs(Modes(Quiet), torch.ones(4, 4))


def test_arguments_that_differ():
    class Takes(Quiet):
        def extra(self, x, scale=1, other=None):
            return x * scale if other is None else x * other

    class Gives(Stack):
        def call(self, block, x, i):
            options = [
                {},
                {"scale": 2},
                {"scale": 2.0},
                {"other": x},
                {"other": x * 1},
                {"scale": True},
            ]
            return block(x, **options[i])

    runs(Gives(Takes))


def test_a_container_among_the_arguments_that_the_block_changes():
    class Appends(Quiet):
        def extra(self, x, found):
            found.append(x)
            return x * len(found)

    class Collects(Stack):
        def forward(self, x):
            self.found = []
            x = super().forward(x)
            return x, *self.found

        def call(self, block, x, i):
            return block(x, self.found)

    runs(Collects(Appends))


def test_tensors_from_outside():
    outside = torch.ones(4)

    class Closes(Quiet):
        def extra(self, x):
            return x + outside

    runs(Stack(Closes))

    class Constant(Quiet):
        def extra(self, x):
            return x + torch.tensor([1.0, 2.0, 3.0, 4.0])

    runs(Stack(Constant))


def test_hooks(monkeypatch):
    seen = []
    model = Stack(Quiet)
    for block in model.blocks:
        block.norm.register_forward_hook(lambda module, args, output: seen.append(1))
    runs(model)
    assert len(seen) == 12
    handle = nn.modules.module.register_module_forward_hook(lambda *args: seen.append(2))
    try:
        ta.capture(Stack(Quiet), X)
    finally:
        handle.remove()
    assert seen.count(2) > 6 * 2


def test_recurrent_layers(monkeypatch):
    class Recurrent(Quiet):
        def __init__(self, *args):
            super().__init__(*args)
            self.lstm = nn.LSTM(4, 4)  # holds a list of its weights, which is its own

        def extra(self, x):
            return self.lstm(x)[0]

    def fail(*args, **kwargs):
        raise AssertionError("the capture was given up")

    original = traced._run
    monkeypatch.setattr(
        traced, "_run", lambda *args, replay: original(*args, replay=replay) if replay else fail()
    )
    graph = ta.capture(Stack(Recurrent, 3), X, frontend="trace")
    assert sum(node["op"] == "aten.lstm" for _, node in op_nodes(graph)) == 3
    monkeypatch.undo()
    runs(Stack(Recurrent, 3))


def test_a_tied_parameter():
    model = Stack(Quiet)
    model.blocks[2].inner.weight = model.blocks[1].inner.weight
    model.blocks[4].inner.weight = model.blocks[4].norm.weight = nn.Parameter(torch.ones(4))
    model.blocks[4].inner.weight = nn.Parameter(torch.ones(4, 4))
    assert layer_norms(model) <= 2


def test_the_model_is_left_as_it_was():
    model = Stack(Quiet)
    before = [list(vars(module).items()) for module in model.modules()]
    ta.capture(model, X)
    assert [list(vars(module).items()) for module in model.modules()] == before
    assert type(nn.Module.__call__).__name__ == "function"
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl


def test_a_fault_of_replay_is_no_fault_of_the_capture(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(repeats.Repeats, "_repeat", fail)
    graph = ta.capture(Stack(Quiet), X)
    assert (graph.graph["frontend"], graph.graph["attempts"]) == ("trace", ())
    monkeypatch.setattr(traced, "_run", fail)
    with pytest.raises(ta.AtlasError, match="a fault"):
        ta.capture(Stack(Quiet), X, frontend="trace")
