"""All formats of one graph: each is written, names its nodes alike, and tells no secrets."""

from __future__ import annotations

import json
import re
import warnings
from functools import lru_cache
from pathlib import Path

import networkx as nx
import onnx
import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.exporters import FORMATS, render, suffix_of

BIG = ("resnet50", "bert", "llama", "lstm", "detector", "training")


@lru_cache(maxsize=1)
def detector() -> ta.ModelGraph:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, box_detections_per_img=5, rpn_post_nms_top_n_test=20
    )
    return ta.capture(model.eval(), ([torch.rand(3, 96, 96)],))


@lru_cache(maxsize=1)
def training() -> ta.ModelGraph:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Flatten(), nn.Linear(144, 5)
    )
    return ta.capture(model, torch.rand(2, 3, 8, 8), mode="training", optimizer=torch.optim.AdamW)


@pytest.fixture
def graph(request, captured) -> ta.ModelGraph:
    made = {"detector": detector, "training": training}
    return made[request.param]() if request.param in made else captured(request.param)


@pytest.mark.parametrize("graph", BIG, indirect=True)
def test_every_format_writes_every_kind_of_model(graph, tmp_path):
    for format in FORMATS:
        path = tmp_path / f"model{suffix_of(format)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the detector and the step become their structure
            graph.export(path)
        content = path.read_bytes()
        assert len(content) > 500, format
        for secret in (str(Path.cwd()), str(Path.home()) + "/", "site-packages", "Traceback"):
            assert secret.encode() not in content, (format, secret)


def names_in(format: str, content: bytes) -> set[str]:
    """Return the names that a file gives to its nodes, without those of edges and of modules."""
    if format == "onnx-structure":
        model = onnx.load_from_string(content)
        tensors = {tensor.name for tensor in model.graph.initializer}
        tensors |= {tensor.values.name for tensor in model.graph.sparse_initializer}
        return {node.name for node in model.graph.node} | tensors
    if format == "dot":
        quoted = re.findall(r'^ ("[^"]+") \[', content.decode(), re.MULTILINE)
        return {json.loads(name) for name in quoted}
    if format == "json":
        return {node["id"] for node in json.loads(content)["nodes"]}
    if format == "netron":
        modules = json.loads(content)["modules"]
        return {node["name"] for module in modules for node in module["nodes"]} | {
            value["name"] for module in modules for value in module["values"]
        }
    if format == "model-explorer":
        return {node["id"] for g in json.loads(content)["graphs"] for node in g["nodes"]}
    if format == "model-explorer-overlays":
        (overlay,) = json.loads(content).values()
        return set(overlay["results"])
    if format == "graphml":
        return set(nx.parse_graphml(content.decode()))
    if format == "csv":
        return {line.partition(",")[0] for line in content.decode().splitlines()[1:]}
    if format == "tensorboard":
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        at = 0
        while at < len(content):  # length, its checksum, the event, its checksum
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            if event.graph_def:
                return {node.name for node in GraphDef.FromString(event.graph_def).node}
            at += length + 16
    raise AssertionError(format)


FORMATS_WITH_IDS = (
    "onnx-structure", "dot", "json", "netron", "model-explorer", "graphml", "csv", "tensorboard",
)  # fmt: skip


@pytest.mark.parametrize("format", FORMATS_WITH_IDS)
@pytest.mark.parametrize("name", ["resnet18", "shared_and_tied", "lstm", "bert"])
def test_one_name_finds_one_node_in_every_file(name, format, captured):
    graph = captured(name)
    ops = {node for node, kind in graph.nodes("kind") if kind == "op"}
    named = names_in(format, render(graph, format)[0])
    assert ops <= named, sorted(ops - named)[:5]


def test_executable_onnx_and_report_name_the_same_nodes(captured):
    graph = captured("resnet18")
    ops = {node for node, kind in graph.nodes("kind") if kind == "op"}
    model = onnx.load_from_string(render(graph, "onnx")[0])
    told = [p for node in model.graph.node for p in node.metadata_props if p.key in ("id", "ids")]
    found = {name for p in told for name in (json.loads(p.value) if p.key == "ids" else [p.value])}
    assert ops <= found
    page = render(graph, "html")[0].decode()
    assert all(part in page for node in ops for part in node.split("/"))


def test_pictures_name_their_nodes(captured):
    text = render(captured("resnet18"), "svg")[0].decode()
    titles = set(re.findall(r"<title>([^<]*)</title>", text))
    assert {"conv1/conv2d", "layer1/0/conv1/conv2d", "fc/linear"} <= titles


def test_source_lines_appear_on_request_and_are_relative():
    graph = ta.capture(*models.make("residual"), include_source=True)
    line = next(source for _, source in graph.nodes("source") if source)
    assert not Path(line).is_absolute()
    for format in ("onnx", "onnx-structure", "netron", "model-explorer", "tensorboard"):
        assert line.encode() not in render(graph, format)[0], format
        assert line.encode() in render(graph, format, include_source=True)[0], format
