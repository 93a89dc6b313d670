"""The fx front end sees the same ops under the same ids as the reference."""

from __future__ import annotations

import pytest
import torch

import models
import torchatlas as ta

TRACEABLE = ["tiny", "residual", "attention", "lstm", "resnet18", "mobilenet_v3_large"]


@pytest.mark.parametrize("name", TRACEABLE)
def test_same_ids_shapes_and_costs_as_export(name, captured):
    model, example = models.make(name)
    graph, expected = ta.capture(model, example, frontend="fx"), captured(name)
    ta.validate(graph)
    assert graph.graph["frontend"] == "fx"
    ids = {n for n, node in graph.nodes(data=True) if node["kind"] == "op"}
    wanted = {n for n, node in expected.nodes(data=True) if node["kind"] == "op"}
    # torch.fx runs what does not depend on the input once, while it traces.
    assert ids <= wanted
    assert {expected.nodes[n]["op"] for n in wanted - ids} <= {"aten.zeros"}
    for node in ids:
        # torch.fx records `x += y` as x + y.
        assert graph.nodes[node]["op"].rstrip("_") == expected.nodes[node]["op"].rstrip("_")
        for key in ("outputs", "flops", "module", "module_type"):
            assert graph.nodes[node][key] == expected.nodes[node][key], (node, key)
    assert ta.totals(graph).params == ta.totals(expected).params
    assert ta.totals(graph).macs == ta.totals(expected).macs


def test_parameters_that_the_trace_leaves_out_are_kept():
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    graph = ta.capture(Half(), torch.ones(1, 2), frontend="fx")
    assert ta.totals(graph).params == 2 * 2 + 2 + 3 * 3 + 3
    assert graph.degree("unused/weight") == 0
