"""ONNX files as graphs: names, kinds, modules, functions, bodies; what torchatlas itself wrote."""

from __future__ import annotations

import re
import subprocess
import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import models
import torchatlas as ta
from onnx_models import (
    I64,
    F,
    body,
    graph_of,
    info,
    model,
    node,
    ops,
    scalar,
    shapes,
    values,
    weight,
)
from torchatlas.errors import FormatError
from torchatlas.exporters import onnx_structure, render
from torchatlas.exporters.json_graph import parse_graph
from torchatlas.frontends import onnx_file
from torchatlas.graph import in_order, inputs_of
from torchatlas.schema import TensorMeta
from torchatlas.sums import SUMMED, totals

# -- the structure of a graph, as torchatlas writes it -----------------------------------------

STRUCTURES = [*models.SMALL, "bert"]
KEPT = ("kind", "op", "overload", "target", "aliases", "module", "module_type", "tags", "writes")


def plain(meta: TensorMeta | None):
    """Return a tensor without its strides, which ONNX does not know."""
    return None if meta is None else (meta.shape, meta.dtype, meta.device)


def uses(graph):
    return {(a, b): set(edge["uses"]) for a, b, edge in graph.edges(data=True)}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_comes_back_as_it_was(name, captured):
    graph = captured(name)
    again = graph_of(onnx_structure.render(graph))
    assert [id for id, _ in in_order(again)] == [id for id, _ in in_order(graph)]
    for id, before in graph.nodes(data=True):
        after = again.nodes[id]
        for key in KEPT:
            told = after.get(key) or key == "module_type"  # of a module without ops of its own
            assert after.get(key) == before.get(key) or not told, (id, key)
        assert [*map(plain, after["outputs"])] == [*map(plain, before["outputs"])]
        assert [m.path for m in after["module_stack"]] == [m.path for m in before["module_stack"]]
        assert all(m.type in ("", graph.graph["modules"][m.path]) for m in after["module_stack"])
    assert uses(again) == uses(graph)
    for key in (*SUMMED, "ops", "unknown", "peak_bytes"):
        assert getattr(totals(again), key) == getattr(totals(graph), key), key
    assert again.graph["name"] == graph.graph["name"] and again.graph["frontend"] == "onnx"


def test_bodies_come_back():
    class Loops(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x):
            def other(x):
                return self.two(self.two(x))

            y = torch.cond(x.sum() > 0, self.one, other, (x,))
            start = (torch.tensor(0), y)
            return torch.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ y), start)

    graph = ta.capture(Loops(), torch.randn(4, 4))
    again = graph_of(onnx_structure.render(graph))
    (cond, loop) = (again.nodes[id] for id in ("cond", "while_loop"))
    assert [*cond["subgraphs"]] == ["true", "false"] and [*loop["subgraphs"]] == ["cond", "body"]
    assert cond["macs"] == 2 * 4 * 4 * 4  # the heavier branch
    assert {id: n["macs"] for id, n in ops(again).items()} == {
        id: n["macs"] for id, n in ops(graph).items()
    }
    assert str(loop["trips"]) in again.graph["symbols"]


def test_symbolic_structure_comes_back():
    graph = ta.capture(*models.make("tiny"), dynamic=["batch"])
    again = graph_of(onnx_structure.render(graph))
    assert totals(again).flops == totals(graph).flops
    assert [*again.graph["symbols"]] == ["batch"]
    assert ta.bind(again, batch=5).nodes["head/linear"]["outputs"][0].shape == (5, 5)


def test_what_only_orders_comes_back(captured):
    graph = captured("in_place_views")
    again = graph_of(onnx_structure.render(graph))
    after = {edge for edge, found in uses(again).items() if {u.output for u in found} == {None}}
    assert after and after == {
        edge for edge, found in uses(graph).items() if {u.output for u in found} == {None}
    }


