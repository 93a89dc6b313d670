"""How formulas of ONNX ops are registered: nothing that a file says may make one raise."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from ...schema import TensorMeta, is_dim
from .registry import Cost, flop_formula

F = TypeVar("F", bound=Callable[..., Cost | None])

_UNRANKED = re.compile(r"elements\d+")


def onnx_formula(*ops: str) -> Callable[[F], F]:
    """Register a function as the formula of ONNX ops, called with their domain: ``Conv``.

    The function names operands and attributes as the op's schema does. Where the shapes in a
    file do not fit the op, or not even the rank of an operand is known, the cost is unknown.
    """

    def register(formula: F) -> F:
        @functools.wraps(formula)
        def checked(*args: Any, **kwargs: Any) -> Cost | None:
            if any(map(_is_unranked, (*args, *kwargs.values()))):
                return None
            try:
                cost = formula(*args, **kwargs)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                return None  # a forged file may say anything
            return cost if cost is not None and all(map(is_dim, _counts(cost))) else None

        flop_formula(*(f"onnx.{op}" for op in ops))(checked)
        return cast(F, checked)

    return register


def _is_unranked(arg: object) -> bool:
    """Say whether an argument is a tensor of unknown rank, as the front end writes one.

    >>> from torchatlas.expressions import symbol
    >>> _is_unranked(TensorMeta((symbol("elements0"),))), _is_unranked(TensorMeta((3,)))
    (True, False)
    """
    if isinstance(arg, tuple):
        return any(map(_is_unranked, arg))
    if not isinstance(arg, TensorMeta) or len(arg.shape) != 1 or isinstance(arg.shape[0], int):
        return False
    return _UNRANKED.fullmatch(str(arg.shape[0])) is not None


def _counts(cost: Cost) -> Iterator[Any]:
    yield from (cost.macs, cost.other, cost.skipped, cost.comm_bytes)
