"""Folding what stands in one scope makes no cycle that the model does not have."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.exporters.nesting import flat
from torchatlas.exporters.scopes import scopes
from torchatlas.schema import WEIGHTS


def folded_cycles(graph: ta.ModelGraph, apart: bool) -> list[str]:
    """Return the scopes inside which folded boxes make a cycle, by the id or calls apart."""
    graph = flat(graph)
    found = scopes(graph)
    name = {n: f"{found[n]}/{n.rpartition('/')[2]}".lstrip("/") if apart else n for n in graph}
    levels: dict[str, nx.DiGraph] = {}
    for source, target in graph.edges:
        if graph.nodes[source]["kind"] in WEIGHTS:
            continue
        one, other = name[source].split("/"), name[target].split("/")
        same = 0
        while same < min(len(one), len(other)) - 1 and one[same] == other[same]:
            same += 1
        if one[same] != other[same]:
            level = levels.setdefault("/".join(one[:same]), nx.DiGraph())
            level.add_edge(one[same], other[same])
    return sorted(s for s, level in levels.items() if not nx.is_directed_acyclic_graph(level))


@pytest.mark.parametrize("name", [*models.SMALL, "t5"])
def test_no_scope_makes_a_cycle(name, captured):
    assert folded_cycles(captured(name), apart=True) == []


def test_activations_that_a_block_calls_twice_are_apart(captured):
    graph = captured("resnet18")
    assert len(folded_cycles(graph, apart=False)) == 8
    assert folded_cycles(graph, apart=True) == []
    found = scopes(graph)
    assert str(found["layer1/0/relu/relu_1"]) == "layer1/0/relu (call 2)"
    assert str(found["layer1/0/relu/relu"]) == "layer1/0/relu"
    assert sum(scope.again for scope in found.values()) == 8


def test_training_graph_has_its_backward_pass_apart():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = ta.capture(model, torch.randn(3, 4), mode="training")
    assert folded_cycles(graph, apart=False) != []
    assert folded_cycles(graph, apart=True) == []
    found = scopes(graph)
    assert str(found["1/relu"]) == "1"
    assert str(found["1/threshold_backward"]) == "backward/1"


class Stages(nn.Module):
    """A container whose modules are called one by one, with ops of the model in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        for stage in self.stages:
            x = stage(x) + 1
        for _ in range(3):
            x = self.block(x) * 2
        return x


def test_containers_stay_whole_and_blocks_are_counted():
    graph = ta.capture(Stages(), torch.randn(2, 4))
    found = {str(scope) for scope in scopes(graph).values()}
    assert {"stages/0", "stages/1", "stages/2"} <= found
    assert {"block/0", "block (call 2)/0", "block (call 3)/1"} <= found
    assert not any(scope.startswith("stages (") for scope in found)
