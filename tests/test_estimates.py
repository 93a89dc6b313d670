"""Estimates without the device, against numbers derived by hand; the A100's are in the names."""

from __future__ import annotations

import math

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchatlas as ta
from estimating import A100, BANDWIDTH, BFLOAT16, BIG, FLOAT32, SQUARE, Function, meta_graph
from torchatlas.annotations.achieved import achieved
from torchatlas.devices import Device
from torchatlas.errors import GraphError, UsageError
from torchatlas.estimates.dtypes import retyped
from torchatlas.graph import op_nodes

# -- measured devices ----------------------------------------------------------------------


def device(**more):
    return Device("mine", {"float32": 1e12}, {"float32": 1e12}, bandwidth=1e9, **more)


def test_what_was_touched_shortly_before_comes_from_the_cache():
    chain = nn.Sequential(nn.MaxPool2d(1), nn.MaxPool2d(1), nn.MaxPool2d(1))
    graph = meta_graph(chain, (1, 1, 512, 512))  # three kernels; 1 MiB in, 1 MiB out
    mega = 2**20
    plain = ta.estimate(graph, device())
    assert plain.us == pytest.approx(6 * mega / 1e9 * 1e6)
    # Everything stays, in one run after another.
    large = ta.estimate(graph, device(cache=64 * mega, cache_bandwidth=1e10))
    assert large.us == pytest.approx(6 * mega / 1e10 * 1e6)
    # What one kernel writes the next finds; the input is gone when the next run begins.
    small = ta.estimate(graph, device(cache=3 * mega, cache_bandwidth=1e10))
    assert small.us == pytest.approx((1 / 1e9 + 5 / 1e10) * mega * 1e6)
    # One tensor alone does not fit.
    tiny = ta.estimate(graph, device(cache=mega // 2, cache_bandwidth=1e10))
    assert tiny.us == pytest.approx(plain.us)
    assert "stay in a cache" in str(large) and "nothing stays in a cache" in str(plain)


def test_weights_come_from_memory_where_all_that_is_touched_is_more_than_the_cache():
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(8)))
    graph = meta_graph(model, (1, 512))
    weights, part = 8 * 512 * 512 * 4, 512 * 512 * 4
    cold = ta.estimate(graph, device(cache=weights // 2, cache_bandwidth=1e11))
    assert cold.us > weights / 1e9 * 1e6
    warm = ta.estimate(graph, device(cache=2 * weights, cache_bandwidth=1e11))
    assert warm.us < part / 1e9 * 1e6


def test_exponentials_take_their_time():
    graph = meta_graph(lambda x: torch.exp(x) + 1, SQUARE)
    slow = ta.estimate(graph, device(special=1e8))
    assert slow.us == pytest.approx((4096**2 / 1e8 + 2 * 4096**2 / 1e12) * 1e6)
    assert slow.bounds.keys() == {"compute"}
    assert ta.estimate(graph, device()).bounds.keys() == {"memory"}


def test_exponentials_are_no_part_of_the_utilisation_of_contractions():
    attention = F.scaled_dot_product_attention
    graph = ta.capture(Function(lambda q: attention(q, q, q)), torch.zeros(1, 2, 64, 32))
    (node,) = (node for _, node in op_nodes(graph) if node["flops"])
    node["latency_us"] = 100.0
    shares = [achieved(graph, device(**more)).total.mfu for more in ({}, {"special": 1e6})]
    assert shares[0] == shares[1] == pytest.approx(node["flops"] / 1e12 / 100e-6)


def test_small_products_run_at_their_own_rate():
    graph = meta_graph(lambda x, y: (x @ x, y @ y), SQUARE, (64, 64))
    products = {"float32": ((2.0 * 64**3, 1e9), (2.0 * 4096**3, 1e12))}
    found = ta.estimate(graph, device(products=products))
    apart = [step.us for step in found.steps]
    assert apart == pytest.approx([2 * 4096**3 / 1e12 * 1e6, 2 * 64**3 / 1e9 * 1e6])
    assert "a product runs as fast as a square one" in str(found)
    # A roofline is a limit, whatever the size.
    limited = ta.annotate(graph.copy(), roofline=device(products=products))
    assert limited.nodes["matmul_1"]["roofline_us"] < 100


def test_a_depthwise_convolution_runs_at_the_vector_rate():
    kinds = Device("g", {"float32": 1e14}, {"float32": 1e11}, bandwidth=1e13)

    def us(groups):
        convolution = nn.Conv2d(64, 64, 7, padding=3, groups=groups, bias=False)
        graph = meta_graph(convolution, (1, 64, 56, 56))
        return ta.estimate(graph, kinds).us

    flops = 2 * 64 * 56 * 56 * 49
    assert us(64) == pytest.approx(flops / 1e11 * 1e6)
    assert us(1) == pytest.approx(64 * flops / 1e14 * 1e6)
    assert us(32) == pytest.approx(2 * flops / 1e14 * 1e6)


def test_convolutions_and_thin_products_run_at_the_rates_of_their_shape():
    rates = {
        "spatial": {"float32": ((64, 1e6, 1e10), (64, 1e8, 4e10))},
        "pointwise": {"float32": ((32, 1e6, 1e10), (128, 1e6, 4e10))},
        "depthwise": {"float32": ((9, 1e6, 1e9), (25, 1e6, 4e9))},
        "product": {"float32": ((1, 1e6, 1e9), (16, 1e6, 8e9))},
    }
    mine = Device("mine", {"float32": 1e12}, {"float32": 1e12}, bandwidth=1e13, by_shape=rates)

    def us(layer, *shape):
        return ta.estimate(meta_graph(layer, shape), mine).us

    def conv(*sizes, **options):
        return nn.Conv2d(*sizes, bias=False, **options)

    image = (1, 64, 10, 10)
    # 2 x 64 x 64 x 9 x 100 = 7.4 MFLOP: between the two sizes, on a line between logarithms.
    flops = 2 * 64 * 64 * 9 * 100
    rate = 1e10 * 4 ** (math.log(flops / 1e6) / math.log(100))
    assert us(conv(64, 64, 3, padding=1), *image) == pytest.approx(flops / rate * 1e6)
    # 64 channels in the (geometric) mean: halfway between 32 and 128.
    assert us(conv(64, 64, 1), *image) == pytest.approx(2 * 64 * 64 * 100 / 2e10 * 1e6)
    assert us(conv(32, 128, 1), 1, 32, 10, 10) == pytest.approx(2 * 64 * 64 * 100 / 2e10 * 1e6)
    flops = 2 * 64 * 100 * 25
    assert us(conv(64, 64, 5, padding=2, groups=64), *image) == pytest.approx(flops / 4e9 * 1e6)
    # 4 rows of 512 features lie halfway between 1 and 16.
    flops = 2 * 4 * 512 * 512
    assert us(nn.Linear(512, 512, bias=False), 4, 512) == pytest.approx(flops / 8e18**0.5 * 1e6)
    flops = 2 * 64 * 512 * 512
    assert us(nn.Linear(512, 512, bias=False), 4, 16, 512) == pytest.approx(flops / 8e9 * 1e6)
    # In another type nothing was measured: the peak, for depthwise ones the vector rate.
    fast = Device("x", {"float64": 1e11}, {"float64": 1e9}, bandwidth=1e12, by_shape=rates)
    deep = meta_graph(conv(64, 64, 5, padding=2, groups=64), image)
    found = ta.estimate(deep, fast, dtype="float64")
    assert found.us == pytest.approx(2 * 64 * 100 * 25 / 1e9 * 1e6)
    assert "spatial, pointwise, depthwise, product" in str(found)
    # A roofline is a limit, whatever the shape.
    limited = ta.annotate(meta_graph(conv(64, 64, 3), image), roofline=mine)
    (node,) = (node for _, node in op_nodes(limited))
    assert node["roofline_us"] == pytest.approx(node["flops"] / 1e12 * 1e6)


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
