"""Normalisation layers and softmax: a fixed number of passes over the elements."""

from __future__ import annotations

from ...schema import TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula


def _affine(weight: TensorMeta | None, bias: TensorMeta | None) -> int:
    return PASSES["weight"] * (weight is not None) + PASSES["bias"] * (bias is not None)


@flop_formula(
    "aten.layer_norm", "aten.native_layer_norm", "aten.group_norm", "aten.native_group_norm"
)
def normalise(
    input: TensorMeta, weight: TensorMeta | None = None, bias: TensorMeta | None = None
) -> Cost:
    """Bring groups of elements to mean 0 and variance 1, then scale and shift.

    >>> from torchatlas.schema import TensorMeta as T
    >>> normalise(T((2, 4)))  # 8 x (mean, centre, square, sum, scale)
    Cost(macs=0, other=40)
    >>> normalise(T((2, 4)), T((4,)), T((4,)))  # 8 x (5 + 2)
    Cost(macs=0, other=56)
    """
    return Cost(0, input.numel * (PASSES["normalise"] + _affine(weight, bias)))


@flop_formula(
    "aten.batch_norm",
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._native_batch_norm_legit_functional",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
)
def batch_norm(
    input: TensorMeta,
    weight: TensorMeta | None = None,
    bias: TensorMeta | None = None,
    running_mean: TensorMeta | None = None,
    training: bool = True,
) -> Cost:
    """Normalise each channel by its statistics over the batch, or by the running ones.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, c = T((2, 3, 4, 4)), T((3,))
    >>> batch_norm(x, c, c, c, training=False)  # 96 x (multiply, add)
    Cost(macs=0, other=192)
    >>> batch_norm(x, c, c, c, training=True)  # 96 x (5 + 2)
    Cost(macs=0, other=672)
    """
    if not training and running_mean is not None:
        return Cost(0, input.numel * PASSES["normalise with given statistics"])
    return normalise(input, weight, bias)


@flop_formula("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update")
def batch_norm_no_training(input: TensorMeta) -> Cost:
    """Normalise each channel by its running statistics.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_no_training(T((2, 3, 4, 4)))  # 96 x (multiply, add)
    Cost(macs=0, other=192)
    """
    return Cost(0, input.numel * PASSES["normalise with given statistics"])


@flop_formula("aten._batch_norm_with_update", "aten._batch_norm_with_update_functional")
def batch_norm_with_update(
    input: TensorMeta, weight: TensorMeta | None = None, bias: TensorMeta | None = None
) -> Cost:
    """Normalise each channel by its statistics over the batch.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_with_update(T((2, 3, 4, 4)), T((3,)), T((3,)))  # 96 x (5 + 2)
    Cost(macs=0, other=672)
    """
    return normalise(input, weight, bias)


@flop_formula("aten.instance_norm")
def instance_norm(
    input: TensorMeta,
    weight: TensorMeta | None = None,
    bias: TensorMeta | None = None,
    use_input_stats: bool = True,
) -> Cost:
    """Normalise each channel of each sample.

    >>> from torchatlas.schema import TensorMeta as T
    >>> instance_norm(T((2, 3, 4)))  # 24 x 5
    Cost(macs=0, other=120)
    """
    return batch_norm(input, weight, bias, running_mean=input, training=use_input_stats)


