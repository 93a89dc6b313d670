"""DOT as Graphviz reads it; tests/viewers/test_netron.py has what Netron makes of it."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch

import hostile
import models
import torchatlas as ta
from torchatlas.exporters import dot
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import NODE_FIELDS, Module, TensorMeta

X = "\N{MULTIPLICATION SIGN}"
OUT = TensorMeta((2, 8))
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
    # 16 x 48 + 48 for the projections of inputs, 16 x 16 + 16 for that of the output
    assert {"attention · MultiheadAttention", "1.09 k params, 34.9 kFLOP"} <= set(titles)


def test_a_module_that_calls_one_op_twice_gets_no_box(captured):
    text = dot.render(captured("shared_and_tied"), parameters=False).decode()
    assert "cluster_block" not in text


# -- colours, legend, widths, depth ------------------------------------------------------------


def chain(*values, key="flops", **more):
    """Return a chain of ops of which `key` has these values."""
    records = [OpRecord("x", "input", target="x", outputs=(OUT,))]
    for i in range(len(values)):
        args = {"self": Value(records[-1].key)}
        records.append(OpRecord(f"o{i}", "op", op="my.op", args=args, outputs=(OUT,), **more))
    graph, ids = build(records, name="M")
    for i, value in enumerate(values):
        graph.nodes[ids[f"o{i}"]][key] = value
    return graph


def heading(content: bytes) -> str:
    """Return the title and the legend as Graphviz draws them."""
    tree = draw(content)
    (whole,) = (g for g in tree.iter(f"{SVG}g") if g.get("class") == "graph")
    return " | ".join(text.text or "" for text in whole.findall(f"{SVG}text"))


def fills(graph, **options) -> list[str]:
    found = read(dot.render(graph, **options))
    return [found.get_node(name).attr["fillcolor"] for name in graph]


def lightness(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_families_are_told(captured):
    told = heading(dot.render(captured("tiny")))
    assert "Tiny" in told and "141 parameters · 27.7 kFLOP" in told
    assert "contraction | activation | norm | reduction" in told
    assert "contraction" not in heading(dot.render(captured("tiny"), legend=False))


def test_a_linear_scale():
    graph = chain(10, 20, 30, 40)
    first, *colours = fills(graph, color_by="flops")
    assert first == "#32383f"  # an input, which has no such key
    light = [lightness(colour) for colour in colours]
    assert light == sorted(light, reverse=True) and len(set(light)) == 4
    assert "flops | 10 FLOP | 18 FLOP | 25 FLOP" in heading(dot.render(graph, color_by="flops"))


def test_a_logarithmic_scale_over_decades():
    graph = chain(0, 10, 1000, 100_000)
    _, nothing, *colours = fills(graph, color_by="flops")
    light = [lightness(colour) for colour in colours]
    steps = [a - b for a, b in pairwise(light)]
    assert nothing == "#ffffff" and all(step > 40 for step in steps)
    told = heading(dot.render(graph, color_by="flops"))
    assert "flops, logarithmic | 0 FLOP | 10 FLOP | 100 FLOP | 1 kFLOP | 10 kFLOP" in told


def test_unknown_is_grey_dashed_and_said():
    graph = chain(10, None, 40)
    found = read(dot.render(graph, color_by="flops"))
    look = found.get_node("op_1").attr
    assert (look["fillcolor"], look["style"]) == ("#eceef0", "filled,dashed")
    assert heading(dot.render(graph, color_by="flops")).endswith("| unknown")
    from torchatlas.expressions import parse

    symbolic = chain(10, parse("2*batch"))
    assert "depends on sizes" in heading(dot.render(symbolic, color_by="flops"))
    assert "unknown" in heading(dot.render(chain(None, None), color_by="flops"))


def test_one_colour_a_name():
    graph = chain(*[f"cuda:{i % 25}" for i in range(50)], key="device")
    _, *colours = fills(graph, color_by="device")
    assert len(set(colours)) == 25 and colours[:25] == colours[25:]
    assert min(map(lightness, colours)) > 110  # under dark text
    told = heading(dot.render(graph, color_by="device"))
    assert "device" in told and "cuda:0" in told and "and 13 more" in told


def test_colours_of_real_graphs(captured):
    graph = captured("regions")
    told = heading(dot.render(graph, color_by="dtype"))
    assert "float32" in told and "bfloat16" in told
    assert "Conv2d" in heading(dot.render(captured("tiny"), color_by="module_type"))
    assert "live_bytes" in heading(dot.render(captured("tiny"), color_by="live_bytes"))


@pytest.mark.parametrize(("key", "said"), [("flop", "no key 'flop'"), ("args", "no numbers")])
def test_colours_that_there_are_not(key, said, captured):
    with pytest.raises(ta.AtlasError, match=said):
        dot.render(captured("tiny"), color_by=key)


def test_wide_edges_carry_more(captured):
    graph = captured("resnet18")
    found = read(dot.render(graph))
    big, small = ("conv1/conv2d", "bn1/batch_norm"), ("avgpool/adaptive_avg_pool2d", "flatten")
    assert graph.edges[big]["bytes"] == 4 * 64 * 112 * 112
    widths = [float(found.get_edge(*edge).attr["penwidth"]) for edge in (big, small)]
    assert widths[0] > 2 * widths[1]


def test_depth_collapses_and_says_so(captured):
    content = dot.render(captured("resnet18"), depth=2)
    found = read(content)
    block = found.get_node("layer1/0").attr
    assert block["label"] == "0 · BasicBlock\\n74 k params\\n462 MFLOP"
    assert block["contains"].startswith("aten.conv2d x2, ")
    told = heading(content)
    assert "11.7 M parameters · 3.63 GFLOP · collapsed to modules at depth 2" in told
    assert r'"layer1 · Sequential\l148 k params, 925 MFLOP\l"' in content.decode()


def test_sums_that_miss_an_op_are_marked():
    stack = (Module("", "M"), Module("a", "A"))
    graph = chain(64, None, stack=stack)
    found = read(dot.render(graph, depth=1))
    assert found.get_node("a").attr["label"] == "a · A\\n64 FLOP +?"
    assert "50% of ops counted" in heading(dot.render(graph, depth=1))


def test_sums_around_a_body_count_it_once():
    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.big, self.small = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.big, lambda x: self.small(x).relu(), (x,)) + 1

    graph = ta.capture(torch.nn.Sequential(Inner()), torch.ones(2, 8))
    flops = 2 * 2 * 8 * 8
    assert ta.totals(graph).flops == flops
    text = dot.render(graph).decode()
    assert rf'"0 · Inner\l144 params, {flops} FLOP\l"' in text
    assert rf'"false · cond\l{flops} FLOP\l"' in text


def test_a_training_step_has_its_backward_pass_in_a_box():
    graph = ta.capture(models.Tiny(), torch.randn(2, 3, 8, 8), mode="training")
    for depth in (None, 1):
        content = dot.render(graph, depth=depth)
        assert "one training step" in heading(content)
        boxes = [g for g in draw(content).iter(f"{SVG}g") if g.get("class") == "cluster"]
        titles = [box.find(f"{SVG}title").text for box in boxes]
        assert "cluster_#backward" in titles
    drawn = {g.find(f"{SVG}title").text: g for g in draw(content).iter(f"{SVG}g")}
    height = {n: float(drawn[n].find(f".//{SVG}text").get("y")) for n in ("conv", "conv/backward")}
    assert abs(height["conv"] - height["conv/backward"]) < 20  # side by side


def test_rankdir(captured):
    found = read(dot.render(captured("tiny"), rankdir="LR"))
    assert found.graph_attr["rankdir"] == "LR"
    with pytest.raises(ta.AtlasError, match="no rankdir 'up'"):
        dot.render(captured("tiny"), rankdir="up")


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


def test_pydot_objects_are_what_the_file_says(captured):
    import pydot

    picture = ta.to_pydot(captured("resnet18"), depth=2)
    assert isinstance(picture, pydot.Dot)
    text = dot.render(captured("resnet18"), depth=2).decode()
    assert {edge.get_source() + edge.get_destination() for edge in picture.get_edges()} == {
        line.split(" -> ")[0].strip() + line.split(" -> ")[1].split(" [")[0]
        for line in text.splitlines()
        if '" -> "' in line
    }
    small = ta.to_pydot(captured("tiny"), depth=1)
    read = pydot.graph_from_dot_data(small.to_string())
    assert read is not None and len(read[0].get_edges()) == len(small.get_edges()) > 2
    with pytest.raises(ta.AtlasError, match="no option 'colour'"):
        ta.to_pydot(captured("tiny"), colour="red")
