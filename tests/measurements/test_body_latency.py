"""Latencies of the ops in the bodies of control flow."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas.graph import bodies, op_nodes
from torchatlas.measurements import bodies as body_latency

X = torch.ones(3, 4)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.cond(x.sum() > 0, lambda x: self.linear(x).sin(), lambda x: x.cos(), (x,))
        return torch.cond(y.isnan().any(), lambda y: y + 1, lambda y: y - 1, (y,))


class Loop(nn.Module):
    def forward(self, x):
        def body(i, y):
            return i + 1, y.sin() @ torch.ones(4, 4)

        start = torch.zeros((), dtype=torch.int64), x
        loop = torch.ops.higher_order.while_loop
        return loop(lambda i, y: i < 5, body, start, ())


class Mapped(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops import map as each

        return each(lambda row: row.sin() + 1, x)


class Scanned(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        def combine(carry, row):
            with torch.no_grad():
                return carry + row, (carry * row).sin()

        return scan(combine, torch.zeros(4), x)


MODELS = {
    Branches: {"cond#true/linear/linear", "cond#true/sin", "cond_1#false/sub"},
    Loop: {"while_loop#cond/lt", "while_loop#body/add", "while_loop#body/sin"},
    Mapped: {"map_impl#body/sin", "map_impl#body/add"},
    Scanned: {"scan#combine/add", "scan#combine/mul", "scan#combine/sin"},
}


def inside(graph):
    return {f"{name}/{op}": node for name, body in bodies(graph) for op, node in op_nodes(body)}


@pytest.mark.parametrize("frontend", ["auto", "export"])
@pytest.mark.parametrize("kind", MODELS)
def test_ops_that_run_have_a_latency_and_others_none(kind, frontend):
    model = kind()
    before = model(X)
    graph = ta.capture(model, X, frontend=frontend)
    timed = ta.measure(graph, steps=3)
    ta.validate(timed)
    found = {
        name: node["latency_us"] for name, node in inside(timed).items() if "latency_us" in node
    }
    assert found.keys() >= MODELS[kind]
    assert inside(timed).keys() - found.keys() == (
        {"cond#false/cos", "cond_1#true/add"} if kind is Branches else set()
    )
    assert all(value > 0 for value in found.values())
    assert not any("latency_us" in node for node in inside(graph).values())
    after = model(X)
    same = torch.utils._pytree.tree_map(torch.equal, before, after)
    assert all(torch.utils._pytree.tree_leaves(same))


def test_the_op_that_runs_them_is_timed_by_itself_and_alone_in_the_sum():
    timed = ta.measure(ta.capture(Loop(), X), steps=3)
    sums = sum(node["latency_us"] for _, node in op_nodes(timed))
    assert timed.graph["measured"].sum_us == pytest.approx(sums)
    assert "latency_us" in timed.nodes["while_loop"]


@pytest.mark.parametrize(
    ("kind", "trips"),
    [
        (Loop, {"while_loop#cond/lt": 6, "while_loop#body/sin": 5}),
        (Mapped, {"map_impl#body/sin": 3}),
        (Branches, {"cond#true/sin": 1}),
    ],
)
def test_the_time_is_that_of_all_trips(kind, trips, monkeypatch):
    """By a clock that goes on by two microseconds whenever it is read, the timer takes half."""
    clock = itertools.count(0, 2000)
    monkeypatch.setattr(body_latency, "perf_counter_ns", lambda: next(clock))
    monkeypatch.setattr(body_latency, "timer_ns", lambda: 1000.0)
    found = inside(ta.measure(ta.capture(kind(), X), steps=3))
    assert {name: found[name]["latency_us"] for name in trips} == trips
    assert {found[name]["latency_iqr_us"] for name in trips} == {0}


def test_the_program_of_the_graph_stays_as_it_is():
    graph = ta.capture(Loop(), X)
    ta.measure(graph, steps=2)
    program = graph.source.program
    modules = [*program.root.modules(), *program.graph_module.modules()]
    assert len(modules) > 2 and not any("forward" in vars(module) for module in modules)


def test_a_body_that_cannot_be_taken_apart_loses_nothing_else(monkeypatch):
    from torchatlas.frontends.replay import Program

    def fail(*args):
        raise RuntimeError

    monkeypatch.setattr(Program, "run_body", fail)
    timed = ta.measure(ta.capture(Mapped(), X), steps=2)
    assert "latency_us" in timed.nodes["map_impl"]
    assert not any("latency_us" in node for node in inside(timed).values())


def test_a_file_keeps_them(tmp_path):
    timed = ta.measure(ta.capture(Scanned(), X), steps=2)
    timed.export(tmp_path / "timed.json")
    again = inside(ta.load(tmp_path / "timed.json"))
    assert {n: node.get("latency_us") for n, node in again.items()} == {
        n: node.get("latency_us") for n, node in inside(timed).items()
    }
