"""Which kernels belong to which op, and the way of a measurement on a GPU that is made up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import models
import torchatlas as ta
from stand_in import StandIn
from torchatlas.errors import MeasurementError, UsageError
from torchatlas.frontends.replay import Program
from torchatlas.graph import op_nodes
from torchatlas.measurements import accelerators, kernels
from torchatlas.measurements.kernels import PREFIX, launched, profiled, saw_device
from torchatlas.measurements.values import Changed, stand_ins

# -- reading a profile -----------------------------------------------------------------------------


def event(name, start, end, *, parent=None, linked=(), device=DeviceType.CPU, **more):
    made = FunctionEvent(
        more.pop("id", 0), name, 1, start, end, device_type=device, device_index=0, **more
    )
    for kernel, micros in linked:
        made.append_kernel(kernel, 0, micros)
    if parent is not None:
        made.set_cpu_parent(parent)
    return made


def on_gpu(name, micros, start=500.0, **more):
    return event(name, start, start + micros, device=DeviceType.CUDA, **more)


def names(calls):
    return [[launch.name for launch in call] for call in calls]


def test_kernels_belong_to_the_range_that_they_were_launched_in():
    outer = event(PREFIX + "linear", 0.0, 10.0, is_user_annotation=True)
    composite = event("aten::linear", 1.0, 9.0, parent=outer)
    product = event("aten::addmm", 2.0, 8.0, parent=composite, linked=[("gemm", 3.0), ("add", 0.5)])
    copy = event("aten::copy_", 1.2, 1.5, parent=composite, linked=[("Memcpy HtoD", 1.0)])
    view = event(PREFIX + "a/view", 11.0, 12.0)
    between = event("aten::fill_", 12.5, 13.0, linked=[("fill", 7.0)])
    again = event(PREFIX + "linear", 14.0, 20.0, linked=[("direct", 2.0)])
    found = launched([again, product, between, view, copy, composite, outer])
    assert found.keys() == {"linear", "a/view"}
    assert names(found["linear"]) == [["Memcpy HtoD", "gemm", "add"], ["direct"]]
    assert math.fsum(launch.micros for launch in found["linear"][0]) == 4.5
    assert found["a/view"] == [[]]


def test_what_is_no_kernel_does_not_count():
    outer = event(PREFIX + "mul", 0.0, 10.0, is_user_annotation=True)
    mark = event("a user's mark", 0.5, 9.0, parent=outer, is_user_annotation=True)
    shown = [(PREFIX + "mul", 5.0), ("a user's mark", 5.0), ("mul_kernel", 4.0)]
    op = event("aten::mul", 1.0, 8.0, parent=mark, linked=shown)
    # What torch 2.11 makes of a call into the driver that has the number of another op.
    alias = event("cudaStreamIsCapturing", 2.0, 3.0, parent=op, linked=[("mul_kernel", 4.0)])
    made_up = event("aten::neg", 8.5, 9.0, parent=outer, linked=[("aten::neg", 0.5)])
    made_up.is_legacy = True
    found = launched([outer, mark, op, alias, made_up, on_gpu(PREFIX + "mul", 5.0)])
    assert names(found["mul"]) == [["mul_kernel"]]
    assert not saw_device([made_up]) and saw_device([op]) and saw_device([on_gpu("any", 1.0)])


def test_a_kernel_without_a_link_belongs_where_its_launch_was_called():
    first = event(PREFIX + "triton", 0.0, 10.0)
    op = event("aten::empty", 0.5, 3.0, parent=first, linked=[("fill", 2.0)])
    second = event(PREFIX + "triton", 20.0, 30.0)
    outside = event("cuLaunchKernelEx", 15.0, 16.0, id=7)
    launches = [
        event("cuLaunchKernelEx", 5.0, 6.0, id=8),
        event("cuLaunchKernelEx", 21.0, 22.0, id=9),
        event("cudaLaunchKernel", 1.0, 2.0, id=10),
        outside,
    ]
    ran = [
        on_gpu("fill", 2.0, id=10),  # linked to `op`: it must not count twice
        on_gpu("my_kernel", 1.0, id=8),
        on_gpu("my_kernel", 1.5, id=9),
        on_gpu("elsewhere", 9.0, id=7),
        on_gpu("nobody's", 9.0, id=11),
    ]
    found = launched([first, op, second, *launches, *ran])
    assert names(found["triton"]) == [["fill", "my_kernel"], ["my_kernel"]]
    assert found["triton"][1][0].micros == 1.5


def test_the_events_of_a_real_profile():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found, torch.no_grad():
        for _ in range(3):
            for name, layer in model.named_children():
                with record_function(PREFIX + name):
                    y = layer(x)
                with record_function(PREFIX + f"{name}/view"):
                    y.view(-1)
            y.add_(1)
    assert not saw_device(found.events())
    for i, one in enumerate(e for e in found.events() if e.name == "aten::addmm"):
        one.append_kernel(f"gemm {i % 2}", 0, float(i))
    for one in found.events():
        if one.name == "aten::add_":
            one.append_kernel("outside", 0, 1.0)
    calls = launched(found.events())
    assert names(calls["0"]) == [["gemm 0"]] * 3 and names(calls["1"]) == [["gemm 1"]] * 3
    assert [call[0].micros for call in calls["1"]] == [1.0, 3.0, 5.0]
    assert calls["0/view"] == calls["1/view"] == [[], [], []]


# -- the way of a measurement ----------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for a GPU, which `measure` takes for the CPU."""
    made = StandIn()
    monkeypatch.setattr(accelerators, "accelerator", lambda place, others=(): made)
    return made


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        return (self.linear(x).reshape(2, 2, 2) * 2.0).flatten()


