"""Modules as functions: the same results, ids and costs, one module inside the other."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import hostile
import models
import onnx_files
import torchatlas as ta
from onnx_files import all_nodes, facts, load
from torchatlas.exporters import onnx_model, onnx_structure
from torchatlas.exporters.onnx_functions import CONTAINERS, DOMAIN, modules_to_functions
from torchatlas.exporters.onnx_regions import prepare
from torchatlas.modules import module_tree

TREES = ["resnet18", "bert", "gpt2", "llama"]
SUMS = ("params", "macs", "flops", "flops_other", "bytes_read", "bytes_written")


class Twice(nn.Module):
    """A block that is called twice in a row, and one that is left and entered again."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.parts = nn.Module()
        self.parts.first = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
        self.parts.last = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x):
        first = self.parts.first(x)
        return self.parts.last(self.block(self.block(first)) * x) + first


class Branches(nn.Module):
    """Modules inside the bodies of control flow, in a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.yes = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.no = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return torch.cond(
            x.sum() > 0, lambda y: self.yes(y) + 1, lambda y: self.no(y * 2) - y, (x,)
        )


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = Branches()
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.branches(x * 2))


class Region(nn.Module):
    """A region without gradients in the middle of a module, which is called twice in a row."""

    def forward(self, x):
        y = x * 2
        with torch.no_grad():
            y = y.sin() + 1
        return y * x


class Regions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.region = Region()

    def forward(self, x):
        return self.region(self.region(x))


OWN = {"twice": Twice, "branches": Outer, "half": Regions}
RUN = [*OWN, "shared_and_tied", "attention", "lstm", *TREES]


@cache
def made(name: str):
    if name not in OWN:
        return models.make(name)
    torch.manual_seed(0)
    return OWN[name]().eval(), torch.randn(3, 4)


@cache
def graph_of(name: str) -> ta.ModelGraph:
    return ta.capture(*made(name), frontend="export")


@cache
def rendered(name: str, functions: bool) -> bytes:
    if not functions:
        return onnx_model.render(graph_of(name)).content
    # What `render` does with functions, but for the translation, which takes a second or two.
    model, graph = onnx.load_from_string(rendered(name, False)), graph_of(name)
    modules_to_functions(model, graph, onnx_model.calls_of(graph, prepare(graph.source.program)))
    return model.SerializeToString(deterministic=True)


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return all nodes by name, but for the calls of functions."""
    graphs = (model.graph, *model.functions)
    nodes = [node for graph in graphs for node in all_nodes(graph) if node.domain != DOMAIN]
    found = {node.name: node for node in nodes}
    assert len(found) == len(nodes)
    return found


