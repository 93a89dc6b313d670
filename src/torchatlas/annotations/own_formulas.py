"""Formulas that a user gives for ops of their own, or in place of those that torchatlas has."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from ..schema import is_dim
from .formulas import Cost, Formula, evaluate

F = TypeVar("F", bound=Callable[..., Any])

OWN: dict[str, Formula] = {}
"""Op name, such as ``mylib.op``, to the user's formula; asked before every other rule."""


def flop_formula(*ops: str, formula: Callable[..., Any] | None = None) -> Registration:
    """Say what `ops` cost: as a decorator for good, or for the length of a ``with`` block.

    `ops` are names as ``"mylib::op"``; a Triton kernel is ``"triton::kernel_name"``. The formula
    names the arguments it needs as the op's schema does. Tensors come as
    `torchatlas.schema.TensorMeta`, with ``shape``, ``numel``, ``dtype`` and ``nbytes``, in which
    a symbolic size is a sympy expression; ``out`` is the first tensor that the op produces,
    ``outs`` all of them. It returns a `Cost`, or a number: the FLOPs of a contraction, two for
    a multiply-add. It comes before torchatlas's own rule, and replaces an earlier one.

    >>> import torchatlas as ta
    >>> @ta.flop_formula("mylib::scale_and_add")
    ... def scale_and_add(x, out):
    ...     return ta.Cost(other=2 * out.numel)
    >>> with ta.flop_formula("mylib::mm", formula=lambda a, out: 2 * a.shape[1] * out.numel):
    ...     pass  # capture or annotate here

    Raises TypeError, when an op is counted, for a formula that returns anything else.
    """
    names = tuple(op.replace("::", ".") for op in ops)
    return Registration(names, formula)


class Registration:
    """What `flop_formula` returns: a decorator, and a context where it was given a formula."""

    def __init__(self, ops: tuple[str, ...], formula: Callable[..., Any] | None) -> None:
        self._ops, self._formula = ops, formula
        self._before: dict[str, Formula] = {}

    def __call__(self, formula: F) -> F:
        """Register `formula` for good."""
        OWN.update(dict.fromkeys(self._ops, formula))
        return formula

    def __enter__(self) -> None:
        if self._formula is None:
            raise TypeError("a `with` block needs flop_formula(..., formula=function)")
        self._before = {op: OWN[op] for op in self._ops if op in OWN}
        self(self._formula)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for op in self._ops:
            del OWN[op]
        OWN.update(self._before)


def own_cost(op: str, args: Any, outputs: Any) -> Cost | None:
    """Return what the user's formula says of `op`; None where there is none."""
    formula = OWN.get(op)
    found: Any = None if formula is None else evaluate(formula, args, outputs)
    if found is None or isinstance(found, Cost):
        return found
    if not is_dim(found):
        raise TypeError(
            f"the formula of {op} returned {found!r}, which is neither a Cost nor a count"
        )
    return Cost(found // 2, found % 2) if isinstance(found, int) else Cost(found / 2)
