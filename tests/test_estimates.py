"""Estimates without the device, against numbers derived by hand; the A100's are in the names."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
import torchatlas as ta
from torchatlas.devices import Device
from torchatlas.errors import GraphError, UsageError
from torchatlas.estimates.dtypes import retyped
from torchatlas.estimates.fusion import Fusion, is_pointwise
from torchatlas.graph import op_nodes

A100 = "NVIDIA A100-SXM4-80GB"
FLOAT32, BFLOAT16, BANDWIDTH, LAUNCH = 19.5e12, 312e12, 2039e9, 3.8
BIG = 64 * 2**20
"""Bytes of a float32 tensor of 4096 x 4096."""


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def meta_graph(function, *shapes, **options):
    model = function if isinstance(function, nn.Module) else Function(function)
    example = tuple(torch.zeros(shape, device="meta") for shape in shapes)
    return ta.capture(model.to("meta"), example, **options)


SQUARE = (4096, 4096)


def runs(graph):
    return list(Fusion(graph).runs.values())


# -- fusion --------------------------------------------------------------------------------


def test_a_chain_of_pointwise_ops_is_one_pass():
    graph = meta_graph(lambda x, y: torch.tanh(F.gelu(x) * y) + 1, SQUARE, SQUARE)
    assert runs(graph) == [("gelu", "mul", "tanh", "add")]
    found = ta.estimate(graph, A100)
    (step,) = found.steps
    assert step.nbytes == 3 * BIG  # x and y in, one out
    assert found.us == pytest.approx(3 * BIG / BANDWIDTH * 1e6)
    assert found.unfused_us == pytest.approx((2 + 3 + 2 + 2) * BIG / BANDWIDTH * 1e6)
    assert (step.node, step.bound) == ("add", "memory")


def test_an_operand_that_enters_twice_is_read_once():
    graph = meta_graph(lambda x: torch.relu(x) * x, SQUARE)
    assert ta.estimate(graph, A100).steps[0].nbytes == 2 * BIG


def test_a_result_with_two_readers_is_written():
    def fork(x):
        y = torch.relu(x)
        return torch.exp(y), torch.sin(y)

    graph = meta_graph(fork, SQUARE)
    assert runs(graph) == []
    assert ta.estimate(graph, A100).us == ta.estimate(graph, A100, fuse=False).us


def test_branches_join_in_one_run():
    graph = meta_graph(lambda x, y: torch.exp(x) + torch.sin(y), SQUARE, SQUARE)
    assert runs(graph) == [("exp", "sin", "add")]


def test_a_result_of_the_model_is_written_and_ends_its_run():
    def both(x):
        y = torch.relu(x)
        return y, torch.exp(y)

    assert runs(meta_graph(both, SQUARE)) == []


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x.sum(0, keepdim=True),
        lambda x: torch.softmax(x, -1),
        lambda x: F.layer_norm(x, (4096,)),
        lambda x: x @ x,
        lambda x: x.cumsum(0),
    ],
    ids=["sum", "softmax", "layer_norm", "matmul", "cumsum"],
)
def test_products_and_reductions_are_no_part_of_a_run(middle):
    graph = meta_graph(lambda x: torch.exp(middle(torch.relu(x))), SQUARE)
    assert runs(graph) == []


def test_views_in_between_do_not_end_a_run():
    def gated(x):
        value, gate = x.chunk(2, -1)
        return value * torch.sigmoid(gate).view(4096, 2048)

    graph = meta_graph(gated, SQUARE)
    assert runs(graph) == [("sigmoid", "mul")]
    # Both halves of x are read, and half as much is written.
    assert ta.estimate(graph, A100).steps[0].nbytes == BIG + BIG // 2


def test_dropout_outside_training_neither_costs_nor_ends_a_run():
    chain = nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Tanh(), nn.Dropout()).eval()
    graph = meta_graph(chain, SQUARE)
    assert runs(graph) == [("0/relu", "2/tanh")]
    assert ta.estimate(graph, A100).us == pytest.approx(2 * BIG / BANDWIDTH * 1e6)
    trained = meta_graph(chain.train(), SQUARE)
    assert runs(trained) == [("0/relu", "1/dropout", "2/tanh", "3/dropout")]


def test_a_norm_with_given_statistics_is_pointwise():
    block = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    assert runs(meta_graph(block.eval(), (2, 8, 16, 16))) == [("1/batch_norm", "2/relu")]
    assert runs(meta_graph(block.train(), (2, 8, 16, 16))) == []


def test_an_op_in_place_on_what_the_caller_holds_is_written():
    def update(x, y):
        return torch.exp(x.add_(y))

    graph = meta_graph(update, SQUARE, SQUARE)
    assert runs(graph) == []
    fresh = meta_graph(lambda x, y: torch.exp((x + y).mul_(2)), SQUARE, SQUARE)
    assert runs(fresh) == [("add", "mul", "exp")]


def test_a_write_to_a_part_of_a_tensor_ends_a_run():
    def part(x):
        y = torch.relu(x)
        y[0].add_(1)
        return torch.exp(y)

    graph = meta_graph(part, SQUARE)
    assert all("add" not in run[:-1] for run in runs(graph))


def test_a_small_run_is_launched_once():
    graph = meta_graph(lambda x: torch.tanh(torch.exp(torch.sin(x))), (8,))
    found = ta.estimate(graph, A100)
    assert found.us == LAUNCH and found.unfused_us == pytest.approx(3 * LAUNCH)
    assert found.bounds == {"launch": LAUNCH}


def test_what_is_pointwise_is_told_by_tags_lists_and_arguments():
    graph = meta_graph(models.Tiny().eval(), (2, 3, 8, 8))
    pointwise = {node["op"] for _, node in op_nodes(graph) if is_pointwise(node)}
    assert pointwise == {"aten.batch_norm", "aten.relu_"}


MODELS = ["resnet18", "mobilenet_v3_large", "bert", "llama", "t5", *models.SMALL]


@pytest.mark.parametrize("name", MODELS)
def test_fusing_never_takes_longer_and_no_op_runs_twice(name, captured):
    graph = captured(name)
    found = ta.estimate(graph, "NVIDIA H200")
    assert 0 < found.us <= found.unfused_us
    nodes = [node for step in found.steps for node in step.nodes]
    assert len(nodes) == len(set(nodes))
    busy = ta.annotate(graph.copy(), roofline="NVIDIA H200")
    launched = {name for name, node in op_nodes(busy) if node["roofline_us"] != 0.0}
    assert launched <= set(nodes)
    assert found.unfused_us == pytest.approx(ta.totals(busy).roofline_us)
    assert found.modules[""] == pytest.approx(found.us)


# -- sizes, types, memory ------------------------------------------------------------------


def mlp():
    layers = nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)
    return meta_graph(nn.Sequential(*layers), (2, 1024), dynamic=["batch"])


def test_a_symbolic_graph_takes_a_batch_and_stays_as_it_is():
    graph = mlp()
    before = graph.copy()
    found = ta.estimate(graph, A100, batch=8192)
    product = 2 * 8192 * 1024 * 4096 / FLOAT32
    gelu = 2 * 4 * 8192 * 4096 / BANDWIDTH
    assert found.us == pytest.approx((2 * product + gelu) * 1e6)
    assert found.throughput == pytest.approx(8192 / (2 * product + gelu))
    assert nx.utils.graphs_equal(graph, before)


def test_another_data_type_changes_rates_and_bytes():
    found = ta.estimate(mlp(), A100, batch=8192, dtype="bfloat16")
    product = 2 * 8192 * 1024 * 4096 / BFLOAT16
    gelu = 2 * 2 * 8192 * 4096 / BANDWIDTH
    assert found.us == pytest.approx((2 * product + gelu) * 1e6)
    wide = ta.estimate(mlp(), A100, batch=8192)
    assert found.peak_bytes * 2 == wide.peak_bytes
    assert ta.estimate(mlp(), A100, batch=8192, dtype=torch.bfloat16).us == found.us


def test_times_and_memory_grow_with_the_batch():
    graph = mlp()
    found = [ta.estimate(graph, A100, batch=2**power) for power in range(0, 18, 3)]
    assert [e.us for e in found] == sorted(e.us for e in found)
    assert [e.peak_bytes for e in found] == sorted({e.peak_bytes for e in found})
    rates = [e.throughput for e in found]
    assert rates[0] < rates[-1]


def test_a_model_that_is_too_large_does_not_fit():
    graph = mlp()
    assert ta.estimate(graph, A100, batch=8).fits is True
    assert ta.estimate(graph, A100, batch=2**23).fits is False  # 128 GiB between the layers
    assert ta.estimate(graph, "cpu", batch=8).fits is None


def test_retyping_leaves_integers_and_takes_the_edges_along():
    graph = ta.capture(nn.Embedding(10, 8), torch.zeros(3, dtype=torch.long))
    half = ta.annotate(retyped(graph, "float16"))
    ta.validate(half)
    assert half.nodes["input"]["outputs"][0].dtype == "int64"
    assert half.nodes["weight"]["outputs"][0].dtype == "float16"
    assert half.edges["weight", "embedding"]["bytes"] == 10 * 8 * 2
    assert half.nodes["embedding"]["bytes_written"] == 3 * 8 * 2
    assert graph.nodes["weight"]["outputs"][0].dtype == "float32"


def test_retyping_reaches_the_bodies_of_control_flow():
    def choose(x):
        return torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: x + 1, (x,))

    half = retyped(ta.capture(Function(choose), torch.zeros(64, 64)), "bfloat16")
    (node,) = (node for _, node in op_nodes(half) if "subgraphs" in node)
    for body in node["subgraphs"].values():
        assert {m.dtype for _, n in body.nodes(data=True) for m in n["outputs"]} == {"bfloat16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "Voodoo 2", "batch": 8}, "torchatlas calibrate"),
        ({"device": A100}, r"needs a number for batch(.|\n)*batch=…"),
        ({"device": A100, "batch": 8, "seq": 4}, "no symbol 'seq'"),
        ({"device": A100, "batch": 0}, "is no size"),
        ({"device": A100, "batch": 8, "dtype": "int4"}, "no estimate in 'int4'"),
    ],
    ids=str,
)
def test_wrong_requests_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ta.estimate(mlp(), **options)


def test_a_graph_of_numbers_takes_no_batch():
    with pytest.raises(UsageError, match='dynamic=\\["batch"\\]'):
        ta.estimate(meta_graph(torch.relu, (8,)), A100, batch=8)


def test_a_graph_without_costs_is_refused():
    graph = meta_graph(torch.relu, (8,))
    del graph.nodes["relu"]["flops"]
    with pytest.raises(GraphError, match="'flops' has not been computed"):
        ta.estimate(graph, A100)


# -- how it reads --------------------------------------------------------------------------


def test_it_prints_times_modules_kernels_and_assumptions():
    text = str(ta.estimate(mlp(), A100, batch=8192, dtype="bfloat16"))
    assert text.startswith("Sequential on A100 SXM 80GB (batch=8192, bfloat16)\ntime    506 µs, ")
    assert "samples/s" in text and "compute" in text and "fits" in text
    assert "\nslowest kernels" in text and "\n0/linear  " in text and "\nassumes that\n- " in text
    assert "all floating-point tensors are in bfloat16" in text
    assert "Getting Started with CUDA Graphs" in text


def test_what_has_no_time_is_said():
    graph = meta_graph(nn.Linear(64, 64), (2, 64))
    found = ta.estimate(graph, "T4", dtype="bfloat16")  # it has no bfloat16
    assert found.us == 0.0 and found.throughput is None
    assert found.untimed == {"aten.linear": 1}
    assert "without aten.linear x1" in str(found)


def test_a_device_of_ones_own():
    mine = Device("mine", {"float32": 1e12}, {"float32": 1e12}, bandwidth=1e12, memory=2**30)
    found = ta.estimate(meta_graph(torch.relu, SQUARE), mine)
    assert found.us == pytest.approx(2 * BIG / 1e12 * 1e6)
    assert found.device is mine and found.fits
    assert "at least (as given)" in str(found)
