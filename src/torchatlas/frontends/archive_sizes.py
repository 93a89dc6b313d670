"""Reads the sizes and conditions of a `.pt2` file by a strict grammar that executes nothing.

Torch writes a size as sympy's `srepr` has it, ``Add(Symbol('s0', integer=True), Integer(1))``,
older versions as ``s0 + 1``, and conditions as Python over the inputs, ``L['x'].size()[0] > 2``.
Both are translated, piece by known piece, into the notation of `expressions`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Any

from .. import expressions
from ..errors import FormatError
from ..schema import Dim

_MAX_LENGTH = 100_000
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,9}")
_FLOAT = re.compile(r"-?\d{1,30}(\.\d{0,40})?(e[+-]?\d{1,2})?")
_REFUSED = (ValueError, SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError)

Inputs = Mapping[tuple[str, int], Dim]
"""The sizes of inputs by the input's path, as ``batch/ids``, and the dimension."""


@lru_cache(maxsize=65536)
def size(text: str) -> Dim:
    """Return the size that `text` stands for.

    >>> size("Mul(Integer(2), Symbol('s0', positive=True, integer=True))"), size("s0//2 + 1")
    (2*s0, floor(s0/2) + 1)
    >>> size("__import__('os').getcwd()")
    Traceback (most recent call last):
        ...
    torchatlas.errors.FormatError: "__import__('os').getcwd()" is no size that torch writes
      hint: a size has integers, symbols such as s0, arithmetic, and functions such as Max
    """
    try:
        found = expressions.parse(ast.unparse(_Translation().size(_tree(text))))
        if not getattr(found, "free_symbols", None) and not _is_count(found):
            raise ValueError("no count")
        return found
    except (*_REFUSED, FormatError) as error:
        raise FormatError(
            f"{text[:80]!r} is no size that torch writes",
            hint="a size has integers, symbols such as s0, arithmetic, and functions such as Max",
        ) from error


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and number >= 0


@lru_cache(maxsize=4096)
def truth(text: str) -> Any:
    """Return the relation between sizes that the result of a comparison stands for.

    >>> truth("Equality(Symbol('s0', positive=True, integer=True), Integer(4))")
    Eq(s0, 4)
    """
    return _condition(text, {})


def guard(text: str, inputs: Inputs) -> Any:
    """Return the condition on `inputs` that `text` states, as a relation.

    >>> guard("L['x'].size()[0] // 2 >= 3", {("x", 0): expressions.symbol("s0")})
    floor(s0/2) >= 3
    """
    return _condition(text, inputs)


def _condition(text: str, inputs: Inputs) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return expressions.condition(ast.unparse(_Translation(inputs).truth(_tree(text))))
    except (*_REFUSED, FormatError) as error:
        raise FormatError(
            f"{text[:80]!r} is no condition on sizes that torch writes",
            hint="a condition compares sizes by == != < <= > >=, joined by and, or, not",
        ) from error


def _tree(text: str) -> ast.expr:
    if len(text) > _MAX_LENGTH:
        raise ValueError("too long")
    return ast.parse(text, mode="eval").body


