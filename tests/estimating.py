"""What the tests of estimates and of fusion share: small graphs without values, one device."""

from __future__ import annotations

import torch
from torch import nn

import torchatlas as ta

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
