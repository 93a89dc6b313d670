"""Measured times beside the device's limits, by hand; the times here are made up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas.annotations.achieved import achieved
from torchatlas.errors import GraphError, UsageError
from torchatlas.graph import op_nodes

A100 = "NVIDIA A100-SXM4-80GB"


def measured(times, dtype=torch.float32, **options):
    model = nn.Sequential(nn.Linear(4096, 4096, device="meta", dtype=dtype), nn.ReLU())
    graph = ta.capture(model, torch.zeros(4096, 4096, device="meta", dtype=dtype), **options)
    for name, us in times.items():
        graph.nodes[name]["latency_us"] = us
    return graph


BOTH = {"0/linear": 1000.0, "1/relu": 200.0}
FLOPS = 2 * 4096**3
MIB64 = 64 * 2**20


def test_rates_of_nodes_modules_and_the_whole():
    found = achieved(measured(BOTH, torch.bfloat16), A100)
    linear, relu = found.nodes["0/linear"], found.nodes["1/relu"]
    assert linear.flops_per_second == pytest.approx(FLOPS / 1e-3)
    assert linear.mfu == pytest.approx(FLOPS / 312e12 / 1e-3)  # 44 %
    assert relu.mfu == 0.0
    assert relu.bandwidth_share == pytest.approx(MIB64 / 2039e9 / 200e-6)  # 16 %
    assert relu.roofline_share == pytest.approx(relu.bandwidth_share)
    assert linear.roofline_share == pytest.approx(linear.mfu)
    assert found.modules["0"] == linear and found.modules["1"] == relu
    assert found.total == found.modules[""]
    assert found.total.us == 1200.0
    assert found.total.mfu == pytest.approx(FLOPS / 312e12 / 1.2e-3)


def test_the_measured_median_of_the_whole_comes_before_the_sum():
    from torchatlas.schema import Measured

    graph = measured(BOTH)
    graph.graph["measured"] = Measured("cuda:0", A100, 1500.0, 1.0, 1510.0, 300.0, 10, 10)
    found = achieved(graph)
    assert found.total.us == 1500.0 and found.modules[""].us == 1200.0
    assert found.total.mfu == pytest.approx(FLOPS / 19.5e12 / 1.5e-3)


def test_with_tf32_the_same_rate_is_a_smaller_share():
    plain, fast = (achieved(measured(BOTH), A100, tf32=tf32).total for tf32 in (False, True))
    assert plain.flops_per_second == fast.flops_per_second
    assert plain.mfu == pytest.approx(8 * fast.mfu)


def test_a_rate_that_nobody_knows_makes_shares_unknown():
    found = achieved(measured(BOTH, torch.bfloat16), "T4")
    assert found.nodes["0/linear"].mfu is None and found.total.mfu is None
    assert found.nodes["1/relu"].roofline_share is not None
    assert found.total.roofline_share is None
    assert found.total.bandwidth_share > 0


def test_only_what_was_measured_counts():
    found = achieved(measured({"1/relu": 200.0}), A100)
    assert list(found.nodes) == ["1/relu"] and found.total.operations == 0


def test_operations_that_nobody_counts_are_not_zero():
    graph = measured(BOTH)
    graph.nodes["0/linear"]["flops"] = None
    total = achieved(graph, A100).total
    assert total.operations is None and total.flops_per_second is None and total.mfu is None


def test_graphs_that_were_not_measured_or_have_symbols_are_refused():
    with pytest.raises(GraphError, match="no node has a measured time"):
        achieved(measured({}), A100)
    with pytest.raises(UsageError, match="the device is not said"):
        achieved(measured(BOTH))
    graph = ta.capture(nn.ReLU(), torch.zeros(2, 8), dynamic=["batch"])
    for _, node in op_nodes(graph):
        node["latency_us"] = 1.0
    with pytest.raises(GraphError, match="symbolic"):
        achieved(graph, A100)
