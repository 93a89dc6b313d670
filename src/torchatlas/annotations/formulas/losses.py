"""Losses: passes over the prediction, and one more where they are summed or averaged."""

from __future__ import annotations

from ...schema import TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import broadcast, product

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


@flop_formula("aten.hinge_embedding_loss")
def hinge_embedding_loss(self: TensorMeta, reduction: int = _MEAN) -> Cost:
    """Penalise distances of what is alike, and too small ones of what is not.

    >>> from torchatlas.schema import TensorMeta as T
    >>> hinge_embedding_loss(T((3, 4)))  # 12 x (subtract, maximum, compare, choose, sum)
    Cost(macs=0, other=60)
    """
    return _loss("hinge_embedding_loss", self, reduction)


@flop_formula("aten.margin_ranking_loss")
def margin_ranking_loss(
    input1: TensorMeta, input2: TensorMeta, target: TensorMeta, reduction: int = _MEAN
) -> Cost:
    """Penalise pairs in the wrong order.

    >>> from torchatlas.schema import TensorMeta as T
    >>> margin_ranking_loss(T((3, 4)), T((3, 4)), T((4,)))  # 12 x (4 + sum)
    Cost(macs=0, other=60)
    """
    pairs = TensorMeta(broadcast(input1.shape, input2.shape, target.shape))
    return _loss("margin_ranking_loss", pairs, reduction)


@flop_formula("aten.multi_margin_loss_backward")
def multi_margin_loss_backward(self: TensorMeta) -> Cost:
    """Give a gradient to every class that comes too near to the right one.

    >>> from torchatlas.schema import TensorMeta as T
    >>> multi_margin_loss_backward(T((3, 4)))  # 12 x (subtract, add, compare, scale)
    Cost(macs=0, other=48)
    """
    return Cost(0, self.numel * PASSES["multi_margin_loss backward"])


@flop_formula(
    "aten.multilabel_margin_loss",
    "aten.multilabel_margin_loss_forward",
    "aten.multilabel_margin_loss_backward",
)
def multilabel_margin_loss(self: TensorMeta) -> Cost:
    """Compare scores (N, C) of the labels that hold with those of all classes.

    How many labels hold depends on values: this is the upper bound, that all do.

    >>> from torchatlas.schema import TensorMeta as T
    >>> multilabel_margin_loss(T((3, 4)))  # 3 x 4 x 4 x (subtract, add, maximum, sum)
    Cost(macs=0, other=192)
    """
    classes = self.shape[-1] if self.shape else 1
    return Cost(0, self.numel * classes * PASSES["multilabel_margin_loss"])


@flop_formula("aten.ctc_loss", "aten._ctc_loss", "aten._cudnn_ctc_loss", "aten.miopen_ctc_loss")
def ctc_loss(log_probs: TensorMeta, targets: TensorMeta) -> Cost:
    """Sum over all alignments of labels with log probabilities (T, N, C).

    Each step updates the 2 S + 1 states of S labels with blanks between them (Graves et al.,
    2006). S is the longest row of `targets` (N, S), or their mean length where they come in one
    row; padding counts.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ctc_loss(T((5, 2, 4)), T((2, 3), "int64"))  # 5 x 2 x 7 states x 13
    Cost(macs=0, other=910)
    """
    steps, *batch = log_probs.shape[:-1]
    rows = product(batch)
    labels = targets.numel if len(targets.shape) < 2 else rows * targets.shape[-1]
    return Cost(0, steps * (2 * labels + rows) * PASSES["ctc_loss"])


@flop_formula("aten._ctc_loss_backward")
def ctc_loss_backward(log_probs: TensorMeta, targets: TensorMeta) -> Cost:
    """Go through the states of `ctc_loss` from the end, and give each class its gradient.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ctc_loss_backward(T((5, 2, 4)), T((2, 3), "int64"))  # 910; 40 x (exp, subtract, scale)
    Cost(macs=0, other=1030)
    """
    return Cost(0, ctc_loss(log_probs, targets).other + 3 * log_probs.numel)


@flop_formula("torch_nn._linear_cross_entropy_batch_chunked")
def linear_cross_entropy(
    input: TensorMeta,
    linear_weight: TensorMeta,
    target: TensorMeta,
    linear_bias: TensorMeta | None = None,
    label_smoothing: float = 0.0,
    compute_input_grad: bool = False,
    compute_linear_weight_grad: bool = False,
    compute_linear_bias_grad: bool = False,
) -> Cost:
    """Classify rows (N, in) by a weight (C, in) and compare with classes, a part at a time.

    The gradients that will be asked for are taken at once, each a product of the same size.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, y = T((4, 8)), T((10, 8)), T((4,), "int64")
    >>> linear_cross_entropy(x, w, y)  # 4 x 10 x 8; the loss 40 x 5 + 4
    Cost(macs=320, other=204)
    >>> # 40 gradients of the scores: softmax subtract, scale
    >>> linear_cross_entropy(x, w, y, compute_input_grad=True, compute_linear_weight_grad=True)
    Cost(macs=960, other=284)
    """
    scores = TensorMeta((*input.shape[:-1], linear_weight.shape[0]))
    of_input, of_weight = bool(compute_input_grad), bool(compute_linear_weight_grad)
    loss = cross_entropy(scores, target, label_smoothing=label_smoothing).other
    of_scores = 2 * scores.numel * (of_input or of_weight or bool(compute_linear_bias_grad))
    biases = scores.numel * ((linear_bias is not None) + bool(compute_linear_bias_grad))
    macs = scores.numel * linear_weight.shape[-1] * (1 + of_input + of_weight)
    return Cost(macs, loss + of_scores + biases)


@flop_formula("torch_nn._linear_cross_entropy_batch_chunked_no_reduction")
def linear_cross_entropy_rows(
    input: TensorMeta,
    linear_weight: TensorMeta,
    target: TensorMeta,
    linear_bias: TensorMeta | None = None,
) -> Cost:
    """Classify rows (N, in) by a weight (C, in) and return the loss of each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear_cross_entropy_rows(T((4, 8)), T((10, 8)), T((4,), "int64"))  # 40 x 5
    Cost(macs=320, other=200)
    """
    whole = linear_cross_entropy(input, linear_weight, target, linear_bias)
    return Cost(whole.macs, whole.other - product(input.shape[:-1]))
