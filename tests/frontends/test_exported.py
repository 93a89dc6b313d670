"""The front ends `export` and `trace` on the small models, against hand-written expectations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.frontends.torch_api import TESTED_VERSIONS
from torchatlas.schema import Use


@pytest.fixture(params=["trace", "export"])
def captured(request, captured, exported):
    """The models as both front ends see them, which here is the same."""
    return captured if request.param == "trace" else exported


NEWEST = torch.__version__.startswith(TESTED_VERSIONS[-1])


@pytest.mark.skipif(not NEWEST, reason="torch records some composites otherwise in older versions")
@pytest.mark.parametrize("name", models.SMALL)
def test_text_is_as_recorded(name, captured, golden):
    golden(f"{name}.txt", ta.to_text(captured(name)))


@pytest.mark.parametrize("name", models.SMALL)
def test_graph_is_valid(name, captured):
    ta.validate(captured(name))


def test_two_uses_of_one_tensor_are_one_edge(captured):
    uses = captured("residual").edges["add", "mul"]["uses"]
    assert uses == (Use(0, "self"), Use(0, "other"))


def test_ids_are_module_path_and_op(captured):
    graph = captured("tiny")
    ops = [name for name, node in graph.nodes(data=True) if node["kind"] == "op"]
    assert ops == ["conv/conv2d", "norm/batch_norm", "relu/relu", "mean", "head/linear"]


def test_second_call_of_a_module_is_numbered(captured):
    graph = captured("shared_and_tied")
    assert [n for n in graph if n.startswith(("block/linear", "again/linear"))] == [
        "block/linear",
        "block/linear_1",
        "again/linear",
    ]


def test_tied_weight_is_one_node(captured):
    graph = captured("shared_and_tied")
    assert graph.nodes["embed/weight"]["aliases"] == ("head.weight",)
    assert graph.nodes["block/weight"]["aliases"] == ("again.weight",)
    assert set(graph.successors("embed/weight")) == {"embed/embedding", "head/linear"}
    model, _ = models.make("shared_and_tied")
    assert ta.totals(graph).params == sum(p.numel() for p in model.parameters())


def test_inputs_and_outputs_are_named_by_their_keys(captured):
    graph = captured("shared_and_tied")
    kinds = {
        kind: [n for n, d in graph.nodes(data=True) if d["kind"] == kind]
        for kind in ("input", "output")
    }
    assert kinds == {
        "input": ["batch/ids", "batch/mask", "bias"],
        "output": ["output/logits", "output/mask"],
    }


def test_dataclasses_go_in_and_out_by_field(captured):
    graph = captured("dataclasses")
    assert {"pair/left", "pair/right", "mix/linear", "output/left", "output/right"} <= set(graph)
    assert graph.nodes["mix/linear"]["module"] == "mix"
    assert graph.nodes["mix/weight"]["target"] == "mix.weight"


def test_output_index_is_on_the_edge(captured):
    graph = captured("regions")
    assert graph.edges["max", "output/top/0"]["uses"] == (Use(0, "value"),)
    assert graph.edges["max", "output/top/1"]["uses"] == (Use(1, "value"),)
    assert not any("getitem" in name for name in graph)


def test_autocast_and_no_grad_regions_are_flattened(captured):
    graph = captured("regions")
    assert not any(node["op"].startswith("higher_order") for _, node in graph.nodes(data=True))
    assert graph.nodes["matmul"]["outputs"][0].dtype == "bfloat16"
    assert graph.has_edge("x", "mul")  # what stands inside the region reads what stands outside


def test_unused_buffers_are_dropped_and_counted(captured):
    graph = captured("tiny")
    assert "norm/num_batches_tracked" not in graph
    assert graph.graph["dropped"] == {"unused buffer": 1}


def test_unused_parameters_are_kept(captured):
    graph = captured("shared_and_tied")
    assert graph.degree("unused/weight") == 0
    assert graph.nodes["unused/weight"]["params"] == 4


def test_training_mode_writes_running_statistics():
    graph = ta.capture(models.Tiny().train(), torch.randn(2, 3, 8, 8))
    assert graph.nodes["norm/batch_norm"]["writes"] == ("running_mean", "running_var")
    assert graph.nodes["norm/add"]["op"] == "aten.add_"


def test_state_and_example_are_untouched():
    model, example = models.make("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = example.clone()
    ta.capture(model.train(), example)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(copy, example)
    assert model.training


def test_exported_program_is_taken_as_it_is():
    model, example = models.make("tiny")
    program = torch.export.export(model, (example,))
    graph, same = ta.capture(program), ta.capture(model, example)
    assert list(graph) == list(same)
    assert graph.graph["frontend"] == "export"


def test_symbolic_sizes_are_kept():
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        nn.Linear(4, 3), (torch.randn(5, 4),), dynamic_shapes=({0: batch},)
    )
    graph = ta.capture(program)
    (size,) = {dim for dim in graph.nodes["linear"]["outputs"][0].shape if dim != 3}
    assert str(ta.totals(graph).macs) == f"12*{size}"


def test_source_lines_only_on_request():
    model, example = models.make("tiny")
    assert "source" not in ta.capture(model, example).nodes["mean"]
    source = ta.capture(model, example, include_source=True).nodes["mean"]["source"]
    name, _, line = source.rpartition(":")
    assert name.endswith("models.py") and not name.startswith("/") and int(line) > 0
