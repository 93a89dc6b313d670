"""Latencies: that they add up, what they leave untouched, and what they refuse."""

from __future__ import annotations

import math
import random

import numpy
import pytest
import torch
from torch import nn
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

import models
import torchatlas as ta
from torchatlas.errors import UsageError
from torchatlas.graph import in_order, op_nodes
from torchatlas.measurements.latency import sample, spread
from torchatlas.schema import Measured

X = torch.randn(2, 3, 8, 8)


def latencies(graph):
    return {n: at["latency_us"] for n, at in op_nodes(graph) if "latency_us" in at}


@pytest.mark.parametrize("name", ["tiny", "lstm", "dataclasses", "bert", "shared_and_tied"])
def test_the_sum_of_the_ops_and_the_residual_are_the_whole(name):
    graph = ta.measure(ta.capture(*models.make(name)), steps=5)
    found, whole = latencies(graph), graph.graph["measured"]
    assert len(found) == sum(1 for _ in op_nodes(graph))
    assert math.isclose(math.fsum(found.values()) + whole.residual_us, whole.median_us)
    assert math.isclose(whole.sum_us, math.fsum(found.values()))
    assert whole.p90_us >= whole.median_us > 0 and whole.iqr_us >= 0
    assert (whole.samples, whole.steps, whole.device) == (5, 5, "cpu")
    assert whole.device_name and whole.torch == torch.__version__.partition("+")[0]
    ta.validate(graph)


def test_a_large_op_takes_most_of_the_time():
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(4, 4), nn.Linear(2000, 2000)

        def forward(self, x, y):
            return self.small(x), self.large(y)

    graph = ta.capture(Uneven(), (torch.randn(4, 4), torch.randn(100, 2000)))
    graph = ta.measure(graph, steps=5)
    found = latencies(graph)
    assert found["large/linear"] > 20 * found["small/linear"]


def test_the_graph_itself_stays_as_it_is(captured):
    graph = captured("tiny")
    before = graph.copy()
    timed = ta.measure(graph, steps=2)
    assert dict(graph.nodes(data=True)) == dict(before.nodes(data=True))
    assert graph.graph == before.graph
    assert timed.source is graph.source
    added = {"latency_us", "latency_iqr_us"}
    assert {key for n, at in timed.nodes(data=True) for key in at.keys() - graph.nodes[n]} == added
    assert timed.graph.keys() - graph.graph == {"measured", "confirmed"}


