"""Recurrent layers: every weight matrix is applied once per token and layer."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import product


def _layers(
    sequence: TensorMeta | None,
    params: tuple[TensorMeta, ...],
    gates: int,
    hidden: Dim,
    per_unit: int,
) -> Cost | None:
    """Sum over the weights of all layers and directions, given as the op gets them.

    Weights are matrices, biases vectors. A hidden-to-hidden weight has ``gates`` rows per unit;
    each pair of weights, one from the input and one from the state, is a layer in one direction.
    """
    if sequence is None:
        return None
    tokens = product(sequence.shape[:-1])
    matrices = [p for p in params if len(p.shape) == 2]
    biases = sum((p.numel for p in params if len(p.shape) == 1), 0)
    # A projection (proj_size, hidden) has fewer rows than the gates of a unit need.
    gated = [m for m in matrices if m.shape[0] == gates * hidden]
    units: Dim = hidden * (len(gated) // 2)
    return Cost(tokens * sum((m.numel for m in matrices), 0), tokens * (biases + units * per_unit))


@flop_formula("aten.lstm")
def lstm(
    hx: tuple[TensorMeta, ...],
    params: tuple[TensorMeta, ...],
    input: TensorMeta | None = None,
    data: TensorMeta | None = None,
) -> Cost | None:
    """Run a sequence (T, B, in) or packed data (tokens, in) through LSTM layers.

    >>> from torchatlas.schema import TensorMeta as T
    >>> h, w = T((1, 3, 16)), (T((64, 8)), T((64, 16)), T((64,)), T((64,)))
    >>> # 5 x 3 tokens x (64 x 8 + 64 x 16); 15 x (128 biases + 16 units x 13)
    >>> lstm((h, h), w, T((5, 3, 8)))
    Cost(macs=23040, other=5040)
    """
    return _layers(input or data, params, 4, hx[1].shape[-1], PASSES["lstm"])


@flop_formula("aten.gru")
def gru(
    hx: TensorMeta,
    params: tuple[TensorMeta, ...],
    input: TensorMeta | None = None,
    data: TensorMeta | None = None,
) -> Cost | None:
    """Run a sequence through GRU layers.

    >>> from torchatlas.schema import TensorMeta as T
    >>> w = (T((48, 8)), T((48, 16)), T((48,)), T((48,)))
    >>> # 15 tokens x (48 x 8 + 48 x 16); 15 x (96 biases + 16 units x 11)
    >>> gru(T((1, 3, 16)), w, T((5, 3, 8)))
    Cost(macs=17280, other=4080)
    """
    return _layers(input or data, params, 3, hx.shape[-1], PASSES["gru"])


@flop_formula("aten.rnn_tanh", "aten.rnn_relu")
def rnn(
    hx: TensorMeta,
    params: tuple[TensorMeta, ...],
    input: TensorMeta | None = None,
    data: TensorMeta | None = None,
) -> Cost | None:
    """Run a sequence through plain recurrent layers.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 15 tokens x (16 x 8 + 16 x 16); 15 x 16 units x 2
    >>> rnn(T((1, 3, 16)), (T((16, 8)), T((16, 16))), T((5, 3, 8)))
    Cost(macs=5760, other=480)
    """
    return _layers(input or data, params, 1, hx.shape[-1], PASSES["rnn"])


def _cell(
    input: TensorMeta,
    w_ih: TensorMeta,
    w_hh: TensorMeta,
    b_ih: TensorMeta | None,
    b_hh: TensorMeta | None,
    per_unit: int,
) -> Cost:
    biases = sum((b.numel for b in (b_ih, b_hh) if b is not None), 0)
    batch = product(input.shape[:-1])
    return Cost(batch * (w_ih.numel + w_hh.numel), batch * (biases + w_hh.shape[-1] * per_unit))


@flop_formula("aten.lstm_cell")
def lstm_cell(
    input: TensorMeta,
    w_ih: TensorMeta,
    w_hh: TensorMeta,
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of an LSTM.

    >>> from torchatlas.schema import TensorMeta as T
    >>> lstm_cell(T((5, 8)), T((64, 8)), T((64, 16)))  # 5 x 64 x (8 + 16); 5 x 16 units x 13
    Cost(macs=7680, other=1040)
    """
    return _cell(input, w_ih, w_hh, b_ih, b_hh, PASSES["lstm"])


@flop_formula("aten.gru_cell")
def gru_cell(
    input: TensorMeta,
    w_ih: TensorMeta,
    w_hh: TensorMeta,
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of a GRU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> gru_cell(T((5, 8)), T((48, 8)), T((48, 16)))  # 5 x 48 x (8 + 16); 5 x 16 units x 11
    Cost(macs=5760, other=880)
    """
    return _cell(input, w_ih, w_hh, b_ih, b_hh, PASSES["gru"])


@flop_formula("aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def rnn_cell(
    input: TensorMeta,
    w_ih: TensorMeta,
    w_hh: TensorMeta,
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of a plain recurrent layer.

    >>> from torchatlas.schema import TensorMeta as T
    >>> b = T((16,))  # 5 x 16 x (8 + 16); 5 x (32 biases + 16 units x 2)
    >>> rnn_cell(T((5, 8)), T((16, 8)), T((16, 16)), b, b)
    Cost(macs=1920, other=320)
    """
    return _cell(input, w_ih, w_hh, b_ih, b_hh, PASSES["rnn"])


@flop_formula("aten.mkldnn_rnn_layer")
def mkldnn_rnn_layer(
    input: TensorMeta,
    weight0: TensorMeta,
    weight1: TensorMeta,
    weight2: TensorMeta,
    weight3: TensorMeta,
    hidden_size: Dim,
) -> Cost:
    """Run a sequence through one LSTM layer in one direction, as oneDNN does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> b = T((64,))  # 15 tokens x (64 x 8 + 64 x 16); 15 x (128 biases + 16 units x 13)
    >>> mkldnn_rnn_layer(T((5, 3, 8)), T((64, 8)), T((64, 16)), b, b, 16)
    Cost(macs=23040, other=5040)
    """
    tokens = product(input.shape[:-1])
    biases = weight2.numel + weight3.numel
    other = tokens * (biases + hidden_size * PASSES["lstm"])
    return Cost(tokens * (weight0.numel + weight1.numel), other)