def test_lines_of_code_come_back_where_they_were_asked_for():
    graph = ta.capture(*models.make("tiny"), include_source=True)
    again = graph_of(onnx_structure.render(graph, include_source=True))
    lines = {id: n.get("source") for id, n in ops(again).items()}
    assert lines == {id: n["source"] for id, n in ops(graph).items()}
    assert not [n for n in ops(graph_of(onnx_structure.render(graph))).values() if "source" in n]


def test_hostile_names_come_back_cleaned():
    graph = ta.capture(*models.hostile())
    again = graph_of(onnx_structure.render(graph))
    assert {*again} == {*graph}
    assert totals(again).macs == totals(graph).macs


# -- ops ---------------------------------------------------------------------------------------


def test_ops_have_their_operands_by_name_and_their_attributes():
    made = model(
        [node("Conv", "x w _", "y", strides=[2, 2]), node("Concat", "y y", "z", axis=1)],
        {"x": [1, 3, 9, 9]},
        "z",
        [weight("w", 8, 3, 3, 3)],
    )
    graph = graph_of(made)
    conv, concat = ops(graph).values()
    assert (conv["op"], concat["op"]) == ("onnx.Conv", "onnx.Concat")
    assert conv["args"]["B"] is None and conv["args"]["strides"] == (2, 2)
    assert conv["args"]["W"].shape == (8, 3, 3, 3)
    assert inputs_of(graph, "Concat") == {"inputs.0": ("Conv", 0), "inputs.1": ("Conv", 0)}
    assert shapes(graph)["Concat"] == [1, 16, 4, 4]


def test_ops_of_other_domains_and_of_nobody():
    made = model(
        [
            node("FusedMatMul", "x x", "y", domain="com.microsoft", transB=1),
            node("Strange", "y x", "z", domain="my.domain", depth=3),
            node("Relu", "z", "r"),
        ],
        {"x": [4, 8]},
        "r",
    )
    graph = graph_of(made)
    fused, strange, relu = ops(graph).values()
    assert fused["op"] == "onnx.com.microsoft.FusedMatMul" and fused["macs"] == 4 * 4 * 8
    assert strange["op"] == "onnx.my.domain.Strange" and strange["flops"] is None
    assert [*strange["args"]] == ["input_0", "input_1", "depth"]
    assert str(strange["outputs"][0]) == "unknown[elements0]"
    assert str(relu["flops_other"]) == "elements1"
    assert totals(graph).unknown == {"onnx.my.domain.Strange": 1}


def test_views_share_memory_and_cost_nothing():
    made = model(
        [
            node("Reshape", "x s", "a"),
            node("Dropout", "a", "b"),
            node("Transpose", "b", "c", perm=[1, 0]),
        ],
        {"x": [4, 6]},
        "c",
        [values("s", 3, 8)],
    )
    graph = graph_of(made)
    x, reshape, dropout, transpose = (
        graph.nodes[id] for id in ("x", "Reshape", "Dropout", "Transpose")
    )
    assert x["storages"] == reshape["storages"] == dropout["storages"]
    assert reshape["args"]["shape"] == (3, 8) and reshape["bytes_read"] == 0
    assert transpose["bytes_read"] == transpose["bytes_written"] == 3 * 8 * 4
    assert totals(graph).flops_other == 0


def test_gathers_read_what_they_pick():
    made = model(
        [
            node("Gather", "table ids", "rows"),
            node("Slice", "rows b e", "some"),
            node("Shape", "table", "shape"),
        ],
        [info("ids", [2, 3], I64)],
        "some shape",
        [weight("table", 1000, 16), values("b", 0), values("e", 1)],
    )
    gather, slice_, shape = ops(graph_of(made)).values()
    assert gather["bytes_read"] == 2 * 3 * 16 * 4 + 2 * 3 * 8
    assert slice_["bytes_read"] == slice_["bytes_written"] == 3 * 16 * 4
    assert shape["bytes_read"] == 0


# -- constants ---------------------------------------------------------------------------------


