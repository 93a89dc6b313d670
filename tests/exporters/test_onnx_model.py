"""Executable ONNX: computes what the model does, and says of every node where it comes from."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import models
import onnx_files
import torchatlas as ta
from onnx_files import all_nodes, call, difference, facts, load, refer, run
from torchatlas.errors import FormatError
from torchatlas.exporters.onnx_metadata import places, properties, text
from torchatlas.exporters.onnx_model import render
from torchatlas.graph import op_nodes

TOLERANCE = 1e-4
"""Of the largest output. bfloat16 keeps three digits, so regions under autocast get more."""

COSTS = (
    "macs", "flops", "flops_other", "flops_effective", "int_ops", "bytes_read", "bytes_written",
    "comm_bytes",
)  # fmt: skip


class HalfRegion(nn.Module):
    """Regions inside regions, ops with several results, a number among the outputs."""

    def forward(self, x):
        with torch.no_grad():
            double = x * 2
            with torch.enable_grad():
                rows = double.split(1)
            with torch.autocast("cpu", enabled=False):
                plain = (rows[0] + rows[2]).sum()
        with torch.autocast("cpu", dtype=torch.float16):
            first, second = (x @ x).split([1, 2])
            half = first.float() * second.sum()
            with torch.no_grad():
                half = half + 1
        return plain * x, half.float(), rows[1], 7


class Branch(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: (y * 2 + 1).relu(), lambda y: y - 1, (x,))


OWN = {
    "encoder": onnx_files.encoder,
    "half_region": lambda: (HalfRegion(), torch.randn(3, 3)),
    "branch": lambda: (Branch(), torch.ones(3)),
}
MODELS = [*OWN, *models.SMALL, "bert", "t5"]
params = pytest.mark.parametrize("name", models.params(MODELS))


@lru_cache(maxsize=64)
def made(name: str):
    if name in models.ALL:
        return models.make(name)
    torch.manual_seed(0)
    model, example = OWN[name]()
    return model.eval(), example


@pytest.fixture(scope="session")
def graph_of():
    return lru_cache(maxsize=64)(lambda name: ta.capture(*made(name), frontend="export"))


@pytest.fixture(scope="session")
def rendered(graph_of):
    return lru_cache(maxsize=64)(lambda name: render(graph_of(name)))


@params
def test_onnxruntime_computes_what_the_model_does(name, rendered):
    model, example = made(name)
    content = rendered(name).content
    load(content)
    tolerance = 1e-2 if name in ("half_region", "regions") else TOLERANCE
    # onnxruntime has no MatMul in bfloat16 on the CPU, but the reference has.
    runner = refer if name == "regions" else run
    assert difference(runner(content, example), call(model, example)) <= tolerance


@params
def test_every_node_says_where_it_comes_from(name, rendered, graph_of):
    known, model = places(graph_of(name)), load(rendered(name).content)
    nodes = [*all_nodes(model.graph)]
    assert len({node.name for node in nodes}) == len(nodes)
    for node in nodes:
        found = facts(node)
        ids = json.loads(found.get("ids", "null")) or [found["id"]]
        assert all(id in known for id in ids) and ids[0] == found["id"]
        assert next(iter(found)) == "id" and all(len(key) <= 15 for key in found)
    owners = {node.name for node in nodes}
    told = {facts(node)["id"] for node in nodes}
    assert told <= owners


@pytest.mark.parametrize("name", ["tiny", "residual", "encoder"])
def test_nodes_compute_what_the_ops_they_name_do(name, rendered, graph_of):
    program, example = graph_of(name).source.program, made(name)[1]
    values: dict[str, torch.Tensor] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node):
            found = super().run_node(node)
            if isinstance(found, torch.Tensor):  # a later op may write to it in place
                values[graph_of(name).source.ids.get(node.name)] = found.clone()
            return found

    operands = [program.state_dict.get(spec.target) for spec in program.graph_signature.input_specs]
    operands = [example.clone() if operand is None else operand for operand in operands]
    with torch.no_grad():
        Recorder(program.graph_module).run(*map(torch.clone, operands))
    model = onnx.load_from_string(rendered(name).content)
    ids = {
        node.output[0]: json.loads(facts(node).get("ids", "[]"))[-1:] or [facts(node)["id"]]
        for node in model.graph.node
        if "part" not in facts(node)
    }
    for info in [*model.graph.value_info]:
        if info.name in ids:
            model.graph.output.append(info)
    found = run(model.SerializeToString(), example)
    assert len(ids) >= 3
    for info, array in zip(model.graph.output, found, strict=True):
        for id in ids.get(info.name, ()):
            np.testing.assert_allclose(array, values[id].numpy(), rtol=1e-3, atol=1e-4)


@params
def test_metadata_is_the_annotations(name, rendered, graph_of):
    known, model = places(graph_of(name)), load(rendered(name).content)
    for node in all_nodes(model.graph):
        found = facts(node)
        for key, value in properties(*known[found["id"]]).items():
            assert found[key] == text(value) or ("ids" in found and key in ("params", *COSTS))


@params
def test_costs_count_once(name, rendered, graph_of):
    graph, model = graph_of(name), load(rendered(name).content)
    folded = json.loads(facts(model).get("folded", "[]"))
    for cost in COSTS:
        told = [
            int(facts(node)[cost])
            for node in model.graph.node  # an op's costs include those of its bodies
            if facts(node).get("part", "1/").startswith("1/")
            and facts(node).get(cost, "unknown") != "unknown"
        ]
        left = sum(graph.nodes[id].get(cost) or 0 for id in folded)
        total = getattr(ta.totals(graph), cost)
        assert sum(told) == total - left
        assert facts(model)[cost] == facts(model.graph)[cost] == str(total)


@params
def test_inputs_and_outputs_are_called_as_in_the_graph(name, rendered, graph_of):
    graph, model = graph_of(name), load(rendered(name).content)
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        ids = [id for id, node in graph.nodes(data=True) if node["kind"] == kind]
        names = [value.name for value in values]
        assert names == [id for id in ids if id in names] and len(names) > 0
        assert all(facts(value)["id"] == value.name for value in values)
    known = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    made = [output for node in model.graph.node for output in node.output if output]
    assert name == "branch" or set(made) <= known


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_this_machine_is_written(name, rendered):
    content = rendered(name).content
    for path in (sys.prefix, str(Path.cwd()), str(Path(__file__).parent), "site-packages"):
        assert path.encode() not in content


def test_fused_ops_share_a_node(rendered):
    model = load(rendered("tiny").content)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    assert conv.name == facts(conv)["id"] == "conv/conv2d"
    assert json.loads(facts(conv)["ids"]) == ["conv/conv2d", "norm/batch_norm"]
    assert facts(conv)["params"] == str(3 * 4 * 9 + 8)


def test_expanded_ops_share_an_id(rendered):
    model = load(rendered("encoder").content)
    attention = "layer/self_attn/scaled_dot_product_attention"
    nodes = [node for node in model.graph.node if facts(node)["id"] == attention]
    parts = sorted(facts(node)["part"] for node in nodes)
    assert len(nodes) > 3 and parts[0] == f"1/{len(nodes)}"
    (main,) = [node for node in nodes if facts(node)["part"].startswith("1/")]
    assert main.name == attention and main.op_type == "MatMul"


def test_nodes_in_the_bodies_of_control_flow_have_costs_of_their_own(rendered, graph_of):
    model = load(rendered("branch").content)
    known = places(graph_of("branch"))
    (branch,) = [node for node in model.graph.node if node.op_type == "If"]
    assert branch.name == facts(branch)["id"] == "cond"
    assert facts(branch)["flops_other"] == str(graph_of("branch").nodes["cond"]["flops_other"])
    inside = {node.name for node in all_nodes(model.graph)} - {n.name for n in model.graph.node}
    assert inside == {"cond#true/mul", "cond#true/add", "cond#true/relu", "cond#false/sub"}
    for node in all_nodes(model.graph):
        if node.name in inside:
            body, own = known[node.name]
            assert facts(node)["flops_other"] == str(body.nodes[own]["flops_other"]) == "3"


def test_totals_stand_on_the_graph_and_on_the_model(rendered, graph_of):
    model, sums = load(rendered("tiny").content), ta.totals(graph_of("tiny"))
    for proto in (model, model.graph):
        found = facts(proto)
        assert found["flops"] == str(sums.flops) and found["params"] == "141"
        assert found["peak_bytes"] == str(sums.peak_bytes) and found["peak_node"] in graph_of(
            "tiny"
        )
        assert max(map(len, found)) <= 15 and "Peak(" not in str(found)


def test_values_tell_their_size(rendered):
    model = load(rendered("tiny").content)
    (info,) = [info for info in model.graph.value_info if info.name == "conv/conv2d"]
    assert info.doc_string == f"{2 * 4 * 8 * 8 * 4} B"


def test_ops_inside_regions_keep_their_ids(graph_of, rendered):
    ops = {id for id, node in op_nodes(graph_of("half_region"))}
    model = load(rendered("half_region").content)
    folded = set(json.loads(facts(model).get("folded", "[]")))
    told = {facts(node)["id"] for node in model.graph.node}
    assert {"mul", "sum", "matmul", "add_1"} <= told
    assert ops <= told | folded | {
        i for n in model.graph.node for i in json.loads(facts(n).get("ids", "[]"))
    }


def test_an_output_that_is_an_input_stands_for_itself():
    class Returned(nn.Module):
        def forward(self, x):
            y = x + 1
            return y, y, x

    model = load(render(ta.capture(Returned(), torch.randn(2))).content)
    assert [facts(node)["id"] for node in model.graph.node] == ["add", "output/1", "output/2"]


def test_torch_stays_quiet(graph_of, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(graph_of("t5"))
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == 0


def test_hostile_names_are_kept_as_data():
    model, example = models.hostile()
    graph = ta.capture(model.eval(), example)
    content = render(graph).content
    assert {node.name for node in load(content).graph.node} == {id for id, _ in op_nodes(graph)}
    assert difference(run(content, example), call(model, example)) <= TOLERANCE
    assert b"\x1b[31m" not in content and b"x" * 1000 not in content


def test_python_s_round_of_a_size_is_translated():
    class Rounds(nn.Module):
        def forward(self, x):
            return torch.ones(round(x.shape[1] / 3) + x.shape[0]), x

    graph = ta.capture(Rounds(), torch.ones(2, 9), dynamic={"x": [None, "n"]})
    content = render(graph).content
    assert "opaque" not in facts(load(content))
    for n in (9, 10, 11, 13):
        assert run(content, torch.ones(2, n))[0].shape == (round(n / 3) + 2,)


def test_symbolic_sizes_keep_their_names():
    class Rows(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, y]).relu()

    rows = torch.export.Dim("rows", min=2, max=99)
    shapes = {"x": {0: rows}, "y": {0: torch.export.Dim("more", min=2, max=99)}}
    example = (torch.randn(3, 2), torch.randn(4, 2))
    program = torch.export.export(Rows(), example, dynamic_shapes=shapes, strict=False)
    graph = ta.capture(program)
    content = render(graph).content
    sizes = [i.type.tensor_type.shape.dim[0].dim_param for i in load(content).graph.input]
    assert sizes == [str(graph.nodes[id]["outputs"][0].shape[0]) for id in ("x", "y")]
    other = (torch.randn(7, 2), torch.randn(5, 2))
    assert difference(run(content, other), Rows()(*other)) <= TOLERANCE


_PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import models, torchatlas
from torchatlas.exporters import onnx_model, onnx_structure
for name in ("regions", "encoder_like", "shared_and_tied"):
    graph = torchatlas.capture(*models.make("attention" if name == "encoder_like" else name))
    found = onnx_model.render(graph, weights="external")
    for content in (found.content, *found.sidecars.values(), onnx_structure.render(graph)):
        print(hashlib.sha256(bytes(content)).hexdigest())
"""


def test_files_are_the_same_from_any_folder_and_process(tmp_path):
    tests = str(Path(models.__file__).parent)
    found = set()
    for folder in ("one", "another"):
        (tmp_path / folder).mkdir()
        ran = subprocess.run(
            [sys.executable, "-c", _PROGRAM, tests],
            cwd=tmp_path / folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(ran.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["tiny", "shared_and_tied", "bert"])
def test_a_traced_graph_is_exported_first(name, graph_of):
    graph = ta.capture(*made(name))
    assert graph.graph["frontend"] == "trace"
    assert render(graph).content == render(graph_of(name)).content


def test_why_a_traced_graph_cannot_be_exported():
    graph = ta.capture(lambda x: x if x.sum() > 0 else -x, torch.ones(2))
    with pytest.raises(FormatError, match=r"torch\.export cannot capture this model"):
        render(graph)
    step = ta.capture(nn.Linear(2, 2), torch.ones(1, 2), mode="training")
    with pytest.raises(FormatError, match="forward pass"):
        render(step)
