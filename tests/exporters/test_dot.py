"""DOT as Graphviz reads it; tests/viewers/test_netron.py has what Netron makes of it."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import hostile
import models
import torchatlas as ta
from torchatlas.exporters import dot
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import NODE_FIELDS, TensorMeta

X = "\N{MULTIPLICATION SIGN}"
SVG = "{http://www.w3.org/2000/svg}"


def read(content: bytes):
    """Return what Graphviz itself parses."""
    pygraphviz = pytest.importorskip("pygraphviz")
    return pygraphviz.AGraph(string=content.decode())


def draw(content: bytes) -> ElementTree.Element:
    """Return the picture that Graphviz draws, as a tree."""
    agraph = read(content)
    return ElementTree.fromstring(agraph.draw(format="svg", prog="dot"))


@pytest.mark.parametrize("name", models.SMALL)
def test_graphviz_reads_every_node_and_edge(name, captured):
    graph = captured(name)
    found = read(dot.render(graph))
    assert set(found.nodes()) == set(graph)
    assert {(str(a), str(b)) for a, b in found.edges()} == set(graph.edges)


@pytest.mark.parametrize("name", models.SMALL)
def test_picture_has_every_node(name, captured):
    graph = captured(name)
    drawn = [g for g in draw(dot.render(graph)).iter(f"{SVG}g") if g.get("class") == "node"]
    assert {g.find(f"{SVG}title").text for g in drawn} == set(graph)
    assert len(drawn) == len(graph)


def test_facts_are_exact_attributes(captured):
    graph = captured("tiny")
    found = read(dot.render(graph))
    attr = found.get_node("conv/conv2d").attr
    # 2 FLOP x 3 x 3 x 3 multiply-adds x 4 x 8 x 8 outputs x 2 in the batch
    assert attr["flops"] == "27648"
    assert attr["op"] == "aten.conv2d"
    assert attr["device"] == "cpu"
    assert attr["outputs"] == "float32[2, 4, 8, 8]"
    assert attr["module_type"] == "torch.nn.modules.conv.Conv2d"


def test_label_for_netron_comes_before_the_picture(captured):
    text = dot.render(captured("tiny")).decode()
    first, picture = text.split(" subgraph picture {")
    record = f'"conv/conv2d" [label="{{conv/conv2d|op_code=aten.conv2d|shape: 2{X}4{X}8{X}8'
    assert record in first
    assert "fillcolor" not in first
    assert '"conv/conv2d" [label="conv · conv2d\\n108 params\\n27.6 kFLOP"' in picture


def test_sizes_stand_on_edges(captured):
    found = read(dot.render(captured("tiny")))
    assert found.get_edge("conv/conv2d", "norm/batch_norm").attr["label"] == f" 2{X}4{X}8{X}8"
    assert not found.get_edge("conv/weight", "conv/conv2d").attr["label"]


def test_order_only_is_dashed(captured):
    graph = captured("in_place_views")
    edges = {e for e, uses in graph.edges.items() if all(u.output is None for u in uses["uses"])}
    assert edges
    found = read(dot.render(graph))
    assert {e for e in graph.edges if found.get_edge(*e).attr["style"] == "dashed"} == edges


def test_edges_come_in_the_order_of_arguments(captured):
    text = dot.render(captured("tiny")).decode()
    sources = re.findall(r'"([^"]*)" -> "norm/batch_norm"', text)
    assert sources == [
        "conv/conv2d", "norm/weight", "norm/bias", "norm/running_mean", "norm/running_var"
    ]  # fmt: skip


def test_parameters_can_be_left_out(captured):
    graph = captured("tiny")
    found = read(dot.render(graph, parameters=False))
    kinds = {graph.nodes[name]["kind"] for name in found.nodes()}
    assert kinds == {"input", "op", "output"}
    assert len(found.nodes()) == sum(node["kind"] in kinds for _, node in graph.nodes(data=True))


def test_show_chooses_what_the_picture_says(captured):
    found = read(dot.render(captured("tiny"), show=["dtype", "module"]))
    assert found.get_node("head/linear").attr["label"] == "head · linear\\nfloat32\\nmodule: head"
    assert dot.render(captured("tiny"), show="flops,params") == dot.render(
        captured("tiny"), show=["flops", "params"]
    )
    with pytest.raises(ta.AtlasError, match="no key 'flop' to show"):
        dot.render(captured("tiny"), show=["flop"])


def test_unknown_is_said_and_never_zero():
    out = TensorMeta((2,))
    graph, _ = build([OpRecord("a", "op", op="my.op", outputs=(out,))], name="M")
    graph.nodes["op"]["flops"] = None
    found = read(dot.render(graph))
    attr = found.get_node("op").attr
    assert attr["flops"] == "unknown"
    assert attr["label"] == "op\\nflops: unknown"


def test_modules_are_nested_boxes(captured):
    graph = captured("attention")
    boxes = [g for g in draw(dot.render(graph)).iter(f"{SVG}g") if g.get("class") == "cluster"]
    titles = [text.text for box in boxes for text in box.iter(f"{SVG}text")]
    assert "attention · MultiheadAttention" in titles


def test_a_module_that_calls_one_op_twice_gets_no_box(captured):
    text = dot.render(captured("shared_and_tied"), parameters=False).decode()
    assert "cluster_block" not in text


def test_crowded_graph_has_sizes_on_nodes():
    out = TensorMeta((2, 8))
    records = [OpRecord("x", "input", target="x", outputs=(out,))]
    for i in range(110):
        args = {"tensors": (Value("x"), Value(records[-1].key))}
        records.append(OpRecord(f"c{i}", "op", op="aten.cat", args=args, outputs=(out,)))
    found = read(dot.render(build(records, name="M")[0]))
    assert not found.get_edge("x", "cat_1").attr["label"]
    assert found.get_node("cat_1").attr["label"] == f"cat\\n2{X}8"


def test_long_lists_are_cut():
    out = TensorMeta((2, 8))
    split = OpRecord("s", "op", op="aten.unbind", outputs=(out,) * 3000)
    args = {"tensors": tuple(Value("s", i) for i in range(3000))}
    stack = OpRecord("t", "op", op="aten.stack", args=args, outputs=(out,))
    content = dot.render(build([split, stack], name="M")[0])
    assert len(content) < 10_000
    found = read(content)
    assert found.get_edge("unbind", "stack").attr["label"].endswith("and 2996 more")


def test_hostile_names_keep_every_node_and_edge():
    graph = hostile.graph()
    content = dot.render(graph)
    found = read(content)
    assert len(found.nodes()) == len(graph)
    assert len(found.edges()) == graph.number_of_edges()
    assert {"node_1", "edge_1", "graph_1", "subgraph_1", "strict"} <= set(found.nodes())
    assert content.decode().isprintable() is False  # it has lines
    assert all(line.isprintable() for line in content.decode().splitlines())


def test_hostile_names_are_only_text_in_a_picture():
    graph = hostile.graph()
    tree = draw(dot.render(graph))
    tags = {element.tag.removeprefix(SVG) for element in tree.iter()}
    assert tags <= {"svg", "g", "title", "text", "path", "polygon", "polyline", "ellipse"}
    texts = [element.text for element in tree.iter(f"{SVG}title")]
    assert any("<script>" in text for text in texts)
    assert sum(g.get("class") == "node" for g in tree.iter(f"{SVG}g")) == len(graph)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's own dot")
def test_dot_draws_without_a_warning(captured):
    for graph in (captured("shared_and_tied"), captured("lstm"), hostile.graph()):
        run = subprocess.run(
            ["dot", "-Tsvg"], input=dot.render(graph), capture_output=True, check=True
        )
        tree = ElementTree.fromstring(run.stdout)
        assert sum(g.get("class") == "node" for g in tree.iter(f"{SVG}g")) == len(graph)
        assert b"Error" not in run.stderr


def test_same_bytes_in_every_process(captured, tmp_path):
    graph = captured("shared_and_tied").copy()
    graph.source = None
    path = tmp_path / "graph.pickle"
    path.write_bytes(pickle.dumps(graph))
    script = (
        "import pickle, sys; from torchatlas.exporters import dot;"
        f"graph = pickle.load(open({str(path)!r}, 'rb'));"
        "sys.stdout.buffer.write(dot.render(graph))"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", script], env=env, stdout=-1, check=True)
        assert run.stdout == dot.render(graph)


def test_no_key_of_a_node_means_something_to_graphviz():
    import pydot.core

    written = NODE_FIELDS.keys() - set(dot._LEFT_OUT)
    taken = pydot.core.NODE_ATTRIBUTES | {"href", "class", "imagepos", "xlabel", "ordering", "area"}
    assert not written & taken
