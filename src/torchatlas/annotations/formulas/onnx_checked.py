"""How formulas of ONNX ops are registered: nothing that a file says may make one raise."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from ...schema import TensorMeta, is_dim
from .registry import Cost, flop_formula

F = TypeVar("F", bound=Callable[..., Cost | None])

_UNRANKED = re.compile(r"elements\d+")


def onnx_formula(*ops: str) -> Callable[[F], F]:
    """Register a function as the formula of ONNX ops, called with their domain: ``Conv``.

    The function names operands and attributes as the op's schema does, and says their types.
    Where an argument is of another type, where the shapes in a file do not fit the op, or where
    not even the rank of an operand is known, the cost is unknown.
    """

    def register(formula: F) -> F:
        signature = inspect.signature(formula)
        types = {name: _type(p.annotation) for name, p in signature.parameters.items()}

        @functools.wraps(formula)
        def checked(*args: Any, **kwargs: Any) -> Cost | None:
            given = signature.bind(*args, **kwargs).arguments
            if not all(types[name](arg) for name, arg in given.items()):
                return None
            if any(map(_is_unranked, given.values())):
                return None
            try:
                cost = formula(**given)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                return None  # a forged file may say anything
            return cost if cost is not None and all(map(is_dim, _counts(cost))) else None

        flop_formula(*(f"onnx.{op}" for op in ops))(checked)
        return cast(F, checked)

    return register


@functools.cache
def _type(annotation: str) -> Callable[[object], bool]:
    """Return what tells whether a value is of the type that an annotation spells out.

    >>> _type("TensorMeta | None")(None), _type("int")("3"), _type("tuple[int, ...]")((1, 2))
    (True, False, True)
    """
    if annotation.startswith("tuple[") and annotation.endswith("]"):
        inner = _type(annotation[len("tuple[") : -1].partition(",")[0])
        return lambda value: isinstance(value, tuple) and all(map(inner, value))
    if " | " in annotation:
        either = tuple(map(_type, annotation.split(" | ")))
        return lambda value: any(fits(value) for fits in either)
    kind = _TYPES[annotation]
    return lambda value: isinstance(value, kind)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "None": type(None),
    "TensorMeta": TensorMeta,
    "float": (int, float),
    "int": int,
    "object": object,
    "str": str,
}


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
