"""What the graph says of every node, against a real run of it."""

from __future__ import annotations

import random
import weakref

import networkx as nx
import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.errors import CaptureError
from torchatlas.frontends.metadata import value_meta
from torchatlas.frontends.replay import replay
from torchatlas.frontends.segments import Segment


@pytest.mark.parametrize("name", models.ALL)
def test_every_annotated_shape_dtype_and_stride_is_real(name, captured):
    graph = captured(name)
    seen = {}
    replay(graph.source, lambda node, values: seen.update({node: tuple(map(value_meta, values))}))
    ops = {n: node["outputs"] for n, node in graph.nodes(data=True) if node["kind"] == "op"}
    assert seen == ops


def test_fx_graphs_replay_too():
    model, example = models.make("tiny")
    graph = ta.capture(model, example, frontend="fx")
    seen = {}
    replay(graph.source, lambda node, values: seen.update({node: values[0]}))
    assert torch.allclose(seen["head/linear"], model(example))


def test_replay_leaves_the_model_alone():
    model, example = models.make("tiny")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replay(ta.capture(model, example).source, lambda node, values: None)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_replay_needs_values():
    with torch.device("meta"):
        model = models.Residual()
    with pytest.raises(CaptureError, match="no values to run on"):
        replay(ta.capture(model, torch.ones(3, 4)).source, lambda node, values: None)


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        x = self.inner(x)
        for _ in range(9):
            x = x * 2
        return x


def test_replay_drops_what_nobody_uses_any_more():
    """Also in the calls that repeat an earlier one, which are no nodes of the program."""
    graph = ta.capture(nn.Sequential(Chain(), Chain(), Chain()), torch.randn(2, 4))
    assert any(isinstance(n.target, Segment) for n in graph.source.program.graph.nodes)
    seen, alive = [], []

    def note(node, values):
        seen.append(weakref.ref(values[0]))
        alive.append(sum(value() is not None for value in seen))

    replay(graph.source, note)
    assert len(seen) == 30 and max(alive) <= 4


@pytest.mark.parametrize("name", ["in_place_views", "residual", "tiny", "swin_t"])
def test_every_topological_order_computes_the_same(name, exported):
    """In-place writes through views keep their order, whatever order the edges leave open."""
    graph = exported(name)
    model, example = models.make(name)
    wanted = torch.utils._pytree.tree_leaves(model(example))
    for seed in range(3):
        order = _random_order(graph, seed)
        results = _run(graph, order)
        assert len(results) == len(wanted)
        for got, want in zip(results, wanted, strict=True):
            assert torch.allclose(got, want, atol=1e-6), order


def _random_order(graph, seed):
    rank = random.Random(seed)
    keys = {node: rank.random() for node in graph}
    return list(nx.lexicographical_topological_sort(graph, key=keys.__getitem__))


def _run(graph, order):
    """Run the captured program's own nodes in the given order of the graph's."""
    source = graph.source
    nodes = {node.name: node for node in source.program.graph_module.graph.nodes}
    keys = {node: key for key, node in source.ids.items()}
    env, results = {}, {}

    def value(node):
        if node not in env:  # a projection or noise, which has no node in the graph
            if node.op == "placeholder":
                env[node] = source.placeholders[node.name].detach().clone()
            else:
                env[node] = call(node)
        return env[node]

    def call(node):
        args = torch.fx.node.map_arg(node.args, value)
        return node.target(*args, **torch.fx.node.map_arg(node.kwargs, value))

    with torch.no_grad():
        for name in order:
            kind = graph.nodes[name]["kind"]
            if kind == "op":
                env[nodes[keys[name]]] = call(nodes[keys[name]])
            elif kind == "output":
                position = int(keys[name].partition(":")[2])
                (out,) = source.program.graph_module.graph.find_nodes(op="output")
                results[position] = value(out.args[0][position]).clone()
    return [results[i] for i in sorted(results)]


def test_the_order_test_would_notice(captured):
    """Without the edges that only order, some order gives another result."""
    graph = captured("in_place_views").copy()
    loose = [
        (a, b) for a, b, e in graph.edges(data=True) if all(u.output is None for u in e["uses"])
    ]
    assert loose
    graph.remove_edges_from(loose)
    model, example = models.make("in_place_views")
    wanted = model(example)
    differs = False
    for seed in range(20):
        results = _run(graph, _random_order(graph, seed))
        differs |= any(not torch.allclose(a, b) for a, b in zip(results, wanted, strict=True))
    assert differs