TWO = (Two(), torch.randn(2, 8))


def test_ops_get_what_their_kernels_take(gpu):
    graph = ta.measure(ta.capture(*TWO), steps=4)
    linear, reshape, mul = (graph.nodes[n] for n in ("linear/linear", "reshape", "mul"))
    assert (linear["latency_us"], linear["latency_iqr_us"]) == (4.0, 0.0)
    assert (linear["launches"], linear["kernels"]) == (2, ("gemm", "bias"))
    assert (mul["latency_us"], mul["launches"], mul["kernels"]) == (2.0, 1, ("mul",))
    assert (reshape["latency_us"], reshape["launches"], reshape["kernels"]) == (0.0, 0, ())
    whole = graph.graph["measured"]
    assert (whole.by, whole.launches, whole.steps, whole.samples) == ("profiler", 3, 4, 4)
    assert (whole.device_name, whole.sum_us) == ("a stand-in", pytest.approx(6.0))
    assert math.isclose(whole.residual_us + 6.0, whole.median_us)
    assert whole.unstable == () and whole.others == ()
    ta.validate(graph)


def test_a_file_keeps_kernels_and_memory(gpu, tmp_path):
    graph = ta.measure(ta.capture(*TWO), steps=1)
    graph.export(tmp_path / "timed.json")
    again = ta.load(tmp_path / "timed.json")
    assert again.graph["measured"] == graph.graph["measured"]
    keys = ("latency_us", "kernels", "launches", "peak_bytes")
    for name, node in op_nodes(graph):
        assert [again.nodes[name][key] for key in keys] == [node[key] for key in keys]


def test_the_clock_waits_for_the_device(gpu):
    calls = []

    def act(x):
        if type(x) is torch.Tensor:
            calls.append(1)
            gpu.did.append("call")
        return x + 1

    graph = ta.capture(act, torch.randn(3))
    gpu.did.clear()
    from torchatlas.measurements.sampling import sample

    assert sample(
        lambda: act(torch.ones(3)), steps=2, on=gpu, flush=lambda: gpu.did.append("flush")
    )
    assert gpu.did == ["flush", "synchronize", "call", "synchronize"] * 2
    gpu.did.clear()
    ta.measure(graph, steps=2)
    assert gpu.did.count("profile") == 2  # one to set it up, and one that counts


