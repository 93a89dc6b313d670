"""Executable ONNX: where the weights go, and what happens to models that torch cannot translate."""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import models
import onnx_files
import torchatlas as ta
from onnx_files import call, difference, facts, load, run
from torchatlas.errors import FormatError, UsageError
from torchatlas.exporters import onnx_weights
from torchatlas.exporters.onnx_annotate import OPAQUE
from torchatlas.exporters.onnx_model import render

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder():
    """A captured model, the model, its example."""
    torch.manual_seed(0)
    model, example = onnx_files.encoder()
    return ta.capture(model.eval(), example, frontend="export"), model, example


def test_weights_beside_the_model(encoder, tmp_path):
    graph, model, example = encoder
    found = render(graph, weights="external", location="w.data")
    (tmp_path / "model.onnx").write_bytes(found.content)
    (tmp_path / "w.data").write_bytes(found.sidecars["w.data"])
    assert [*found.sidecars] == ["w.data"] and len(found.content) < 60_000
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    assert difference(run(tmp_path / "model.onnx", example), call(model, example)) <= TOLERANCE


def test_weights_too_large_for_a_file_go_beside_it(encoder, monkeypatch):
    monkeypatch.setattr(onnx_weights, "LIMIT", 1000)
    assert [*render(encoder[0]).sidecars] == ["model.onnx.data"]


def test_without_weights_no_value_is_stored(encoder):
    graph, model, example = encoder
    content = render(graph, weights="none").content
    state = model.state_dict()
    for tensor in state.values():
        assert tensor.numpy().tobytes() not in content
    assert not state.keys() & {i.name for i in load(content).graph.initializer}
    feeds = {"x": example.numpy(), **{k: v.numpy() for k, v in state.items()}}
    session = onnxruntime.InferenceSession(content)
    found = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    assert difference(found, call(model, example)) <= TOLERANCE


def test_weights_that_do_not_exist_need_not():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    graph = ta.capture(model.eval(), torch.randn(1, 3, 8, 8))
    with pytest.raises(FormatError, match=r"'0.weight' has no values(.|\n)*weights='none'"):
        render(graph)
    nodes = load(render(graph, weights="none").content).graph.node
    assert [facts(node)["id"] for node in nodes] == ["0/conv2d", "1/batch_norm", "2/relu"]


def test_bad_options_are_said(captured):
    with pytest.raises(UsageError, match="include, external, none"):
        render(captured("tiny"), weights="maybe")
    with pytest.raises(UsageError, match="not the name of a file"):
        render(captured("tiny"), location="../model.data")


def test_the_model_stays_as_it_is(encoder):
    graph, model, _ = encoder
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    code = graph.source.program.graph_module.code
    render(graph)
    assert graph.source.program.graph_module.code == code
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# -- what cannot be translated -------------------------------------------------------------------


@torch.library.custom_op("torchatlas_test::pieces", mutates_args=())
def pieces(x: torch.Tensor, others: list[torch.Tensor], k: int) -> list[torch.Tensor]:
    return [x * k, x + k]


@pieces.register_fake
def _(x, others, k):
    return [torch.empty_like(x), torch.empty_like(x)]


def test_unknown_ops_become_opaque_nodes():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            first, second = pieces(self.fc(x), [x, x * 2], 3)
            return torch.linalg.svd(first)[1], second.relu()

    graph = ta.capture(Custom(), torch.randn(2, 4))
    with pytest.warns(
        UserWarning, match=r"_linalg_svd.default, torchatlas_test.pieces.*not be run"
    ):
        model = load(render(graph).content)
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["pieces"].domain == "pkg.torch.ops"
    assert nodes["pieces"].op_type == "torchatlas_test.pieces.default"
    assert facts(nodes["pieces"])["input_names"] == "['x', 'others.0', 'others.1']"
    assert [(a.name, a.i) for a in nodes["pieces"].attribute] == [("k", 3)]
    assert json.loads(facts(model)["opaque"]) == [
        "aten._linalg_svd.default",
        "torchatlas_test.pieces.default",
    ]
    marked = {name for name, node in nodes.items() if facts(node).get("opaque") == "true"}
    assert marked == {name for name, node in nodes.items() if node.domain} and len(marked) == 2
    assert nodes["pieces"].doc_string == OPAQUE


@pytest.mark.parametrize("functions", [False, True])
def test_mixtral_with_its_default_experts_is_opaque(functions):
    model, example = models.make("mixtral")
    graph = ta.capture(model, example, frontend="export")
    with pytest.warns(UserWarning, match=r"grouped_mm_fallback.*not be run"):
        content = render(graph, functions=functions).content
    # The checker's inference does not read the types that a function has of its values.
    onnx.checker.check_model(content, full_check=not functions)
    file = onnx.load_from_string(content)
    assert json.loads(facts(file)["opaque"]) == ["transformers.grouped_mm_fallback.default"]
    scopes = (file.graph, *file.functions)
    opaque = [n for g in scopes for n in g.node if facts(n).get("opaque") == "true"]
    assert len(opaque) == 2 * 2  # two layers, two products each
    for node in opaque:
        assert facts(node)["flops"] == str(graph.nodes[node.name]["flops"])


def test_t5_with_sdpa_is_translated():
    model, example = models.make("t5")
    assert model.config._attn_implementation == "sdpa"
    file = load(render(ta.capture(model, example)).content)
    assert {node.domain for node in file.graph.node} == {""} and "opaque" not in facts(file)


def test_a_model_that_torch_cannot_export_becomes_its_structure(tmp_path):
    def branch(x):
        return x * 2 if x.sum() > 0 else x - 1

    with pytest.warns(UserWarning, match=r"torch\.export cannot capture(.|\n)*structure only"):
        ta.capture(branch, torch.ones(2)).export(tmp_path / "a.onnx")
    assert {n.domain for n in onnx.load(tmp_path / "a.onnx").graph.node} == {"pkg.torch.ops"}


def test_graphs_without_a_program_are_refused(captured):
    graph = captured("tiny").copy()
    graph.source = None
    with pytest.raises(FormatError, match=r"captured in this process(.|\n)*onnx-structure"):
        render(graph)


def test_a_model_that_returns_no_tensor_is_refused():
    class Size(nn.Module):
        def forward(self, x):
            return x.shape[0]

    with pytest.raises(FormatError, match="returns no tensor"):
        render(ta.capture(Size(), torch.randn(2)))
