"""The shape-propagation run, latencies and memory on a real GPU; all skip where there is none."""

from __future__ import annotations

import copy
import gc
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import record_function

import models
import torchatlas as ta
from torchatlas.errors import MeasurementError, UsageError
from torchatlas.frontends import torch_api
from torchatlas.frontends.opaque import map_leaves, pack
from torchatlas.graph import op_nodes
from torchatlas.measurements import accelerators
from torchatlas.measurements.kernels import PREFIX, launched

try:
    import triton
    import triton.language as tl
except ImportError:  # as on a machine without a GPU
    triton = None

pytestmark = pytest.mark.cuda

MIB = 2**20


def placed(name):
    """The graph of a model that lies on the CPU, as if it lay on the GPU."""
    return ta.capture(*models.make(name), device="cuda")


def moved(model, example):
    """The model and its example on the GPU."""

    def move(leaf):
        return leaf.cuda() if isinstance(leaf, torch.Tensor) else leaf

    return copy.deepcopy(model).cuda(), map_leaves(move, example)


def number_of_ops(graph):
    return sum(1 for _ in op_nodes(graph))


# -- the check -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(models.ALL))
def test_models_placed_from_the_cpu_are_confirmed(name):
    graph = placed(name)
    found = ta.measure(graph, device="cuda", steps=0)
    assert found.graph["confirmed"] == number_of_ops(graph) > 0
    assert all(parameter.device.type == "cpu" for parameter in graph.source.model.parameters())


@pytest.mark.parametrize("name", list(models.ALL))
def test_models_on_the_gpu_are_confirmed(name):
    graph = ta.capture(*moved(*models.make(name)))
    found = ta.measure(graph, device="cuda:0", steps=0)
    assert found.graph["confirmed"] == number_of_ops(graph) > 0


@pytest.mark.parametrize(
    "changes", [{"shape": (2, 4, 8, 9)}, {"dtype": "float16"}, {"device": "cpu"}]
)
def test_a_planted_fault_is_named(changes):
    graph = placed("tiny")
    (first,) = graph.nodes["norm/batch_norm"]["outputs"]
    graph.nodes["norm/batch_norm"]["outputs"] = (replace(first, **changes),)
    with pytest.raises(MeasurementError, match="another") as caught:
        ta.measure(graph, device="cuda", steps=0)
    assert caught.value.node == "norm/batch_norm"


def test_a_model_on_meta_gets_made_up_values():
    with torch.device("meta"):
        model, x = models.ALL["tiny"]()
    graph = ta.measure(ta.capture(model.eval(), x, device="cuda"), device="cuda", steps=2)
    assert graph.graph["confirmed"] == number_of_ops(graph)
    assert graph.graph["measured"].launches > 3


def test_where_a_graph_lies_is_where_it_is_measured():
    with pytest.raises(UsageError, match="lies on cpu, and the run is on cuda:0"):
        ta.measure(ta.capture(*models.make("tiny")), device="cuda")
    with pytest.raises(UsageError, match="lies on cuda:0, and the run is on cpu"):
        ta.measure(ta.capture(*moved(*models.make("tiny"))))


# -- latency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "lstm", "dataclasses", "bert", "shared_and_tied"])
def test_the_sum_of_the_ops_and_the_residual_are_the_whole(name):
    graph = ta.measure(placed(name), device="cuda", steps=5)
    found = [at["latency_us"] for _, at in op_nodes(graph)]
    whole = graph.graph["measured"]
    assert math.isclose(math.fsum(found) + whole.residual_us, whole.median_us)
    assert math.isclose(whole.sum_us, math.fsum(found)) and whole.sum_us > 0
    assert (whole.samples, whole.steps, whole.by) == (5, 5, "profiler")
    assert (whole.device, whole.device_name) == ("cuda:0", torch.cuda.get_device_name(0))
    ta.validate(graph)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)

    def forward(self, x):
        return self.linear(x).view(-1).sigmoid()


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_kernels_belong_to_their_ops(cache):
    graph = ta.capture(Two(), torch.randn(64, 64), device="cuda")
    graph = ta.measure(graph, device="cuda", steps=10, cache=cache)
    linear, view, sigmoid = (graph.nodes[n] for n in ("linear/linear", "view", "sigmoid"))
    assert linear["launches"] >= 1 and len(linear["kernels"]) >= 1 and linear["latency_us"] > 0.5
    assert (view["launches"], view["kernels"], view["latency_us"]) == (0, (), 0.0)
    assert sigmoid["launches"] == 1 and "sigmoid" in sigmoid["kernels"][0]
    assert 0.5 < sigmoid["latency_us"] < 100
    whole = graph.graph["measured"]
    assert whole.launches == linear["launches"] + 1 and whole.cache == cache


def test_a_large_op_takes_most_of_the_time():
    class Uneven(nn.Module):
        def forward(self, x, y):
            return x @ x, y @ y

    example = (torch.randn(64, 64), torch.randn(4096, 4096))
    graph = ta.measure(ta.capture(Uneven(), example, device="cuda"), device="cuda", steps=5)
    small, large = (at["latency_us"] for _, at in op_nodes(graph))
    assert large > 20 * small
    # Between a hundred GFLOP/s and a PFLOP/s.
    assert 2 * 4096**3 / 1e15 < large / 1e6 < 2 * 4096**3 / 1e11


