"""Collapsed graphs: the same sums, every flow, and never a cycle."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import time
from functools import lru_cache

import jsonschema
import networkx as nx
import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.errors import GraphError, UsageError
from torchatlas.exporters import FORMATS, render
from torchatlas.exporters.json_graph import parse_graph, schema
from torchatlas.graph import ModelGraph, build, in_order
from torchatlas.memory import saved_for_backward
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta
from torchatlas.transforms import collapse
from torchatlas.transforms.module_calls import at_depth

module = importlib.import_module("torchatlas.transforms.collapse")  # its function hides it
COLUMNS = ("type", "ops", "params", "flops", "flops_other", "bytes", "saved", "share")
OUT = TensorMeta((2, 8))


@lru_cache
def _training(optimizer: bool = False) -> ModelGraph:
    torch.manual_seed(0)
    model = nn.Sequential(models.Tiny(), nn.Linear(5, 5))
    chosen = torch.optim.Adam(model.parameters()) if optimizer else None
    return ta.capture(model, torch.randn(2, 3, 8, 8), mode="training", optimizer=chosen)


class Branches(nn.Module):
    """A module inside each branch of a condition, and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.small = nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(torch.cond(x.sum() > 0, self.big, self.small, (x,)))


@lru_cache
def _branches() -> ModelGraph:
    return ta.capture(Branches(), torch.ones(2, 8))


def _graph(name: str, captured) -> ModelGraph:
    made = {"training": _training, "optimizer": lambda: _training(True), "cond": _branches}
    return made[name]() if name in made else captured(name)


WHOLE = [*models.SMALL, "resnet18", "bert", "training", "optimizer", "cond"]


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("name", WHOLE)
def test_sums_are_those_of_the_whole(name, depth, captured):
    graph = _graph(name, captured)
    before = ta.to_text(graph), render(graph, "json")
    small = collapse(graph, depth)
    ta.validate(small)
    assert nx.is_directed_acyclic_graph(small)
    assert (ta.to_text(graph), render(graph, "json")) == before
    assert small.source is None
    found, whole = ta.totals(small), ta.totals(graph)
    for field in dataclasses.fields(whole):
        if field.name != "peak":
            assert getattr(found, field.name) == getattr(whole, field.name), field.name
    assert found.peak_bytes == whole.peak_bytes and found.coverage == whole.coverage
    assert str(found) == str(whole)
    shown = {"depth": depth, "columns": COLUMNS}
    assert str(small.summary(**shown)) == str(graph.summary(**shown))
    assert sum(saved_for_backward(small).values()) == sum(saved_for_backward(graph).values())
    jsonschema.validate(json.loads(render(small, "json")[0]), schema())
    again = parse_graph(render(small, "json")[0])
    assert render(again, "json") == render(small, "json")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_renders_a_collapsed_graph(format, captured):
    for graph in (captured("attention"), _training(True), _branches()):
        content, _ = render(collapse(graph, 1), format)
        assert content == render(collapse(graph, 1), format)[0]


def test_modules_of_resnet18(captured):
    small = collapse(captured("resnet18"), 2)
    assert list(small) == [
        "x", "conv1", "bn1", "relu", "maxpool",
        *(f"layer{i}/{j}" for i in (1, 2, 3, 4) for j in (0, 1)),
        "avgpool", "flatten", "fc", "output",
    ]  # fmt: skip
    assert nx.is_path(small, list(small))
    block = small.nodes["layer1/0"]
    assert block["op"] == "module.BasicBlock" and block["module"] == "layer1.0"
    assert block["contains"] == {
        "aten.conv2d": 2, "aten.batch_norm": 2, "aten.relu_": 2, "aten.add_": 1
    }  # fmt: skip
    # two convolutions of 3 x 3 x 64 x 64, and a weight and a bias for each of two norms
    assert block["params"] == 2 * 9 * 64 * 64 + 4 * 64
    assert block["flops"] == 2 * 2 * 9 * 64 * 64 * 56 * 56
    assert block["outputs"][0].shape == (1, 64, 56, 56)
    edge = small.edges["layer1/0", "layer1/1"]
    assert edge["bytes"] == 4 * 64 * 56 * 56
    assert [(use.output, use.argument) for use in edge["uses"]] == [(0, "inputs.0")]
    assert small.nodes["flatten"]["op"] == "aten.flatten"


