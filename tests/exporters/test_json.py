"""The JSON format: equal after a round trip, and strict about what it reads."""

from __future__ import annotations

import json

import jsonschema
import networkx as nx
import pytest

import models
import torchatlas as ta
from torchatlas.errors import FormatError
from torchatlas.exporters.json_graph import parse_graph, render, schema


@pytest.mark.parametrize("name", models.ALL)
def test_load_gives_an_equal_graph(name, captured, tmp_path):
    graph = captured(name)
    graph.export(tmp_path / "graph.json")
    loaded = ta.load(tmp_path / "graph.json")
    assert isinstance(loaded, ta.ModelGraph)
    assert nx.utils.graphs_equal(graph, loaded)
    assert list(graph) == list(loaded)
    assert ta.totals(graph) == ta.totals(loaded)
    assert render(loaded) == render(graph)


@pytest.mark.parametrize("name", [*models.SMALL, "t5"])
def test_files_fit_the_published_schema(name, captured):
    jsonschema.validate(json.loads(render(captured(name))), schema())


def test_symbolic_graphs_come_back():
    import torch

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        models.Tiny().eval(), (torch.randn(3, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    graph = ta.capture(program)
    loaded = parse_graph(render(graph))
    assert nx.utils.graphs_equal(graph, loaded)
    assert ta.totals(loaded).macs == ta.totals(graph).macs


def test_huge_counts_are_text_in_the_file(captured):
    graph = captured("tiny").copy()
    graph.nodes["mean"]["flops"] = 2**63
    content = render(graph)
    assert b'"flops":"9223372036854775808"' in content
    assert parse_graph(content).nodes["mean"]["flops"] == 2**63


def test_nothing_of_the_machine_is_in_the_file(captured):
    content = render(captured("resnet18"))
    for leak in (b"/home", b"site-packages", b"0x7f", b'"source":"resnet', b"stack_trace"):
        assert leak not in content


def test_hostile_names_come_back():
    graph = ta.capture(*models.hostile())
    assert nx.utils.graphs_equal(graph, parse_graph(render(graph)))


GOOD = {
    "format": "torchatlas",
    "schema": 1,
    "graph": {"name": "x"},
    "totals": {},
    "nodes": [{"id": "a", "kind": "input", "index": 0, "op": "", "module": "", "outputs": []}],
    "edges": [],
}


def changed(**change):
    return json.dumps({**GOOD, **change}).encode()


def node(**change):
    return changed(nodes=[{**GOOD["nodes"][0], **change}])


def test_the_smallest_file_loads():
    assert list(parse_graph(changed())) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"<html></html>", "malformed"),
        (b'{"format":"onnx"}', "Invalid enum value 'onnx'"),
        (b"\xff\xfe", "malformed|decode"),
        (b"[" * 100_000, "nested|Expected"),
        (changed(graph={"name": "x", "torch": "\ud800"}), "truncated|surrogate|malformed"),
        (changed(extra=1), "unknown field `extra`"),
        (changed(schema=2), "newer than 1"),
        (changed(schema=-1), ">= 0"),
        (node(flops="__import__('os').system('true')"), "is not a size"),
        (node(flops="9**9**9"), "is not a size"),
        (node(flops=1.5), r"\$\.nodes\[0\]\.flops"),
        (node(flops=2**63), r"\$\.nodes\[0\]\.flops"),
        (node(index=-1), r"\$\.nodes\[0\]\.index"),
        (node(args={"x": {"ref": "b", "output": 0}}), "no output 0 of 'b'"),
        (node(args={"x": {"pickle": "b"}}), "unknown form"),
        (node(args={"x": 10**400}), "larger than|number|range"),
        (node(kind="box"), r"\$\.nodes\[0\]\.kind"),
        (changed(nodes=GOOD["nodes"] * 2), "same id"),
        (
            changed(edges=[{"source": "a", "target": "b", "uses": [[0, "x"]], "bytes": 0}]),
            "lacks a node",
        ),
        (
            changed(edges=[{"source": "a", "target": "a", "uses": [[0, "x"]], "bytes": 0}]),
            "against the order",
        ),
        (json.dumps(GOOD).encode().replace(b'"schema": 1', b'"schema": NaN'), "malformed"),
        (json.dumps(GOOD).encode().replace(b'"schema": 1', b'"schema": 1e999'), "range|Expected"),
        (json.dumps(GOOD).encode().replace(b'"schema": 1', b'"schema": 1, "schema": 1'), "twice"),
    ],
)
def test_bad_files_are_refused_by_name(content, message):
    with pytest.raises(FormatError, match=message) as caught:
        parse_graph(content, "bad.json")
    assert str(caught.value).startswith("bad.json is not a graph of torchatlas")
    assert len(str(caught.value)) < 600


def test_deep_arguments_are_refused():
    deep = (
        json.dumps(GOOD)
        .encode()
        .replace(
            b'"outputs": []',
            b'"outputs": [], "args": {"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        )
    )
    with pytest.raises(FormatError, match="nested too deeply"):
        parse_graph(deep)
