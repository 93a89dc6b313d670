"""Single ops against numbers derived by hand: multiply-adds, and operations outside them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchatlas.annotations.formulas import FORMULAS, Cost, evaluate
from torchatlas.schema import TensorMeta as T


def index(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long)


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


ENDS = torch.tensor([16, 16, 40, 64], dtype=torch.int32)


def in_place(x: torch.Tensor) -> torch.Tensor:
    return x.clone().relu_()


class WithoutGradients(nn.Module):
    """Calls a module in evaluation, without recording gradients."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval()

    def forward(self, *args: torch.Tensor) -> object:
        with torch.no_grad():
            return self.module(*args)


class SelfAttention(nn.Module):
    """Attends from a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class CrossAttention(nn.Module):
    """Attends to keys and values of other widths than the queries."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, kdim=12, vdim=10, batch_first=True)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.attention(q, k, v, need_weights=False)[0]


# 2 x 5 tokens of width 16 become queries, keys and values; 4 heads of width 4 attend; one more
# projection. Outside: the biases, and 6 operations on each of 2 x 4 x 5 x 5 scores.
SELF_ATTENTION = (
    [(2, 5, 16)],
    10 * 16 * (3 * 16 + 16) + 2 * 4 * 5 * 5 * (4 + 4),
    10 * (3 * 16 + 16) + 2 * 4 * 25 * (1 + 5),
)
# 5 x 3 tokens of width 8, 16 units: gates x units x (input + state); biases and the gates
LSTM = ([(5, 3, 8)], 15 * 4 * 16 * (8 + 16), 15 * (2 * 4 * 16 + 16 * 13))
GRU = ([(5, 3, 8)], 15 * 3 * 16 * (8 + 16), 15 * (2 * 3 * 16 + 16 * 11))
RNN = ([(5, 3, 8)], 15 * 16 * (8 + 16), 15 * (2 * 16 + 16 * 2))