def test_nothing_is_left_behind():
    model, x = moved(nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5)).train(), torch.randn(4, 8))
    graph = ta.capture(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    given, drawn = x.clone(), torch.cuda.get_rng_state()
    ta.measure(graph, device="cuda", steps=3)
    assert torch.equal(x, given) and torch.equal(torch.cuda.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(now[name] is kept[name] for name in kept)


@pytest.mark.parametrize("name", ["tiny", "lstm", "bert"])
def test_outputs_are_the_same_bit_for_bit(name):
    model, example = moved(*models.make(name))
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})

    def outputs():
        with torch.no_grad():
            leaves = torch_api.tree_leaves(pack(model(*args, **kwargs))[0])
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    graph = ta.capture(model, example)
    before = outputs()
    ta.measure(graph, device="cuda", steps=2)
    after = outputs()
    assert len(before) == len(after) > 0 and all(map(torch.equal, before, after))


class Table(nn.Module):
    """Has a tensor in an attribute, which `nn.Module.to` leaves where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), torch.arange(4.0)

    def forward(self, x):
        return self.linear(x) + self.table.to(x.device)


def test_tensors_in_attributes_stay_where_they_are():
    model = Table()
    graph = ta.measure(ta.capture(model, torch.randn(2, 4), device="cuda"), device="cuda", steps=2)
    assert graph.graph["confirmed"] == number_of_ops(graph) == 3
    to = next(at for _, at in op_nodes(graph) if at["op"] == "aten.to")
    assert to["launches"] == 1 and "Memcpy HtoD" in to["kernels"][0] and to["latency_us"] > 0
    assert model.table.device.type == model.linear.weight.device.type == "cpu"


if triton is not None:

    @triton.jit
    def add_one(x, block: tl.constexpr):
        at = x + tl.arange(0, block)
        tl.store(at, tl.load(at) + 1)


@pytest.mark.skipif(triton is None, reason="needs Triton")
def test_kernels_of_triton_belong_where_they_were_launched():
    gpu, x = accelerators.Gpu(torch.device("cuda:0")), torch.zeros(1024, device="cuda")
    add_one[(1,)](x, block=1024)  # compiles it
    for _ in range(2):  # the first profile may miss something
        with gpu.profiled() as events:
            with record_function(PREFIX + "triton"):
                add_one[(1,)](x, block=1024)
            with record_function(PREFIX + "torch"):
                x.add_(1)
    calls = launched(events())
    assert [[launch.name for launch in call] for call in calls["triton"]] == [["add_one"]]
    assert [len(call) for call in calls["torch"]] == [1]


# -- memory ----------------------------------------------------------------------------------------


def wide(x):
    return x.repeat(1, 8).sigmoid().sum(1)


def test_the_peak_of_memory_is_the_known_one():
    x = torch.randn(1024, 1024)  # 4 MiB
    kept = torch.randn(1024, 1024, 16, device="cuda")  # the user's own: it must not count
    graph = ta.measure(ta.capture(wide, x, device="cuda"), device="cuda", steps=2)
    peak = graph.graph["measured"].peak_bytes
    assert 68 * MIB <= peak < 69 * MIB
    found = {at["op"]: at["peak_bytes"] for _, at in op_nodes(graph)}
    assert 36 * MIB <= found["aten.repeat"] < 37 * MIB
    assert 68 * MIB <= found["aten.sigmoid"] < 69 * MIB
    assert 36 * MIB <= found["aten.sum"] < 37 * MIB
    assert abs(ta.totals(graph).peak.nbytes / peak - 1) < 0.01
    assert kept.numel()


def test_nothing_stays_allocated():
    graph = placed("bert")
    ta.measure(graph, device="cuda", steps=2)  # makes what libraries keep
    gc.collect()
    before = torch.cuda.memory_allocated()
    ta.measure(graph, device="cuda", steps=2)
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_resnet50_adds_up():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("cuda"):
        model, x = torchvision.models.resnet50().eval(), torch.randn(64, 3, 224, 224)
    graph = ta.measure(ta.capture(model, x), device="cuda")
    whole = graph.graph["measured"]
    assert whole.stable, whole
    assert abs(whole.residual_us) < 0.05 * whole.median_us, whole
    predicted = ta.totals(graph).peak.nbytes
    assert abs(predicted / whole.peak_bytes - 1) < 0.05, (predicted, whole.peak_bytes)


# -- several GPUs ----------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_two_gpus():
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64, device="cuda:0")
            self.second = nn.Linear(64, 64, device="cuda:1")

        def forward(self, x):
            return self.second(self.first(x).to("cuda:1"))

    graph = ta.measure(ta.capture(Split(), torch.randn(4, 64, device="cuda:0")), device="cuda")
    assert graph.graph["confirmed"] == 3 and graph.graph["measured"].launches >= 3


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu():
    graph = ta.capture(*models.make("tiny"), device="cuda:1")
    timed = ta.measure(graph, device="cuda:1", steps=2)
    assert timed.graph["measured"].device == "cuda:1"
    assert timed.graph["measured"].launches > 3 and timed.graph["measured"].peak_bytes > 0
