"""Graphs and overlays for Model Explorer; tests/viewers looks at the page itself."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import hostile
import models
import torchatlas as ta
from torchatlas.errors import UsageError
from torchatlas.exporters import model_explorer
from torchatlas.exporters.model_explorer_groups import CROWDED
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import TensorMeta


def rendered(graph, **options):
    """Return the nodes of the rendered graph by id, and the graph itself."""
    content = json.loads(model_explorer.render(graph, **options))
    (graph,) = content["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    return nodes, graph


def attrs(node):
    found = {entry["key"]: entry["value"] for entry in node["attrs"]}
    assert len(found) == len(node["attrs"])
    return found


@pytest.mark.parametrize("name", models.SMALL)
def test_ids_and_edges_are_those_of_the_graph(name, captured):
    graph = captured(name)
    nodes, _ = rendered(graph)
    assert list(nodes) == [n for n, _ in sorted(graph.nodes("index"), key=lambda item: item[1])]
    edges = {(e["sourceNodeId"], n) for n in nodes for e in nodes[n].get("incomingEdges", ())}
    assert edges == set(graph.edges)


def test_costs_come_first_and_shapes_stand_on_edges(captured):
    nodes, graph = rendered(captured("tiny"))
    conv = nodes["conv/conv2d"]
    assert conv["label"] == "aten.conv2d" and conv["namespace"] == "conv"
    found = attrs(conv)
    assert list(found)[:4] == ["id", "op", "flops", "macs"]
    # 2 FLOP x 3 x 3 x 3 multiply-adds x 4 x 8 x 8 outputs x 2 in the batch
    assert found["flops"] == "27648 (27.6 kFLOP)" and found["macs"] == "13824 (13.8 kMAC)"
    assert found["padding"] == "[1, 1]"
    shape = {"key": "tensor_shape", "value": "float32[2, 4, 8, 8]"}
    assert shape in conv["outputsMetadata"][0]["attrs"]
    tags = [entry["attrs"][0]["value"] for entry in conv["inputsMetadata"]]
    assert tags == ["input", "weight"]
    assert [edge["sourceNodeId"] for edge in conv["incomingEdges"]] == ["x", "conv/weight"]
    assert graph["groupNodeAttributes"]["conv"]["flops"] == "27.6 kFLOP"
    assert graph["groupNodeAttributes"]["conv"]["params"] == "108"
    assert graph["groupNodeAttributes"]["conv"]["module"] == "torch.nn.modules.conv.Conv2d"


def test_a_tied_weight_leads_to_its_readers(captured):
    graph = captured("shared_and_tied")
    nodes, _ = rendered(graph)
    tied = next(n for n, node in graph.nodes(data=True) if node.get("aliases"))
    jump = attrs(nodes[tied])["read by"]
    assert jump["type"] == "node_ids" and len(jump["nodeIds"]) > 1
    assert set(jump["nodeIds"]) == set(graph.succ[tied])
    for reader in jump["nodeIds"]:
        assert tied in attrs(nodes[reader])["weights"]["nodeIds"]


def test_parameters_can_be_left_out(captured):
    nodes, _ = rendered(captured("tiny"), parameters=False)
    assert "conv/weight" not in nodes and attrs(nodes["conv/conv2d"])["weights"] == "conv/weight"
    assert all(
        e["sourceNodeId"] in nodes for n in nodes.values() for e in n.get("incomingEdges", ())
    )


def test_layers_sum_up_and_calls_stand_apart(captured):
    graph = captured("resnet18")
    nodes, made = rendered(graph)
    assert nodes["layer1/0/relu/relu_1"]["namespace"] == "layer1/0/relu (call 2)"
    layers = made["groupNodeAttributes"]
    assert (
        layers["layer1"]["ops"] == "14" and layers["layer1"]["coverage"] == "100.0% of ops counted"
    )
    # four convolutions of 64 x 64 x 3 x 3, and the norms' weights and biases
    assert layers["layer1"]["params"] == "148 k"
    assert layers[""]["flops"] == "3.63 GFLOP" and layers[""]["params"] == "11.7 M"
    assert layers["layer1/0/relu (call 2)"]["module"].endswith("ReLU")


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.one(x).relu(), self.other, (x,))


def test_bodies_are_layers_that_the_op_leads_to():
    graph = ta.capture(Branch(), torch.randn(2, 4), frontend="export")
    nodes, made = rendered(graph)
    op = next(n for n, node in graph.nodes(data=True) if "subgraphs" in node)
    jump = attrs(nodes[op])["bodies"]
    assert len(jump["nodeIds"]) == 2 and all(n.startswith(f"{op}#") for n in jump["nodeIds"])
    # the page draws a layer with one op as that op
    assert nodes[f"{op}#false/other/linear"]["label"] == f"aten.linear ({op}#false)"
    assert nodes[f"{op}#true/one/linear"]["label"] == "aten.linear"
    layers = made["groupNodeAttributes"]
    # 2 FLOP x 4 x 4 multiply-adds x 2 in the batch, counted in each body and once in the whole
    assert layers[f"{op}#true"]["flops"] == layers[f"{op}#false"]["flops"] == "64 FLOP"
    assert layers[""]["flops"] == "64 FLOP"
    overlay = json.loads(model_explorer.overlays(graph))["Branch"]["results"]
    assert op not in overlay and {overlay[n]["value"] for n in jump["nodeIds"]} == {64}


def test_unknown_is_said_and_symbols_stay():
    model = nn.Linear(4, 4)
    graph = ta.capture(model, torch.randn(2, 4), dynamic=["batch"])
    nodes, made = rendered(graph)
    assert attrs(nodes["linear"])["flops"] == "32*batch FLOP"
    assert made["groupNodeAttributes"][""]["symbols"] == "batch: at least 1"
    found, _ = rendered(hostile.graph())
    assert "unknown" in {attrs(node).get("flops") for node in found.values()}


def test_crowded_layers_are_parted():
    out = TensorMeta((2,))
    records = [OpRecord("x", "input", target="x", outputs=(out,))]
    for i in range(2 * CROWDED):
        before = Value(f"o{i - 1}" if i else "x")
        records.append(OpRecord(f"o{i}", "op", op="aten.relu", args={"x": before}, outputs=(out,)))
    graph = ta.annotate(build(records, name="Flat")[0])
    nodes, made = rendered(graph)
    assert nodes["x"]["namespace"] == f"nodes 1 to {CROWDED}"
    assert {node["namespace"] for node in nodes.values()} == {
        f"nodes 1 to {CROWDED}",
        f"nodes {CROWDED + 1} to {2 * CROWDED}",
        f"nodes {2 * CROWDED + 1} to {2 * CROWDED + 1}",
    }
    assert made["groupNodeAttributes"][f"nodes 1 to {CROWDED}"]["ops"] == str(CROWDED - 1)


# -- overlays ----------------------------------------------------------------------------------


def test_overlays_hold_exact_numbers_and_devices(captured):
    graph = captured("tiny")
    found = json.loads(model_explorer.overlays(graph))
    assert next(iter(found)) == "Tiny" and found["Tiny"]["name"] == "FLOPs (FLOP)"
    assert found["Tiny"]["results"]["conv/conv2d"] == {"value": 27648}
    assert found["Tiny: params"]["results"]["conv/weight"] == {"value": 108}
    device = found["Tiny: device"]["results"]["conv/conv2d"]
    assert device["value"] == "cpu" and device["bgColor"].startswith("#")
    stops = [stop["stop"] for stop in found["Tiny"]["gradient"]]
    assert stops[0] == 0 and stops[-1] == 1


def test_any_overlay_can_come_first(captured):
    found = json.loads(model_explorer.overlays(captured("tiny"), key="device"))
    assert found["Tiny"]["name"] == "device" and "Tiny: flops" in found
    with pytest.raises(UsageError, match=r"no overlay of 'latency_us'\n.*flops"):
        model_explorer.overlays(captured("tiny"), key="latency_us")


def test_measurements_and_statistics_become_overlays(captured):
    graph = captured("tiny").copy()
    graph.nodes["conv/conv2d"]["latency_us"] = 12.5
    graph.nodes["conv/conv2d"]["activation_stats"] = {"mean": 0.25, "std": float("nan")}
    found = json.loads(model_explorer.overlays(graph))
    assert found["Tiny: latency_us"]["results"] == {"conv/conv2d": {"value": 12.5}}
    assert found["Tiny: activation_stats.mean"]["results"] == {"conv/conv2d": {"value": 0.25}}
    assert "Tiny: activation_stats.std" not in found


def test_hostile_names_are_kept_from_the_syntax():
    nodes, _ = rendered(hostile.graph())
    assert set(nodes) == set(hostile.graph())
    spaces = {node["namespace"] for node in nodes.values()}
    assert not any(";" in space or "\\" in space or "//" in space for space in spaces)
    for node in nodes.values():
        texts = [node["label"], *(v for v in attrs(node).values() if isinstance(v, str))]
        assert all(chr(27) not in text and chr(0x202E) not in text for text in texts)