CONTRACTIONS = {
    "linear": (nn.Linear(16, 32), [(4, 16)], 4 * 32 * 16, 4 * 32),
    "linear without bias": (nn.Linear(16, 32, bias=False), [(4, 5, 16)], 4 * 5 * 32 * 16, 0),
    "matmul of matrices": (torch.matmul, [(3, 4), (4, 5)], 3 * 4 * 5, 0),
    "matmul of vectors": (torch.matmul, [(6,), (6,)], 6, 0),
    "matmul of a vector and a matrix": (torch.matmul, [(4,), (4, 5)], 4 * 5, 0),
    "matmul broadcast": (torch.matmul, [(10, 1, 3, 4), (7, 4, 5)], 10 * 7 * 3 * 4 * 5, 0),
    "mm": (torch.mm, [(3, 4), (4, 5)], 60, 0),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 5)], 120, 0),
    "mm of a transposed matrix": (lambda a, b: torch.mm(a.t(), b), [(4, 3), (4, 5)], 60, 0),
    "matmul, broadcast from both sides": (
        torch.matmul,
        [(2, 1, 3, 4), (5, 4, 6)],
        2 * 5 * 3 * 6 * 4,
        0,
    ),
    "matmul of a vector and batches": (torch.matmul, [(4,), (2, 4, 5)], 2 * 5 * 4, 0),
    "matmul of batches and a vector": (torch.matmul, [(2, 3, 4), (4,)], 2 * 3 * 4, 0),
    "linalg.matmul": (torch.linalg.matmul, [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5, 0),
    "inner": (torch.inner, [(2, 3, 4), (5, 4)], 2 * 3 * 5 * 4, 0),
    "vdot": (torch.vdot, [(7,), (7,)], 7, 0),
    "vecdot": (torch.linalg.vecdot, [(5, 6), (5, 6)], 5 * 6, 0),
    "vecdot along the first dimension": (
        lambda a, b: torch.linalg.vecdot(a, b, dim=0),
        [(5, 6), (5, 6)],
        6 * 5,
        0,
    ),
    "mv": (torch.mv, [(3, 4), (4,)], 12, 0),
    "dot": (torch.dot, [(7,), (7,)], 7, 0),
    "addmm": (torch.addmm, [(5,), (3, 4), (4, 5)], 60, 15),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120, 30),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 120, 15),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 12, 3),
    "addr": (torch.addr, [(3, 4), (3,), (4,)], 12, 0),
    "addmm of nothing": (
        lambda a, b, c: torch.addmm(a, b, c, beta=0),
        [(5,), (3, 4), (4, 5)],
        60,
        0,
    ),
    "baddbmm of nothing": (
        lambda a, b, c: torch.baddbmm(a, b, c, beta=0),
        [(2, 3, 5), (2, 3, 4), (2, 4, 5)],
        120,
        0,
    ),
    # from the right: 3 x 40 x 5, then 20 x 3 x 5; from the left it would be 20 x 3 x 40 + ...
    "multi_dot": (
        lambda a, b, c: torch.linalg.multi_dot([a, b, c]),
        [(20, 3), (3, 40), (40, 5)],
        3 * 40 * 5 + 20 * 3 * 5,
        0,
    ),
    "chain_matmul": (torch.chain_matmul, [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5, 0),
    "outer": (torch.outer, [(3,), (4,)], 0, 12),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 2), [(3, 4, 5), (4, 5, 6)], 3 * 20 * 6, 0),
    "tensordot of given dimensions": (
        lambda a, b: torch.tensordot(a, b, ([0, 2], [1, 0])),
        [(3, 4, 5), (5, 3, 6)],
        4 * 6 * 3 * 5,
        0,
    ),
    "bilinear": (nn.Bilinear(3, 4, 5), [(2, 3), (2, 4)], 2 * 5 * (3 * 4 + 4), 10),
    "bilinear without bias": (
        nn.Bilinear(3, 4, 5, bias=False),
        [(2, 6, 3), (2, 6, 4)],
        12 * 5 * (3 * 4 + 4),
        0,
    ),
    "grouped mm": (
        lambda x, w: torch.nn.functional.grouped_mm(x, w, offs=ENDS),
        [half(64, 16), half(4, 16, 32)],
        64 * 16 * 32,
        0,
    ),
    "grouped mm of batches": (
        lambda x, w: torch.nn.functional.grouped_mm(x, w),
        [half(4, 8, 16), half(4, 16, 32)],
        4 * 8 * 16 * 32,
        0,
    ),
    "einsum of batches": (
        lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b),
        [(2, 3, 4, 8), (2, 3, 5, 8)],
        2 * 3 * 4 * 5 * 8,
        0,
    ),
    "einsum with an ellipsis": (
        lambda a, b: torch.einsum("...ij,jk->...ik", a, b),
        [(2, 3, 4, 5), (5, 6)],
        6 * 4 * 5 * 6,
        0,
    ),
    "einsum without a result": (
        lambda a, b: torch.einsum("ij,jk", a, b),
        [(3, 4), (4, 5)],
        60,
        0,
    ),
    "einsum of three": (
        lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c),
        [(2, 3), (3, 4), (4, 5)],
        2 * 3 * 4 + 2 * 4 * 5,
        0,
    ),
    "einsum of three, a quadratic form": (
        lambda a, b, c: torch.einsum("bi,ij,bj->b", a, b, c),
        [(2, 3), (3, 3), (2, 3)],
        2 * 3 * 3 + 2 * 3,
        0,
    ),
    "einsum of everything": (lambda a, b: torch.einsum("ij,ij->", a, b), [(3, 4), (3, 4)], 12, 0),
    "einsum with a repeated index": (
        lambda a, b: torch.einsum("ii,ij->j", a, b),
        [(3, 3), (3, 4)],
        3 * 4,
        0,
    ),
    "einsum product without a sum": (
        lambda a, b: torch.einsum("bi,bj->bij", a, b),
        [(2, 3), (2, 4)],
        0,
        2 * 3 * 4,
    ),
    "einsum, both summed first": (
        lambda a, b: torch.einsum("i,j->", a, b),
        [(3,), (4,)],
        0,
        3 + 4 + 1,
    ),
    "einsum, broadcast under an ellipsis": (
        lambda a, b: torch.einsum("...ij,...jk->...ik", a, b),
        [(2, 1, 3, 4), (5, 4, 6)],
        2 * 5 * 3 * 4 * 6,
        0,
    ),
    "einsum trace": (lambda a: torch.einsum("ii->", a), [(3, 3)], 0, 3),
    "einsum, row sums first": (
        lambda a, b: torch.einsum("ij,kj->i", a, b),
        [(3, 4), (5, 4)],
        3 * 4,
        5 * 4,
    ),
    "conv1d": (nn.Conv1d(4, 6, 3), [(2, 4, 10)], 2 * 6 * 8 * 4 * 3, 2 * 6 * 8),
    "conv1d without a batch": (nn.Conv1d(4, 6, 3, bias=False), [(4, 10)], 6 * 8 * 4 * 3, 0),
    "conv1d in groups": (nn.Conv1d(4, 6, 3, groups=2), [(2, 4, 10)], 2 * 6 * 8 * 2 * 3, 96),
    "conv1d depthwise": (nn.Conv1d(4, 4, 3, groups=4), [(2, 4, 10)], 2 * 4 * 8 * 3, 2 * 4 * 8),
    # (11 - 2 x 2 - 1) / 2 + 1 = 4 places
    "conv1d dilated, stride": (
        nn.Conv1d(4, 6, 3, stride=2, dilation=2, bias=False),
        [(2, 4, 11)],
        2 * 6 * 4 * 4 * 3,
        0,
    ),
    "conv_tbc": (torch.conv_tbc, [(5, 2, 4), (3, 4, 6), (6,)], 3 * 2 * 6 * 3 * 4, 3 * 2 * 6),
    "conv2d in groups": (
        nn.Conv2d(8, 12, 3, groups=4),
        [(2, 8, 5, 5)],
        2 * 12 * 9 * 2 * 9,
        2 * 12 * 9,
    ),
    "conv2d in groups, dilated, stride": (
        nn.Conv2d(8, 12, (1, 3), stride=2, dilation=2, groups=2, bias=False),
        [(1, 8, 5, 9)],
        12 * 3 * 3 * 4 * 3,
        0,
    ),
    "conv2d depthwise, two filters a channel": (
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        [(1, 4, 6, 6)],
        8 * 36 * 1 * 9,
        8 * 36,
    ),
    "conv2d without a batch": (nn.Conv2d(3, 8, 3), [(3, 6, 6)], 8 * 16 * 3 * 9, 8 * 16),
    "conv2d of one place": (nn.Conv2d(8, 16, 1, bias=False), [(2, 8, 3, 3)], 2 * 16 * 9 * 8, 0),
    "conv2d, circular padding": (
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular", bias=False),
        [(1, 3, 6, 6)],
        8 * 36 * 3 * 9,
        0,
    ),
    "conv2d, stride and padding": (
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        [(1, 3, 224, 224)],
        64 * 112 * 112 * 3 * 49,
        0,
    ),
    "conv2d depthwise": (
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        [(1, 8, 10, 10)],
        8 * 8 * 8 * 9,
        0,
    ),
    "conv2d dilated": (
        nn.Conv2d(4, 6, 3, dilation=2, bias=False),
        [(1, 4, 9, 9)],
        6 * 25 * 4 * 9,
        0,
    ),
    "conv2d, same padding": (
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        [(1, 4, 9, 9)],
        6 * 81 * 4 * 9,
        0,
    ),
    "conv3d": (nn.Conv3d(2, 3, 2, bias=False), [(1, 2, 4, 4, 4)], 3 * 27 * 2 * 8, 0),
    "conv3d with a bias, stride": (
        nn.Conv3d(2, 4, 3, stride=2, padding=1),
        [(1, 2, 4, 6, 8)],
        4 * 2 * 3 * 4 * 2 * 27,
        4 * 24,
    ),
    "conv3d in groups": (
        nn.Conv3d(4, 6, 2, groups=2, bias=False),
        [(2, 4, 3, 3, 3)],
        2 * 6 * 8 * 2 * 8,
        0,
    ),
    "conv3d depthwise": (
        nn.Conv3d(4, 4, (1, 2, 2), groups=4),
        [(1, 4, 3, 3, 3)],
        4 * 3 * 2 * 2 * 4,
        4 * 12,
    ),
    "conv3d dilated": (
        nn.Conv3d(2, 3, 2, dilation=3, bias=False),
        [(1, 2, 5, 5, 5)],
        3 * 8 * 2 * 8,
        0,
    ),
    "conv3d without a batch": (nn.Conv3d(2, 3, 2), [(2, 3, 3, 3)], 3 * 8 * 2 * 8, 3 * 8),
    # 4 x 5 inputs spread over 6 x 3 each; (5 - 1) x 2 + 3 + 1 = 12 places get a bias
    "conv_transpose1d, output padding": (
        nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1),
        [(2, 4, 5)],
        2 * 4 * 5 * 6 * 3,
        2 * 6 * 12,
    ),
    "conv_transpose1d in groups, without a batch": (
        nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False),
        [(4, 5)],
        4 * 5 * 3 * 3,
        0,
    ),
    "conv_transpose1d depthwise, dilated": (
        nn.ConvTranspose1d(4, 4, 3, dilation=2, groups=4),
        [(1, 4, 5)],
        4 * 5 * 3,
        4 * 9,
    ),
    "conv_transpose2d, stride and padding": (
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, bias=False),
        [(1, 4, 5, 5)],
        4 * 25 * 6 * 16,
        0,
    ),
    "conv_transpose2d, output padding": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        [(1, 4, 5, 5)],
        4 * 25 * 6 * 9,
        6 * 10 * 10,
    ),
    "conv_transpose2d depthwise": (
        nn.ConvTranspose2d(4, 4, 3, groups=4, bias=False),
        [(1, 4, 5, 5)],
        4 * 25 * 9,
        0,
    ),
    "conv_transpose2d dilated, without a batch": (
        nn.ConvTranspose2d(4, 6, 3, dilation=2),
        [(4, 5, 5)],
        4 * 25 * 6 * 9,
        6 * 9 * 9,
    ),
    "conv_transpose3d": (
        nn.ConvTranspose3d(2, 3, 2, stride=2),
        [(1, 2, 3, 3, 3)],
        2 * 27 * 3 * 8,
        3 * 6 * 6 * 6,
    ),
    "conv_transpose3d in groups, output padding": (
        nn.ConvTranspose3d(4, 6, 3, stride=2, output_padding=1, groups=2, bias=False),
        [(1, 4, 2, 2, 2)],
        4 * 8 * 3 * 27,
        0,
    ),
    "conv_transpose3d depthwise, dilated": (
        nn.ConvTranspose3d(4, 4, 2, dilation=2, groups=4, bias=False),
        [(2, 4, 2, 3, 3)],
        2 * 4 * 18 * 8,
        0,
    ),
    "conv_transpose1d": (
        nn.ConvTranspose1d(4, 6, 3, stride=2, bias=False),
        [(1, 4, 5)],
        4 * 5 * 6 * 3,
        0,
    ),
    "conv_transpose2d in groups": (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        [(1, 4, 5, 5)],
        4 * 25 * 3 * 9,
        6 * 49,
    ),
    "attention": (
        F.scaled_dot_product_attention,
        [(2, 8, 5, 4), (2, 8, 7, 4), (2, 8, 7, 3)],
        2 * 8 * 5 * 7 * (4 + 3),
        2 * 8 * 5 * 7 * (1 + 5),
    ),
    "attention, shared keys": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [(2, 8, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)],
        2 * 8 * 5 * 5 * 8,
        2 * 8 * 25 * 6,
    ),
    "attention, causal": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        [(1, 1, 4, 2)],
        16 * 4,
        16 * 7,
    ),
    "attention, causal, more keys than queries": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8)],
        2 * 3 * 4 * 6 * 16,
        2 * 3 * 4 * 6 * 7,
    ),
    "attention with a mask": (
        F.scaled_dot_product_attention,
        [(2, 3, 4, 8), (2, 3, 6, 8), (2, 3, 6, 8), (4, 6)],
        2 * 3 * 4 * 6 * 16,
        2 * 3 * 4 * 6 * 7,
    ),
    "attention without heads": (
        F.scaled_dot_product_attention,
        [(2, 4, 8), (2, 6, 8), (2, 6, 8)],
        2 * 4 * 6 * 16,
        2 * 4 * 6 * 6,
    ),
    "self-attention in training": (SelfAttention(), *SELF_ATTENTION),
    "self-attention in evaluation": (SelfAttention().eval(), *SELF_ATTENTION),
    "self-attention without gradients": (WithoutGradients(SelfAttention()), *SELF_ATTENTION),
    "cross-attention": (
        CrossAttention(),
        [(2, 5, 16), (2, 7, 12), (2, 7, 10)],
        10 * 16 * 16 + 14 * 12 * 16 + 14 * 10 * 16 + 2 * 4 * 5 * 7 * (4 + 4) + 10 * 16 * 16,
        10 * 16 + 14 * 16 + 14 * 16 + 10 * 16 + 2 * 4 * 5 * 7 * 6,
    ),
    # around self-attention: two layers, ReLU, two additions and two norms of 7
    "transformer layer": (
        nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True),
        SELF_ATTENTION[0],
        SELF_ATTENTION[1] + 2 * 10 * 16 * 32,
        SELF_ATTENTION[2] + 10 * (32 + 16) + 10 * 32 + 2 * 160 * (1 + 7),
    ),
    "lstm in evaluation": (nn.LSTM(8, 16).eval(), *LSTM),
    "lstm without gradients": (WithoutGradients(nn.LSTM(8, 16)), *LSTM),
    "gru in training": (nn.GRU(8, 16), *GRU),
    "gru in evaluation": (nn.GRU(8, 16).eval(), *GRU),
    "gru without gradients": (WithoutGradients(nn.GRU(8, 16)), *GRU),
    "rnn in training": (nn.RNN(8, 16), *RNN),
    "rnn in evaluation": (nn.RNN(8, 16).eval(), *RNN),
    "rnn without gradients": (WithoutGradients(nn.RNN(8, 16)), *RNN),
    "lstm without a batch": (nn.LSTM(8, 16, bias=False), [(5, 8)], 5 * 64 * 24, 5 * 16 * 13),
    "gru, two layers, both directions, batch first": (
        nn.GRU(8, 16, 2, bidirectional=True, batch_first=True),
        [(3, 5, 8)],
        15 * 2 * 48 * ((8 + 16) + (32 + 16)),
        15 * 4 * (96 + 16 * 11),
    ),
    "rnn of two layers, relu": (
        nn.RNN(8, 16, 2, nonlinearity="relu", bias=False),
        [(5, 3, 8)],
        15 * 16 * ((8 + 16) + (16 + 16)),
        15 * 2 * 16 * 2,
    ),
    "lstm": (
        nn.LSTM(8, 16),
        [(5, 3, 8)],
        15 * 4 * 16 * (8 + 16),
        15 * (2 * 64 + 16 * 13),
    ),
    "lstm, two layers, both directions": (
        nn.LSTM(8, 16, 2, bidirectional=True, bias=False),
        [(5, 3, 8)],
        15 * 2 * 64 * ((8 + 16) + (32 + 16)),
        15 * 4 * 16 * 13,
    ),
    "lstm with a projection": (
        nn.LSTM(8, 16, proj_size=4, bias=False),
        [(5, 3, 8)],
        15 * (64 * 8 + 64 * 4 + 4 * 16),
        15 * 16 * 13,
    ),
    "gru": (nn.GRU(8, 16, bias=False), [(5, 3, 8)], 15 * 48 * 24, 15 * 16 * 11),
    "rnn": (nn.RNN(8, 16, bias=False), [(5, 3, 8)], 15 * 16 * 24, 15 * 16 * 2),
    "lstm cell": (nn.LSTMCell(8, 16, bias=False), [(5, 8)], 5 * 64 * 24, 5 * 16 * 13),
    "gru cell": (nn.GRUCell(8, 16), [(5, 8)], 5 * 48 * 24, 5 * (96 + 16 * 11)),
    "rnn cell": (nn.RNNCell(8, 16), [(5, 8)], 5 * 16 * 24, 5 * (32 + 16 * 2)),
    "cdist": (torch.cdist, [(6, 3), (7, 3)], 6 * 7 * 3, 0),
}