class Restless(nn.Module):
    """Changes its buffers, an attribute, its input and every generator as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(1))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.count += 1
        self.seen = x.mean()
        random.random()
        numpy.random.rand()
        x.mul_(1.5)
        return self.drop(self.norm(x))


def state_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_nothing_is_left_behind():
    model, x = Restless().train(), torch.randn(2, 3, 4, 4)
    graph = ta.capture(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = state_of(model)
    given, versions = x.clone(), [value._version for value in kept.values()]
    drawn = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    timed = ta.measure(graph, steps=4)
    assert latencies(timed)
    assert torch.equal(x, given)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    now = state_of(model)
    assert all(now[name] is kept[name] for name in kept)
    assert [value._version for value in now.values()] == versions
    assert model.calls == 0 and not hasattr(model, "seen") and model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn[0]) and random.getstate() == drawn[1]
    assert numpy.random.get_state()[1].tolist() == drawn[2]


@pytest.mark.parametrize("name", ["tiny", "lstm", "bert"])
def test_outputs_are_the_same_bit_for_bit(name):
    model, example = models.make(name)
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})

    def outputs():
        with torch.no_grad():
            found = model(*args, **kwargs)
        return torch.utils._pytree.tree_leaves(dict(found) if isinstance(found, dict) else found)

    graph = ta.capture(model, example)
    before = outputs()
    ta.measure(graph, steps=2)
    after = outputs()
    assert len(before) == len(after) > 0 and all(map(torch.equal, before, after))


def test_every_run_of_the_model_sees_the_same_input():
    """Though it writes to its input, and a second call would see another one."""
    seen = []

    def grow(x):
        if type(x) is torch.Tensor:
            seen.append(float(x.detach()[0]))
        return x.mul_(10.0)

    graph = ta.capture(grow, torch.ones(3))
    ta.measure(graph, steps=3)
    assert len(seen) > 6 and set(seen) == {1.0}


def test_nothing_may_watch(captured):
    graph = captured("tiny")
    with FlopCounterMode(display=False), pytest.raises(UsageError, match="FlopCounterMode watches"):
        ta.measure(graph)
    with profile(), pytest.raises(UsageError, match="a profiler watches"):
        ta.measure(graph)
    with FlopCounterMode(display=False):
        assert ta.measure(graph, steps=0).graph["confirmed"] == 5


def test_an_exported_program_is_timed():
    model, example = models.make("tiny")
    program = torch.export.export(model, (example,))
    graph = ta.measure(ta.capture(program), steps=3)
    assert len(latencies(graph)) == 5 and graph.graph["measured"].median_us > 0
    with pytest.raises(UsageError, match="the example that it came with"):
        ta.measure(ta.capture(program), example)


@pytest.mark.parametrize("frontend", ["export", "fx"])
def test_other_front_ends_are_timed(frontend):
    graph = ta.measure(ta.capture(*models.make("tiny"), frontend=frontend), steps=3)
    assert len(latencies(graph)) == 5


def test_a_symbolic_graph_is_timed_at_the_sizes_of_the_example():
    graph = ta.capture(nn.Linear(3, 4), torch.randn(2, 3), dynamic=["batch"])
    timed = ta.measure(graph, torch.randn(7, 3), steps=3)
    assert timed.nodes["linear"]["flops"] == 2 * 7 * 3 * 4 and latencies(timed)


def test_cold_caches_are_made_before_each_sample_and_each_op(captured, monkeypatch):
    from torchatlas.measurements import latency

    flushed = []
    monkeypatch.setattr(latency, "flusher", lambda device: lambda: flushed.append(device))
    whole = ta.measure(captured("tiny"), steps=4, warmup=1, cache="cold").graph["measured"]
    assert (whole.cache, whole.samples, whole.by, whole.launches) == ("cold", 4, "timers", None)
    # Four samples, three after the ops, and five ops in four runs and one that does not count.
    assert flushed == ["cpu"] * (4 + 3 + 5 * 5)
    ta.measure(captured("tiny"), steps=1)
    assert len(flushed) == 4 + 3 + 5 * 5


# -- sampling ------------------------------------------------------------------------------------


def test_quantiles():
    assert spread([1.0]) == (1.0, 0.0, 1.0, 1)
    assert spread(list(map(float, range(101)))) == (50.0, 50.0, 90.0, 101)
    assert spread([0.0, 10.0]) == (5.0, 5.0, 9.0, 2)


def test_a_certain_median_takes_ten_samples_of_little_spread():
    assert not spread([1.0] * 9).certain
    assert spread([1.0] * 10).certain
    wide = [0.9, 1.1] * 8
    assert not spread(wide).certain
    assert spread(wide * 100).certain


def test_steps_and_seconds_end_the_sampling():
    calls = []
    assert sample(lambda: calls.append(1), steps=7).samples == 7
    assert sample(lambda: calls.append(1), seconds=0.0).samples == 3
    assert sample(lambda: sum(range(20_000)), seconds=0.2).samples >= 10


def test_short_calls_are_timed_in_blocks():
    calls = []
    found = sample(lambda: calls.append(1), steps=5)
    assert len(calls) > 5 * 50
    assert 0 < found.median < 5


def test_unstable_runs_are_marked():
    steady = Measured("cpu", "", 100.0, 9.0, 110.0, 0.0, 10, 10)
    assert steady.stable
    assert not Measured("cpu", "", 100.0, 11.0, 110.0, 0.0, 10, 10).stable
    assert not Measured("cpu", "", 100.0, 9.0, 110.0, 0.0, 10, 10, drift=-0.2).stable
    assert not Measured("cpu", "", 100.0, 0.0, 100.0, 0.0, 2, 2).stable


def test_ops_that_spread_are_named(captured, monkeypatch):
    graph = captured("tiny")
    node = graph.source
    slow = iter(range(10**6))

    def restless(self, hook=None, invoke=None):
        for key in node.ids:
            if graph.nodes[node.ids[key]]["kind"] == "op" and invoke is not None:
                loops = 20_000 * (1 + next(slow) % 3) if node.ids[key] == "conv/conv2d" else 100_000
                invoke(key, lambda n=loops: sum(range(n)), (), {})

    from torchatlas.measurements import latency

    monkeypatch.setattr(latency.Program, "run", restless)
    timed = latency_only(graph)
    assert "conv/conv2d" in timed.graph["measured"].unstable
    conv = timed.nodes["conv/conv2d"]
    assert conv["latency_iqr_us"] > 0.1 * conv["latency_us"]


def latency_only(graph):
    from torchatlas.measurements.latency import add_latency

    timed = graph.copy()
    add_latency(timed, graph.source, steps=12, warmup=0)
    return timed


# -- what becomes of it --------------------------------------------------------------------------


def test_a_file_keeps_what_was_measured(tmp_path, captured):
    graph = ta.measure(captured("tiny"), steps=3)
    graph.export(tmp_path / "timed.json")
    again = ta.load(tmp_path / "timed.json")
    assert again.graph == graph.graph
    assert dict(in_order(again)) == dict(in_order(graph))


@pytest.mark.parametrize("name", ["a.dot", "a.graphml", "a.csv", "a.html", "a.onnx", "a.md"])
def test_other_files_take_it(name, tmp_path, captured):
    ta.measure(captured("tiny"), steps=2).export(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0


def test_modules_add_up_their_ops(captured):
    graph = ta.measure(captured("tiny"), steps=3)
    found = latencies(graph)
    small = ta.collapse(graph, depth=1)
    assert small.nodes["head"]["latency_us"] == found["head/linear"]
    assert math.isclose(
        math.fsum(at.get("latency_us", 0.0) for _, at in small.nodes(data=True)),
        graph.graph["measured"].sum_us,
    )
    from torchatlas.text import duration

    table = str(graph.summary(columns=["latency"]))
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.strip()}
    assert " ".join(rows["conv"]) == duration(found["conv/conv2d"])
    assert " ".join(rows["Tiny"]) == duration(math.fsum(found.values()))
    assert f"ops {duration(graph.graph['measured'].sum_us)}, residual" in table
    slowest = max(found, key=lambda name: found[name] if "/" in name else 0.0).partition("/")[0]
    ranked = str(graph.summary(columns=["latency"], sort="latency", depth=1)).splitlines()
    assert ranked[2].split()[0] == slowest


def test_validation_refuses_what_is_no_latency(captured):
    graph = ta.measure(captured("tiny"), steps=2)
    graph.nodes["conv/conv2d"]["latency_us"] = -1.0
    with pytest.raises(ta.AtlasError, match="latency_us"):
        ta.validate(graph)
    graph.nodes["conv/conv2d"]["latency_us"] = 1.0
    graph.graph["measured"] = 3.0
    with pytest.raises(ta.AtlasError, match="measured"):
        ta.validate(graph)