def test_what_an_initializer_is():
    made = model(
        [
            node("BatchNormalization", "x scale shift mean var", "n"),
            node("Add", "n table", "a"),
            node("Mul", "a half", "m"),
            node("Gather", "m index", "g"),
            node("QuantizeLinear", "g q_scale q_zero", "q"),
            node("QLinearMatMul", "q q_scale q_zero w8 w_scale w_zero q_scale q_zero", "y"),
        ],
        {"x": [2, 4]},
        "y",
        [
            *(weight(name, 4) for name in ("scale", "shift", "mean", "var", "table", "unused")),
            weight("half"),
            values("index", *range(2)),
            weight("q_scale"),
            weight("q_zero", dtype="uint8"),
            weight("w8", 4, 6, dtype="uint8"),
            weight("w_scale", 6),
            weight("w_zero", 6, dtype="uint8"),
            values("nobody", 1),
        ],
    )
    graph = graph_of(made)
    kinds = {id: d["kind"] for id, d in graph.nodes(data=True) if d["kind"] not in ("op", "output")}
    assert kinds == {
        "x": "input",
        **dict.fromkeys(("scale", "shift", "table", "unused", "w8"), "parameter"),
        **dict.fromkeys(("mean", "var", "w_scale", "w_zero"), "buffer"),
        "index": "constant",
    }
    assert graph.nodes["Mul"]["args"]["B"] == 1.0
    assert graph.graph["dropped"] == {"unused constant": 1}
    assert totals(graph).int_ops == 2 * 2 * 6 * 4


def test_constants_of_nodes_are_literals_or_constants():
    made = model(
        [
            helper.make_node("Constant", [], ["axes"], value_ints=[1]),
            helper.make_node("Constant", [], ["table"], value=weight("", 3, 4)),
            node("ReduceSum", "x axes", "s", keepdims=0),
            node("Add", "x table", "y"),
        ],
        {"x": [3, 4]},
        "s y",
    )
    graph = graph_of(made)
    assert graph.nodes["ReduceSum"]["args"]["axes"] == (1,)
    assert graph.nodes["constant"]["kind"] == "constant"
    assert inputs_of(graph, "Add")["B"] == ("constant", 0)


def test_sparse_weights_count_what_they_store():
    made = model([node("MatMul", "w x", "y")], {"x": [8, 3]}, "y")
    sparse = made.graph.sparse_initializer.add(dims=[4, 8])
    sparse.values.CopyFrom(weight("w", 5))
    sparse.indices.CopyFrom(values("", *range(5)))
    graph = graph_of(made)
    assert graph.nodes["w"]["outputs"][0].nnz == 5
    assert graph.nodes["MatMul"]["macs"] == 5 * 3


def test_sequences_and_optional_values_have_no_shape():
    made = model(
        [
            node("SequenceConstruct", "x x", "s"),
            node("ConcatFromSequence", "s", "y", axis=0),
            node("Optional", "x", "o"),
            node("OptionalGetElement", "o", "z"),
        ],
        {"x": [2, 3]},
        "y z",
        opset=18,
    )
    graph = graph_of(made)
    assert graph.nodes["SequenceConstruct"]["outputs"] == (None,)
    assert graph.nodes["Optional"]["outputs"] == (None,)
    assert shapes(graph)["OptionalGetElement"] == [2, 3]
    assert totals(graph).coverage == 1


# -- modules -----------------------------------------------------------------------------------