OTHERS = {
    "relu": (torch.relu, [(4, 5)], 20),
    "relu in place": (in_place, [(4, 5)], 20),
    "gelu": (F.gelu, [(4, 5)], 20),
    "hardswish": (F.hardswish, [(4, 5)], 20),
    "addition broadcast": (torch.add, [(4, 1), (1, 5)], 20),
    "and": (lambda x: (x > 0) & (x < 1), [(4, 5)], 60),
    "where": (lambda x: torch.where(x > 0, x, 0.0), [(4, 5)], 40),
    "sum": (lambda x: x.sum(1), [(4, 5)], 20),
    "variance": (lambda x: x.var(1), [(4, 5)], 80),
    "vector norm": (torch.linalg.vector_norm, [(4, 5)], 40),
    "layer norm": (nn.LayerNorm(5), [(4, 5)], 20 * 7),
    "layer norm, no weights": (nn.LayerNorm(5, elementwise_affine=False), [(4, 5)], 20 * 5),
    "rms norm": (nn.RMSNorm(5), [(4, 5)], 20 * 4),
    "group norm": (nn.GroupNorm(2, 4), [(1, 4, 3)], 12 * 7),
    "batch norm": (nn.BatchNorm1d(5).eval(), [(4, 5)], 20 * 2),
    # one more operation counts the batches
    "batch norm in training": (nn.BatchNorm1d(5), [(4, 5)], 20 * 7 + 1),
    "instance norm": (nn.InstanceNorm1d(4), [(1, 4, 3)], 12 * 5),
    "softmax": (lambda x: x.softmax(-1), [(4, 5)], 100),
    "log_softmax": (lambda x: x.log_softmax(-1), [(4, 5)], 100),
    "max_pool2d": (nn.MaxPool2d(3, 2, 1), [(1, 4, 8, 8)], 4 * 4 * 4 * 9),
    "avg_pool1d": (nn.AvgPool1d(2), [(1, 4, 8)], 4 * 4 * 2),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d(1), [(1, 4, 7, 7)], 4 * 49),
    "cumsum": (lambda x: x.cumsum(0), [(4, 5)], 20),
    "sort": (lambda x: x.sort().values, [(4, 16)], 64 * 4),
    "topk": (lambda x: x.topk(2).values, [(4, 16)], 64),
    "dropout": (nn.Dropout(0.5), [(4, 5)], 20),
    "dropout outside training": (nn.Dropout(0.5).eval(), [(4, 5)], 0),
    "interpolate": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        [(1, 2, 3, 3)],
        2 * 36 * 7,
    ),
    "interpolate to the nearest": (lambda x: F.interpolate(x, scale_factor=2), [(1, 2, 3, 3)], 0),
    "grid_sample": (F.grid_sample, [(1, 3, 8, 8), (1, 4, 4, 2)], 3 * 16 * 7),
    "embedding": (nn.Embedding(10, 4), [index(3)], 0),
    "embedding_bag": (nn.EmbeddingBag(10, 4), [index(2, 3)], 6 * 4),
    "embedding_bag with weights": (
        lambda i, w, p: F.embedding_bag(i, w, mode="sum", per_sample_weights=p),
        [index(2, 3), (10, 4), (2, 3)],
        6 * 4 * 2,
    ),
    "cross entropy": (F.cross_entropy, [(4, 10), index(4)], 40 * 5 + 4),
    "mse_loss": (F.mse_loss, [(4, 5), (4, 5)], 60),
    "scatter_add": (lambda x, i, s: x.scatter_add(0, i, s), [(9,), index(4), (4,)], 4),
    "one_hot": (lambda i: F.one_hot(i, 5), [index(3)], 0),
    "bucketize": (torch.bucketize, [(5,), (7,)], 15),
    "pad": (lambda x: F.pad(x, (1, 1)), [(4, 5)], 0),
    "cat": (lambda x: torch.cat([x, x]), [(4, 5)], 0),
    "index": (lambda x, i: x[i], [(4, 5), index(3)], 0),
    "roll": (lambda x: x.roll(1), [(4, 5)], 0),
    "transpose, then copy": (lambda x: x.t().contiguous(), [(4, 5)], 0),
    "creation": (lambda x: x + torch.arange(5), [(4, 5)], 20),
    "rfft": (torch.fft.rfft, [(2, 8)], 5 * 16 * 3 // 2),
}