@pytest.fixture
def runs(gpu, monkeypatch):
    """A function that profiles `TWO`, and returns how many runs there were in each profile."""
    source = ta.capture(*TWO).source
    program = Program(source, gradients=False, make=stand_ins())
    program.run()
    inner = kernels.launched

    def run(steps, **limits):
        for name, limit in limits.items():
            monkeypatch.setattr(kernels, name, limit)
        seen = []
        monkeypatch.setattr(kernels, "launched", lambda e: seen.append(inner(e)) or seen[-1])
        found = profiled(program, gpu, Changed(source, program.inputs), steps)
        each = [{len(those) for those in calls.values()} for calls in seen]
        assert all(len(one) == 1 for one in each)
        assert found.runs == sum(one for (one,) in each) and len(found.ops) == 4
        return [one for (one,) in each]

    return run


def test_profiles_have_few_runs_and_there_are_as_many_as_asked_for(runs):
    assert runs(11) == [8, 3]
    assert runs(3, _EVENTS=1) == [1, 1, 1]


def test_runs_end_when_the_median_is_certain_or_time_is_over(runs):
    assert runs(None) == [8, 8]
    assert runs(None, SECONDS=0.0) == [8]


def test_all_events_together_are_limited(runs):
    assert 3 <= sum(runs(1000, _MOST_EVENTS=100)) < 15
    assert sum(runs(1000, _MOST_EVENTS=1)) == 3


def test_a_model_of_views_launches_nothing(gpu):
    graph = ta.measure(ta.capture(lambda x: x.view(-1), torch.randn(2, 2)), steps=2)
    assert graph.nodes["view"]["launches"] == graph.graph["measured"].launches == 0


def test_a_profiler_without_kernels_is_said(gpu):
    gpu.kernels = {}
    graph = ta.capture(*TWO)
    with pytest.raises(MeasurementError, match="sees no kernels on cpu") as caught:
        ta.measure(graph, steps=2)
    assert "CUPTI" in caught.value.hint
    assert ta.measure(graph, steps=0).graph["confirmed"] == 4


def test_kernels_that_spread_are_named(gpu):
    times = iter(range(1, 1000))
    append = FunctionEvent.append_kernel

    class Uneven(FunctionEvent):
        pass

    graph = ta.capture(*TWO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FunctionEvent,
            "append_kernel",
            lambda self, name, device, micros: append(
                self, name, device, float(next(times)) if name == "mul" else micros
            ),
        )
        timed = ta.measure(graph, steps=8)
    assert timed.graph["measured"].unstable == ("mul",)
    mul = timed.nodes["mul"]
    assert mul["latency_iqr_us"] > 0.1 * mul["latency_us"]


def test_every_profiled_run_sees_the_same_input(gpu):
    seen = []

    def grow(x):
        if type(x) is torch.Tensor:
            seen.append(float(x.detach()[0]))
        return x.mul_(10.0)

    x = torch.ones(3)
    ta.measure(ta.capture(grow, x), steps=3)
    assert set(seen) == {1.0} and torch.equal(x, torch.ones(3))


def test_cold_caches_and_other_ways_are_handed_on(gpu, monkeypatch):
    from torchatlas.measurements import latency
    from torchatlas.schema import Timing

    flushed, asked = [], []
    monkeypatch.setattr(latency, "flusher", lambda device: lambda: flushed.append(device))

    def ways(call, compare, sampler, **more):
        asked.append((tuple(compare), more["device"]))
        return tuple(Timing(way, sampler(call).median) for way in compare)

    monkeypatch.setattr(latency, "time_ways", ways)
    graph = ta.measure(ta.capture(*TWO), steps=2, cache="cold", compare=["compile"])
    whole = graph.graph["measured"]
    assert whole.cache == "cold" and set(flushed) == {"cpu"} and asked == [(("compile",), "cpu")]
    # Two samples, three after the profile, two of the other way, and four ops in three runs.
    assert len(flushed) == 2 + 3 + 2 + 3 * 4
    assert whole.others[0].way == "compile" and whole.others[0].median_us > 0


# -- memory ----------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Has its peak in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64))

    def forward(self, x):
        y = x @ self.weight
        return y.repeat(1, 8).sigmoid().sum(1) + y.sum(1)


