"""Operators of torch's own database: each has a rule, and each count is right in kind.

`benchmarks/op_database.py` runs all of them; this is a fixed sample, and what a composite op costs
beside what it is made of.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("expecttest", reason="torch's operator database needs it")
op_database = pytest.importorskip("op_database")

from torchatlas.annotations import annotate  # noqa: E402
from torchatlas.sums import totals  # noqa: E402

DATABASE = {op_database.title(operator): operator for operator in op_database.op_db}

CHOSEN = (
    "cdist",
    "einsum",
    "fft.hfft2",
    "grid_sampler_2d",
    "linalg.cond",
    "linalg.householder_product",
    "linalg.lu_solve",
    "linalg.pinv",
    "linalg.qr",
    "masked_select",
    "native_layer_norm",
    "nn.functional.conv_transpose2d",
    "nn.functional.cross_entropy",
    "nn.functional.embedding_bag",
    "nn.functional.interpolate.bicubic",
    "nn.functional.multilabel_margin_loss",
    "nn.functional.scaled_dot_product_attention",
    "stft",
    "svd_lowrank",
    "unique",
)
"""Operators of every family of formulas; those that this torch lacks are left out."""

NEIGHBOURS = list(DATABASE)[::12]
SAMPLE = sorted({*NEIGHBOURS, *CHOSEN} & DATABASE.keys())


@pytest.mark.parametrize("name", SAMPLE)
def test_every_op_has_a_rule(name):
    report = op_database.check(DATABASE[name], limit=2)
    assert not report.unknown
    assert not report.errors
    assert not report.wrong


def test_most_of_the_sample_runs():
    without = [name for name in SAMPLE if not DATABASE[name].supported_dtypes("cpu")]
    assert len(without) < 5
    assert {"einsum", "stft"} <= set(SAMPLE)


def test_what_is_wrong_is_found():
    report = op_database.Report()
    sample, *_ = op_database.samples(DATABASE["linalg.qr"], torch.float32)
    call = op_database.prepare(DATABASE["linalg.qr"], sample)
    graph = op_database.graph_of(call, call.function, dispatched=False)
    (node,) = (node for _, node in graph.nodes(data=True) if node["kind"] == "op")
    node["op"] = "aten.mystery"
    op_database.count(graph, "as called", "linalg.qr", report)
    assert report.unknown == {("as called", "aten.mystery", "linalg.qr"): 1}
    assert not report.clean


# -- a composite op beside what it is made of --------------------------------------------------

COMPOSITES = (
    "addmm",
    "baddbmm",
    "bilinear",
    "chain_matmul",
    "einsum",
    "inner",
    "linalg.matrix_power",
    "linalg.multi_dot",
    "linalg.vecdot",
    "matmul",
    "nn.functional.bilinear",
    "nn.functional.conv1d",
    "nn.functional.conv2d",
    "nn.functional.conv_transpose1d",
    "nn.functional.conv_transpose2d",
    "nn.functional.linear",
    "nn.functional.scaled_dot_product_attention",
)


@pytest.mark.parametrize("name", [name for name in COMPOSITES if name in DATABASE])
def test_contractions_are_those_of_the_ops_that_it_becomes(name):
    for called, executed in _both(name, limit=6):
        assert called.macs == executed.macs


# How far the operations outside contractions may be apart: a fused op counts its formula's steps,
# and torch may take a few more when it writes the formula out.
FACTORS = {
    "cross": 1,
    "fft.fft": 1,
    "fft.hfft": 1,
    "fft.ihfft2": 1.2,
    "linalg.cond": 1,
    "linalg.det": 1.2,
    "linalg.inv": 1.1,
    "linalg.lu": 1,
    "linalg.qr": 1,
    "linalg.solve": 1.2,
    "log_softmax": 1,
    "logdet": 1.5,
    "nn.functional.cross_entropy": 1.2,
    "nn.functional.group_norm": 1.5,
    "nn.functional.layer_norm": 1.5,
    "nn.functional.mse_loss": 1,
    "nn.functional.pairwise_distance": 2,
    "nn.functional.scaled_dot_product_attention": 2,
    "softmax": 1,
    "stft": 1,
    "trapezoid": 1,
}


@pytest.mark.parametrize("name", [name for name in FACTORS if name in DATABASE])
def test_other_operations_are_near_those_of_the_ops_that_it_becomes(name):
    compared = 0
    for called, executed in _both(name, limit=6):
        small, large = sorted((called.flops_other, executed.flops_other))
        if large >= 20:  # a scalar more or less is no difference
            assert large <= FACTORS[name] * small
            compared += 1
    assert compared


def _both(name, limit):
    operator = DATABASE[name]
    for sample in list(op_database.samples(operator, torch.float32))[:limit]:
        graphs = []
        for dispatched in (False, True):
            call = op_database.prepare(operator, sample)
            graph = op_database.graph_of(call, call.function, dispatched=dispatched)
            graphs.append(totals(annotate(graph)))
        yield tuple(graphs)