@pytest.mark.parametrize(
    ("model", "shapes", "macs", "other"), CONTRACTIONS.values(), ids=CONTRACTIONS.keys()
)
def test_contraction(sample, model, shapes, macs, other):
    total = sample(model, *shapes).totals
    assert (total.macs, total.flops, total.flops_other) == (macs, 2 * macs, other)
    assert total.coverage == 1


@pytest.mark.parametrize(("model", "shapes", "other"), OTHERS.values(), ids=OTHERS.keys())
def test_operations_outside_contractions(sample, model, shapes, other):
    total = sample(model, *shapes).totals
    assert (total.macs, total.flops_other) == (0, other)
    assert total.coverage == 1


def written_out_layer_norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)
    return centred * scale


def written_out_rms_norm(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def written_out_softmax(x: torch.Tensor) -> torch.Tensor:
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("fused", "written_out", "per_row"),
    [
        (lambda x: F.layer_norm(x, (64,)), written_out_layer_norm, 2),
        (lambda x: F.rms_norm(x, (64,)), written_out_rms_norm, 2),
        (lambda x: x.softmax(-1), written_out_softmax, 0),
    ],
)
def test_fused_costs_what_its_formula_costs(sample, fused, written_out, per_row):
    shape = (32, 64)
    rows = 32 * per_row
    ours = sample(fused, shape).totals.flops_other
    assert sample(written_out, shape).totals.flops_other == ours + rows


def test_packed_sequence_counts_its_tokens():
    # torch cannot trace a packed sequence with fake tensors, so there is no capture here
    weights = {"hx": T((1, 3, 16)), "params": (T((48, 8)), T((48, 16)))}
    cost = evaluate(FORMULAS["aten.gru"], {"data": T((10, 8)), **weights}, (T((10, 16)),))
    assert cost == Cost(10 * 48 * 24, 10 * 16 * 11)