@flop_formula("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(input: TensorMeta, weight: TensorMeta | None = None) -> Cost:
    """Divide rows by their root mean square.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rms_norm(T((2, 4)), T((4,)))  # 8 x (square, sum, scale, weight)
    Cost(macs=0, other=32)
    """
    return Cost(0, input.numel * (PASSES["rms_norm"] + _affine(weight, None)))


@flop_formula("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(v: TensorMeta) -> Cost:
    """Give every row of a weight the length that another parameter holds.

    >>> from torchatlas.schema import TensorMeta as T
    >>> weight_norm(T((4, 5)))  # 20 x (square, sum, scale)
    Cost(macs=0, other=60)
    """
    return Cost(0, v.numel * PASSES["weight_norm"])


@flop_formula(
    "aten.softmax",
    "aten._softmax",
    "aten._safe_softmax",
    "aten._masked_softmax",
    "aten.special_softmax",
)
def softmax(self: TensorMeta) -> Cost:
    """Turn rows into probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> softmax(T((2, 10)))  # 20 x (maximum, subtract, exp, sum, divide)
    Cost(macs=0, other=100)
    """
    return Cost(0, self.numel * PASSES["softmax"])


@flop_formula("aten.log_softmax", "aten._log_softmax", "aten.special_log_softmax")
def log_softmax(self: TensorMeta) -> Cost:
    """Turn rows into logarithms of probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> log_softmax(T((2, 10)))  # 20 x (maximum, subtract, exp, sum, subtract)
    Cost(macs=0, other=100)
    """
    return Cost(0, self.numel * PASSES["log_softmax"])


@flop_formula(
    "aten._softmax_backward_data",
    "aten._log_softmax_backward_data",
    "aten._masked_softmax_backward",
)
def softmax_backward(grad_output: TensorMeta) -> Cost:
    """Take the gradient of rows that became probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> softmax_backward(T((2, 10)))  # 20 x (multiply, sum, subtract, multiply)
    Cost(macs=0, other=80)
    """
    return Cost(0, grad_output.numel * PASSES["softmax backward"])


@flop_formula(
    "aten.native_layer_norm_backward",
    "aten.native_group_norm_backward",
    "aten.native_batch_norm_backward",
    "aten.batch_norm_backward",
    "aten.cudnn_batch_norm_backward",
    "aten.miopen_batch_norm_backward",
)
def normalise_backward(
    input: TensorMeta, output_mask: tuple[bool, ...] = (True, True, True), train: bool = True
) -> Cost:
    """Take the gradients asked for: of the input, the weight and the bias.

    >>> from torchatlas.schema import TensorMeta as T
    >>> normalise_backward(T((2, 4)))  # 8 x (8 + 2 for the weight + 1 for the bias)
    Cost(macs=0, other=88)
    >>> normalise_backward(T((2, 4)), (False, True, True))  # 8 x (2 + 1)
    Cost(macs=0, other=24)
    >>> normalise_backward(T((2, 4)), train=False)  # by given statistics: 8 x (1 + 2 + 1)
    Cost(macs=0, other=32)
    """
    of_input, of_weight, of_bias = map(bool, output_mask)
    statistics = "" if train else " with given statistics"
    passes = (
        PASSES[f"normalise backward{statistics}"] * of_input
        + PASSES["weight backward"] * of_weight
        + PASSES["reduction"] * of_bias
    )
    return Cost(0, input.numel * passes)


@flop_formula("aten._fused_rms_norm_backward")
def rms_norm_backward(input: TensorMeta, output_mask: tuple[bool, ...] = (True, True)) -> Cost:
    """Take the gradients asked for: of the input and the weight.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rms_norm_backward(T((2, 4)))  # 8 x (5 + 2 for the weight)
    Cost(macs=0, other=56)
    """
    of_input, of_weight = map(bool, output_mask)
    passes = PASSES["rms_norm backward"] * of_input + PASSES["weight backward"] * of_weight
    return Cost(0, input.numel * passes)


@flop_formula("aten._weight_norm_interface_backward", "aten._weight_norm_differentiable_backward")
def weight_norm_backward(saved_v: TensorMeta) -> Cost:
    """Take the gradients of a weight's direction and of its length.

    >>> from torchatlas.schema import TensorMeta as T
    >>> weight_norm_backward(T((4, 5)))  # 20 x (product, its sum, multiply, subtract, scale)
    Cost(macs=0, other=100)
    """
    return Cost(0, saved_v.numel * PASSES["weight_norm backward"])


@flop_formula("aten.batch_norm_stats", "aten.batch_norm_update_stats")
def batch_norm_stats(input: TensorMeta) -> Cost:
    """Take the mean and variance of each channel, as one device does of several.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_stats(T((2, 3, 4)))  # 24 x (mean, centre, square, sum)
    Cost(macs=0, other=96)
    """
    return Cost(0, input.numel * PASSES["variance"])


@flop_formula("aten.batch_norm_gather_stats", "aten.batch_norm_gather_stats_with_counts")
def batch_norm_gather_stats(mean: TensorMeta) -> Cost:
    """Combine the means and variances (devices, C) of several devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_gather_stats(T((2, 3)))  # 6 x (mean, centre, square, sum)
    Cost(macs=0, other=24)
    """
    return Cost(0, mean.numel * PASSES["variance"])


@flop_formula("aten.batch_norm_elemt")
def batch_norm_elements(input: TensorMeta) -> Cost:
    """Normalise each channel by the statistics of several devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_elements(T((2, 3, 4)))  # 24 x (multiply, add)
    Cost(macs=0, other=48)
    """
    return Cost(0, input.numel * PASSES["normalise with given statistics"])


@flop_formula("aten.batch_norm_backward_reduce")
def batch_norm_backward_sums(input: TensorMeta) -> Cost:
    """Sum gradients, and their products with the normalised input, over one device.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_backward_sums(T((2, 3, 4)))  # 24 x (product, two sums)
    Cost(macs=0, other=72)
    """
    return Cost(0, input.numel * PASSES["normalise backward, sums"])


@flop_formula("aten.batch_norm_backward_elemt")
def batch_norm_backward_elements(input: TensorMeta) -> Cost:
    """Take the gradient of the input from the sums over several devices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> batch_norm_backward_elements(T((2, 3, 4)))  # 24 x 5
    Cost(macs=0, other=120)
    """
    return Cost(0, input.numel * PASSES["normalise backward, terms"])
