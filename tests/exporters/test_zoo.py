"""Real architectures through all formats: whole files, right numbers, nothing left out."""

from __future__ import annotations

import json

import onnx
import pygraphviz
import pytest

import models
import onnx_files
import torchatlas as ta

OPAQUE = {"mixtral"}
"""Models with an op that ONNX has no words for, and so cannot be run there."""


EACH = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in models.LARGE]
"""One process tests a model, so that it captures it once."""


@pytest.mark.parametrize("name", EACH)
def test_all_formats(name, captured, tmp_path):
    graph = captured(name)
    files = {kind: tmp_path / f"model.{kind}" for kind in ("onnx", "dot", "json")}
    for path in files.values():
        graph.export(path)
    onnx.checker.check_model(files["onnx"], full_check=True)
    assert set(pygraphviz.AGraph(str(files["dot"])).nodes()) == set(graph)
    assert len(json.loads(files["json"].read_bytes())["nodes"]) == len(graph)
    if name not in OPAQUE:
        model, example = models.make(name)
        found = onnx_files.run(str(files["onnx"]), example)
        assert onnx_files.difference(found, onnx_files.call(model, example)) <= 1e-4


@pytest.mark.parametrize("name", EACH)
def test_every_node_of_the_structure_carries_its_annotations(name, captured, tmp_path):
    graph = captured(name)
    path = tmp_path / "model.onnx"
    graph.export(path, format="onnx-structure")
    onnx.checker.check_model(path, full_check=True)
    nodes = onnx.load(path).graph.node
    ops = {n: node for n, node in graph.nodes(data=True) if node["kind"] == "op"}
    assert {node.name for node in nodes} == set(ops)
    for node in nodes:
        carried = {prop.key: prop.value for prop in node.metadata_props}
        assert carried["flops"] == str(ops[node.name]["flops"])
        assert carried["module"] == ops[node.name]["module"]
        shapes = [str(list(out.shape)) for out in ops[node.name]["outputs"]]
        assert carried["shape"] == ", ".join(shapes)


def test_costs_of_the_zoo_are_all_known(captured):
    for name in models.ALL:
        found = ta.totals(captured(name))
        assert found.unknown == {}, name