def test_one_node_for_the_model(captured):
    small = collapse(captured("resnet18"), 0)
    assert list(small) == ["x", "ResNet", "output"]
    assert small.nodes["ResNet"]["params"] == 11_689_512


def test_modules_by_name(captured):
    graph = captured("resnet18")
    small = collapse(graph, modules=["layer1.0", "layer4"])
    assert {"layer1/0", "layer4", "layer1/1/conv1/conv2d", "fc/linear", "fc/weight"} <= set(small)
    assert not any(name.startswith(("layer1/0/", "layer4/")) for name in small)
    assert ta.totals(small).flops == ta.totals(graph).flops
    assert list(collapse(graph, modules="fc"))[-2:] == ["fc", "output"]


def test_a_module_that_is_called_twice_is_two_nodes(captured):
    small = collapse(captured("shared_and_tied"), 1)
    calls = ["block", "block_1", "again"]
    assert {small.nodes[name]["op"] for name in calls} == {"module.Linear"}
    assert nx.is_path(small, calls)
    # What several calls read stays a node of its own, which says that they share it.
    assert set(calls) <= set(small.succ["block/weight"])
    assert set(small.succ["embed/weight"]) == {"embed", "head"}


class Loops(nn.Module):
    """A block that is called three times in a row, and one that loops over its layer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.rounds = Rounds()

    def forward(self, x):
        return self.rounds(self.block(self.block(self.block(x))))


class Rounds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(3):
            x = self.layer(x)
        return x.relu()


def test_calls_right_after_each_other():
    graph = ta.capture(Loops(), torch.randn(2, 4))
    one = collapse(graph, 1)
    ops = [name for name, node in one.nodes(data=True) if node["kind"] == "op"]
    assert ops == ["block", "block_1", "block_2", "rounds"]
    assert one.nodes["rounds"]["contains"] == {"aten.linear": 3, "aten.relu": 1}
    two = collapse(graph, 2)
    assert {"rounds/layer", "rounds/layer_1", "rounds/layer_2"} <= set(two)


# -- hand-made graphs --------------------------------------------------------------------------


def _op(key, module, *reads, **more):
    stack = (Module("", "Net"), Module(module, f"net.{module.upper()}")) if module else ()
    args = {f"x{i}": Value(read) for i, read in enumerate(reads)}
    more = {"op": "my.op", "outputs": (OUT,), "stack": stack, **more}
    return OpRecord(key, "op", args=args, **more)


def _input():
    return OpRecord("x", "input", target="x", outputs=(OUT,))


def test_interleaved_calls_are_split():
    records = [_input()]
    for i, module in enumerate("abab"):
        records.append(_op(str(i), module, records[-1].key))
    records.append(OpRecord("out", "output", target="out", args={"value": Value("3")}))
    graph, _ = build(records, name="Net")
    small = collapse(graph, 1)
    ta.validate(small)
    assert list(small) == ["x", "a", "b", "a_1", "b_1", "out"]
    assert nx.is_path(small, list(small))


def _random(seed: int) -> ModelGraph:
    """Return a graph whose modules run, and are differentiated, in any order."""
    chance = random.Random(seed)
    records = [_input()]
    for module in "abc":
        stack = (Module("", "Net"), Module(module, module))
        target = f"{module}.weight"
        records.append(OpRecord(target, "parameter", target=target, outputs=(OUT,), stack=stack))
    forward = []
    for i in range(chance.randint(2, 25)):
        reads = chance.sample([r.key for r in records], chance.randint(1, min(3, len(records))))
        links, phase = {}, "forward"
        if forward and chance.random() < 0.5:
            other = chance.choice(forward)
            links, phase = {"differentiates": other.key}, "backward"
            module = other.stack[-1].path if other.stack else ""
        else:
            module = chance.choice(["a", "b", "c", ""])
        made = _op(str(i), module, *reads, links=links, phase=phase, outputs=(OUT, OUT))
        records.append(made)
        forward += [made] if phase == "forward" else []
    return annotate(build(records, name="Net")[0])


@pytest.mark.parametrize("seed", range(150))
def test_no_order_of_calls_makes_a_cycle_or_loses_an_edge(seed):
    graph = _random(seed)
    small = collapse(graph, 1)
    ta.validate(small)
    assert nx.is_directed_acyclic_graph(small)
    found, whole = ta.totals(small), ta.totals(graph)
    assert (found.ops, found.unknown, found.params) == (whole.ops, whole.unknown, whole.params)
    # What has to run before another thing does so in the new graph as well, and nothing else.
    plan = module._plan(graph, dict(in_order(graph)), at_depth(graph, 1))
    home = plan.home
    assert set(home) == set(graph) and set(home.values()) == set(small)
    flows = {(home[one], home[other]) for one, other in graph.edges}
    assert set(small.edges) == {(one, other) for one, other in flows if one != other}


def test_the_gradients_of_a_call_are_gathered_where_that_makes_no_cycle():
    records = [
        _input(),
        _op("f", "a", "x"),
        _op("g", "b", "f"),
        _op("b1", "a", "g", phase="backward", links={"differentiates": "f"}),
        _op("b2", "b", "g", phase="backward", links={"differentiates": "g"}),
        _op("b3", "a", "g", phase="backward", links={"differentiates": "f"}),
    ]
    small = collapse(build(records, name="Net")[0], 1)
    assert list(small) == ["x", "a", "b", "a/backward", "b/backward"]
    assert small.nodes["a/backward"]["contains"] == {"my.op": 2}
    assert small.nodes["a/backward"]["differentiates"] == "a"
    records[4] = _op("b2", "b", "b1", phase="backward", links={"differentiates": "g"})
    records[5] = _op("b3", "a", "b2", phase="backward", links={"differentiates": "f"})
    small = collapse(build(records, name="Net")[0], 1)
    assert list(small) == ["x", "a", "b", "a/backward", "b/backward", "a/backward_1"]


def test_parts_stay_apart_where_a_weight_between_them_makes_a_cycle():
    stack = (Module("", "Net"), Module("a", "A"))
    records = [
        _input(),
        OpRecord("w", "parameter", target="a.w", outputs=(OUT,), stack=stack),
        _op("g", "b", "x"),
        _op("b1", "b", "g", phase="backward", links={"differentiates": "g"}),
        _op("f", "a", "b1", "w"),
        _op("b2", "b", "w", phase="backward", links={"differentiates": "g"}),
    ]
    small = collapse(build(records, name="Net")[0], 1)
    ta.validate(small)
    assert list(small) == ["x", "b", "b/backward", "a", "b/backward_1"]
    assert small.edges["a", "b/backward_1"]["bytes"] == OUT.nbytes


def test_unknown_costs_stay_unknown():
    records = [
        _input(),
        _op("a1", "a", "x"),
        _op("b1", "b", "a1", op="aten.relu", tags=("pointwise",)),
        _op("b2", "b", "b1"),
    ]
    graph = annotate(build(records, name="Net")[0])
    small = collapse(graph, 1)
    assert small.nodes["a"]["flops"] is None and small.nodes["a"]["uncounted"] == {"my.op": 1}
    assert small.nodes["b"]["flops"] == 0 and small.nodes["b"]["flops_other"] == 16
    assert small.nodes["b"]["uncounted"] == {"my.op": 1}
    assert ta.totals(small).unknown == {"my.op": 2}
    assert ta.totals(small).coverage == ta.totals(graph).coverage == pytest.approx(1 / 3)
    once = collapse(small, 0)
    assert ta.totals(once).unknown == {"my.op": 2} and ta.totals(once).ops == 3


def test_writes_in_place_keep_their_order():
    records = [
        _input(),
        _op("read", "a", "x"),
        _op("write", "b", "x", writes=("x0",), outputs=(OUT,), storages=(Value("x"),)),
        _op("after", "c", "x", "read"),
    ]
    graph, _ = build(records, name="Net")
    small = collapse(graph, 1)
    assert small.nodes["b"]["writes"] == ("inputs.0",)
    assert [use.output for use in small.edges["a", "b"]["uses"]] == [None]
    assert nx.has_path(small, "b", "c")
    assert small.edges["b", "c"]["bytes"] == OUT.nbytes


def test_one_tensor_that_a_call_reads_twice_is_one_input():
    records = [_input(), _op("a1", "a", "x", "x"), _op("a2", "a", "a1", "x", op="my.other")]
    small = collapse(build(records, name="Net")[0], 1)
    assert small.nodes["a"]["args"] == {"inputs": (OUT,)}
    assert len(small.edges["x", "a"]["uses"]) == 1 and small.edges["x", "a"]["bytes"] == OUT.nbytes


def test_names_that_are_taken():
    records = [
        OpRecord("a", "input", target="a", outputs=(OUT,)),
        _op("a1", "a", "a"),
    ]
    small = collapse(build(records, name="Net")[0], 1)
    assert list(small) == ["a", "a_1"] and small.nodes["a_1"]["op"] == "module.A"


def test_time_is_linear():
    def chain(count):
        records = [_input()]
        for i in range(count):
            stack = (Module("", "Net"), Module(f"m{i // 3}", "M"))
            weight = OpRecord(f"w{i}", "parameter", target=f"m{i // 3}.w{i}", stack=stack)
            weight.outputs = (OUT,)
            args = {"x": Value(records[-1].key), "w": Value(weight.key)}
            made = OpRecord(str(i), "op", op="my.op", args=args, outputs=(OUT,), stack=stack)
            records += [weight, made]
        graph, _ = build(records, name="Net")
        start = time.process_time()
        for depth in (0, 1):
            collapse(graph, depth)
        return time.process_time() - start

    assert chain(8000) < 10 * max(chain(2000), 0.02)


# -- training, memory, control flow, symbols ---------------------------------------------------


def test_a_training_step():
    small = collapse(_training(True), 1)
    assert {"0", "1", "0/backward", "1/backward", "optimizer"} <= set(small)
    assert small.nodes["0/backward"]["differentiates"] == "0"
    assert small.nodes["optimizer"]["op"] == "optimizer.step"
    kinds = {node["kind"] for _, node in small.nodes(data=True)}
    assert "parameter" not in kinds and "buffer" not in kinds
    assert {"loss", "output"} == {
        n for n, node in small.nodes(data=True) if node["kind"] == "output"
    }
    order = [name for name, _ in in_order(small)]
    assert order.index("1/backward") < order.index("0/backward") < order.index("optimizer")
    assert nx.has_path(small, "0/backward", "optimizer")


def test_the_peak_names_the_module(captured):
    graph = captured("resnet18")
    found = ta.totals(collapse(graph, 1)).peak
    whole = ta.totals(graph).peak
    assert found.nbytes == whole.nbytes
    assert whole.node.startswith(f"{found.node}/") and found.alive == {}


def test_bodies_collapse_too():
    graph = _branches()
    small = collapse(graph, 1)
    body = small.nodes["cond"]["subgraphs"]["true"]
    assert [n for n, node in body.nodes(data=True) if node["kind"] == "op"] == ["big"]
    assert small.nodes["cond"]["flops"] == graph.nodes["cond"]["flops"]


def test_symbolic_costs():
    graph = ta.capture(models.Tiny().eval(), torch.randn(2, 3, 8, 8), dynamic=["batch"])
    small = collapse(graph, 1)
    assert ta.totals(small).flops == ta.totals(graph).flops
    assert ta.totals(ta.bind(small, batch=3)) == ta.totals(collapse(ta.bind(graph, batch=3), 1))


def test_a_collapsed_graph_is_not_annotated_again(captured):
    small = collapse(captured("tiny"), 1)
    with pytest.raises(GraphError, match=r"'module.Conv2d' stands for ops(.|\n)*'conv'"):
        annotate(small)
    assert ta.totals(small).flops == ta.totals(captured("tiny")).flops


def test_wrong_requests(captured):
    graph = captured("tiny")
    for wrong in ({}, {"depth": 1, "modules": ["conv"]}):
        with pytest.raises(UsageError, match="what to collapse is not said"):
            collapse(graph, **wrong)
    for depth in (-1, True, 1.5, "2"):
        with pytest.raises(UsageError, match="is no depth"):
            collapse(graph, depth)
    with pytest.raises(UsageError, match="no op runs in a module 'convolution'"):
        collapse(graph, modules=["conv", "convolution"])
