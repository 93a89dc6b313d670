"""The table of formulas, keyed by op name, and how a formula is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from ...schema import Dim, TensorMeta


class Cost(NamedTuple):
    """What an op computes, and what it sends to other devices.

    `macs` are the multiply-adds of its contraction and `other` the operations outside it.
    `skipped` counts those of the `macs` that a causal or window mask makes needless. An
    `integer` contraction counts as `int_ops` in place of `flops`, as does every one whose result
    has an integer data type. `comm_bytes` is the message of a collective.

    >>> Cost(60, 15), Cost(60, integer=True)
    (Cost(macs=60, other=15), Cost(macs=60, other=0, integer=True))
    """

    macs: Dim = 0
    other: Dim = 0
    skipped: Dim = 0
    integer: bool = False
    comm_bytes: Dim = 0

    def __repr__(self) -> str:
        defaults = self._field_defaults
        shown = (
            f"{name}={value!r}"
            for name, value in self._asdict().items()
            if name in ("macs", "other") or value != defaults[name]
        )
        return f"Cost({', '.join(shown)})"


Formula = Callable[..., Cost | None]
"""Gives None where the arguments say too little."""

F = TypeVar("F", bound=Formula)

FORMULAS: dict[str, Formula] = {}
"""Op name, such as ``aten.conv2d``, to its formula."""


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
        return formula

    return register


@cache
def _parameters(formula: Formula) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the arguments that `formula` takes, and of those that it needs."""
    parameters = inspect.signature(formula).parameters
    required = (name for name, p in parameters.items() if p.default is p.empty)
    return frozenset(parameters), frozenset(required)


def evaluate(
    formula: Formula, args: Mapping[str, Any], outputs: Sequence[TensorMeta | None]
) -> Cost | None:
    """Return the cost that `formula` gives; None without an argument that it needs.

    >>> evaluate(FORMULAS["aten.linear"], {"input": None}, ()) is None
    True
    """
    accepted, required = _parameters(formula)
    given = {name: arg for name, arg in args.items() if name in accepted}
    if "out" in accepted:
        given["out"] = outputs[0] if outputs else None
    if "outs" in accepted:
        given["outs"] = outputs
    if any(given.get(name) is None for name in required):
        return None
    return formula(**given)
