"""Losses: passes over the prediction, and one more where they are summed or averaged."""

from __future__ import annotations

from ...schema import TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import product

_MEAN = 1


def _loss(name: str, prediction: TensorMeta, reduction: int) -> Cost:
    return Cost(0, prediction.numel * (PASSES[name] + (PASSES["reduction"] if reduction else 0)))


@flop_formula("aten.cross_entropy_loss")
def cross_entropy(
    self: TensorMeta, target: TensorMeta, reduction: int = _MEAN, label_smoothing: float = 0.0
) -> Cost:
    """Compare scores (N, C, ...) with classes (N, ...) or probabilities (N, C, ...).

    >>> from torchatlas.schema import TensorMeta as T
    >>> cross_entropy(T((4, 10)), T((4,), "int64"))  # log_softmax 40 x 5, sum of 4
    Cost(macs=0, other=204)
    >>> cross_entropy(T((4, 10)), T((4, 10)))  # 40 x (5 + multiply, sum), sum of 4
    Cost(macs=0, other=284)
    """
    passes = PASSES["log_softmax"]
    classes = 1 if len(self.shape) > 1 else 0
    rows = product(size for dim, size in enumerate(self.shape) if dim != classes)
    if len(target.shape) == len(self.shape):
        passes += PASSES["cross entropy with probabilities"]
    elif label_smoothing:
        passes += PASSES["reduction"]
    return Cost(0, self.numel * passes + (rows if reduction else 0))


@flop_formula(
    "aten.nll_loss",
    "aten.nll_loss_nd",
    "aten.nll_loss2d",
    "aten.nll_loss_forward",
    "aten.nll_loss2d_forward",
)
def nll_loss(target: TensorMeta) -> Cost:
    """Sum the entries that the targets pick.

    >>> from torchatlas.schema import TensorMeta as T
    >>> nll_loss(T((4,), "int64"))
    Cost(macs=0, other=4)
    """
    return Cost(0, target.numel)


@flop_formula("aten.mse_loss")
def mse_loss(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Average squared differences.

    >>> from torchatlas.schema import TensorMeta as T
    >>> mse_loss(T((3, 4)))  # 12 x (subtract, square, sum)
    Cost(macs=0, other=36)
    """
    return _loss("mse_loss", self, reduction)


@flop_formula("aten.l1_loss")
def l1_loss(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Average absolute differences.

    >>> from torchatlas.schema import TensorMeta as T
    >>> l1_loss(T((3, 4)), reduction=0)  # 12 x (subtract, absolute value)
    Cost(macs=0, other=24)
    """
    return _loss("l1_loss", self, reduction)


@flop_formula("aten.smooth_l1_loss", "aten.huber_loss")
def smooth_l1_loss(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Average differences, squared where they are small.

    >>> from torchatlas.schema import TensorMeta as T
    >>> smooth_l1_loss(T((3, 4)))  # 12 x (subtract, absolute value, compare, square, scale, sum)
    Cost(macs=0, other=72)
    """
    return _loss("smooth_l1_loss", self, reduction)


@flop_formula("aten.kl_div")
def kl_div(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Compare logarithms of probabilities with probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> kl_div(T((3, 4)))  # 12 x (log, subtract, multiply, sum)
    Cost(macs=0, other=48)
    """
    return _loss("kl_div", self, reduction)


@flop_formula("aten.binary_cross_entropy")
def binary_cross_entropy(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Compare probabilities with labels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> binary_cross_entropy(T((3, 4)))  # 12 x (7 + sum)
    Cost(macs=0, other=96)
    """
    return _loss("binary_cross_entropy", self, reduction)


@flop_formula("aten.binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Compare scores with labels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> binary_cross_entropy_with_logits(T((3, 4)))  # 12 x (8 + sum)
    Cost(macs=0, other=108)
    """
    return _loss("binary_cross_entropy_with_logits", self, reduction)
