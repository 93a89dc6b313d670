"""Recurrent layers: every weight matrix is applied once per token and layer.

The backward pass takes two products for each of the forward's, the gradients of the operand and
of the weight, and `BACKWARD` operations per hidden unit and step.
"""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import product

BACKWARD = {
    # c' = f c + i g, h' = o tanh(c'): tanh 1, gradients of o 1, of c' 5 (o dh, 1 - tanh^2 2,
    # product, sum), of i, g, f and c 1 each; three sigmoids 3 each, one tanh 3
    "lstm": 23,
    # n = tanh(x + r y), h' = (1 - z) n + z h: gradients of z 2, of n 2, of h 1, of r 1, of y 1;
    # two sigmoids 3 each, one tanh 3
    "gru": 16,
    "rnn": 3,  # 1 - tanh^2, product
}
"""Operations per hidden unit and step of a cell's backward pass, after the products."""

MODES = (("rnn", 1), ("rnn", 1), ("lstm", 4), ("gru", 3))
"""What a number from 0 to 3 means to cuDNN, MIOpen and oneDNN: the cell, and its gates."""


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


# -- kernels that run whole layers ---------------------------------------------------------


@flop_formula("aten._cudnn_rnn", "aten.miopen_rnn")
def rnn_kernel(
    input: TensorMeta, weight: tuple[TensorMeta, ...], mode: int, hidden_size: Dim
) -> Cost | None:
    """Run a sequence (T, B, in), or packed data (tokens, in), through layers of any kind.

    >>> from torchatlas.schema import TensorMeta as T
    >>> w = (T((64, 8)), T((64, 16)), T((64,)), T((64,)))
    >>> rnn_kernel(T((5, 3, 8)), w, 2, 16)  # as `lstm`
    Cost(macs=23040, other=5040)
    """
    cell, gates = MODES[mode]
    return _layers(input, weight, gates, hidden_size, PASSES[cell])


@flop_formula("aten._cudnn_rnn_backward", "aten.miopen_rnn_backward")
def rnn_kernel_backward(
    input: TensorMeta,
    weight: tuple[TensorMeta, ...],
    mode: int,
    hidden_size: Dim,
    output_mask: tuple[bool, ...],
) -> Cost | None:
    """Take the gradients of the sequence and the states, and of the weights if asked for.

    >>> from torchatlas.schema import TensorMeta as T
    >>> w = (T((64, 8)), T((64, 16)), T((64,)), T((64,)))
    >>> # twice 23040; 15 x (128 biases summed + 16 units x 23)
    >>> rnn_kernel_backward(T((5, 3, 8)), w, 2, 16, (True, True, True, True))
    Cost(macs=46080, other=7440)
    >>> rnn_kernel_backward(T((5, 3, 8)), w, 2, 16, (True, True, True, False))
    Cost(macs=23040, other=5520)
    """
    cell, gates = MODES[mode]
    of_weight = bool(output_mask[3])
    counted = weight if of_weight else tuple(w for w in weight if len(w.shape) == 2)
    cost = _layers(input, counted, gates, hidden_size, BACKWARD[cell])
    return None if cost is None else Cost(cost.macs * (1 + of_weight), cost.other)


@flop_formula("aten.mkldnn_rnn_layer_backward")
def mkldnn_rnn_layer_backward(
    input: TensorMeta,
    weight1: TensorMeta,
    weight2: TensorMeta,
    weight3: TensorMeta,
    weight4: TensorMeta,
    hidden_size: Dim,
) -> Cost:
    """Take the gradients of `mkldnn_rnn_layer`, of its sequence, states and weights.

    >>> from torchatlas.schema import TensorMeta as T
    >>> b = T((64,))  # twice 23040; 15 x (128 biases summed + 16 units x 23)
    >>> mkldnn_rnn_layer_backward(T((5, 3, 8)), T((64, 8)), T((64, 16)), b, b, 16)
    Cost(macs=46080, other=7440)
    """
    tokens = product(input.shape[:-1])
    biases = weight3.numel + weight4.numel
    other = tokens * (biases + hidden_size * BACKWARD["lstm"])
    return Cost(2 * tokens * (weight1.numel + weight2.numel), other)


@flop_formula("aten._lstm_mps")
def lstm_mps(
    input: TensorMeta, hx: tuple[TensorMeta, ...], params: tuple[TensorMeta, ...]
) -> Cost | None:
    """Run a sequence through LSTM layers, as `lstm`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> h, w = T((1, 3, 16)), (T((64, 8)), T((64, 16)), T((64,)), T((64,)))
    >>> lstm_mps(T((5, 3, 8)), (h, h), w)
    Cost(macs=23040, other=5040)
    """
    return lstm(hx, params, input)