def test_modules_in_the_names_of_nodes():
    nodes = [
        node("MatMul", "x encoder.layer.0.fc.weight", "a", name="/encoder/layer.0/fc/MatMul"),
        node("Add", "a onnx::Add_7", "b", name="/encoder/layer.0/fc/Add"),
        node("Relu", "b", "c", name="model/act/Relu"),
        node("Relu", "c", "d", name="Relu_12"),
        node("Relu", "d", "e"),
        node("Mul", "e dense/kernel:0", "f", name="dense/mul"),
    ]
    weights = [
        weight("encoder.layer.0.fc.weight", 4, 4),
        weight("onnx::Add_7", 4),
        weight("dense/kernel:0", 4),
    ]
    graph = graph_of(model(nodes, {"x": [2, 4]}, "f", weights))
    assert {id: d["module"] for id, d in graph.nodes(data=True) if d["kind"] == "op"} == {
        "encoder/layer/0/fc/MatMul": "encoder.layer.0.fc",
        "encoder/layer/0/fc/Add": "encoder.layer.0.fc",
        "model/act/Relu": "model.act",
        "Relu": "",
        "Relu_1": "",
        "dense/Mul": "dense",
    }
    assert graph.nodes["Relu"]["target"] == "Relu_12"
    parameters = [id for id, d in graph.nodes(data=True) if d["kind"] == "parameter"]
    assert parameters == [
        "encoder/layer/0/fc/weight",
        "encoder/layer/0/fc/onnx::Add_7",
        "dense/kernel:0",
    ]


def test_modules_in_the_metadata_of_torch():
    made = model([node("Relu", "x", "y"), node("Neg", "y", "z")], {"x": [2]}, "z")
    for proto, scopes, classes in zip(
        made.graph.node,
        ("['', 'body', 'body.act', 'relu']", "__import__('os').abort()"),
        ("['net.Net', 'net.Body', 'torch.nn.ReLU', 'aten.relu']", "[[[" * 9000),
        strict=True,
    ):
        for key, value in (("name_scopes", scopes), ("class_hierarchy", classes)):
            proto.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)
    graph = graph_of(made)
    relu = graph.nodes["body/act/Relu"]
    assert [(m.path, m.type) for m in relu["module_stack"]] == [
        ("", "net.Net"),
        ("body", "net.Body"),
        ("body.act", "torch.nn.ReLU"),
    ]
    assert graph.nodes["Neg"]["module"] == "" and graph.graph["name"] == "Net"


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [("made", "a.onnx", "made"), ("main_graph", "dir/net.onnx", "net"), ("", "x\\y.onnx", "y")],
)
def test_the_name_of_the_graph(name, file, expected):
    made = model([node("Relu", "x", "y")], {"x": [2]}, "y", name=name or "g")
    made.graph.name = name
    _, attrs = onnx_file.read(made.SerializeToString(), file)
    assert attrs["name"] == expected


# -- functions ---------------------------------------------------------------------------------


def function(name: str, inputs: str, outputs: str, nodes, attributes=()):
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_function(
        "mine", name, inputs.split(), outputs.split(), nodes, imports, list(attributes)
    )


def test_functions_are_written_out_as_modules():
    leaky = node("LeakyRelu", "h", "y")
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    block = function("Block", "x w", "y", [node("MatMul", "x w", "h"), leaky], ["slope"])
    stack = function(
        "Stack",
        "x w",
        "y x",  # and hands its operand on
        [node("Block", "x w", "y", domain="mine", slope=0.5, name="first")],
    )
    made = model(
        [
            node("Stack", "x w", "y same", domain="mine", name="trunk"),
            node("Block", "same w", "z", domain="mine", slope=0.25, name="head"),
        ],
        {"x": [2, 4]},
        "y z",
        [weight("w", 4, 4)],
        functions=[block, stack],
    )
    graph = graph_of(made)
    assert {id: d["module"] for id, d in ops(graph).items()} == {
        "trunk/first/MatMul": "trunk.first",
        "trunk/first/LeakyRelu": "trunk.first",
        "trunk/Identity": "trunk",
        "head/MatMul": "head",
        "head/LeakyRelu": "head",
    }
    assert graph.nodes["trunk/first/LeakyRelu"]["args"]["alpha"] == 0.5
    assert graph.nodes["head/LeakyRelu"]["args"]["alpha"] == 0.25
    assert graph.graph["modules"]["trunk.first"] == "mine.Block"
    assert inputs_of(graph, "head/MatMul") == {
        "A": ("trunk/Identity", 0),
        "B": ("trunk/first/w", 0),
    }
    assert totals(graph).macs == 2 * (2 * 4 * 4) and totals(graph).coverage == 1


