"""Runs of ops that are one kernel: what they are, what they move, and that they can run."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
import torchatlas as ta
from estimating import A100, BANDWIDTH, BIG, LAUNCH, SQUARE, Function, meta_graph
from torchatlas.estimates.fusion import Fusion, is_pointwise
from torchatlas.graph import op_nodes


def runs(graph):
    return list(Fusion(graph).runs.values())


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


def test_a_result_with_two_readers_is_made_once():
    def fork(x):
        y = torch.relu(x)
        return torch.exp(y), torch.sin(y)

    graph = meta_graph(fork, SQUARE)
    assert runs(graph) == [("relu", "exp", "sin")]
    assert ta.estimate(graph, A100).steps[0].nbytes == 3 * BIG  # x in, two out


def test_a_result_that_a_product_reads_too_is_written():
    graph = meta_graph(lambda x: (torch.relu(x) @ x, torch.exp(torch.relu(x))), SQUARE)
    assert runs(graph) == [("relu_1", "exp")]

    def shared(x):
        y = torch.relu(x)
        return y @ y, torch.exp(y)

    graph = meta_graph(shared, SQUARE)
    assert runs(graph) == [("relu", "exp")]
    by_name = {step.node: step for step in ta.estimate(graph, A100).steps}
    assert by_name["exp"].nbytes == 3 * BIG  # x in; y and its exponential out


def test_branches_join_in_one_run():
    graph = meta_graph(lambda x, y: torch.exp(x) + torch.sin(y), SQUARE, SQUARE)
    assert runs(graph) == [("exp", "sin", "add")]


def test_a_result_of_the_model_is_written():
    def both(x):
        y = torch.relu(x)
        return y, torch.exp(y)

    graph = meta_graph(both, SQUARE)
    assert runs(graph) == [("relu", "exp")]
    assert ta.estimate(graph, A100).steps[0].nbytes == 3 * BIG


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x.sum(0, keepdim=True),
        lambda x: x.sum() + x,
        lambda x: torch.softmax(x, 0),
        lambda x: x @ x,
        lambda x: x.cumsum(0),
    ],
    ids=["sum", "total", "softmax", "matmul", "cumsum"],
)
def test_products_and_reductions_of_columns_are_no_part_of_a_run(middle):
    graph = meta_graph(lambda x: torch.exp(middle(torch.relu(x))), SQUARE)
    assert not any({"relu", "exp"} <= set(run) for run in runs(graph))


@pytest.mark.parametrize(
    ("middle", "name", "read"),
    [
        (lambda x: torch.softmax(x, -1), "softmax", 2),
        (lambda x: F.layer_norm(x, (4096,)), "layer_norm", 2),
        (lambda x: F.rms_norm(x, (4096,)), "rms_norm", 2),
        (lambda x: x.mean(-1, keepdim=True), "mean", 1),
    ],
    ids=["softmax", "layer_norm", "rms_norm", "mean"],
)
def test_a_reduction_of_rows_is_one_pass_with_what_is_around_it(middle, name, read):
    graph = meta_graph(lambda x: torch.exp(middle(torch.relu(x))), SQUARE)
    assert runs(graph) == [("relu", name, "exp")]
    moved = ta.estimate(graph, A100).steps[0].nbytes
    assert moved == (read * BIG if read == 2 else BIG + 4096 * 4)


def test_a_norm_in_parts_is_one_pass():
    def norm(x, weight):
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    graph = meta_graph(norm, SQUARE, (4096,))
    (run,) = runs(graph)
    assert run == ("pow", "mean", "add", "rsqrt", "mul", "mul_1")
    assert ta.estimate(graph, A100).steps[0].nbytes == 2 * BIG + 4096 * 4


def test_a_sum_and_its_norm_are_one_pass_that_writes_both():
    def block(x, y):
        z = x + y
        return z, F.layer_norm(z, (4096,))

    graph = meta_graph(block, SQUARE, SQUARE)
    assert runs(graph) == [("add", "layer_norm")]
    assert ta.estimate(graph, A100).steps[0].nbytes == 4 * BIG


def test_embeddings_and_their_norm_are_one_pass_over_what_is_gathered():
    words, places = nn.Embedding(30000, 1024), nn.Embedding(512, 1024)
    model = Function(lambda ids: F.layer_norm(words(ids) + places(ids % 512), (1024,)))
    model.parts = nn.ModuleList([words, places])
    graph = ta.capture(model, torch.zeros(8, 128, dtype=torch.long))
    (run,) = runs(graph)
    assert run[-1] == "layer_norm" and {graph.nodes[n]["op"] for n in run} >= {"aten.embedding"}
    *_, step = ta.estimate(graph, A100).steps  # after the one that makes the places
    # Rows of words as often as they are gathered, of places all 512 there are; and one result.
    rows, ids = 8 * 128 * 1024 * 4, 8 * 128 * 8
    assert 2 * rows + 512 * 1024 * 4 <= step.nbytes + ids <= 2 * rows + 512 * 1024 * 4 + 4 * ids


def test_a_gather_reads_what_another_kernel_has_written():
    def pick(x, ids):
        return torch.exp(torch.gather(torch.relu(x), 0, ids))

    graph = ta.capture(Function(pick), (torch.zeros(64, 8), torch.zeros(4, 8, dtype=torch.long)))
    assert runs(graph) == [("gather", "exp")]


def test_a_rotary_embedding_is_one_pass():
    def rotary(q, cos, sin):
        half = q.shape[-1] // 2
        turned = torch.cat([-q[..., half:], q[..., :half]], -1)
        return q * cos + turned * sin

    shape = (8, 1024, 128)
    graph = meta_graph(rotary, shape, (1024, 128), (1024, 128))
    assert [set(run) for run in runs(graph)] == [{"neg", "cat", "mul", "mul_1", "add"}]
    (step,) = ta.estimate(graph, A100).steps
    assert step.nbytes == 2 * 8 * 1024 * 128 * 4 + 2 * 1024 * 128 * 4  # q once, though in parts


def test_many_tensors_are_put_together_by_a_kernel_of_its_own():
    many = meta_graph(lambda x: torch.cat([torch.relu(x)] * 9), (64, 64))
    assert runs(many) == []


def test_rows_of_other_lengths_do_not_go_into_one_loop():
    def two(x):
        y = F.layer_norm(x, (4096,))
        return torch.softmax(y.view(4096, 64, 64), -1)

    assert runs(meta_graph(two, SQUARE)) == []
    part = meta_graph(lambda x: torch.tanh(F.layer_norm(x, (4096,))[:, 0]), SQUARE)
    assert runs(part) == []


def test_a_kernel_does_not_need_what_needs_it():
    def residual(x):
        y = torch.relu(x)
        return torch.exp(y @ x + y)

    # The product needs y, so that the sum, which needs the product, is a kernel after it.
    assert runs(meta_graph(residual, SQUARE)) == [("add", "exp")]

    def crossed(x):
        a, b = torch.relu(x), torch.tanh(x)
        return (a @ x) + b, (b @ x) + a

    graph = meta_graph(crossed, SQUARE)
    assert_in_order(graph)


def assert_in_order(graph):
    """Check that the kernels of a graph can run one after the other."""
    fusion, plain = Fusion(graph), nx.DiGraph(graph.edges)
    for view in fusion._origin:  # a view runs when it is read
        plain.add_edges_from(
            [(a, b) for a in plain.predecessors(view) for b in plain.successors(view)]
        )
        plain.remove_node(view)
    kernel = {name: last for last, run in fusion.runs.items() for name in run}
    between = ((kernel.get(a, a), kernel.get(b, b)) for a, b in plain.edges)
    joined = nx.DiGraph((a, b) for a, b in between if a != b)
    assert nx.is_directed_acyclic_graph(joined)


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
    assert_in_order(graph)
