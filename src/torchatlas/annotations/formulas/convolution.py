"""Convolutions: one multiply-add per output element, input channel of its group and tap."""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import product


@flop_formula(
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten._convolution_mode",
    "aten.mkldnn_convolution",
    "aten.cudnn_convolution",
    "aten.miopen_convolution",
    "aten.miopen_depthwise_convolution",
    "aten._mps_convolution",
    "aten._nnpack_spatial_convolution",
    "aten.thnn_conv2d",
    "aten._slow_conv2d_forward",
    "aten.slow_conv3d",
    "aten.slow_conv3d_forward",
    "aten.slow_conv_dilated2d",
    "aten.slow_conv_dilated3d",
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


@flop_formula(
    "aten.cudnn_convolution_transpose",
    "aten.miopen_convolution_transpose",
    "aten._mps_convolution_transpose",
    "aten.slow_conv_transpose2d",
    "aten.slow_conv_transpose3d",
)
def transpose_kernel(
    self: TensorMeta, weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None
) -> Cost:
    """Transpose a convolution, as `conv_transpose`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 x 25 inputs x 6 x 3 x 3
    >>> transpose_kernel(T((1, 4, 5, 5)), T((4, 6, 3, 3)), T((1, 6, 7, 7)))
    Cost(macs=5400, other=0)
    """
    return conv_transpose(self, weight, out, bias)


@flop_formula("aten.cudnn_convolution_relu", "aten.miopen_convolution_relu")
def conv_relu(weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Convolve, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_relu(T((8, 4, 3)), T((1, 8, 10)), T((8,)))  # 80 x 4 x 3; 80 x (bias, ReLU)
    Cost(macs=960, other=160)
    """
    cost = conv(weight, out, bias)
    return Cost(cost.macs, cost.other + out.numel)


@flop_formula("aten.cudnn_convolution_add_relu", "aten.miopen_convolution_add_relu")
def conv_add_relu(weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Convolve, add another tensor, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_add_relu(T((8, 4, 3)), T((1, 8, 10)))  # 80 x (addition, ReLU)
    Cost(macs=960, other=160)
    """
    cost = conv(weight, out, bias)
    return Cost(cost.macs, cost.other + 2 * out.numel)


@flop_formula("mkldnn._convolution_pointwise")
def conv_pointwise(
    X: TensorMeta,
    W: TensorMeta,
    out: TensorMeta,
    groups: Dim,
    B: TensorMeta | None = None,
    attr: str = "none",
    binary_attr: str = "none",
    unary_attr: str | None = None,
) -> Cost:
    """Convolve, then combine with another tensor, then an activation.

    The weight may be packed, so only its kernel, the last dimensions, is looked at.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, y = T((1, 4, 12)), T((8, 4, 3)), T((1, 8, 10))
    >>> conv_pointwise(x, w, y, 1, T((8,)), "relu")  # 80 x 4 x 3; 80 x (bias, activation)
    Cost(macs=960, other=160)
    """
    taps = product(W.shape[2 - len(X.shape) :])
    after = (attr != "none") + (binary_attr != "none") + (unary_attr not in (None, "none"))
    macs = out.numel * (X.shape[1] // groups) * taps
    return Cost(macs, out.numel * ((B is not None) + after))


@flop_formula("mkldnn._convolution_pointwise_")
def conv_pointwise_into(
    other: TensorMeta,
    X: TensorMeta,
    W: TensorMeta,
    groups: Dim,
    binary_attr: str,
    B: TensorMeta | None = None,
    unary_attr: str | None = None,
) -> Cost:
    """Convolve and combine the result with `other` in place, then an activation.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, y = T((1, 4, 12)), T((8, 4, 3)), T((1, 8, 10))
    >>> conv_pointwise_into(y, x, w, 1, "add", None, "relu")  # 80 x (addition, activation)
    Cost(macs=960, other=160)
    """
    return conv_pointwise(X, W, other, groups, B, "none", binary_attr, unary_attr)


@flop_formula("mkldnn._convolution_transpose_pointwise")
def conv_transpose_pointwise(
    X: TensorMeta,
    W: TensorMeta,
    out: TensorMeta,
    groups: Dim,
    attr: str,
    B: TensorMeta | None = None,
) -> Cost:
    """Transpose a convolution, then an activation.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_transpose_pointwise(T((1, 4, 5)), T((4, 6, 3)), T((1, 6, 11)), 1, "relu")
    Cost(macs=360, other=66)
    """
    taps = product(W.shape[2 - len(X.shape) :])
    macs = X.numel * (out.shape[1] // groups) * taps
    return Cost(macs, out.numel * ((B is not None) + (attr != "none")))


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


@flop_formula("aten.convolution_backward", "aten.convolution_backward_overrideable")
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


@flop_formula("aten._slow_conv2d_backward", "aten.mps_convolution_backward")
def conv_kernel_backward(
    grad_output: TensorMeta,
    self: TensorMeta,
    weight: TensorMeta,
    output_mask: tuple[bool, ...] = (True, True, True),
) -> Cost:
    """Take the gradients asked for, as `convolution_backward`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> y, x, w = T((1, 8, 4, 4)), T((1, 4, 6, 6)), T((8, 4, 3, 3))
    >>> conv_kernel_backward(y, x, w)  # 2 x 128 x 4 x 9; 128 gradients of the bias
    Cost(macs=9216, other=128)
    """
    return convolution_backward(grad_output, self, weight, output_mask=output_mask)


@flop_formula("aten.mps_convolution_transpose_backward")
def transpose_kernel_backward(
    self: TensorMeta,
    grad_output: TensorMeta,
    weight: TensorMeta,
    output_mask: tuple[bool, ...] = (True, True),
) -> Cost:
    """Take the gradients of a transposed convolution's input and weight.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, y, w = T((1, 4, 5)), T((1, 6, 11)), T((4, 6, 3))  # forward: 4 x 5 x 6 x 3 = 360
    >>> transpose_kernel_backward(x, y, w)
    Cost(macs=720, other=0)
    """
    return convolution_backward(grad_output, self, weight, True, (*output_mask, False))


@flop_formula("aten.conv_tbc")
def conv_tbc(weight: TensorMeta, out: TensorMeta) -> Cost:
    """Convolve (time, batch, channels) with a weight (kernel, Cin, Cout) and add a bias.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_tbc(T((3, 4, 6)), T((8, 1, 6)))  # 8 x 6 x 3 x 4; 48 biases
    Cost(macs=576, other=48)
    """
    return Cost(out.numel * weight.shape[0] * weight.shape[1], out.numel)


@flop_formula("aten.conv_tbc_backward")
def conv_tbc_backward(self: TensorMeta, weight: TensorMeta) -> Cost:
    """Take the gradients of `conv_tbc`, whose result had the gradient `self`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_tbc_backward(T((8, 1, 6)), T((3, 4, 6)))  # twice 48 x 3 x 4; 48 gradients
    Cost(macs=1152, other=48)
    """
    cost = conv_tbc(weight, self)
    return Cost(2 * cost.macs, cost.other)


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


@flop_formula("torchvision._deform_conv2d_backward")
def deform_conv2d_backward(
    grad: TensorMeta,
    input: TensorMeta,
    weight: TensorMeta,
    mask: TensorMeta,
    use_mask: bool = False,
) -> Cost:
    """Take the gradients of input, weight, offsets, mask and bias.

    The columns' gradient and the weight's are products of the forward's size. Per sample: it is
    computed again (7, and 1 for a mask); its gradient goes to four neighbours (4 products, 4
    sums); for each of two coordinates four neighbours are weighted, summed, multiplied by the
    gradient and added up (4 + 3 + 1 + 1 = 9); a mask scales the gradient and gets its own
    (1 + 2). The bias sums the gradient.

    >>> from torchatlas.schema import TensorMeta as T
    >>> g, x, w, m = T((1, 8, 5, 5)), T((1, 4, 7, 7)), T((8, 4, 3, 3)), T((1, 9, 5, 5))
    >>> deform_conv2d_backward(g, x, w, m)  # 2 x 7200; 900 samples of 7 + 8 + 18; 200 sums
    Cost(macs=14400, other=29900)
    """
    samples = grad.shape[0] * input.shape[1] * product(grad.shape[2:]) * product(weight.shape[2:])
    per_sample = 7 + 8 + 2 * 9 + (4 if use_mask else 0)
    return Cost(2 * grad.numel * product(weight.shape[1:]), samples * per_sample + grad.numel)
