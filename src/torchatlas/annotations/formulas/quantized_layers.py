"""Quantised convolutions and recurrent layers, by the rules of `quantized`."""

from __future__ import annotations

from typing import Any

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .quantized import QUANTISE_DYNAMICALLY
from .recurrent import MODES
from .registry import Cost, flop_formula
from .sizes import product

# -- convolutions --------------------------------------------------------------------------


def _packed_conv(weight: Any, out: TensorMeta, per_result: int) -> Cost | None:
    """Count a convolution where the graph knows the weight inside the package."""
    if not isinstance(weight, TensorMeta):
        return None
    macs = out.numel * product(weight.shape[1:])
    return Cost(macs, per_result * out.numel, integer=True)


@flop_formula(
    "quantized.conv1d",
    "quantized.conv2d",
    "quantized.conv3d",
    "_quantized.conv2d",
    "_quantized.conv3d",
)
def quantized_conv(out: TensorMeta, packed_weight: Any = None, weight: Any = None) -> Cost | None:
    """Convolve with a packed weight; None while only its package is known.

    >>> from torchatlas.schema import TensorMeta as T
    >>> y = T((1, 8, 6, 6), "quint8")
    >>> quantized_conv(y, T((8, 3, 3, 3), "qint8"))  # 288 x 3 x 9; 288 brought to scale
    Cost(macs=7776, other=288, integer=True)
    >>> quantized_conv(y, "<ScriptObject>") is None
    True
    """
    return _packed_conv(packed_weight if packed_weight is not None else weight, out, 1)


@flop_formula(
    "quantized.conv1d_relu",
    "quantized.conv2d_relu",
    "quantized.conv3d_relu",
    "quantized.conv2d_add",
    "_quantized.conv2d_relu",
    "_quantized.conv3d_relu",
)
def quantized_conv_fused(
    out: TensorMeta, packed_weight: Any = None, weight: Any = None
) -> Cost | None:
    """Convolve with a packed weight, and one more operation on each result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_conv_fused(T((1, 8, 6, 6), "quint8"), T((8, 3, 3, 3), "qint8"))
    Cost(macs=7776, other=576, integer=True)
    """
    return _packed_conv(packed_weight if packed_weight is not None else weight, out, 2)


@flop_formula("quantized.conv2d_add_relu")
def quantized_conv_add_relu(out: TensorMeta, packed_weight: Any) -> Cost | None:
    """Convolve with a packed weight, add another tensor, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_conv_add_relu(T((1, 8, 6, 6), "quint8"), T((8, 3, 3, 3), "qint8"))
    Cost(macs=7776, other=864, integer=True)
    """
    return _packed_conv(packed_weight, out, 3)


@flop_formula("quantized.conv1d_dynamic", "quantized.conv2d_dynamic", "quantized.conv3d_dynamic")
def dynamic_conv(qx: TensorMeta, packed_weight: Any, out: TensorMeta) -> Cost | None:
    """Quantise an input, convolve with a packed weight, and scale the results back.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 192 x 2 to quantise; 288 results
    >>> dynamic_conv(T((1, 3, 8, 8)), T((8, 3, 3, 3), "qint8"), T((1, 8, 6, 6)))
    Cost(macs=7776, other=672, integer=True)
    """
    cost = _packed_conv(packed_weight, out, 1)
    if cost is None:
        return None
    return cost._replace(other=cost.other + QUANTISE_DYNAMICALLY * qx.numel)


@flop_formula(
    "quantized.conv_transpose1d",
    "quantized.conv_transpose2d",
    "quantized.conv_transpose3d",
    "_quantized.conv_transpose1d",
    "_quantized.conv_transpose2d",
)
def quantized_conv_transpose(qx: TensorMeta, packed_weight: Any, out: TensorMeta) -> Cost | None:
    """Transpose a convolution with a packed weight (Cin, Cout / groups, *kernel).

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 20 inputs x 6 x 3; 66 brought to scale
    >>> quantized_conv_transpose(T((1, 4, 5)), T((4, 6, 3), "qint8"), T((1, 6, 11)))
    Cost(macs=360, other=66, integer=True)
    """
    if not isinstance(packed_weight, TensorMeta):
        return None
    return Cost(qx.numel * product(packed_weight.shape[1:]), out.numel, integer=True)