def test_functions_that_never_end_are_refused():
    one = function("One", "x", "y", [node("Two", "x", "y", domain="mine")])
    two = function("Two", "x", "y", [node("One", "x", "y", domain="mine")])
    made = model([node("One", "x", "y", domain="mine")], {"x": [2]}, "y", functions=[one, two])
    with pytest.raises(FormatError, match="the function 'One' of the model calls itself"):
        graph_of(made)


def test_functions_that_would_fill_the_memory_are_refused():
    functions = [function("F0", "x", "y", [node("Relu", "x", "y")])]
    for i in range(1, 40):
        inner = f"F{i - 1}"
        calls = [node(inner, "x", "h", domain="mine"), node(inner, "h", "y", domain="mine")]
        functions.append(function(f"F{i}", "x", "y", calls))
    made = model([node("F39", "x", "y", domain="mine")], {"x": [2]}, "y", functions=functions)
    with pytest.raises(FormatError, match="more than 500,000 nodes"):
        graph_of(made)


# -- control flow ------------------------------------------------------------------------------


def test_branches_and_what_they_read_of_the_graph_around():
    light = body([node("Relu", "h", "t")], [], [info("t", [4, 4])], name="light")
    heavy = body([node("MatMul", "h h", "u")], [], [info("u", [4, 4])], name="heavy")
    choose = node("If", "c", "y", then_branch=light, else_branch=heavy, name="/gate/If")
    made = model(
        [node("Neg", "x", "h"), choose], [info("x", [4, 4]), info("c", [], TensorProto.BOOL)], "y"
    )
    graph = graph_of(made)
    gate = graph.nodes["gate/If"]
    assert gate["macs"] == 4 * 4 * 4 and gate["args"]["then_branch"] == "<graph light>"
    assert inputs_of(graph, "gate/If") == {"cond": ("c", 0), "captured.0": ("Neg", 0)}
    branch = gate["subgraphs"]["else_branch"]
    assert [id for id, _ in in_order(branch)] == ["captured/0", "gate/MatMul", "u"]


@pytest.mark.parametrize(("limit", "passes", "trips"), [(5, True, 5), (5, False, None)])
def test_loops_cost_their_trips(limit, passes, trips):
    keep = node("Identity", "go_on", "go") if passes else node("Less", "i three", "go")
    inner = body(
        [keep, node("MatMul", "h h", "h2"), node("Add", "i i", "seen")],
        [info("i", [], I64), info("go_on", [], TensorProto.BOOL), info("h", [4, 4])],
        [info("go", [], TensorProto.BOOL), info("h2", [4, 4]), info("seen", [], I64)],
    )
    made = model(
        [helper.make_node("Loop", ["limit", "", "x"], ["y", "all"], body=inner)],
        {"x": [4, 4]},
        "y all",
        [weight("three", dtype="int64"), scalar("limit", limit)],
    )
    graph = graph_of(made)
    loop = graph.nodes["Loop"]
    assert loop["args"]["M"] == limit
    if trips is None:
        (trips,) = loop["macs"].free_symbols
        assert str(trips) in graph.graph["symbols"] and loop["macs"].subs(trips, 3) == 3 * 64
    else:
        assert loop["trips"] == trips and loop["macs"] == trips * 64
    assert shapes(graph)["Loop"] == [4, 4]


def test_scans_run_once_for_each_slice():
    inner = body(
        [node("Add", "s x", "s2"), node("Identity", "s2", "o")],
        [info("s", [3]), info("x", [3])],
        [info("s2", [3]), info("o", [3])],
    )
    made = model(
        [node("Scan", "s0 xs", "last all", body=inner, num_scan_inputs=1)],
        {"s0": [3], "xs": ["time", 3]},
        "last all",
    )
    scan = graph_of(made).nodes["Scan"]
    assert str(scan["trips"]) == "time" and str(scan["flops_other"]) == "3*time"
    assert [str(n) for n in scan["outputs"][1].shape] == ["time", "3"]


