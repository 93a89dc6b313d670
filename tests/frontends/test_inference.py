"""A forward pass without gradients as kernels see it: what it computes, and its memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from peak_memory import tracked
from torchatlas.errors import CaptureError, InputError, UsageError
from torchatlas.frontends.metadata import value_meta
from torchatlas.frontends.replay import replay
from torchatlas.graph import op_nodes

NAMES = [
    "tiny",
    "residual",
    "shared_and_tied",
    "in_place_views",
    "attention",
    "lstm",
    "dataclasses",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_computes_what_the_model_does(name):
    model, example = models.make(name)
    graph = ta.capture(model, example, mode="inference")
    ta.validate(graph)
    seen = {}
    replay(graph.source, lambda node, values: seen.update({node: tuple(map(value_meta, values))}))
    if name != "lstm":  # a fake kernel returns an empty work space there, a real one None
        assert seen == {n: node["outputs"] for n, node in op_nodes(graph)}
    results = graph.source.run()
    found = [results[n] for n, node in graph.nodes(data=True) if node["kind"] == "output"]
    args, kwargs = example if isinstance(example, tuple) else ((example,), {})
    with torch.no_grad():
        returned = model(*args, **kwargs)
    if name == "dataclasses":
        returned = (returned.left, returned.right)
    wanted = torch.utils._pytree.tree_leaves(returned)
    wanted = [leaf for leaf in wanted if isinstance(leaf, torch.Tensor)]
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_it_is_what_kernels_run():
    model, example = models.make("tiny")
    graph = ta.capture(model, example, mode="inference")
    ops = [node["op"] for _, node in op_nodes(graph)]
    assert "aten.addmm" in ops and "aten.linear" not in ops
    assert {node["phase"] for _, node in op_nodes(graph)} == {"forward"}
    assert graph.graph["frontend"] == "inference" and ta.totals(graph).coverage == 1
    assert ta.totals(graph).macs == ta.totals(ta.capture(model, example)).macs


class Grows(nn.Module):
    """Holds on to what it concatenates, as a densely connected network does."""

    def forward(self, x):
        parts = [x.exp()]
        for _ in range(3):
            parts.append(torch.cat(parts).sum(0, keepdim=True).sin())
        return parts[-1]


def test_the_peak_is_that_of_an_eager_run():
    model, x = Grows(), torch.zeros(1, 256)
    inferred, recorded = (
        ta.totals(ta.capture(model, x, mode=mode)).peak_bytes for mode in ("forward", "inference")
    )
    assert recorded == tracked(model, (x,), "inference") > inferred


class Chooses(nn.Module):
    def forward(self, x):
        return x.sin() if x.sum() > 0 else x.cos()


def test_values_that_the_model_looks_at():
    graph = ta.capture(Chooses(), torch.ones(3), mode="inference")
    assert graph.graph["specialised"] and "sin" in graph
    with pytest.raises(CaptureError, match="Chooses could not be captured"):
        ta.capture(Chooses(), torch.ones(3, device="meta"), mode="inference")


def test_errors():
    with pytest.raises(InputError, match="raises on this example"):
        ta.capture(nn.Linear(2, 2), torch.zeros(3, 3), mode="inference")
    with pytest.raises(UsageError, match="symbolic"):
        ta.capture(nn.Linear(2, 2), torch.zeros(2, 2), mode="inference", dynamic=["batch"])
    with pytest.raises(UsageError, match="front end of its own"):
        ta.capture(nn.Linear(2, 2), torch.zeros(2, 2), mode="inference", frontend="fx")
    with pytest.raises(UsageError, match="needs a training step"):
        ta.capture(nn.Linear(2, 2), torch.zeros(2, 2), mode="inference", loss=torch.sum)
