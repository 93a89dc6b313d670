"""Formulas of backward passes against numbers derived by hand, and against torch's counter."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchatlas.annotations.formulas import FORMULAS, Cost, evaluate
from torchatlas.schema import TensorMeta as T

X, W, Y = T((2, 8, 9, 9)), T((12, 2, 3, 3)), T((2, 12, 7, 7))  # 4 groups
FORWARD = 2 * 12 * 49 * 2 * 9  # of the convolution
DEEP, TAPS, OUT = T((2, 8, 9)), T((8, 1, 3)), T((2, 8, 7))  # depthwise
UP, SPREAD, BIG = T((1, 4, 5)), T((4, 3, 3)), T((1, 6, 7))  # transposed, 2 groups
QUERY, KEY, VALUE = T((2, 4, 5, 8)), T((2, 4, 7, 8)), T((2, 4, 7, 6))
SCORES = 2 * 4 * 5 * 7
ROWS, WEIGHT = T((6, 10)), T((10, 4))

BACKWARD = {
    "convolution in groups": (
        "aten.convolution_backward",
        {"grad_output": Y, "input": X, "weight": W, "output_mask": (True, True, True)},
        Cost(2 * FORWARD, 2 * 12 * 49),
    ),
    "convolution in groups, the weight alone": (
        "aten.convolution_backward",
        {"grad_output": Y, "input": X, "weight": W, "output_mask": (False, True, False)},
        Cost(FORWARD),
    ),
    "convolution in groups, the input alone": (
        "aten.convolution_backward",
        {"grad_output": Y, "input": X, "weight": W, "output_mask": (True, False, False)},
        Cost(FORWARD),
    ),
    "depthwise convolution": (
        "aten.convolution_backward",
        {"grad_output": OUT, "input": DEEP, "weight": TAPS, "output_mask": (True, True, False)},
        Cost(2 * 2 * 8 * 7 * 3),
    ),
    "transposed convolution in groups": (
        "aten.convolution_backward",
        {
            "grad_output": BIG,
            "input": UP,
            "weight": SPREAD,
            "transposed": True,
            "output_mask": (True, True, False),
        },
        Cost(2 * 4 * 5 * 3 * 3),
    ),
    # scores again, and the gradients of values, weights, queries and keys
    "attention": (
        "aten._scaled_dot_product_flash_attention_backward",
        {"query": QUERY, "key": KEY, "value": VALUE},
        Cost(SCORES * (8 + 6 + 6 + 8 + 8), SCORES * 6),
    ),
    "linear layer": (
        "aten.linear_backward",
        {"grad_output": ROWS, "weight": WEIGHT, "output_mask": (True, True, True)},
        Cost(6 * 10 * 4 + 10 * 6 * 4, 6 * 10),
    ),
    "recurrent layers": (
        "aten._cudnn_rnn_backward",
        {
            "input": T((5, 3, 8)),
            "weight": (T((48, 8)), T((48, 16))),
            "mode": 3,
            "hidden_size": 16,
            "output_mask": (True, True, True, True),
        },
        Cost(2 * 15 * 48 * 24, 15 * 16 * 16),
    ),
}


@pytest.mark.parametrize(("op", "args", "cost"), BACKWARD.values(), ids=BACKWARD.keys())
def test_backward(op, args, cost):
    assert evaluate(FORMULAS[op], args, ()) == cost


def test_linear_layer_is_two_products(sample):
    def gradients(g, x, w):
        return g @ w, g.t() @ x

    total = sample(gradients, (6, 10), (6, 4), (10, 4)).totals
    assert total.macs == BACKWARD["linear layer"][2].macs


# -- random shapes against torch's counter, on ops where it is right -----------------------

SEEDS = range(12)


def counted(function, *tensors) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return counter.get_total_flops()


def sizes(seed: int, count: int) -> list[int]:
    return [random.Random(seed * 31 + i).randint(1, 9) for i in range(count)]


def meta(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.empty(shape, device="meta", requires_grad=grad)


def macs(op: str, args: dict[str, object], *outputs: tuple[int, ...]) -> int:
    operands = {
        name: T(tuple(arg.shape)) if isinstance(arg, torch.Tensor) else arg
        for name, arg in args.items()
    }
    cost = evaluate(FORMULAS[op], operands, [T(shape) for shape in outputs])
    assert cost is not None
    return cost.macs


@pytest.mark.parametrize("seed", SEEDS)
def test_products_of_random_shapes(seed):
    b, m, k, n = sizes(seed, 4)
    a, c = meta(m, k), meta(k, n)
    d, e = meta(b, m, k), meta(b, k, n)
    assert 2 * macs("aten.mm", {"self": a}, (m, n)) == counted(torch.mm, a, c)
    assert 2 * macs("aten.bmm", {"self": d}, (b, m, n)) == counted(torch.bmm, d, e)
    bias = meta(n)
    assert 2 * macs("aten.addmm", {"mat1": a}, (m, n)) == counted(torch.addmm, bias, a, c)
    added = {"batch1": d}
    assert 2 * macs("aten.baddbmm", added, (b, m, n)) == counted(torch.baddbmm, bias, d, e)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_random_shapes(seed, transposed):
    batch, before, after, kernel, stride, dims = sizes(seed, 6)
    dims, kernel, stride = 1 + dims % 3, 1 + kernel % 3, 1 + stride % 3
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    layer = kinds[dims - 1](before, after, kernel, stride, bias=False, device="meta")
    x = meta(batch, before, *(kernel + size for size in sizes(seed + 100, dims)), grad=True)
    y = layer(x)
    args = {"input": x, "weight": layer.weight, "transposed": transposed}
    assert 2 * macs("aten.convolution", args, tuple(y.shape)) == counted(layer, x)
    args |= {"grad_output": y, "output_mask": (True, True, False)}
    backward = counted(lambda: torch.autograd.grad(y, (x, layer.weight), torch.empty_like(y)))
    assert 2 * macs("aten.convolution_backward", args) == backward


@pytest.mark.parametrize("seed", SEEDS)
def test_attention_of_random_shapes(seed):
    batch, heads, rows, keys, width = sizes(seed, 5)
    q = meta(batch, heads, rows, width, grad=True)
    k, v = (meta(batch, heads, keys, width, grad=True) for _ in range(2))
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    args = {"query": q, "key": k, "value": v}
    result = flash(q, k, v)
    forward = counted(flash, q, k, v)
    name = "aten._scaled_dot_product_flash_attention"
    assert 2 * macs(name, args, tuple(result[0].shape)) == forward
    y = result[0]
    backward = counted(lambda: torch.autograd.grad(y, (q, k, v), torch.empty_like(y)))
    assert 2 * macs(f"{name}_backward", args) == backward


def test_math_attention_goes_back_by_its_parts(sample):
    """Without a fused kernel each of two products has two gradients, and no score is repeated."""

    def gradients(g, q, k, v):
        weights = F.softmax(q @ k.mT, -1)
        on_scores = g @ v.mT
        return weights.mT @ g, on_scores @ k, on_scores.mT @ q

    shape = (2, 4, 5, 8)
    total = sample(gradients, shape, shape, shape, shape).totals
    forward = 2 * (2 * 4 * 5 * 5 * 8)
    assert total.macs == forward // 2 + 2 * forward
