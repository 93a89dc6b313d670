"""Netron's own JSON and its attachments: whole, exact, quick, and free of what is private."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import sympy
import torch
from torch import nn

import hostile
import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.errors import FormatError, UsageError
from torchatlas.exporters import netron_json, onnx_structure
from torchatlas.exporters.nesting import flat
from torchatlas.exporters.netron_json import attachment, category, render
from torchatlas.exporters.onnx_metadata import properties, text
from torchatlas.graph import build, in_order, inputs_of, op_nodes
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta

CATEGORIES = {
    "Layer", "Activation", "Normalization", "Pool", "Attention", "Shape", "Tensor", "Transform",
    "Dropout", "Data", "Constant", "Control", "Quantization", "Custom",
}  # fmt: skip
MODELS = [*models.SMALL, "bert", "resnet18"]


def module_of(graph: ta.ModelGraph) -> dict:
    (module,) = json.loads(render(graph))["modules"]
    return module


class Branch(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: (y * 2).relu(), lambda y: y - 1, (x,)) + 1


def branch() -> ta.ModelGraph:
    return ta.capture(Branch(), torch.ones(3))


# -- .netron -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_op_is_a_node_with_its_facts(name, captured):
    graph = captured(name)
    nodes = {node["name"]: node for node in module_of(graph)["nodes"]}
    assert nodes.keys() == {id for id, _ in op_nodes(graph)}
    for id, node in nodes.items():
        assert node["type"]["name"] == graph.nodes[id]["op"]
        assert node["type"]["category"] in CATEGORIES
        found = {attribute["name"]: attribute["value"] for attribute in node["attributes"]}
        assert len(found) == len(node["attributes"])
        for key, value in properties(graph, id).items():
            assert str(found[key]) == text(value)


@pytest.mark.parametrize("name", MODELS)
def test_values_lead_where_edges_do(name, captured):
    graph = captured(name)
    module = module_of(graph)
    made = {v: n["name"] for n in module["nodes"] for out in n["outputs"] for v in out["value"]}
    weights = [i for i, value in enumerate(module["values"]) if "initializer" in value]
    inputs = [value for argument in module["inputs"] for value in argument["value"]]
    assert sorted([*made, *weights, *inputs]) == [*range(len(module["values"]))]
    for node in module["nodes"]:
        sources = inputs_of(graph, node["name"])
        assert {argument["name"] for argument in node["inputs"]} == sources.keys()
        for argument in node["inputs"]:
            (number,) = argument["value"]
            source, output = sources[argument["name"]]
            assert made.get(number, source) == source
            value, meta = module["values"][number], graph.nodes[source]["outputs"][output]
            type = value.get("initializer", value)["type"]
            assert type["dataType"] == meta.dtype
            assert type["shape"]["dimensions"] == [*meta.shape]
    assert [argument["name"] for argument in module["outputs"]] == [
        id for id, node in in_order(graph) if node["kind"] == "output" and inputs_of(graph, id)
    ]


def test_numbers_are_exact(captured):
    """Netron shows nothing for a 0, and JavaScript rounds what is above 2**53."""
    out = TensorMeta((2**54, 2))
    x = OpRecord("x", "input", target="x", outputs=(out,))
    args = {"self": Value("x")}
    relu = OpRecord("y", "op", op="aten.relu", args=args, outputs=(out,), tags=("pointwise",))
    other = OpRecord("z", "op", op="my.op", args={**args, "n": 2**60, "k": -3}, outputs=(out,))
    module = module_of(annotate(build([x, relu, other], name="Large")[0]))
    first, second = (
        {a["name"]: (a["value"], a["type"]) for a in node["attributes"]} for node in module["nodes"]
    )
    assert first["flops"] == ("0", "string")
    assert first["bytes_written"] == (str(2**57), "string")
    assert second["n"] == (str(2**60), "string") and second["k"] == (-3, "int64")
    assert second["flops"] == ("unknown", "string")
    assert module["values"][0]["type"]["shape"]["dimensions"] == [str(2**54), 2]


def test_symbolic_sizes_are_told_by_name():
    graph = ta.capture(nn.Linear(4, 4), torch.ones(2, 4), dynamic=["batch"])
    module = module_of(graph)
    assert module["values"][0]["type"]["shape"]["dimensions"] == ["batch", 4]
    (node,) = module["nodes"]
    found = {attribute["name"]: attribute["value"] for attribute in node["attributes"]}
    assert sympy.sympify(found["flops"]) == 32 * sympy.Symbol("batch")


def test_bodies_stand_beside_their_op():
    graph = branch()
    nodes = {node["name"]: node for node in module_of(graph)["nodes"]}
    assert nodes.keys() == {id for id, _ in op_nodes(flat(graph))} > {"cond", "cond#true/mul"}
    assert nodes["cond"]["type"]["category"] == "Control"
    assert {"true", "false"} <= {argument["name"] for argument in nodes["cond"]["inputs"]}


def test_totals_and_literals_are_metadata():
    class Size(nn.Module):
        def forward(self, x):
            return x + 1, 7

    file = json.loads(render(ta.capture(Size(), torch.ones(2, 2), frontend="export")))
    assert next(iter(file)) == "signature" and file["signature"] == "netron:torchatlas"
    found = {entry["name"]: entry["value"] for entry in file["metadata"]}
    assert found["flops_other"] == "4" and found["output/1"] == "7"


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("aten.conv2d", "Layer"), ("aten.relu_", "Activation"), ("aten.max_pool2d", "Pool"),
        ("aten.layer_norm", "Normalization"), ("aten.scaled_dot_product_attention", "Attention"),
        ("aten.view", "Shape"), ("aten.dropout", "Dropout"), ("aten.svd", "Custom"),
        ("quantized_decomposed.quantize_per_tensor", "Quantization"),
        ("higher_order.while_loop", "Control"),
    ],
)  # fmt: skip
def test_families_have_netrons_categories(op, expected):
    assert category({"kind": "op", "op": op}) == expected


# -- attachments -------------------------------------------------------------------------------


def entries(content: bytes, part: str) -> dict[tuple[str, str], dict]:
    file = json.loads(content)
    assert file["signature"] == "netron:attachment"
    found: dict[tuple[str, str], dict] = {}
    for entry in file[part]:
        found.setdefault((entry["kind"], entry["target"]), {})[entry["name"]] = entry["value"]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_attachments_hold_every_op(name, captured):
    graph = captured(name)
    content = attachment(graph)
    metadata, metrics = (entries(content, part) for part in ("metadata", "metrics"))
    ops = dict(op_nodes(graph))
    assert metadata.keys() == {("model", ""), *(("node", id) for id in ops)}
    for id, node in ops.items():
        assert metadata["node", id]["id"] == id
        assert metrics["node", id]["flops"] == node["flops"]
        assert metrics["node", id]["bytes_read"] == node["bytes_read"]
        assert metadata["node", id]["op"] == node["op"]
    assert metrics["model", ""]["flops"] == ta.totals(graph).flops


def test_unknown_costs_are_not_numbers():
    class Custom(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x)

    graph = ta.capture(Custom(), torch.ones(2, 2)).copy()
    for _, node in op_nodes(graph):
        node["flops"] = None
    metadata, metrics = (entries(attachment(graph), part) for part in ("metadata", "metrics"))
    assert {"flops"} == {
        key for found in metadata.values() for key, value in found.items() if value == "unknown"
    }
    assert all("flops" not in found for (kind, _), found in metrics.items() if kind == "node")


def test_attachments_for_a_file_of_torch_s_own(captured):
    """The names and the places of all nodes are those of what `torch.onnx.export` writes."""
    model, example = models.make("resnet18")
    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    theirs = {node.name: node for node in program.model_proto.graph.node}
    content = attachment(captured("resnet18"), names="onnx")
    metadata, metrics = (entries(content, part) for part in ("metadata", "metrics"))
    assert {name for kind, name in metadata if kind == "node"} == theirs.keys()
    for name, node in theirs.items():
        told = {entry.key: entry.value for entry in node.metadata_props}
        scopes = told["pkg.torch.onnx.name_scopes"]
        found = metadata["node", name]
        fused = json.loads(found.get("ids", "[]")) or [found["id"]]
        paths = {id.rpartition("/")[0].replace("/", ".") for id in fused}
        assert any(f"'{path}'" in scopes for path in paths)
    convolutions = sum(
        metrics["node", name]["flops"] for name, node in theirs.items() if node.op_type == "Conv"
    )
    linear = 2 * 512 * 1000
    assert convolutions == ta.totals(captured("resnet18")).flops - linear


def test_names_of_torch_s_own_need_a_live_model(captured):
    graph = captured("tiny").copy()
    graph.source = None
    with pytest.raises(FormatError, match="captured in this process"):
        attachment(graph, names="onnx")
    with pytest.raises(UsageError, match=r"'keras'(.|\n)*id or onnx"):
        attachment(graph, names="keras")


# -- both --------------------------------------------------------------------------------------

FORMATS = {"netron": render, "attachment": attachment, "structure": onnx_structure.render}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_nothing_of_this_machine_is_written(name, mode):
    graph = ta.capture(*models.make("bert"), mode=mode)
    content = FORMATS[name](graph)
    for path in (sys.prefix, str(Path.cwd()), str(Path.home()), "site-packages"):
        assert f"{path}/".encode() not in content
    assert b".py:" not in content


@pytest.mark.parametrize("format", [render, attachment])
def test_lines_of_code_are_told_on_request(format, captured):
    graph = captured("tiny").copy()
    for _, node in op_nodes(graph):
        node["source"] = "models.py:12"
    assert b"models.py" not in format(graph)
    assert format(graph, include_source=True).count(b'"models.py:12"') == 5


@pytest.mark.parametrize("format", [render, attachment])
def test_hostile_names_stay_data(format):
    graph = hostile.graph()
    text = format(graph).decode()
    ids = {id for id, _ in op_nodes(graph)}
    file = json.loads(text)
    if format is render:
        assert {node["name"] for node in file["modules"][0]["nodes"]} == ids
    else:
        assert {e["target"] for e in file["metrics"] if e["kind"] == "node"} == ids
    assert all(ord(character) >= 32 for character in text if character != "\n")


def large(size: int) -> ta.ModelGraph:
    """Return a chain of linear layers and activations with about `size` nodes."""
    out, weight = TensorMeta((8, 64)), TensorMeta((64, 64))
    records, last = [OpRecord("x", "input", target="x", outputs=(out,))], Value("x")
    for i in range(size // 3):
        stack = (Module("", "Net"), Module(f"b.{i // 8}", "Block"), Module(f"b.{i // 8}.{i}", "L"))
        records += [
            OpRecord(f"w{i}", "parameter", target=f"w{i}", outputs=(weight,), stack=stack),
            OpRecord(
                f"l{i}", "op", op="aten.linear", outputs=(out,), stack=stack,
                args={"input": last, "weight": Value(f"w{i}")},
            ),
            OpRecord(
                f"r{i}", "op", op="aten.relu", outputs=(out,), stack=stack,
                args={"self": Value(f"l{i}")},
            ),
        ]  # fmt: skip
        last = Value(f"r{i}")
    records.append(OpRecord("o", "output", target="output", args={"value": last}))
    return annotate(build(records, name="Large")[0])


def test_large_graphs_are_written_quickly():
    """10,000 nodes take 3 s at most, here with a margin for slow machines."""
    graph = large(10_000)
    for name, format in FORMATS.items():
        start = time.process_time()
        format(graph)
        assert time.process_time() - start < 6, name


def test_large_attachments_keep_their_size():
    assert len(netron_json.attachment(large(300))) < 300 * 2_000
