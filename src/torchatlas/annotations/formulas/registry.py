"""The table of formulas, keyed by op name, and how a formula is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ...schema import Dim, TensorMeta


class Cost(NamedTuple):
    """What an op computes: multiply-adds of its contraction, and operations outside it."""

    macs: Dim = 0
    other: Dim = 0


Formula = Callable[..., Cost | None]
"""Gives None where the arguments say too little."""

F = TypeVar("F", bound=Formula)

FORMULAS: dict[str, Formula] = {}
"""Op name, such as ``aten.conv2d``, to its formula."""

_PARAMETERS: dict[Formula, tuple[frozenset[str], frozenset[str]]] = {}


def flop_formula(*ops: str) -> Callable[[F], F]:
    """Register a function as the formula of `ops`.

    The function names the arguments it needs as the op's schema does; tensors come as
    `TensorMeta`. ``out`` is the first tensor that the op produces, ``outs`` all of them. An
    in-place op without a formula of its own uses that of the op without the underscore. An op
    that has a formula already raises ValueError.
    """

    def register(formula: F) -> F:
        for op in ops:
            if op in FORMULAS:
                raise ValueError(f"{op} has a formula already: {FORMULAS[op].__name__}")
        FORMULAS.update(dict.fromkeys(ops, formula))
        parameters = inspect.signature(formula).parameters
        required = (name for name, p in parameters.items() if p.default is p.empty)
        _PARAMETERS[formula] = frozenset(parameters), frozenset(required)
        return formula

    return register


def evaluate(
    formula: Formula, args: Mapping[str, Any], outputs: Sequence[TensorMeta | None]
) -> Cost | None:
    """Return the cost that `formula` gives; None without an argument that it needs.

    >>> evaluate(FORMULAS["aten.linear"], {"input": None}, ()) is None
    True
    """
    accepted, required = _PARAMETERS[formula]
    given = {name: arg for name, arg in args.items() if name in accepted}
    if "out" in accepted:
        given["out"] = outputs[0] if outputs else None
    if "outs" in accepted:
        given["outs"] = outputs
    if any(given.get(name) is None for name in required):
        return None
    return formula(**given)
