"""Bytes read and written, against numbers derived by hand; float32 takes 4, int64 takes 8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchatlas.annotations import traffic
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import TensorMeta as T


def index(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long)


def put(x: torch.Tensor, i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, i] = v
    return y


def put_more(x: torch.Tensor, i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return x.clone().index_put_((i,), v, accumulate=True)


def keep_statistics(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, mean.clone(), variance.clone(), training=True)


mean, variance = torch.zeros(5), torch.ones(5)

# function, shapes, op, bytes read, bytes written
CASES = {
    "linear": (
        nn.Linear(16, 32),
        [(4, 16)],
        "aten.linear",
        4 * (4 * 16 + 32 * 16 + 32),
        4 * 4 * 32,
    ),
    "view": (lambda x: x.view(20).relu(), [(4, 5)], "aten.view", 0, 0),
    "transpose": (lambda x: x.t() * 2, [(4, 5)], "aten.t", 0, 0),
    "copy of a view": (lambda x: x.t().contiguous(), [(4, 5)], "aten.contiguous", 80, 80),
    "relu": (torch.relu, [(4, 5)], "aten.relu", 80, 80),
    "relu in place": (lambda x: x.clone().relu_(), [(4, 5)], "aten.relu_", 80, 80),
    "product with itself": (lambda x: x * x, [(4, 5)], "aten.mul", 80, 80),
    "broadcast": (torch.add, [(4, 5), (5,)], "aten.add", 100, 80),
    "broadcast by expand": (
        lambda x, y: x + y.expand(4, 5),
        [(4, 5), (1, 5)],
        "aten.add",
        100,
        80,
    ),
    "comparison": (lambda x: x > 0, [(4, 5)], "aten.gt", 80, 20),
    "embedding": (nn.Embedding(100, 8), [index(3)], "aten.embedding", 24 + 96, 96),
    "embedding_bag": (
        lambda i, w: F.embedding_bag(i, w, mode="sum"),
        [index(2, 3), (100, 8)],
        "aten.embedding_bag",
        6 * 8 + 2 * 8 + 6 * 8 * 4,
        None,
    ),
    "embedding with a maximal length": (
        lambda i, w: F.embedding(i, w.clone(), max_norm=1.0),
        [index(3), (100, 8)],
        "aten.embedding_renorm_",
        24 + 96,
        96,
    ),
    "index_select": (
        lambda x, i: x.index_select(0, i),
        [(100, 5), index(3)],
        "aten.index_select",
        24 + 60,
        60,
    ),
    "gather": (
        lambda x, i: x.gather(1, i),
        [(4, 50), index(4, 2)],
        "aten.gather",
        64 + 32,
        32,
    ),
    "index": (lambda x, i: x[:, i], [(4, 50), index(2)], "aten.index", 16 + 32, 32),
    "index_put": (put, [(4, 50), index(2), (4, 2)], "aten.index_put_", 16 + 32, 32),
    "index_put, adding": (
        put_more,
        [(50, 5), index(2), (2, 5)],
        "aten.index_put_",
        16 + 40 + 40,
        40,
    ),
    "index_copy": (
        lambda x, i, s: x.clone().index_copy_(0, i, s),
        [(50, 5), index(2), (2, 5)],
        "aten.index_copy_",
        16 + 40,
        40,
    ),
    "index_fill": (
        lambda x, i: x.clone().index_fill_(0, i, 1.0),
        [(50, 5), index(2)],
        "aten.index_fill_",
        16,
        40,
    ),
    "scatter": (
        lambda x, i, s: x.clone().scatter_(0, i, s),
        [(50,), index(3), (3,)],
        "aten.scatter_",
        24 + 12,
        12,
    ),
    "scatter_add": (
        lambda x, i, s: x.clone().scatter_add_(0, i, s),
        [(50,), index(3), (3,)],
        "aten.scatter_add_",
        24 + 12 + 12,
        12,
    ),
    "scatter to a copy": (
        lambda x, i, s: x.scatter(0, i, s),
        [(50,), index(3), (3,)],
        "aten.scatter",
        200 + 24 + 12,
        200,
    ),
    "copy_": (lambda x, y: x.clone().copy_(y), [(4, 5), (5,)], "aten.copy_", 20, 80),
    "fill_": (lambda x: x.clone().fill_(1.0), [(4, 5)], "aten.fill_", 0, 80),
    "zeros": (lambda x: x + torch.zeros(4, 5), [(4, 5)], "aten.zeros", 0, 80),
    "zeros_like": (lambda x: x + torch.zeros_like(x), [(4, 5)], "aten.zeros_like", 0, 80),
    "new_ones": (lambda x: x + x.new_ones(4, 1), [(4, 5)], "aten.new_ones", 0, 16),
    "empty_like": (lambda x: torch.empty_like(x).copy_(x), [(4, 5)], "aten.empty_like", 0, 0),
    "cat": (lambda x, y: torch.cat([x, y]), [(4, 5), (2, 5)], "aten.cat", 120, 120),
    "cat with itself": (lambda x: torch.cat([x, x]), [(4, 5)], "aten.cat", 80, 160),
    "dropout outside training": (nn.Dropout().eval(), [(4, 5)], "aten.dropout", 0, 0),
    "dropout in place outside training": (
        lambda x: F.dropout(x.clone(), 0.5, training=False, inplace=True),
        [(4, 5)],
        "aten.dropout_",
        0,
        0,
    ),
    "batch norm": (
        nn.BatchNorm1d(5).eval(),
        [(4, 5)],
        "aten.batch_norm",
        80 + 4 * 20,
        80,
    ),
    "batch norm in training": (
        keep_statistics,
        [(4, 5)],
        "aten.batch_norm",
        80 + 2 * 20,
        80 + 2 * 20,
    ),
    "half precision": (torch.relu, [torch.zeros(4, 5, dtype=torch.bfloat16)], "aten.relu", 40, 40),
}


@pytest.mark.parametrize(
    ("model", "shapes", "op", "read", "written"), CASES.values(), ids=CASES.keys()
)
def test_bytes(sample, model, shapes, op, read, written):
    node = sample(model, *shapes).node(op)
    assert node["bytes_read"] == read
    if written is not None:
        assert node["bytes_written"] == written


def test_views_of_one_tensor_are_read_once_each(sample):
    found = sample(lambda x: torch.add(*x.chunk(2)), (4, 5))
    assert found.node("aten.add")["bytes_read"] == 80


def test_a_buffer_given_for_the_result_is_not_read():
    shapes = {"self": T((2, 3)), "mat2": T((3, 4)), "out": T((2, 4))}
    records = [
        OpRecord(key=name, kind="input", target=name, outputs=(meta,))
        for name, meta in shapes.items()
    ]
    args = {name: Value(name) for name in shapes}
    records.append(
        OpRecord(
            key="mm", kind="op", op="aten.mm", args=args, outputs=(shapes["out"],), writes=("out",)
        )
    )
    graph, ids = build(records, name="out")
    traffic(graph)
    node = graph.nodes[ids["mm"]]
    assert (node["bytes_read"], node["bytes_written"]) == (24 + 48, 32)


def test_reading_a_size_touches_no_element():
    x = T((2, 3))
    records = [
        OpRecord(key="x", kind="input", target="x", outputs=(x,)),
        OpRecord(
            key="n",
            kind="op",
            op="aten.sym_size",
            args={"self": Value("x"), "dim": 0},
            outputs=(T((), "SymInt", "", ()),),
        ),
    ]
    graph, ids = build(records, name="size")
    traffic(graph)
    node = graph.nodes[ids["n"]]
    assert (node["bytes_read"], node["bytes_written"]) == (0, 0)
