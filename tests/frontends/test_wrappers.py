"""What stands around a model is taken off, and a capture leaves the model as it was."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn

import torchatlas as ta
from extras import BOTH, ids
from torchatlas.errors import CaptureError
from torchatlas.graph import op_nodes

X = torch.randn(2, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.first = nn.Linear(4, 5)
        self.block = nn.Sequential(nn.Linear(5, 5), nn.ReLU())

    def forward(self, x, *, twice=False):
        x = self.block(self.first(x)) * self.scale
        return x + x if twice else x

    def doubled(self, x):
        return self(x, twice=True)


def never(*_: Any) -> Any:
    raise AssertionError("compiled")


def compiled_parts() -> nn.Module:
    model = Net()
    model.block = torch.compile(model.block, backend=never)
    model.first = nn.DataParallel(model.first)
    return model


def compiled_in_place() -> nn.Module:
    model = Net()
    model.compile(backend=never)
    model.block.compile(backend=never)
    return model


class CompiledForward(Net):
    forward = torch.compile(Net.forward, backend=never)


WRAPPED = {
    "compiled": lambda: torch.compile(Net(), backend=never),
    "compiled parallel": lambda: torch.compile(nn.DataParallel(Net()), backend=never),
    "compiled parts": compiled_parts,
    "compiled in place": compiled_in_place,
    "compiled forward": CompiledForward,
    "partial": lambda: functools.partial(Net(), twice=False),
    "bound forward": lambda: Net().forward,
    "deep copy": lambda: copy.deepcopy(compiled_parts()),
}


@BOTH
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_leave_the_paths_of_the_model(name, frontend):
    model = WRAPPED[name]()
    graph = ta.capture(model, X, frontend=frontend)
    assert list(graph) == list(ta.capture(Net(), X, frontend=frontend))
    assert graph.nodes["first/linear"]["module_type"] == "torch.nn.modules.linear.Linear"


@BOTH
def test_methods_and_functions_that_call_a_model(frontend):
    model = Net()
    plain = list(ta.capture(model, X, frontend=frontend))
    for method in (model.doubled, functools.partial(model, twice=True)):
        graph = ta.capture(method, X, frontend=frontend)
        assert list(graph) == [*plain[:-1], "add", "output"]
    assert ta.capture(model.doubled, X).graph["name"] == "Net.doubled"
    with pytest.raises(CaptureError, match="would trace the forward of Net's class"):
        ta.capture(model.doubled, X, frontend="fx")

    def closure(x):
        return model(x) + GLOBAL(x)

    graph = ta.capture(closure, X, frontend=frontend)
    assert {"model/block/0/linear", "model/scale", "GLOBAL/linear", "GLOBAL/weight"} <= set(graph)
    assert ta.totals(graph).params == 60 + 25


GLOBAL = nn.Linear(4, 5)


def test_parameters_that_are_arguments():
    model = Net()

    def run(parameters, x):
        return torch.func.functional_call(model, parameters, (x,))

    graph = ta.capture(run, (dict(model.named_parameters()), X), frontend="trace")
    assert graph.has_edge("parameters/first.weight", "model/first/linear")


def test_distributed_wrappers():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        graph = ta.capture(nn.parallel.DistributedDataParallel(Net()), X)
        assert list(graph) == list(ta.capture(Net(), X))
        wrapped = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))
        for sharded in (wrapped, fully_shard(Net(), mesh=init_device_mesh("cpu", (2,)))):
            with pytest.raises(CaptureError, match=r"shards(.|\n)*hint: capture the module before"):
                ta.capture(sharded, X)
    finally:
        torch.distributed.destroy_process_group()


@BOTH
@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrisations(norm, frontend):
    model = Net().eval()
    getattr(nn.utils.parametrizations, norm)(model.first)
    graph = ta.capture(model, X, frontend=frontend)
    made = [n for n in ids(graph, "op") if n.startswith("first/parametrizations/weight/0/")]
    assert made and graph.has_edge(made[-1], "first/linear")


def test_hooks_are_a_part_of_the_model():
    model = Net()
    model.first.register_forward_pre_hook(lambda module, args: (args[0].sin(),))
    model.first.register_forward_hook(lambda module, args, output: output.cos())
    graph = ta.capture(model, X, frontend="trace")
    ops = [node["op"] for _, node in op_nodes(graph)]
    assert ops[:3] == ["aten.sin", "aten.linear", "aten.cos"]


class Remembering(nn.Module):
    """Makes a table at its first call, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.calls, self.known = None, [], {}

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(4.0)
            self.register_buffer("late", torch.ones(4), persistent=False)
        self.calls.append(x)
        self.known["x"] = self.extra = x
        return x * self.table


@pytest.mark.parametrize("frontend", ["trace", "export", "auto"])
def test_a_capture_leaves_the_models_attributes(frontend):
    model = Remembering()
    ta.capture(model, X, frontend=frontend)
    assert (model.table, model.calls, model.known) == (None, [], {})
    assert not hasattr(model, "extra") and not list(model.buffers())
    assert torch.equal(model(X), X * torch.arange(4.0))


def test_an_interrupt_leaves_everything_in_place():
    class Waits(Net):
        def forward(self, x):
            self.first(x)
            raise KeyboardInterrupt

    model, hooks = Waits(), torch.nn.modules.module
    before = {name: id(tensor) for name, tensor in model.named_parameters()}
    with pytest.raises(KeyboardInterrupt):
        ta.capture(model, X, frontend="trace")
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == before
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled()
    assert type(torch.ones(1) + 1) is torch.Tensor