class _Translation:
    """Translates torch's notation into that of `expressions`; what it does not know it refuses."""

    def __init__(self, inputs: Inputs | None = None) -> None:
        self._inputs = inputs or {}

    def size(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return node
            case ast.Name(id=name):
                return _symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return ast.UnaryOp(ast.USub(), self.size(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return ast.BinOp(self.size(left), op, self.size(right))
            case ast.Call(
                func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=facts
            ) if all(_is_fact(fact) for fact in facts):
                return _symbol(name)
            case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(digits))]) if (
                _FLOAT.fullmatch(digits)
            ):
                return _ratio(Fraction(digits))
            case ast.Call(func=func, args=args, keywords=[]):
                return self._call(func, args)
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(value=source, attr="size"), args=[], keywords=[]),
                slice=ast.Constant(value=int(dim)),
            ):
                return ast.parse(str(self._inputs[_path(source), dim]), mode="eval").body
        raise ValueError(f"{type(node).__name__} is not allowed")

    def _call(self, func: ast.expr, args: Sequence[ast.expr]) -> ast.expr:
        match func:
            case ast.Name(id=name):
                pass
            case ast.Attribute(value=ast.Name(id="torch"), attr=name) if name in _TORCH:
                pass
            case _:
                raise ValueError("the function is unknown")
        if name not in _FUNCTIONS:
            raise ValueError(f"the function {name} is unknown")
        return _FUNCTIONS[name](*map(self.size, args))

    def truth(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Compare(left=left, ops=[_], comparators=[right]):
                return ast.Compare(self.size(left), node.ops, [self.size(right)])
            case ast.BoolOp(op=op, values=parts):
                return ast.BoolOp(op, list(map(self.truth, parts)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ast.UnaryOp(ast.Not(), self.truth(operand))
            case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if (
                name in _RELATIONS
            ):
                return ast.Compare(self.size(left), [_RELATIONS[name]()], [self.size(right)])
            case ast.Call(func=ast.Name(id="Not"), args=[operand], keywords=[]):
                return ast.UnaryOp(ast.Not(), self.truth(operand))
            case ast.Call(func=ast.Name(id="And" | "Or" as name), args=parts, keywords=[]):
                joined = ast.And() if name == "And" else ast.Or()
                return ast.BoolOp(joined, list(map(self.truth, parts)))
        raise ValueError(f"{type(node).__name__} is not allowed")


def _symbol(name: str) -> ast.Name:
    if not _SYMBOL.fullmatch(name):
        raise ValueError("no symbol of torch has this name")
    return ast.Name(name)


def _is_fact(fact: ast.keyword) -> bool:
    return isinstance(fact.value, ast.Constant) and isinstance(fact.value.value, bool)


def _ratio(value: Fraction) -> ast.expr:
    return ast.BinOp(ast.Constant(value.numerator), ast.Div(), ast.Constant(value.denominator))


def _path(source: ast.expr) -> str:
    """Return the path of an input: ``batch/ids`` for ``L['batch']['ids']``."""
    parts: list[str] = []
    while isinstance(source, ast.Subscript) and isinstance(source.slice, ast.Constant):
        parts.append(str(source.slice.value))
        source = source.value
    if not isinstance(source, ast.Name) or source.id != "L":
        raise ValueError("this is no input")
    return "/".join(reversed(parts))


# -- functions -------------------------------------------------------------------------------

_Rule = Callable[..., ast.expr]


def _chain(op: type[ast.operator]) -> _Rule:
    def build(first: ast.expr, *rest: ast.expr) -> ast.expr:
        return reduce(lambda left, right: ast.BinOp(left, op(), right), rest, first)

    return build


def _binary(op: type[ast.operator]) -> _Rule:
    return lambda left, right: ast.BinOp(left, op(), right)


def _same(argument: ast.expr) -> ast.expr:
    return argument


def _named(name: str, count: int | None = None) -> _Rule:
    def build(*args: ast.expr) -> ast.expr:
        if count is not None and len(args) != count:
            raise ValueError(f"{name} takes {count} arguments")
        return ast.Call(ast.Name(name), list(args), [])

    return build


_FUNCTIONS: dict[str, _Rule] = {
    "Integer": _same,
    "Rational": _binary(ast.Div),
    "Add": _chain(ast.Add),
    "Mul": _chain(ast.Mult),
    **dict.fromkeys(("Pow", "PowByNatural", "FloatPow"), _binary(ast.Pow)),
    **dict.fromkeys(("FloorDiv", "CleanDiv"), _binary(ast.FloorDiv)),
    **dict.fromkeys(("IntTrueDiv", "FloatTrueDiv"), _binary(ast.Div)),
    **dict.fromkeys(("Mod", "PythonMod"), _named("Mod", 2)),
    **dict.fromkeys(("Max", "max", "sym_max"), _named("Max")),
    **dict.fromkeys(("Min", "min", "sym_min"), _named("Min")),
    **dict.fromkeys(("floor", "FloorToInt", "TruncToInt"), _named("floor", 1)),
    **dict.fromkeys(("ceiling", "CeilToInt"), _named("ceiling", 1)),
    **dict.fromkeys(("ToFloat", "Identity", "sym_float"), _same),
}
_TORCH = frozenset({"sym_max", "sym_min", "sym_float"})
_RELATIONS: dict[str, type[ast.cmpop]] = {
    **dict.fromkeys(("Equality", "Eq"), ast.Eq),
    **dict.fromkeys(("Unequality", "Ne"), ast.NotEq),
    **dict.fromkeys(("StrictLessThan", "Lt"), ast.Lt),
    **dict.fromkeys(("LessThan", "Le"), ast.LtE),
    **dict.fromkeys(("StrictGreaterThan", "Gt"), ast.Gt),
    **dict.fromkeys(("GreaterThan", "Ge"), ast.GtE),
}
