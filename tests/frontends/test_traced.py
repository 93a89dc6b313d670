"""The trace front end sees what the reference sees, and computes what the model computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.errors import InputError, UsageError
from torchatlas.frontends.replay import replay
from torchatlas.graph import op_nodes

ASKS_WHETHER_IT_IS_EXPORTED = {"bert", "t5", "clip", "mixtral"}
"""transformers takes another way under `torch.export`: it makes masks that it would leave out,
and calls an operator of its own for grouped products."""


@pytest.mark.parametrize(
    "name", models.params(sorted(models.ALL.keys() - ASKS_WHETHER_IT_IS_EXPORTED))
)
def test_same_graph_as_export(name, captured, exported):
    if models.OLD_TORCH and name == "swin_t":
        pytest.skip("that torch.export calls lifted constants by their module")
    graph = captured(name)
    ta.validate(graph)
    assert (graph.graph["frontend"], exported(name).graph["frontend"]) == ("trace", "export")
    assert ta.to_text(graph) == ta.to_text(exported(name))
    for node, keys in exported(name).nodes(data=True):
        for key in ("module", "module_type", "module_stack", "flops", "bytes_read", "live_bytes"):
            assert graph.nodes[node].get(key) == keys.get(key), (node, key)


@pytest.mark.parametrize("name", sorted(ASKS_WHETHER_IT_IS_EXPORTED))
def test_same_products_as_export(name, captured, exported):
    if models.OLD_TORCH and name == "mixtral":
        pytest.skip("grouped products on fake tensors wanted bfloat16")
    found, expected = ta.totals(captured(name)), ta.totals(exported(name))
    assert (found.macs, found.params, found.coverage) == (expected.macs, expected.params, 1)


@pytest.mark.parametrize("name", ["tiny", "in_place_views", "regions", "attention", "resnet18"])
def test_graph_computes_what_the_model_computes(name):
    model, example = models.make(name)
    graph = ta.capture(model, example, frontend="trace")
    made: dict[tuple[str, int], torch.Tensor] = {}
    replay(
        graph.source,
        lambda node, values: made.update({(node, i): value for i, value in enumerate(values)}),
    )
    assert {node for node, _ in op_nodes(graph)} <= {node for node, _ in made}
    for node, keys in op_nodes(graph):
        for i, meta in enumerate(keys["outputs"]):
            if meta is not None and isinstance(made.get((node, i)), torch.Tensor):
                assert tuple(made[node, i].shape) == meta.shape, node


class Counter(nn.Module):
    """Runs Python that no symbolic trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        self.calls = []

    def forward(self, x):
        for name in sorted(self.layers, key=lambda name: -ord(name)):
            self.calls.append(name)
            x = self.layers[name](x)
            if x.shape[0] > len(self.calls):
                x = x + float(len(self.calls))
        return {"x": x, "n": 3}


def test_any_python():
    model = Counter()
    graph = ta.capture(model, torch.zeros(2, 4), frontend="trace")
    assert [name for name, _ in op_nodes(graph)] == ["layers/b/linear", "add", "layers/a/linear"]
    assert "output/x" in graph
    assert all(parameter.grad is None for parameter in model.parameters())


def test_buffers_stay_as_they_are():
    model = nn.BatchNorm1d(4)
    graph = ta.capture(model, torch.randn(8, 4), frontend="trace")
    assert int(model.num_batches_tracked) == 0
    writes = {name: node["writes"] for name, node in op_nodes(graph) if "writes" in node}
    assert writes["batch_norm"] == ("running_mean", "running_var")


def test_a_shape_that_changes_in_place():
    def model(x):
        y = x * 2
        z = y + 1
        y.t_()
        y.unsqueeze_(0)
        return z, y.sin()

    example = torch.zeros(2, 3)
    graph = ta.capture(model, example, frontend="trace")
    assert ta.to_text(graph) == ta.to_text(ta.capture(model, example))
    assert graph.nodes["mul"]["outputs"][0].shape == (2, 3)
    assert graph.nodes["sin"]["outputs"][0].shape == (1, 3, 2)


def test_errors():
    with pytest.raises(InputError, match="raises on this example"):
        ta.capture(nn.Linear(3, 3), torch.zeros(2, 4), frontend="trace")
    with pytest.raises(UsageError, match="makes sizes symbolic"):
        ta.capture(nn.Linear(3, 3), torch.zeros(2, 3), frontend="trace", dynamic=["batch"])