# -- what is no model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page or XML"),
        (b"PK\3\4" + bytes(30), "a zip archive"),
        (b"\x80\x04\x95cos\nsystem\n", "no ONNX model"),
        (b"    ORTM" + bytes(40), "ONNX Runtime's own format"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no ONNX model"),
    ],
)
def test_what_is_no_model_says_what_it_is(content, says):
    with pytest.raises(FormatError, match=re.escape(says)):
        onnx_file.read(content, "x.onnx")


def test_every_beginning_of_a_file_is_refused():
    whole = model(
        [node("MatMul", "x w", "y")], {"x": [2, 4]}, "y", [weight("w", 4, 4)]
    ).SerializeToString()
    found = set()
    for length in range(1, len(whole)):
        try:
            onnx_file.read(whole[:length], "x.onnx")
        except FormatError as error:
            found.add(error.problem)
        else:  # the opset import comes last
            assert length > len(whole) - 10
    assert "x.onnx: the file is no ONNX model, or only the beginning of one" in found


BROKEN = {
    "the value 'y' is made twice": [node("Relu", "x", "y"), node("Neg", "x", "y")],
    "reads 'nothing', which nothing makes": [node("Add", "x nothing", "y")],
    "waits for its own result": [node("Add", "x b", "a"), node("Add", "a x", "b")],
    "nothing makes the output 'y'": [node("Relu", "x", "other")],
}


@pytest.mark.parametrize("says", BROKEN)
def test_broken_graphs_are_refused(says):
    with pytest.raises(FormatError, match=re.escape(says)):
        graph_of(model(BROKEN[says], {"x": [2]}, "y"))


def test_unsorted_nodes_are_sorted():
    nodes = [node("Add", "b c", "y"), node("Relu", "x", "b"), node("Neg", "b", "c")]
    assert [*ops(graph_of(model(nodes, {"x": [2]}, "y")))] == ["Relu", "Neg", "Add"]


def test_weights_given_twice_are_refused():
    made = model([node("Add", "x w", "y")], {"x": [2]}, "y", [weight("w", 2), weight("w", 3)])
    with pytest.raises(FormatError, match="the value 'w' is given twice"):
        graph_of(made)


def test_names_that_are_no_text_are_refused():
    made = model([node("Relu", "x", "YYYY")], {"x": [2]}, "YYYY").SerializeToString()
    with pytest.raises(FormatError, match="a name in the file is not text"):
        onnx_file.read(made.replace(b"YYYY", b"\xff\xfe\xfd\xfc"), "x.onnx")


@pytest.mark.parametrize("place", ["../../secret", "/etc/passwd", "a\0b", "w.data"])
def test_external_data_is_never_opened(place):
    made = model(
        [
            node("MatMul", "x w", "h"),
            node("Reshape", "h s", "y"),
            helper.make_node("Constant", [], ["c"], value=TensorProto(dims=[3], data_type=F)),
        ],
        {"x": [2, 4]},
        "y c",
        [TensorProto(name="w", dims=[4, 10**12], data_type=F)],
    )
    made.graph.initializer.append(TensorProto(name="s", dims=[2], data_type=I64))
    tensors = [*made.graph.initializer, made.graph.node[2].attribute[0].t]
    for tensor in tensors:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "-1"), ("length", str(10**12))):
            tensor.external_data.add(key=key, value=value)
    opened = []
    watched = True
    sys.addaudithook(lambda event, args: watched and event == "open" and opened.append(args[0]))
    graph = graph_of(made)
    watched = False
    assert not [name for name in opened if place in str(name)]
    assert graph.nodes["w"]["param_bytes"] == 4 * 10**12 * 4
    assert graph.nodes["MatMul"]["macs"] == 2 * 4 * 10**12


