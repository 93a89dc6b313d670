"""Structural ONNX: valid, complete, without a value, and the same wherever it is written."""

from __future__ import annotations

import pickle

import onnx
import pytest
import sympy
import torch
from onnx import numpy_helper

import models
import torchatlas as ta
from torchatlas.exporters import onnx_structure
from torchatlas.exporters.onnx_metadata import properties, text
from torchatlas.graph import in_order, inputs_of, op_nodes
from torchatlas.schema import TensorMeta, Use

MODELS = [*models.SMALL, "bert", "t5"]
DTYPES = (
    "float16 bfloat16 float8_e4m3fn float8_e8m0fnu float4_e2m1fn_x2 uint4 complex32 complex128 "
    "bits8 qint8 SymInt bool"
)


def load(content: bytes) -> onnx.ModelProto:
    onnx.checker.check_model(content, full_check=True)
    return onnx.load_from_string(content)


def facts(proto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def shape(info) -> list:
    dims = info.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


def graph_of(*nodes: tuple[str, dict], edges=()) -> ta.ModelGraph:
    """Return a graph of hand-written nodes, in order."""
    graph = ta.ModelGraph(schema=1, name="made")
    for index, (name, node) in enumerate(nodes):
        graph.add_node(name, **{"op": "", "module": "", "args": {}, "index": index, **node})
    for source, target, *uses in edges:
        graph.add_edge(source, target, uses=tuple(uses), bytes=0)
    ta.validate(graph)
    return graph


@pytest.mark.parametrize("name", MODELS)
def test_every_op_is_a_node_with_its_annotations(name, captured):
    graph = captured(name)
    nodes = {node.name: node for node in load(onnx_structure.render(graph)).graph.node}
    for id, node in op_nodes(graph):
        proto = nodes[id]
        assert proto.domain == "pkg.torch.ops" and proto.op_type.startswith(node["op"] + ".")
        found = facts(proto)
        assert found["id"] == id and {"flops", "module", "shape"} <= found.keys()
        for key, value in properties(graph, id).items():
            assert found[key] == text(value)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        for key in ("flops", "bytes_read"):
            assert attributes[key] == (b"unknown" if node[key] is None else node[key])
        assert attributes["module"].decode() == node["module"]


@pytest.mark.parametrize("name", MODELS)
def test_values_flow_as_edges_do(name, captured):
    graph = captured(name)
    model = load(onnx_structure.render(graph))
    made = {o: (n.name, i) for n in model.graph.node for i, o in enumerate(n.output)}
    for node in model.graph.node:
        if node.domain == "":
            continue  # copies a value to an output of the graph
        sources = inputs_of(graph, node.name)
        names = facts(node)["input_names"][1:-1].replace("'", "").split(", ")
        assert names == [*sources] or not sources
        for value, path in zip(node.input, names, strict=bool(sources)):
            assert made.get(value, (value, 0)) == sources[path]


@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_those_of_the_graph(name, captured):
    graph = captured(name)
    model = load(onnx_structure.render(graph)).graph
    weights = {t.values.name: [*t.dims] for t in model.sparse_initializer}
    weights |= {t.name: [*t.dims] for t in model.initializer}
    infos = {i.name: shape(i) for i in (*model.input, *model.value_info, *model.output)}
    for node in model.node:
        if node.name in graph and graph.nodes[node.name]["kind"] == "op":
            metas = graph.nodes[node.name]["outputs"]
            assert [infos[o] for o in node.output if o] == [[*m.shape] for m in metas]
    for id, node in graph.nodes(data=True):
        if node["kind"] in ("parameter", "buffer", "constant") and node["outputs"]:
            assert weights[id] == [*node["outputs"][0].shape]
    kinds = [node["kind"] for _, node in in_order(graph)]
    assert len(model.output) == kinds.count("output") or name in ("regions", "in_place_views")


def test_no_value_of_a_weight_is_stored(captured):
    model = load(onnx_structure.render(captured("shared_and_tied"))).graph
    assert not model.initializer
    assert all(numpy_helper.to_array(t.values).size == 0 for t in model.sparse_initializer)


def test_scalar_weights_are_told_by_a_value_nobody_expects():
    weight = TensorMeta((), "float32", "cpu", ())
    node = {"kind": "parameter", "outputs": (weight,), "target": "w"}
    (tensor,) = load(onnx_structure.render(graph_of(("w", node)))).graph.initializer
    assert numpy_helper.to_array(tensor) != numpy_helper.to_array(tensor)  # NaN
    assert tensor.doc_string == onnx_structure.NO_VALUES


@pytest.mark.parametrize("dtype", DTYPES.split())
def test_every_dtype_passes_the_checker(dtype):
    meta = TensorMeta((2, 3), dtype, "cpu", None)
    graph = graph_of(
        ("x", {"kind": "input", "outputs": (meta,)}),
        ("w", {"kind": "parameter", "outputs": (meta,)}),
        ("op", {"kind": "op", "op": "my.op", "outputs": (meta, None), "args": {"a": meta}}),
        ("output", {"kind": "output", "outputs": (), "args": {"value": meta}}),
        edges=[("x", "op", Use(0, "a")), ("op", "output", Use(0, "value"))],
    )
    model = load(onnx_structure.render(graph)).graph
    assert facts(model.node[0])["dtype"] == f"{dtype}, none"


def test_symbolic_sizes_are_dimensions_by_name():
    batch = sympy.Symbol("batch", integer=True, positive=True)
    meta = TensorMeta((2 * batch, 4), "float32", "cpu", (4, 1))
    graph = graph_of(
        ("x", {"kind": "input", "outputs": (meta,)}),
        (
            "op",
            {
                "kind": "op", "op": "my.op", "outputs": (meta,), "flops": 8 * batch,
                "args": {"x": meta, "size": (2 * batch, 4), "eps": 1e-5, "big": 2**70},
            },
        ),
        edges=[("x", "op", Use(0, "x"))],
    )  # fmt: skip
    model = load(onnx_structure.render(graph)).graph
    assert shape(model.input[0]) == shape(model.value_info[0]) == ["2*batch", 4]
    found = {a.name: onnx.helper.get_attribute_value(a) for a in model.node[0].attribute}
    assert found["flops"] == b"8*batch" and found["eps"] == b"1e-05"
    assert found["big"] == str(2**70).encode()


def test_what_only_orders_is_no_input(captured):
    graph = captured("in_place_views")
    before = [
        (source, target)
        for source, target, edge in graph.edges(data=True)
        if all(use.output is None for use in edge["uses"])
    ]
    nodes = {node.name: node for node in load(onnx_structure.render(graph)).graph.node}
    assert before
    for source, target in before:
        assert source not in nodes[target].input
        assert f'"{source}"' in facts(nodes[target])["after"]


def test_ops_without_tensors_stand():
    graph = graph_of(
        ("n", {"kind": "input", "outputs": (), "args": {"value": 3}}),
        ("op", {"kind": "op", "op": "python.<lambda>", "outputs": ()}),
        ("output", {"kind": "output", "outputs": (), "args": {"value": None}}),
    )
    model = load(onnx_structure.render(graph))
    assert [node.name for node in model.graph.node] == ["op"]
    assert facts(model)["literals"] == '{"n": "3", "output": "unknown"}'


def test_a_value_returned_twice_has_both_names():
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x + 1
            return y, y, x

    graph = ta.capture(Twice(), torch.randn(2))
    model = load(onnx_structure.render(graph)).graph
    assert [info.name for info in model.output] == ["output/0", "output/1", "output/2"]


@pytest.mark.parametrize("name", MODELS)
def test_graphs_without_their_source_render_the_same(name, captured):
    graph = captured(name)
    pickled = pickle.loads(pickle.dumps(graph))
    assert pickled.source is None
    assert onnx_structure.render(pickled) == onnx_structure.render(graph)


def test_hostile_names_are_kept_as_data():
    graph = ta.capture(*models.hostile())
    model = load(onnx_structure.render(graph)).graph
    assert len(model.node) == len(models.HOSTILE)
    assert {node.name for node in model.node} == {name for name, _ in op_nodes(graph)}


def test_sources_are_left_out_unless_asked(captured):
    graph = captured("tiny").copy()
    for _, node in op_nodes(graph):
        node["source"] = "models.py:12"
    plain, told = (onnx_structure.render(graph, include_source=b) for b in (False, True))
    assert b"models.py" not in plain and told.count(b"models.py:12") == 2 * 5
