"""Edges that cross from one device to another, with the bytes that cross."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import torchatlas as ta


def move(graph, *names, device="cuda:0"):
    """Put what `names` produce on another device, as a capture would have seen it there."""
    for name in names:
        node = graph.nodes[name]
        node["outputs"] = tuple(out and replace(out, device=device) for out in node["outputs"])
        node["device"] = device
    return graph


class Chunks(nn.Module):
    def forward(self, x):
        first, second = (x * 2).chunk(2, dim=1)
        return first + second, first.sum()


def test_each_tensor_crosses_an_edge_once():
    graph = ta.capture(Chunks(), torch.ones(4, 6))
    assert ta.transfers(graph) == []
    move(graph, "add")
    # Two outputs of one node, both of 4 x 3 float32; what is returned is fetched by nobody.
    assert ta.transfers(graph) == [("chunk", "add", "cpu", "cuda:0", 2 * 4 * 3 * 4)]
    assert ta.transfers(move(graph, "sum")) == [
        ("chunk", "add", "cpu", "cuda:0", 96),
        ("chunk", "sum", "cpu", "cuda:0", 48),
    ]
    assert len(ta.transfers(move(graph, "chunk", device="cuda:1"))) == 3


def test_one_tensor_for_two_arguments_is_fetched_once():
    graph = move(ta.capture(lambda x: x * x, torch.ones(8)), "mul")
    assert ta.transfers(graph) == [("x", "mul", "cpu", "cuda:0", 32)]


def test_symbolic_sizes():
    graph = ta.capture(nn.Linear(8, 2), torch.ones(4, 8), dynamic=["batch"])
    crossing = ta.transfers(move(graph, "linear"))
    by_source = {t.source: t.bytes for t in crossing}
    assert by_source == {"weight": 64, "bias": 8, "input": by_source["input"]}
    [batch] = by_source["input"].free_symbols
    assert by_source["input"] == 32 * batch and str(batch) == "batch"


def test_numbers_have_no_place():
    graph = ta.capture(
        lambda x: x.new_zeros(x.shape[0] * 2) + 1, torch.ones(4, 8), dynamic=["batch"]
    )
    assert ta.transfers(graph) == []


def test_inside_of_control_flow():
    def branch(x):
        return torch.cond(x.sum() > 0, lambda y: y.sin().cos(), lambda y: -y, (x,))

    graph = ta.capture(branch, torch.ones(4))
    body = graph.nodes["cond"]["subgraphs"]["true"]
    names = [name for name, node in body.nodes(data=True) if node["op"] == "aten.cos"]
    move(body, *names)
    [crossing] = ta.transfers(graph)
    assert crossing == ("cond#true/sin", "cond#true/cos", "cpu", "cuda:0", 16)


def test_saved_graphs(tmp_path):
    graph = move(ta.capture(Chunks(), torch.ones(4, 6)), "add")
    ta.export(graph, tmp_path / "graph.json")
    assert ta.transfers(ta.load(tmp_path / "graph.json")) == ta.transfers(graph)


def test_collapsed_graphs_keep_what_crosses():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.body(x))

    graph = ta.capture(Split(), torch.ones(4, 8), device={"": "cuda:0", "head": "cuda:1"})
    [crossing] = ta.transfers(graph)
    assert crossing == ("body/linear", "head/to", "cuda:0", "cuda:1", 256)
    [collapsed] = ta.transfers(ta.collapse(graph, depth=1))
    assert collapsed == ("body", "head", "cuda:0", "cuda:1", 256)
