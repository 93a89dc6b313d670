"""Optimisers: updates of whole lists of parameters, and the ``_foreach`` ops that they use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula

STEPS = {
    # m = b1 m + (1 - b1) g: 3; v = b2 v + (1 - b2) g^2: 4; sqrt(v) / correction + eps: 3;
    # p -= step m / that: 3 (arXiv:1412.6980, algorithm 1)
    "adam": 13,
    # s += g^2: 2; p -= step g / (sqrt(s) + eps): 5 (Duchi et al., JMLR 12, 2011, figure 1)
    "adagrad": 7,
    "sgd": 2,  # p -= lr g
    "weight decay": 2,  # g += decay p
    "decoupled weight decay": 1,  # p *= 1 - lr decay (arXiv:1711.05101, algorithm 2)
    "amsgrad": 1,  # the larger of two estimates (arXiv:1904.09237, algorithm 2)
    "maximize": 1,  # g = -g
    "unscale": 1,  # g *= 1 / scale, where a gradient scaler hands its scale on
}
"""Operations per element of a parameter; what is the same for all its elements is left out."""


def _elements(tensors: Any) -> Dim:
    """Add up the elements of a list of tensors.

    >>> from torchatlas.schema import TensorMeta as T
    >>> _elements((T((2, 3)), None, T((4,)))), _elements(2.0)
    (10, 0)
    """
    if not isinstance(tensors, Sequence):
        return 0
    return sum((t.numel for t in tensors if isinstance(t, TensorMeta)), 0)


# -- one op over a list of tensors ---------------------------------------------------------

_POINTWISE = (
    "abs acos add addcdiv addcmul asin atan ceil clamp_max clamp_min cos cosh div erf erfc exp "
    "expm1 floor frac lerp lgamma log log10 log1p log2 maximum minimum mul neg pow reciprocal "
    "round rsqrt sigmoid sign sin sinh sqrt sub tan tanh trunc"
)


@flop_formula(*(f"aten._foreach_{name}" for name in _POINTWISE.split()))
def foreach_pointwise(self: Any, outs: tuple[TensorMeta | None, ...], exponent: Any = None) -> Cost:
    """Take one operation per element of all results, as the op without ``_foreach_`` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> tensors = (T((2, 3)), T((4,)))
    >>> foreach_pointwise(tensors, tensors), foreach_pointwise(tensors, ())  # the last in place
    (Cost(macs=0, other=10), Cost(macs=0, other=10))
    """
    return Cost(0, _elements(outs) or _elements(self) or _elements(exponent))


@flop_formula("aten._foreach_norm", "aten._foreach_powsum")
def foreach_norm(self: tuple[TensorMeta, ...]) -> Cost:
    """Measure each tensor: a power and a sum per element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> foreach_norm((T((2, 3)), T((4,))))  # 10 x 2
    Cost(macs=0, other=20)
    """
    return Cost(0, _elements(self) * PASSES["vector norm"])


@flop_formula("aten._foreach_max")
def foreach_max(self: tuple[TensorMeta, ...]) -> Cost:
    """Find the maximum of each tensor.

    >>> from torchatlas.schema import TensorMeta as T
    >>> foreach_max((T((2, 3)), T((4,))))
    Cost(macs=0, other=10)
    """
    return Cost(0, _elements(self) * PASSES["reduction"])


@flop_formula("aten._foreach_clone", "aten._foreach_copy", "aten._foreach_zero")
def foreach_copy(self: tuple[TensorMeta, ...]) -> Cost:
    """Copy or clear tensors.

    >>> from torchatlas.schema import TensorMeta as T
    >>> foreach_copy((T((2, 3)), T((4,))))
    Cost(macs=0, other=0)
    """
    return Cost()


# -- updates -------------------------------------------------------------------------------


@flop_formula("aten._fused_adam")
def adam(
    self: tuple[TensorMeta, ...],
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: TensorMeta | None = None,
) -> Cost:
    """Update parameters by Adam, their moments included.

    >>> from torchatlas.schema import TensorMeta as T
    >>> weights = (T((8, 4)), T((8,)))  # 40 elements
    >>> adam(weights, 0.0, False, False), adam(weights, 0.1, True, True)  # 13; 13 + 2 + 1 + 1
    (Cost(macs=0, other=520), Cost(macs=0, other=680))
    """
    decay = STEPS["weight decay"] if weight_decay != 0 else 0
    return _update(self, STEPS["adam"] + decay, amsgrad, maximize, grad_scale)


@flop_formula("aten._fused_adamw")
def adamw(
    self: tuple[TensorMeta, ...],
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: TensorMeta | None = None,
) -> Cost:
    """Update parameters by Adam with decoupled weight decay.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adamw((T((8, 4)), T((8,))), 0.1, False, False)  # 40 x (13 + 1)
    Cost(macs=0, other=560)
    """
    decay = STEPS["decoupled weight decay"] if weight_decay != 0 else 0
    return _update(self, STEPS["adam"] + decay, amsgrad, maximize, grad_scale)


@flop_formula("aten._fused_adagrad")
def adagrad(
    self: tuple[TensorMeta, ...],
    weight_decay: float,
    maximize: bool,
    grad_scale: TensorMeta | None = None,
) -> Cost:
    """Update parameters by Adagrad.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adagrad((T((8, 4)), T((8,))), 0.1, False)  # 40 x (7 + 2)
    Cost(macs=0, other=360)
    """
    decay = STEPS["weight decay"] if weight_decay != 0 else 0
    return _update(self, STEPS["adagrad"] + decay, False, maximize, grad_scale)


@flop_formula("aten._fused_sgd")
def sgd(
    self: tuple[TensorMeta, ...],
    weight_decay: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    grad_scale: TensorMeta | None = None,
) -> Cost:
    """Update parameters by stochastic gradient descent.

    Momentum b = mu b + (1 - dampening) g takes 2 operations, 3 with dampening and none in the
    first step, where b is g; Nesterov's g + mu b takes 2 (Sutskever et al., ICML 2013).

    >>> from torchatlas.schema import TensorMeta as T
    >>> weights = (T((8, 4)), T((8,)))  # 40 elements
    >>> sgd(weights, 0.0, 0.0, 0.0, False, False, False)  # 2
    Cost(macs=0, other=80)
    >>> sgd(weights, 0.1, 0.9, 0.0, True, False, False)  # 2 + 2 + 2 + 2
    Cost(macs=0, other=320)
    """
    steps = STEPS["sgd"] + (STEPS["weight decay"] if weight_decay != 0 else 0)
    if momentum != 0:
        steps += 0 if is_first_step else 3 if dampening != 0 else 2
        steps += 2 if nesterov else 0
    return _update(self, steps, False, maximize, grad_scale)


def _update(
    parameters: tuple[TensorMeta, ...],
    steps: int,
    amsgrad: bool,
    maximize: bool,
    grad_scale: TensorMeta | None,
) -> Cost:
    steps += STEPS["amsgrad"] if amsgrad else 0
    steps += STEPS["maximize"] if maximize else 0
    steps += STEPS["unscale"] if grad_scale is not None else 0
    return Cost(0, _elements(parameters) * steps)


@flop_formula("aten._amp_foreach_non_finite_check_and_unscale")
def check_and_unscale(self: tuple[TensorMeta, ...]) -> Cost:
    """Look for infinities among gradients, and divide them by the scale of the loss.

    >>> from torchatlas.schema import TensorMeta as T
    >>> check_and_unscale((T((8, 4)), T((8,))))  # 40 x (check, multiply)
    Cost(macs=0, other=80)
    """
    return Cost(0, 2 * _elements(self))
