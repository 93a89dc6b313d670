"""Pointwise ops whose cost depends on an argument; the rest cost 1 per element by class."""

from __future__ import annotations

from typing import Any

from ...schema import TensorMeta
from .registry import Cost, flop_formula


@flop_formula(
    "aten.dropout",
    "aten.alpha_dropout",
    "aten.feature_dropout",
    "aten.feature_alpha_dropout",
)
def dropout(out: TensorMeta, train: bool | None = True, p: float = 0.5) -> Cost:
    """Mask and scale in training; hand the operand on otherwise, and where nothing is dropped.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dropout(T((2, 8)), train=True), dropout(T((2, 8)), train=False)
    (Cost(macs=0, other=16), Cost(macs=0, other=0))
    >>> dropout(T((2, 8)), train=True, p=0.0)
    Cost(macs=0, other=0)
    """
    return Cost(0, 0 if train is False or p == 0 else out.numel)


@flop_formula("aten.native_dropout")
def native_dropout(out: TensorMeta, train: bool | None = True) -> Cost:
    """Mask and scale in training, whatever is dropped; copy otherwise.

    >>> from torchatlas.schema import TensorMeta as T
    >>> native_dropout(T((2, 8))), native_dropout(T((2, 8)), train=False)
    (Cost(macs=0, other=16), Cost(macs=0, other=0))
    """
    return Cost(0, 0 if train is False else out.numel)


@flop_formula("aten.diff")
def diff(out: TensorMeta, n: int = 1) -> Cost:
    """Subtract neighbours, `n` times over.

    >>> from torchatlas.schema import TensorMeta as T
    >>> diff(T((2, 8)), n=2)
    Cost(macs=0, other=32)
    """
    return Cost(0, out.numel * n)


@flop_formula("aten.where")
def where(condition: TensorMeta, out: TensorMeta, self: Any = None) -> Cost:
    """Choose between two operands; with the condition alone, find where it holds.

    >>> from torchatlas.schema import TensorMeta as T
    >>> where(T((8, 1), "bool"), T((8, 4)), self=0.0), where(T((8, 1), "bool"), T((3,)))
    (Cost(macs=0, other=32), Cost(macs=0, other=8))
    """
    return Cost(0, condition.numel if self is None else out.numel)
