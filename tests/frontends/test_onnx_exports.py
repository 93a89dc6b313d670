"""What torch exports as ONNX, read back: costs of the captured model, its modules and its names."""

from __future__ import annotations

import io
import logging
import warnings
from functools import lru_cache
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from onnx_models import graph_of, ops, shapes
from torchatlas.exporters import render
from torchatlas.sums import totals

EXECUTABLE = ["lstm", "bert", "resnet18"]


@lru_cache(maxsize=8)
def exported(name: str) -> tuple[ta.ModelGraph, ta.ModelGraph]:
    """Return a model's graph, and that of the executable ONNX file written from it."""
    graph = ta.capture(*models.make(name), frontend="export")
    content, _ = render(graph, "onnx")
    assert {n.domain for n in onnx.load_from_string(content).graph.node} == {""}
    return graph, graph_of(content)


@pytest.mark.parametrize("name", EXECUTABLE)
def test_executable_files_cost_what_the_model_costs(name):
    graph, again = exported(name)
    before, after = totals(graph), totals(again)
    assert after.macs == before.macs and after.flops == before.flops
    assert after.coverage == 1 and "symbols" not in again.graph
    assert again.graph["name"] == graph.graph["name"]


@pytest.mark.parametrize("name", EXECUTABLE)
def test_executable_files_keep_ids_and_modules(name):
    graph, again = exported(name)
    for _, node in ops(again).items():
        # An op that became several is the first part of the name of each.
        id, _, _ = node["target"].rpartition("/")
        origin = graph.nodes[node["target"] if node["target"] in graph else id]
        assert node["module"] == origin["module"]
        assert node["module_type"] == origin["module_type"]
    named = {id for id, n in graph.nodes(data=True) if n["kind"] in ("input", "output")}
    assert named == {id for id, n in again.nodes(data=True) if n["kind"] in ("input", "output")}
    for id, node in again.nodes(data=True):
        if node["kind"] == "parameter" and id in graph:
            assert node["outputs"][0].shape == graph.nodes[id]["outputs"][0].shape


def test_a_norm_that_was_folded_into_a_convolution_is_all_that_differs():
    graph, again = exported("resnet18")
    norms = sum(n["flops_other"] for n in ops(graph).values() if n["op"] == "aten.batch_norm")
    biases = sum(n["flops_other"] for n in ops(again).values() if n["op"] == "onnx.Conv")
    assert totals(again).flops_other == totals(graph).flops_other - norms + biases


# -- other exporters ---------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.ReLU())])
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


def torch_export(batch: int = 1, **options: Any) -> bytes:
    torch.manual_seed(0)
    file = io.BytesIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.onnx.export(
                Net().eval(), (torch.zeros(batch, 3, 32, 48),), file, verbose=False, **options
            )
    finally:
        logging.disable(logging.NOTSET)
    if found is None:
        return file.getvalue()
    return found.model_proto.SerializeToString()


@pytest.fixture(scope="module")
def captured_net() -> ta.ModelGraph:
    return ta.capture(Net().eval(), torch.zeros(1, 3, 32, 48))


MODULES = {"stem.0", "stem.1", "blocks.0.0", "blocks.0.1", "attention", "head"}


def test_torchscript_files(captured_net):
    graph = graph_of(torch_export(dynamo=False))
    assert totals(graph).macs == totals(captured_net).macs and totals(graph).coverage == 1
    assert "symbols" not in graph.graph
    assert {n["module"] for n in ops(graph).values()} >= MODULES
    assert {"stem/0/weight", "blocks/0/0/bias", "head/weight"} <= {*graph}
    assert totals(graph).params == totals(captured_net).params


def test_torchscript_files_with_named_sizes(captured_net):
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    content = torch_export(dynamo=False, input_names=["x"], dynamic_axes=axes)
    graph = graph_of(content)
    assert {*graph.graph["symbols"]} == {"batch", "height", "width"}
    assert shapes(graph)["stem/0/Conv"][2] == "floor(height/2 - 1/2) + 1"
    at = {"batch": 1, "height": 32, "width": 48}
    bound, fixed = ta.bind(graph, **at), graph_of(content, sizes=at)
    assert totals(bound).macs == totals(fixed).macs == totals(captured_net).macs
    assert totals(bound).bytes_read == totals(fixed).bytes_read
    assert "symbols" not in fixed.graph


def test_dynamo_files(captured_net):
    batch = torch.export.Dim("batch")
    graph = graph_of(torch_export(2, dynamo=True, dynamic_shapes=({0: batch},)))
    assert [*graph.graph["symbols"]] == ["batch"]
    assert totals(ta.bind(graph, batch=1)).macs == totals(captured_net).macs
    assert totals(graph).coverage == 1
    assert {n["module"] for n in ops(graph).values()} >= MODULES
    kinds = {m.path: m.type for n in ops(graph).values() for m in n["module_stack"]}
    assert kinds["head"] == "torch.nn.modules.linear.Linear"
    assert kinds["stem"] == "torch.nn.modules.container.Sequential"
    assert graph.graph["name"] == "Net"
