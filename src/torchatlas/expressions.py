"""Symbolic sizes as text and back, by a grammar of our own that executes nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import FormatError
from .schema import Dim

if TYPE_CHECKING:
    import sympy

MAX_LENGTH = 10_000
"""Characters that an expression may have."""


def symbol(name: str) -> sympy.Symbol:
    """Return the symbol of a size: a positive integer."""
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


def parse(text: str) -> Dim:
    """Return the size that `text` stands for.

    It may hold integers, names, ``+ - * / // % **``, brackets and the functions Max, Min, Mod,
    floor and ceiling. Raises FormatError for anything else.

    >>> parse("2*batch + 1"), parse("6*7")
    (2*batch + 1, 42)
    >>> parse("__import__('os')")
    Traceback (most recent call last):
        ...
    torchatlas.errors.FormatError: "__import__('os')" is not a size
      hint: a size is made of integers, names, + - * / // % ** and Max, Min, Mod, floor, ceiling
    """
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        found = _walk(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise FormatError(
            f"{text[:80]!r} is not a size",
            hint="a size is made of integers, names, + - * / // % ** and Max, Min, Mod, floor, "
            "ceiling",
        ) from error
    return int(found) if getattr(found, "is_Integer", False) else found


def _walk(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return sympy.Integer(number)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_walk(left), _checked(op, _walk(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return getattr(sympy, name)(*map(_walk, args))
    raise ValueError(f"{type(node).__name__} is not allowed")


def _checked(op: ast.operator, right: Any) -> Any:
    # A power such as 9**9**9 would take all memory before any size limit is seen.
    if isinstance(op, ast.Pow) and (not right.is_Integer or abs(right) > 64):
        raise ValueError("the exponent is too large")
    return right


def _floor_divide(left: Any, right: Any) -> Any:
    import sympy

    return sympy.floor(left / right)


_FUNCTIONS = frozenset({"Max", "Min", "Mod", "floor", "ceiling"})
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: _floor_divide,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}