def test_the_peak_is_the_one_that_was_predicted(gpu):
    model, x = Chain(), torch.randn(64, 64)
    gpu.counts, kept = True, torch.randn(100_000)  # what the user has besides is no matter
    graph = ta.measure(ta.capture(model, x), steps=1)
    ops = dict(op_nodes(graph))
    assert {n: at["peak_bytes"] for n, at in ops.items()} == {
        n: at["live_bytes"] for n, at in ops.items()
    }
    predicted = ta.totals(graph).peak
    # Weights and example, what the product makes, and eight times that twice.
    assert predicted.nbytes == 4 * 64 * 64 * (2 + 1 + 8 + 8)
    assert graph.graph["measured"].peak_bytes == predicted.nbytes
    assert kept.numel()


def test_calls_of_modules_are_counted_as_they_hold_their_arguments(gpu):
    model = nn.Sequential(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), nn.ReLU())
    gpu.counts = True
    graph = ta.measure(ta.capture(model.eval(), torch.randn(256, 64)), steps=1)
    whole = graph.graph["measured"]
    assert whole.peak_bytes == ta.totals(graph).peak.nbytes
    assert max(at["peak_bytes"] for _, at in op_nodes(graph)) <= whole.peak_bytes


# -- devices ---------------------------------------------------------------------------------------


def test_devices_that_cannot_be_measured_on(captured):
    graph = captured("tiny")
    with pytest.raises(UsageError, match="there is no device 'cuda:99' here"):
        ta.measure(graph, device="cuda:99")
    with pytest.raises(UsageError, match="no measuring on 'xpu:0'"):
        ta.measure(graph, device="xpu")
    with pytest.raises(UsageError, match="there is no device 'nonsense'"):
        ta.measure(graph, device="nonsense")


def test_a_graph_that_lies_elsewhere_says_how_to_capture_it():
    model, x = models.make("tiny")
    graph = ta.capture(model, x, device="cuda")
    with pytest.raises(UsageError, match="lies on cuda:0, and the run is on cpu") as caught:
        ta.measure(graph)
    assert "device='cpu'" in caught.value.hint and "device='cuda:0'" in caught.value.hint


def test_a_model_that_a_map_split_is_not_timed(gpu):
    model, x = models.make("tiny")
    graph = ta.capture(model, x, device={"": "cuda:0", "head": "cuda:1"})
    with pytest.raises(UsageError, match="split over devices by a map") as caught:
        ta.measure(graph, device="cuda")
    assert "steps=0" in caught.value.hint


def test_requests_that_make_no_sense(captured):
    with pytest.raises(UsageError, match="caches cannot be 'hot'"):
        ta.measure(captured("tiny"), cache="hot")
    with pytest.raises(UsageError, match="does not list ways"):
        ta.measure(captured("tiny"), compare=["tensorrt"])
    with pytest.raises(UsageError, match="does not list ways"):
        ta.measure(captured("tiny"), compare="compile")


def test_a_local_variable_of_the_model_counts_only_for_the_whole(gpu):
    """What a function's own names hold is not in the graph."""

    def held(x):
        wide = x.repeat(1, 8)
        return wide.sigmoid().sum(1).repeat(32)

    gpu.counts = True
    graph = ta.measure(ta.capture(held, torch.randn(64, 64)), steps=1)
    more = graph.graph["measured"].peak_bytes - ta.totals(graph).peak.nbytes
    assert more == 4 * 64  # the sum, while both wide tensors are there


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_which_accelerator_serves(monkeypatch):
    first, second, cpu = (torch.device(text) for text in ("cuda:0", "cuda:1", "cpu"))
    waited = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # Once Lightning is imported, torch takes the number of devices to say it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"the GPU {place}")
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: (place.index + 1) * 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda place: 5000)
    found = accelerators.accelerator(second, (cpu, first))
    assert isinstance(found, accelerators.Gpu)
    assert (found.place, found.name()) == (second, "the GPU cuda:1")
    assert (found.allocated(), found.peak()) == (2000, 5000)
    with found.profiled() as events:
        torch.ones(3).add_(1)
    assert waited == [second, first]  # both, before the profile ends
    assert "aten::add_" in {event.name for event in events()}
    assert accelerators.accelerator(cpu, ()) is accelerators.CPU
    with pytest.raises(UsageError, match="no device 'cuda:2' here") as caught:
        accelerators.accelerator(first, (torch.device("cuda:2"),))
    assert "'cuda:0', 'cuda:1'" in caught.value.hint
