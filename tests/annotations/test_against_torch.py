"""Modules and small networks against torch's own counter, on ops where it is right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import OLD_TORCH

MODULES = {
    "grouped convolution": (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), [(2, 8, 9, 11)]),
    "conv3d": (nn.Conv3d(2, 3, (1, 2, 3), padding=1), [(2, 2, 5, 6, 7)]),
    "conv_transpose2d": (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), [(2, 6, 5, 4)]),
    "linear over two batch dimensions": (nn.Linear(7, 5), [(2, 3, 7)]),
    "matmul, broadcast": (torch.matmul, [(2, 1, 3, 4), (5, 4, 6)]),
    "einsum of four": (
        lambda *a: torch.einsum("ij,jk,kl,lm->im", *a),
        [(20, 3), (3, 40), (40, 5), (5, 6)],
    ),
    "einsum, interleaved": (
        lambda *a: torch.einsum("ab,cd,ab,cd->a", *a),
        [(2, 3), (4, 5), (2, 3), (4, 5)],
    ),
    "attention": (F.scaled_dot_product_attention, [(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8)]),
    "multi-head attention": (
        lambda x: nn.MultiheadAttention(16, 4, batch_first=True)(x, x, x)[0],
        [(2, 5, 16)],
    ),
    "transformer": (nn.Transformer(16, 4, 1, 1, 32), [(6, 2, 16), (4, 2, 16)]),
}


@pytest.mark.parametrize(("model", "shapes"), MODULES.values(), ids=MODULES.keys())
def test_module(sample, model, shapes):
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    counted = counter.get_total_flops()
    if OLD_TORCH and counted == 0:
        pytest.skip("this torch's counter misses attention on a CPU")
    assert sample(model, *inputs).totals.flops == counted


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision(sample, name):
    models = pytest.importorskip("torchvision.models")
    model = models.get_model(name).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    total = sample(model, (1, 3, 64, 64)).totals
    assert total.flops == counter.get_total_flops()
    assert total.params == sum(p.numel() for p in model.parameters())
    assert total.coverage == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_convolution_backward_without_groups(transposed):
    from torchatlas.annotations.formulas import FORMULAS
    from torchatlas.schema import TensorMeta as T

    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, 3, bias=False)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    y = layer(x)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    shapes = (T(tuple(t.shape)) for t in (y, x, layer.weight))
    cost = FORMULAS["aten.convolution_backward"](
        *shapes, transposed=transposed, output_mask=(True, True, False)
    )
    assert 2 * cost.macs == counter.get_total_flops()