def calls_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the calls of functions by the name of the function: each has one."""
    graphs = (model.graph, *model.functions)
    calls = [node for graph in graphs for node in all_nodes(graph) if node.domain == DOMAIN]
    found = {call.op_type: call for call in calls}
    assert len(found) == len(calls) == len(model.functions)
    return found


def test_the_option_writes_them():
    made_at_once = onnx_model.render(graph_of("twice"), functions=True).content
    assert made_at_once == rendered("twice", True) != rendered("twice", False)


@pytest.mark.parametrize("name", models.params(RUN))
def test_results_are_exactly_the_same(name):
    example = made(name)[1]
    load(rendered(name, True))  # the checker, with the shapes
    expected, found = (onnx_files.run(rendered(name, functions), example) for functions in (0, 1))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", RUN)
def test_nodes_are_those_of_the_file_without_functions(name):
    flat, folded = (onnx.load_from_string(rendered(name, on)) for on in (False, True))
    before, after = nodes_of(flat), nodes_of(folded)
    assert len(folded.functions) > 0 and not flat.functions
    assert before.keys() == after.keys()
    for id, node in before.items():
        assert facts(after[id]) == facts(node) and list(after[id].output) == list(node.output)
    for one in flat.graph.initializer:  # copies of small constants come on top
        assert one in folded.graph.initializer
    kept = {"input": flat.graph.input, "output": flat.graph.output}
    assert all([*getattr(folded.graph, key)] == [*values] for key, values in kept.items())


@pytest.mark.parametrize("name", TREES)
def test_functions_are_the_module_tree(name):
    """Every module of two nodes or more is a function that stands in that of its parent."""
    model = onnx.load_from_string(rendered(name, True))
    types = graph_of(name).graph["modules"]
    inside: dict[str, int] = {}
    for node in nodes_of(model).values():
        path = facts(node).get("module", "")
        while path:
            if types.get(path, "").rpartition(".")[2] not in CONTAINERS:
                inside[path] = inside.get(path, 0) + 1
            path = path.rpartition(".")[0]
    # The activations of a ResNet's blocks run twice, each time as one node.
    inside = {path: count for path, count in inside.items() if not path.endswith(".relu")}
    wanted = {path for path, count in inside.items() if count > 1}
    functions = {facts(function)["module"]: function for function in model.functions}
    assert functions.keys() == wanted and len(wanted) == len(model.functions)
    for path, function in functions.items():
        assert function.name == f"{path}.{types[path].rpartition('.')[2]}"
        for node in function.node:
            assert f"{facts(node)['module']}.".startswith(f"{path}.")
            if node.domain == DOMAIN:
                parents = [p for p in wanted if facts(node)["module"].startswith(f"{p}.")]
                assert path == max(parents, key=len)


def test_resnet18_is_ten_nodes():
    model = onnx.load_from_string(rendered("resnet18", True))
    assert [node.op_type for node in model.graph.node] == [
        "Conv", "Relu", "MaxPool", *(f"layer{i}.Sequential" for i in (1, 2, 3, 4)),
        "ReduceMean", "Reshape", "Gemm",
    ]  # fmt: skip
    assert [len(f.node) for f in model.functions if f.name.startswith("layer2.0")] == [6]


@pytest.mark.parametrize("name", ["resnet18", "bert"])
def test_calls_tell_what_their_modules_cost(name):
    model = onnx.load_from_string(rendered(name, True))
    rows = {}
    todo = [module_tree(graph_of(name))]
    while todo:
        row = todo.pop()
        rows[row.path] = row
        todo += row.children.values()
    functions = {function.name: function for function in model.functions}
    for function, call in calls_of(model).items():
        found = facts(call)
        row = rows[found["module"]]
        assert found["id"] == call.name == found["module"].replace(".", "/")
        assert {key: found.get(key, "0") for key in SUMS} == {
            key: str(row.sums[key]) for key in SUMS
        }
        assert found.items() >= facts(functions[function]).items()
        assert call.doc_string == functions[function].doc_string
        assert call.doc_string.startswith(f"{found['module']}: ")


def test_doc_strings_have_the_sums():
    model = onnx.load_from_string(rendered("resnet18", True))
    (block,) = [f for f in model.functions if f.name == "layer1.0.BasicBlock"]
    # two convolutions of 64 x 64 x 3 x 3 at 56 x 56, and their two norms
    assert 2 * 2 * 64 * 64 * 9 * 56 * 56 == 462422016
    assert block.doc_string.startswith("layer1.0: BasicBlock, 7 ops, 74 k parameters, 462 MFLOP")


@pytest.mark.parametrize("name", TREES)
def test_values_inside_functions_have_their_shapes(name):
    flat, folded = (onnx.load_from_string(rendered(name, on)) for on in (False, True))
    known = {v.name: v.type for v in (*flat.graph.value_info, *flat.graph.output)}
    for function in folded.functions:
        types = {info.name: info.type for info in function.value_info}
        for node in function.node:
            assert all(types[value] == known[value] for value in node.output if value)
        assert types.keys() >= {*function.input} & {*known}
    outer = {value for node in folded.graph.node for value in node.output}
    assert {info.name for info in folded.graph.value_info} <= outer
    assert b" B" in folded.functions[0].value_info[0].doc_string.encode()


def test_constants_that_modules_share_are_copied():
    """Netron shows a constant beside its op only if no other function reads it."""
    for name in ("bert", "gpt2"):
        graph = onnx.load_from_string(rendered(name, True)).graph
        shapes = {t.name for t in graph.initializer if t.data_type == t.INT64 and len(t.dims) == 1}
        calls = [node for node in graph.node if node.domain == DOMAIN]
        assert len(shapes) > 3 and len(calls) > 1
        for constant in shapes:
            assert sum(constant in call.input for call in calls) <= 1


def test_a_module_that_is_called_twice_is_two_functions():
    calls = calls_of(onnx.load_from_string(rendered("twice", True)))
    assert {call.name: function for function, call in calls.items()} == {
        "parts": "parts.Module",
        "parts/first": "parts.first.Sequential",
        "block": "block.Sequential",
        "block_1": "block.Sequential_1",
        "parts_1": "parts.Module_1",
        "parts/last": "parts.last.Sequential",
    }
    for call in ("block.Sequential", "block.Sequential_1"):
        assert facts(calls[call])["ops"] == "2" and facts(calls[call])["params"] == "20"
        assert facts(calls[call])["flops"] == str(2 * 3 * 4 * 4)


def test_modules_in_the_bodies_of_control_flow_are_functions():
    model = onnx.load_from_string(rendered("branches", True))
    calls = calls_of(model)
    assert {call.name for call in calls.values()} == {
        "branches",
        "branches/cond#true/branches/yes",
        "branches/cond#false/branches/no",
    }
    (outer,) = [f for f in model.functions if f.name == "branches.Branches"]
    nodes = {node.name: facts(node) for node in all_nodes(outer)}
    assert nodes["branches/cond"]["flops"] == str(2 * 3 * 4 * 4)
    assert nodes["branches/cond#true/branches/add"]["flops_other"] == "12"


def test_a_region_without_gradients_does_not_split_its_module():
    model = onnx.load_from_string(rendered("half", True))
    assert [node.name for node in model.graph.node] == ["region", "region_1"]
    assert [len(function.node) for function in model.functions] == [4, 4]


def test_weights_beside_the_model(tmp_path):
    model, example = made("resnet18")
    graph_of("resnet18").export(tmp_path / "a.onnx", weights="external", functions=True)
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    found = onnx_files.run(tmp_path / "a.onnx", example)
    assert onnx_files.difference(found, model(example)) <= 1e-4


def test_symbolic_sizes_stay():
    model, example = made("twice")
    graph = ta.capture(model, example, frontend="export", dynamic=["rows"])
    content = onnx_model.render(graph, functions=True).content
    sizes = {
        dim.dim_param
        for function in load(content).functions
        for info in function.value_info
        for dim in info.type.tensor_type.shape.dim
        if dim.dim_param
    }
    assert sizes == {"rows"}
    other = torch.randn(7, 4)
    assert onnx_files.difference(onnx_files.run(content, other), model(other)) <= 1e-5


def test_without_weights_they_become_inputs():
    graph = graph_of("twice")
    content = onnx_model.render(graph, functions=True, weights="none").content
    model, example = made("twice")
    feeds = {"x": example.numpy(), **{k: v.numpy() for k, v in model.state_dict().items()}}
    session = onnxruntime.InferenceSession(content)
    found = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    assert onnx_files.difference(found, model(example)) <= 1e-5


def test_hostile_names_run():
    model, example = models.hostile()
    model = nn.Sequential(model, nn.Tanh()).eval()
    content = onnx_model.render(ta.capture(model, example), functions=True).content
    assert len(load(content).functions) == 1
    assert onnx_files.difference(onnx_files.run(content, example), model(example)) <= 1e-4
    assert b"\x1b[31m" not in content and b"x" * 1000 not in content


# -- read back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUN)
def test_files_read_back_as_the_flat_ones_do(name, tmp_path):
    read = []
    for functions in (False, True):
        path = tmp_path / f"{functions}.onnx"
        path.write_bytes(rendered(name, functions))
        read.append(ta.load(path))
    flat, folded = read
    assert set(folded) == set(flat)
    assert ta.totals(folded) == ta.totals(flat)
    for id, node in flat.nodes(data=True):
        assert folded.nodes[id]["outputs"] == node["outputs"]
        assert folded.nodes[id]["module"] == node["module"]


# -- structure ---------------------------------------------------------------------------------


@cache
def traced(name: str) -> ta.ModelGraph:
    if name.startswith("training "):
        return ta.capture(*made(name.removeprefix("training ")), mode="training")
    return hostile.graph() if name == "hostile" else ta.capture(*made(name))


STRUCTURES = [*OWN, *models.SMALL, "resnet18", "training resnet18", "training bert", "hostile"]


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_have_functions_too(name, tmp_path):
    graph = traced(name)
    contents = [onnx_structure.render(graph, functions=on) for on in (False, True)]
    flat, folded = map(load, contents)
    assert nodes_of(flat).keys() == nodes_of(folded).keys()
    assert len(folded.graph.node) < len(flat.graph.node) or not folded.functions
    calls_of(folded)
    read = []
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.structure.onnx").write_bytes(content)
        read.append(ta.load(tmp_path / f"{i}.structure.onnx"))
    assert set(read[0]) == set(read[1])
    assert str(ta.totals(read[0])) == str(ta.totals(read[1]))


def test_a_training_step_has_a_function_for_each_direction():
    names = {
        f.name
        for f in load(onnx_structure.render(traced("training resnet18"), functions=True)).functions
    }
    assert {"layer1.0.BasicBlock", "layer1.0.BasicBlock_backward"} <= names


def test_ids_of_fused_nodes_are_all_in_place():
    model = onnx.load_from_string(rendered("resnet18", True))
    ids = {
        id
        for node in nodes_of(model).values()
        for id in json.loads(facts(node).get("ids", "null")) or [facts(node)["id"]]
    }
    assert {"layer1/0/conv1/conv2d", "layer1/0/bn1/batch_norm", "fc/linear"} <= ids
