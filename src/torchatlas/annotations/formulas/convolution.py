"""Convolutions: one multiply-add per output element, input channel of its group and tap."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import product


@flop_formula(
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten.mkldnn_convolution",
    "aten.cudnn_convolution",
    "aten._slow_conv2d_forward",
    "aten._conv_depthwise2d",
    "aten.conv_depthwise3d",
)
def conv(weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Convolve with a weight (Cout, Cin / groups, *kernel); taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv(T((64, 3, 7, 7)), T((1, 64, 112, 112)))  # 64 x 112 x 112 x 3 x 7 x 7
    Cost(macs=118013952, other=0)
    >>> conv(T((8, 1, 3)), T((1, 8, 10)), T((8,)))  # depthwise: 8 x 10 x 1 x 3; 80 biases
    Cost(macs=240, other=80)
    """
    macs = out.numel * product(weight.shape[1:])
    return Cost(macs, out.numel if bias is not None else 0)


@flop_formula("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(
    input: TensorMeta, weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None
) -> Cost:
    """Spread every input element over a weight (Cin, Cout / groups, *kernel).

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_transpose(T((1, 4, 5)), T((4, 6, 3)), T((1, 6, 11)))  # 4 x 5 x 6 x 3
    Cost(macs=360, other=0)
    """
    macs = input.numel * product(weight.shape[1:])
    return Cost(macs, out.numel if bias is not None else 0)


@flop_formula("aten.convolution", "aten._convolution", "aten.convolution_overrideable")
def convolution(
    input: TensorMeta,
    weight: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    transposed: bool = False,
) -> Cost:
    """Convolve, or transpose a convolution.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w = T((1, 4, 5)), T((4, 6, 3))
    >>> convolution(x, w, T((1, 6, 11)), transposed=True)  # 4 x 5 x 6 x 3
    Cost(macs=360, other=0)
    >>> convolution(T((1, 6, 5)), w, T((1, 4, 3)))  # 4 x 3 x 6 x 3
    Cost(macs=216, other=0)
    """
    if transposed:
        return conv_transpose(input, weight, out, bias)
    return conv(weight, out, bias)


@flop_formula("aten.convolution_backward")
def convolution_backward(
    grad_output: TensorMeta,
    input: TensorMeta,
    weight: TensorMeta,
    transposed: bool = False,
    output_mask: tuple[bool, ...] = (True, True, True),
) -> Cost:
    """Take the gradients asked for: of the input, the weight and the bias.

    The first two cost as much as the forward pass each, groups or not. (torch's own counter
    multiplies the weight's by the number of groups: pytorch#183405.)

    >>> from torchatlas.schema import TensorMeta as T
    >>> y, x, w = T((1, 8, 10)), T((1, 8, 12)), T((8, 1, 3))  # forward: 8 x 10 x 3 = 240
    >>> convolution_backward(y, x, w)  # twice 240; the bias sums 80 gradients
    Cost(macs=480, other=80)
    >>> convolution_backward(y, x, w, output_mask=(False, True, False))
    Cost(macs=240, other=0)
    """
    positions: Dim = input.numel if transposed else grad_output.numel
    forward = positions * product(weight.shape[1:])
    of_input, of_weight, of_bias = output_mask
    return Cost(forward * (bool(of_input) + bool(of_weight)), grad_output.numel if of_bias else 0)


@flop_formula("aten.conv_tbc")
def conv_tbc(weight: TensorMeta, out: TensorMeta) -> Cost:
    """Convolve (time, batch, channels) with a weight (kernel, Cin, Cout) and add a bias.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_tbc(T((3, 4, 6)), T((8, 1, 6)))  # 8 x 6 x 3 x 4; 48 biases
    Cost(macs=576, other=48)
    """
    return Cost(out.numel * weight.shape[0] * weight.shape[1], out.numel)


@flop_formula("torchvision.deform_conv2d")
def deform_conv2d(
    weight: TensorMeta,
    out: TensorMeta,
    input: TensorMeta,
    mask: TensorMeta | None = None,
    bias: TensorMeta | None = None,
    use_mask: bool = False,
) -> Cost:
    """Convolve at sampled positions: each tap of each input channel blends four neighbours.

    Four products and three sums make a sample, one more product its mask (arXiv:1811.11168).

    >>> from torchatlas.schema import TensorMeta as T
    >>> w, y, x = T((8, 4, 3, 3)), T((1, 8, 5, 5)), T((1, 4, 7, 7))
    >>> deform_conv2d(w, y, x)  # 8 x 25 x 4 x 9; 25 x 4 x 9 samples of 7
    Cost(macs=7200, other=6300)
    """
    samples = out.shape[0] * input.shape[1] * product(out.shape[2:]) * product(weight.shape[2:])
    per_sample = 8 if use_mask and mask is not None else 7
    biases = out.numel if bias is not None and bias.numel != 0 else 0
    return Cost(out.numel * product(weight.shape[1:]), samples * per_sample + biases)
