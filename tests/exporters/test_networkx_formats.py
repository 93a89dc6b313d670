"""GraphML and GEXF, read back by networkx, and by an XML parser as Gephi and yEd would."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import networkx as nx
import pytest
import torch

import hostile
import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.exporters import networkx_formats
from torchatlas.exporters.nesting import flat
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import TensorMeta

READ = {"graphml": nx.read_graphml, "gexf": nx.read_gexf}
FORMATS = pytest.mark.parametrize("format", READ)
GRAPHML = "{http://graphml.graphdrawing.org/xmlns}"
GEXF = "{http://www.gexf.net/1.2draft}"


def write(graph, format: str) -> bytes:
    return getattr(networkx_formats, format)(graph)


def read(content: bytes, format: str) -> nx.DiGraph:
    return READ[format](io.BytesIO(content))


def types(content: bytes, format: str) -> dict[str, set[str]]:
    """Return the types that a file declares for each attribute of nodes and edges."""
    tree = ElementTree.fromstring(content)
    found: dict[str, set[str]] = {}
    if format == "graphml":
        for key in tree.iter(f"{GRAPHML}key"):
            found.setdefault(key.get("attr.name"), set()).add(key.get("attr.type"))
    else:
        for key in tree.iter(f"{GEXF}attribute"):
            found.setdefault(key.get("title"), set()).add(key.get("type"))
    return found


@FORMATS
@pytest.mark.parametrize("name", [*models.SMALL, "resnet18"])
def test_networkx_reads_the_same_graph(name, format, captured):
    graph = captured(name)
    found = read(write(graph, format), format)
    assert isinstance(found, nx.DiGraph) and not found.is_multigraph()
    assert list(found) == list(graph)
    assert set(found.edges) == set(graph.edges)
    for node in graph:
        for key in ("kind", "op", "module", "flops", "params", "device", "index"):
            assert found.nodes[node].get(key, "") == graph.nodes[node].get(key, "")
    for edge in graph.edges:
        assert found.edges[edge]["bytes"] == graph.edges[edge]["bytes"]


@FORMATS
def test_numbers_are_numbers(format, captured):
    content = write(captured("tiny"), format)
    declared = types(content, format)
    assert declared["flops"] == {"long"} and declared["op"] == {"string"}
    assert all(len(kinds) == 1 for kinds in declared.values())
    found = read(content, format)
    assert found.nodes["conv/conv2d"]["flops"] == 27648
    assert found.nodes["conv/conv2d"]["shape"] == "2x4x8x8"
    assert found.edges["x", "conv/conv2d"]["shape"] == "2x3x8x8"
    assert found.edges["x", "conv/conv2d"]["uses"] == "input: output 0"
    assert found.nodes["conv/conv2d"]["label"] == "conv2d"


@FORMATS
def test_large_numbers_are_doubles_and_unknown_ones_absent(format):
    big = TensorMeta((2**40, 2**30))
    records = [
        OpRecord("x", "input", target="x", outputs=(big,)),
        OpRecord("a", "op", op="my.op", args={"x": Value("x")}, outputs=(big,)),
        OpRecord("b", "op", op="aten.t", args={"self": Value("a")}, outputs=(big,), tags=("view",)),
    ]
    graph = annotate(build(records, name="M")[0])
    assert graph.edges["x", "op"]["bytes"] == 2**72
    content = write(graph, format)
    declared, found = types(content, format), read(content, format)
    assert declared["bytes"] == declared["bytes_written"] == {"double"}
    assert found.edges["x", "op"]["bytes"] == float(2**72)
    assert "flops" not in found.nodes["op"] and found.nodes["t"]["flops"] == 0
    graph.nodes["t"]["flops_other"] = 2**63 - 1
    content = write(graph, format)
    assert types(content, format)["flops_other"] == {"long"}
    assert read(content, format).nodes["t"]["flops_other"] == 2**63 - 1


@FORMATS
def test_symbolic_numbers_are_text(format):
    graph = ta.capture(torch.nn.Linear(8, 4), torch.zeros(2, 8), dynamic=["batch"])
    content = write(graph, format)
    assert types(content, format)["flops"] == types(content, format)["bytes"] == {"string"}
    found = read(content, format)
    assert found.nodes["linear"]["flops"] == "64*batch"
    assert found.edges["input", "linear"]["bytes"] == "32*batch"


@FORMATS
def test_hostile_names_come_back(format):
    for graph in (hostile.graph(), ta.capture(*models.hostile())):
        found = read(write(graph, format), format)
        assert list(found) == list(graph)
        assert set(found.edges) == set(graph.edges)


@FORMATS
def test_names_that_no_xml_may_hold(format, captured):
    graph = captured("tiny").copy()
    names = {"conv/conv2d": "a\x00\x1b\ufffe", "norm/batch_norm": "a\x01\x1b\uffff"}
    nx.relabel_nodes(graph, names, copy=False)
    found = read(write(graph, format), format)
    assert len(found) == len(graph) and found.number_of_edges() == graph.number_of_edges()


@FORMATS
def test_bodies_of_control_flow_are_there(format):
    class Cond(torch.nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    graph = ta.capture(Cond(), torch.ones(3))
    found = read(write(graph, format), format)
    assert list(found) == list(flat(graph)) and "cond#true/sin" in found


@FORMATS
def test_training_and_collapsed_graphs(format, captured):
    graph = ta.capture(models.Tiny(), torch.randn(2, 3, 8, 8), mode="training")
    assert {found for _, found in read(write(graph, format), format).nodes("phase")} == {
        "forward", "backward"
    }  # fmt: skip
    small = read(write(ta.collapse(captured("resnet18"), 1), format), format)
    assert small.nodes["layer1"]["contains"].startswith("aten.conv2d x4, ")


def test_no_date_stands_in_a_file(captured):
    content = write(captured("tiny"), "gexf")
    assert b"lastmodifieddate" not in content and b"NetworkX" not in content
    assert content == write(captured("tiny"), "gexf")