@pytest.mark.parametrize(
    "forged",
    [
        node("LayerNormalization", "x w", "y m v", axis=10**12),
        node("LayerNormalization", "x w", "y m v", axis=-(10**12)),
        node("GatherND", "x i", "y", batch_dims=-10),
        node("EyeLike", "_", "y"),
        node("RegexFullMatch", "_", "y", pattern="x"),
        node("LabelEncoder", "_", "y", domain="ai.onnx.ml"),
    ],
    ids=lambda proto: proto.op_type,
)
def test_what_would_end_the_process_in_onnxs_inference_does_not(forged):
    made = model(
        [forged, node("Relu", "x", "z")], {"x": [2, 3, 4]}, "y z", [weight("w", 4), values("i", 0)]
    )
    graph = graph_of(made)
    assert shapes(graph)[forged.op_type] == ["elements0"]
    assert shapes(graph)["Relu"] == [2, 3, 4]


def test_forged_sizes_and_names_still_give_a_graph():
    long = "x" * 100_000
    made = model(
        [
            node("Conv", "x w", "a", name="\x1b[31m/\u202e/Conv", group=-3),
            node("Relu", "a", long, name="/".join("a" * 10_000)),
            node("Reshape", f"{long} s", "y"),
        ],
        [info("x", [-5, 10**12, "batch size", "9**9**9"])],
        "y",
        [weight("w", 2), values("s", -7, 10**15)],
    )
    graph = graph_of(made)
    assert all(len(m.path) < 300 for _, d in graph.nodes(data=True) for m in d["module_stack"])
    conv, relu, _ = ops(graph).values()
    assert conv["macs"] is None and relu["module"] == ""
    assert shapes(graph)["x"] == ["unk0", 10**12, "batch_size", "size_9_9_9"]
    for format in ("dot", "json", "onnx-structure"):
        content, _ = render(graph, format)
        assert b"\x1b[" not in content and "\u202e".encode() not in content
        assert len(content) < 50_000
    onnx.checker.check_model(content)


# -- what can be done with the graph -----------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    """A graph with a bit of everything: a function, a body, a constant, symbols, unknown ops."""
    then = body([node("Relu", "h", "t")], [], [info("t", ["batch", 4])])
    other = body([node("MatMul", "h w", "u")], [], [info("u", ["batch", 4])])
    block = function("Block", "x", "y", [node("Gelu", "x", "y")])
    made = model(
        [
            node("Block", "x", "h", domain="mine", name="block"),
            node("If", "c", "i", then_branch=then, else_branch=other),
            node("Strange", "i x", "z", domain="my.domain"),
            node("Gather", "i table", "y"),
        ],
        [info("x", ["batch", 4]), info("c", [], TensorProto.BOOL)],
        "y z",
        [weight("w", 4, 4), values("table", 0, 0, 0)],
        functions=[block],
    )
    return graph_of(made)


def test_json_keeps_everything(sample):
    content, _ = render(sample, "json")
    again = parse_graph(content)
    assert {*again} == {*sample} and uses(again) == uses(sample)
    assert totals(again) == totals(sample)
    assert again.graph["symbols"] == sample.graph["symbols"]


def test_structure_of_a_read_graph_comes_back(sample):
    content, _ = render(sample, "onnx-structure")
    onnx.checker.check_model(content)
    again = graph_of(content)
    assert {*again} == {*sample} and uses(again) == uses(sample)
    assert again.nodes["If"]["macs"] == sample.nodes["If"]["macs"]
    assert totals(again).unknown == totals(sample).unknown


def test_dot_draws_it(sample):
    content, _ = render(sample, "dot")
    assert b"onnx.If" in content or b"If" in content


def test_sizes_can_be_bound(sample):
    bound = ta.bind(sample, batch=3)
    assert totals(bound).macs == 3 * 4 * 4


def test_reading_needs_no_torch():
    made = model([node("Relu", "x", "y")], {"x": [2, "n"]}, "y").SerializeToString()
    code = (
        "import sys; from torchatlas.frontends import onnx_file; "
        f"print(len(onnx_file.read({made!r}, 'x')[0]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
