"""The least time of ops on a device, against numbers derived by hand.

The A100 has 19.5 TFLOP/s in float32, 156 in TF32, 312 in bfloat16, and 2039 GB/s.
"""

from __future__ import annotations

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
import torchatlas as ta
from torchatlas.annotations import critical_path
from torchatlas.annotations.roofline import roofline, total_us
from torchatlas.devices import Device
from torchatlas.errors import GraphError, UsageError
from torchatlas.exporters.json_graph import parse_graph, render
from torchatlas.graph import op_nodes

A100 = "NVIDIA A100-SXM4-80GB"
BANDWIDTH, LAUNCH = 2039e9, 3.8


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


def timed(model, *example, device=A100, **options):
    graph = ta.capture(model, example)
    return ta.annotate(graph, roofline=device, **options)


def only(graph, op):
    (found,) = (node for _, node in op_nodes(graph) if node["op"] == op)
    return found


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


# dtype of the product, TF32, FLOP/s
RATES = [
    (torch.float32, False, 19.5e12),
    (torch.float32, True, 156e12),
    (torch.bfloat16, False, 312e12),
    (torch.float16, True, 312e12),
    (torch.float64, False, 19.5e12),
]


@pytest.mark.parametrize(("dtype", "tf32", "rate"), RATES, ids=str)
def test_a_linear_layer_computes_at_the_rate_of_its_data_type(dtype, tf32, rate):
    layer = nn.Linear(4096, 8192, device="meta", dtype=dtype)
    node = only(timed(layer, meta(4096, 4096, dtype=dtype), tf32=tf32), "aten.linear")
    assert node["roofline_us"] == pytest.approx(2 * 4096 * 4096 * 8192 / rate * 1e6)
    assert node["bound"] == "compute"


def test_a_thin_product_is_bound_by_reading_its_weight():
    layer = nn.Linear(8192, 8192, bias=False, device="meta", dtype=torch.bfloat16)
    node = only(timed(layer, meta(1, 8192, dtype=torch.bfloat16)), "aten.linear")
    moved = 2 * (8192 * 8192 + 8192 + 8192)
    assert node["roofline_us"] == pytest.approx(moved / BANDWIDTH * 1e6)  # 65.8 us
    assert node["bound"] == "memory"


def test_a_convolution():
    layer = nn.Conv2d(256, 512, 3, padding=1, bias=False, device="meta")
    node = only(timed(layer, meta(32, 256, 28, 28)), "aten.conv2d")
    flops = 2 * 32 * 512 * 28 * 28 * 256 * 9
    assert node["roofline_us"] == pytest.approx(flops / 19.5e12 * 1e6)  # 3 ms
    assert node["bound"] == "compute"


def test_an_addition_and_a_norm_are_bound_by_memory():
    graph = timed(Function(torch.add), meta(4096, 4096), meta(4096, 4096))
    node = only(graph, "aten.add")
    assert node["roofline_us"] == pytest.approx(3 * 4 * 4096 * 4096 / BANDWIDTH * 1e6)  # 98.7 us
    assert node["bound"] == "memory"
    norm = only(timed(nn.LayerNorm(4096, device="meta"), meta(4096, 4096)), "aten.layer_norm")
    moved = 4 * (2 * 4096 * 4096 + 2 * 4096)
    assert norm["roofline_us"] == pytest.approx(moved / BANDWIDTH * 1e6)  # 65.8 us
    assert norm["bound"] == "memory"


def test_a_small_op_takes_a_launch_and_a_view_nothing():
    graph = timed(Function(lambda x: x.view(-1).relu()), meta(2, 8))
    assert only(graph, "aten.relu")["roofline_us"] == LAUNCH
    assert only(graph, "aten.relu")["bound"] == "launch"
    assert only(graph, "aten.view")["roofline_us"] == 0.0
    assert "bound" not in only(graph, "aten.view")


def test_dropout_outside_training_launches_nothing():
    graph = timed(nn.Dropout().eval(), meta(512, 512))
    assert ta.totals(graph).roofline_us == 0.0


def test_pointwise_work_counts_at_the_vector_rate():
    # 1e12 B/s, so that the operations of a normalisation take longer than its bytes.
    slow = Device("slow", {"float32": 1e15}, {"float32": 1e9}, bandwidth=1e12)
    graph = timed(nn.Softmax(-1), meta(64, 1024), device=slow)
    node = only(graph, "aten.softmax")
    assert node["roofline_us"] == pytest.approx(5 * 64 * 1024 / 1e9 * 1e6)
    assert node["bound"] == "compute"