@flop_formula(
    "quantized.conv_transpose1d_dynamic",
    "quantized.conv_transpose2d_dynamic",
    "quantized.conv_transpose3d_dynamic",
)
def dynamic_conv_transpose(qx: TensorMeta, packed_weight: Any, out: TensorMeta) -> Cost | None:
    """Quantise an input, and transpose a convolution with a packed weight.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 20 inputs x 6 x 3; 20 x 2 to quantise, 66 results
    >>> dynamic_conv_transpose(T((1, 4, 5)), T((4, 6, 3), "qint8"), T((1, 6, 11)))
    Cost(macs=360, other=106, integer=True)
    """
    cost = quantized_conv_transpose(qx, packed_weight, out)
    if cost is None:
        return None
    return cost._replace(other=cost.other + QUANTISE_DYNAMICALLY * qx.numel)


@flop_formula(
    "onednn.qconv_pointwise",
    "onednn.qconv1d_pointwise",
    "onednn.qconv2d_pointwise",
    "onednn.qconv3d_pointwise",
)
def onednn_conv(
    qx: TensorMeta,
    qw: TensorMeta,
    out: TensorMeta,
    groups: Dim,
    bias: TensorMeta | None = None,
    attr: str = "none",
    binary_attr: str = "none",
    unary_attr: str | None = None,
) -> Cost:
    """Convolve a quantised input, then the operations fused with it.

    The weight may be packed, so only its kernel, the last dimensions, is looked at.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, y = T((1, 3, 8, 8), "uint8"), T((8, 3, 3, 3), "int8"), T((1, 8, 6, 6))
    >>> onednn_conv(x, w, y, 1, T((8,)), "relu")  # 288 x 3 x 9; 288 x (scale, bias, ReLU)
    Cost(macs=7776, other=864, integer=True)
    """
    taps = product(qw.shape[2 - len(qx.shape) :])
    after = (attr != "none") + (binary_attr != "none") + (unary_attr not in (None, "none"))
    macs = out.numel * (qx.shape[1] // groups) * taps
    return Cost(macs, out.numel * (1 + (bias is not None) + after), integer=True)


# -- recurrent layers ----------------------------------------------------------------------


def _quantized_cell(
    cell: str, gates: int, input: TensorMeta, state: TensorMeta, *biases: TensorMeta | None
) -> Cost:
    batch, hidden = product(input.shape[:-1]), state.shape[-1]
    width = input.shape[-1] + hidden
    added = sum((bias.numel for bias in biases if bias is not None), 0)
    other = batch * (added + hidden * PASSES[cell] + QUANTISE_DYNAMICALLY * width)
    # one scaling for each result of the two products
    other += 2 * batch * gates * hidden
    return Cost(batch * gates * hidden * width, other, integer=True)


@flop_formula("aten.quantized_lstm_cell", "quantized.quantized_lstm_cell_dynamic")
def quantized_lstm_cell(
    input: TensorMeta,
    hx: tuple[TensorMeta, ...],
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
    bias_ih: TensorMeta | None = None,
    bias_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of an LSTM whose operands are quantised on the way.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 5 x 64 x (8 + 16); 5 x (128 biases + 16 units x 13 + 24 x 2 to quantise + 2 x 64)
    >>> h, b = T((5, 16)), T((64,))
    >>> quantized_lstm_cell(T((5, 8)), (h, h), b, b)
    Cost(macs=7680, other=2560, integer=True)
    """
    return _quantized_cell("lstm", 4, input, hx[0], b_ih, b_hh, bias_ih, bias_hh)


@flop_formula("aten.quantized_gru_cell", "quantized.quantized_gru_cell_dynamic")
def quantized_gru_cell(
    input: TensorMeta,
    hx: TensorMeta,
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of a GRU whose operands are quantised on the way.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 5 x 48 x (8 + 16); 5 x (16 units x 11 + 24 x 2 to quantise + 2 x 48)
    >>> quantized_gru_cell(T((5, 8)), T((5, 16)))
    Cost(macs=5760, other=1600, integer=True)
    """
    return _quantized_cell("gru", 3, input, hx, b_ih, b_hh)


@flop_formula(
    "aten.quantized_rnn_relu_cell",
    "aten.quantized_rnn_tanh_cell",
    "quantized.quantized_rnn_relu_cell_dynamic",
    "quantized.quantized_rnn_tanh_cell_dynamic",
)
def quantized_rnn_cell(
    input: TensorMeta,
    hx: TensorMeta,
    b_ih: TensorMeta | None = None,
    b_hh: TensorMeta | None = None,
) -> Cost:
    """Take one step of a plain recurrent layer whose operands are quantised on the way.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 5 x 16 x (8 + 16); 5 x (16 units x 2 + 24 x 2 to quantise + 2 x 16)
    >>> quantized_rnn_cell(T((5, 8)), T((5, 16)))
    Cost(macs=1920, other=560, integer=True)
    """
    return _quantized_cell("rnn", 1, input, hx, b_ih, b_hh)


def _quantized_layers(
    mode: int, sequence: TensorMeta | None, hidden: Dim, layers: int, biased: bool, both: bool
) -> Cost | None:
    """Add up layers whose weights are packed: all but the first read what the one before made."""
    if sequence is None:
        return None
    cell, gates = MODES[mode]
    tokens, directions = product(sequence.shape[:-1]), 2 if both else 1
    rows = gates * hidden
    macs: Dim = 0
    other: Dim = 0
    for layer in range(layers):
        width = (sequence.shape[-1] if layer == 0 else directions * hidden) + hidden
        per_token = QUANTISE_DYNAMICALLY * width + hidden * PASSES[cell] + 2 * rows * (1 + biased)
        macs += tokens * directions * rows * width
        other += tokens * directions * per_token
    return Cost(macs, other, integer=True)


@flop_formula("aten.quantized_lstm")
def quantized_lstm(
    hx: tuple[TensorMeta, ...],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    input: TensorMeta | None = None,
    data: TensorMeta | None = None,
    dtype: str | None = None,
) -> Cost | None:
    """Run a sequence through LSTM layers with packed weights; in half precision as floats.

    >>> from torchatlas.schema import TensorMeta as T
    >>> h = T((1, 3, 16))  # 15 x 64 x (8 + 16); 15 x (24 x 2 + 16 x 13 + 2 x 64 x (scale, bias))
    >>> quantized_lstm((h, h), True, 1, False, T((5, 3, 8)))
    Cost(macs=23040, other=7680, integer=True)
    """
    sequence = input or data
    cost = _quantized_layers(2, sequence, hx[0].shape[-1], num_layers, has_biases, bidirectional)
    return cost if cost is None else cost._replace(integer=dtype != "torch.float16")


@flop_formula("aten.quantized_gru")
def quantized_gru(
    hx: TensorMeta,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    input: TensorMeta | None = None,
    data: TensorMeta | None = None,
) -> Cost | None:
    """Run a sequence through GRU layers with packed weights.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 15 x 48 x (8 + 16); 15 x (24 x 2 + 16 x 11 + 2 x 48 scalings)
    >>> quantized_gru(T((1, 3, 16)), False, 1, False, T((5, 3, 8)))
    Cost(macs=17280, other=4800, integer=True)
    """
    hidden = hx.shape[-1]
    return _quantized_layers(3, input or data, hidden, num_layers, has_biases, bidirectional)