@flop_formula("aten.lstm_mps_backward")
def lstm_mps_backward(
    input: TensorMeta, hx: tuple[TensorMeta, ...], params: tuple[TensorMeta, ...]
) -> Cost | None:
    """Take the gradients of `lstm_mps`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> h, w = T((1, 3, 16)), (T((64, 8)), T((64, 16)), T((64,)), T((64,)))
    >>> lstm_mps_backward(T((5, 3, 8)), (h, h), w)
    Cost(macs=46080, other=7440)
    """
    return rnn_kernel_backward(input, params, 2, hx[1].shape[-1], (True,) * 4)


# -- cells after their products ------------------------------------------------------------


def _fused_cell(state: TensorMeta, per_unit: int, *biases: TensorMeta | None) -> Cost:
    batch = product(state.shape[:-1])
    added = sum((bias.numel for bias in biases if bias is not None), 0)
    return Cost(0, state.numel * per_unit + batch * added)


@flop_formula("aten._thnn_fused_lstm_cell")
def fused_lstm_cell(
    cx: TensorMeta,
    input_bias: TensorMeta | None = None,
    hidden_bias: TensorMeta | None = None,
) -> Cost:
    """Apply the gates of an LSTM, whose products were taken before, to a state (B, H).

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_lstm_cell(T((5, 16)), T((64,)), T((64,)))  # 80 units x 13; 5 x 128 biases
    Cost(macs=0, other=1680)
    """
    return _fused_cell(cx, PASSES["lstm"], input_bias, hidden_bias)


@flop_formula("aten._thnn_fused_gru_cell")
def fused_gru_cell(
    hx: TensorMeta,
    input_bias: TensorMeta | None = None,
    hidden_bias: TensorMeta | None = None,
) -> Cost:
    """Apply the gates of a GRU, whose products were taken before, to a state (B, H).

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_gru_cell(T((5, 16)))  # 80 units x 11
    Cost(macs=0, other=880)
    """
    return _fused_cell(hx, PASSES["gru"], input_bias, hidden_bias)


@flop_formula("aten._thnn_fused_lstm_cell_backward", "aten._thnn_fused_lstm_cell_backward_impl")
def fused_lstm_cell_backward(cx: TensorMeta, has_bias: bool) -> Cost:
    """Take the gradients of an LSTM's gates and state; the bias sums those of the 4 gates.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_lstm_cell_backward(T((5, 16)), has_bias=True)  # 80 x (23 + 4)
    Cost(macs=0, other=2160)
    """
    return Cost(0, cx.numel * (BACKWARD["lstm"] + (4 if has_bias else 0)))


@flop_formula("aten._thnn_fused_gru_cell_backward")
def fused_gru_cell_backward(grad_hy: TensorMeta, has_bias: bool) -> Cost:
    """Take the gradients of a GRU's gates and state; two biases sum those of 3 gates each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_gru_cell_backward(T((5, 16)), has_bias=True)  # 80 x (16 + 6)
    Cost(macs=0, other=1760)
    """
    return Cost(0, grad_hy.numel * (BACKWARD["gru"] + (6 if has_bias else 0)))


@flop_formula("aten._thnn_differentiable_lstm_cell_backward")
def differentiable_lstm_cell_backward(cx: TensorMeta, input_bias: TensorMeta | None = None) -> Cost:
    """Apply the gates of an LSTM again, then take the gradients.

    Four sums of two gates and four activations come first; two biases more are added and get a
    gradient.

    >>> from torchatlas.schema import TensorMeta as T
    >>> differentiable_lstm_cell_backward(T((5, 16)))  # 80 x (8 + 23)
    Cost(macs=0, other=2480)
    """
    biased = 8 + 4 if input_bias is not None else 0
    return Cost(0, cx.numel * (8 + BACKWARD["lstm"] + biased))


@flop_formula("aten._thnn_differentiable_gru_cell_backward")
def differentiable_gru_cell_backward(hx: TensorMeta, input_bias: TensorMeta | None = None) -> Cost:
    """Apply the gates of a GRU again, then take the gradients.

    Three sums, three activations and one product come first; two biases more are added and get
    a gradient each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> differentiable_gru_cell_backward(T((5, 16)))  # 80 x (7 + 16)
    Cost(macs=0, other=1840)
    """
    biased = 6 + 6 if input_bias is not None else 0
    return Cost(0, hx.numel * (7 + BACKWARD["gru"] + biased))