def test_matrix_and_vector_units_work_side_by_side():
    device = Device("x", {"float32": 1e9}, {"float32": 1e6}, bandwidth=1e15)
    node = only(timed(nn.Linear(8, 4, device="meta"), meta(2, 8), device=device), "aten.linear")
    assert node["flops"] == 128 and node["flops_other"] == 8
    assert node["roofline_us"] == pytest.approx(max(128 / 1e9, 8 / 1e6) * 1e6)


def test_under_autocast_a_product_runs_in_the_narrow_type():
    def product(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ y

    graph = timed(Function(product), torch.zeros(2048, 2048), torch.zeros(2048, 2048))
    node = only(graph, "aten.matmul")
    assert node["roofline_us"] == pytest.approx(2 * 2048**3 / 312e12 * 1e6)


def test_integer_products_run_at_the_rate_of_int8():
    x = torch.zeros(2048, 2048, dtype=torch.int8)
    graph = timed(Function(torch._int_mm), x, x)
    node = only(graph, "aten._int_mm")
    assert node["roofline_us"] == pytest.approx(2 * 2048**3 / 624e12 * 1e6)
    h100 = timed(Function(torch._int_mm), x, x, device="T4")
    assert only(h100, "aten._int_mm")["bound"] == "compute"


def test_a_rate_that_nobody_knows_gives_no_time():
    layer = nn.Linear(64, 64, device="meta", dtype=torch.bfloat16)
    graph = timed(nn.Sequential(layer, nn.ReLU()), meta(2, 64, dtype=torch.bfloat16), device="T4")
    assert only(graph, "aten.linear")["roofline_us"] is None
    assert "bound" not in only(graph, "aten.linear")
    found = ta.totals(graph)
    assert found.roofline_us == LAUNCH  # the ReLU's
    assert found.untimed == {"aten.linear": 1}
    assert "3.8 µs without 1 ops at the roofline" in str(found)
    assert "3.8 µs +?" in str(graph.summary(columns=["roofline"]))


def test_an_op_that_nobody_counts_gives_no_time():
    graph = timed(nn.Linear(64, 64), torch.zeros(2, 64))
    graph.nodes["linear"]["flops"] = None
    roofline(graph, A100)
    assert graph.nodes["linear"]["roofline_us"] is None
    assert total_us(graph) is None


def test_symbolic_costs_have_to_be_bound_first():
    graph = ta.capture(nn.Linear(64, 64), torch.zeros(2, 64), dynamic=["batch"])
    with pytest.raises(GraphError, match="its costs depend on batch") as caught:
        ta.annotate(graph, roofline=A100)
    assert caught.value.node == "linear" and "torchatlas.bind(" in caught.value.hint
    bound = ta.annotate(ta.bind(graph, batch=2**20), roofline=A100)
    assert bound.nodes["linear"]["roofline_us"] == pytest.approx(2**21 * 64 * 64 / 19.5e12 * 1e6)


def test_unknown_devices_and_graphs_without_costs_are_refused():
    graph = ta.capture(nn.ReLU(), torch.zeros(2, 8))
    with pytest.raises(UsageError, match="torchatlas calibrate"):
        ta.annotate(graph, roofline="Voodoo 2")
    with pytest.raises(GraphError, match="stands for ops that were collapsed"):
        roofline(ta.collapse(graph, depth=0), A100)
    del graph.nodes["relu"]["flops"]
    with pytest.raises(GraphError, match="'flops' has not been computed"):
        roofline(graph, A100)


def test_another_device_leaves_nothing_of_the_first():
    graph = timed(nn.ReLU(), torch.zeros(2, 8))
    assert graph.graph["roofline_device"] == "A100 SXM 80GB"
    assert only(graph, "aten.relu")["bound"] == "launch"
    roofline(graph, Device("mine", {}, {}, bandwidth=1e9))
    assert graph.graph["roofline_device"] == "mine"
    assert only(graph, "aten.relu")["roofline_us"] is None  # it has no vector rate
    assert "bound" not in only(graph, "aten.relu")


def test_times_grow_with_the_batch():
    times = []
    for batch in (1, 2, 8, 64, 512):
        graph = timed(models.Tiny().eval(), torch.zeros(batch, 3, 32, 32))
        times.append(ta.totals(graph).roofline_us)
    assert times == sorted(times) and times[0] < times[-1]


@pytest.mark.parametrize("name", models.SMALL)
def test_every_small_model_has_times_that_fit_the_schema(name, captured):
    graph = captured(name).copy()
    ta.annotate(graph, roofline="NVIDIA H200")
    ta.validate(graph)
    for _, node in op_nodes(graph):
        assert node["roofline_us"] is None or node["roofline_us"] >= 0
    assert nx.utils.graphs_equal(graph, parse_graph(render(graph)))


def test_modules_add_up_and_collapse_keeps_the_sum():
    graph = timed(models.Tiny().eval(), torch.zeros(64, 3, 64, 64))
    whole = ta.totals(graph).roofline_us
    assert whole == pytest.approx(total_us(graph)) and whole > 0
    small = ta.collapse(graph, depth=1)
    ta.validate(small)
    assert ta.totals(small).roofline_us == pytest.approx(whole)
    table = str(graph.summary(columns=["roofline"], sort="roofline"))
    rows = [line.split() for line in table.splitlines()[1:] if line.endswith("s")]
    assert len(rows) >= 4
    plain = ta.capture(models.Tiny(), torch.zeros(2, 3, 8, 8))
    assert ta.totals(plain).roofline_us is None
    assert "µs" not in str(plain.summary(columns=["roofline"]))


# -- control flow --------------------------------------------------------------------------


def test_a_branch_takes_what_the_longer_body_takes():
    def choose(x):
        return torch.cond(x.sum() > 0, lambda x: x @ x, lambda x: x + 1, (x,))

    node = only(timed(Function(choose), torch.zeros(1024, 1024)), "higher_order.cond")
    bodies = {key: total_us(body) for key, body in node["subgraphs"].items()}
    assert len(bodies) == 2 and min(bodies.values()) < max(bodies.values())
    assert node["roofline_us"] == max(bodies.values())
    assert max(bodies.values()) == pytest.approx(2 * 1024**3 / 19.5e12 * 1e6)


def test_a_loop_takes_its_body_as_often_as_it_runs():
    from torch._higher_order_ops.scan import scan

    def repeat(x):
        return scan(lambda carry, x: (carry + x, carry * x), x[0], x)

    node = only(timed(Function(repeat), torch.zeros(7, 512)), "higher_order.scan")
    (body,) = node["subgraphs"].values()
    assert node["trips"] == 7
    assert node["roofline_us"] == pytest.approx(7 * total_us(body)) and total_us(body) >= 2 * LAUNCH


# -- paths ---------------------------------------------------------------------------------


class Branches(nn.Module):
    """A short branch and a long one, added."""

    def __init__(self):
        super().__init__()
        self.short = nn.Linear(512, 512)
        self.long = nn.Sequential(nn.Linear(512, 8192), nn.Linear(8192, 512))

    def forward(self, x):
        return self.short(x) + self.long(x)


def test_the_critical_path_goes_through_the_longer_branch():
    graph = timed(Branches().to("meta"), meta(4096, 512))
    path = critical_path(graph)
    assert path == ["long/0/linear", "long/1/linear", "add"]
    along = sum(graph.nodes[name]["roofline_us"] for name in path)
    apart = graph.nodes["short/linear"]["roofline_us"]
    assert along + apart == pytest.approx(ta.totals(graph).roofline_us)


def test_the_critical_path_by_another_key():
    graph = ta.capture(Branches(), torch.zeros(4, 512))
    with pytest.raises(GraphError, match="no node has 'roofline_us'"):
        critical_path(graph)
    assert critical_path(graph, key="flops_other")[-1] == "add"


def test_attention_is_bound_by_computing_and_its_decode_by_memory():
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    half = torch.bfloat16
    long = meta(4, 32, 4096, 128, dtype=half)
    node = only(timed(Function(attend), long, long, long), "aten.scaled_dot_product_attention")
    assert node["bound"] == "compute"
    assert node["roofline_us"] >= 2 * 4 * 32 * 4096 * 4096 * 256 / 312e12 * 1e6
    graph = timed(Function(attend), meta(4, 32, 1, 128, dtype=half), long, long)
    assert only(graph, "aten.scaled_dot_product_attention")["bound"] == "memory"
