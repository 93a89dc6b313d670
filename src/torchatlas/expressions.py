"""Symbolic sizes as text and back, by a grammar of our own that executes nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import FormatError
from .schema import Dim, TensorMeta

if TYPE_CHECKING:
    import sympy

MAX_LENGTH = 10_000
"""Characters that an expression may have."""

_REFUSED = (ValueError, SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What reading an expression raises that is none, or one that would take too much."""


def symbol(name: str) -> sympy.Symbol:
    """Return the symbol of a size: a positive integer."""
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


def parse(text: str) -> Dim:
    """Return the size that `text` stands for.

    It may hold integers, names, ``+ - * / // % **``, brackets and the functions Max, Min, Mod,
    floor, ceiling and log. Raises FormatError for anything else.

    >>> parse("2*batch + 1"), parse("6*7")
    (2*batch + 1, 42)
    >>> parse("__import__('os')")
    Traceback (most recent call last):
        ...
    torchatlas.errors.FormatError: "__import__('os')" is not a size
      hint: a size has integers, names, + - * / // % ** and Max, Min, Mod, floor, ceiling, log
    """
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        found = _walk(ast.parse(text, mode="eval").body)
        if _is_infinite(found):
            raise ValueError("infinite")
    except _REFUSED as error:
        raise FormatError(
            f"{text[:80]!r} is not a size",
            hint="a size has integers, names, + - * / // % ** and Max, Min, Mod, floor, "
            "ceiling, log",
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
            return _OPERATORS[type(op)](_walk(left), _walk(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return getattr(sympy, name)(*map(_walk, args))
    raise ValueError(f"{type(node).__name__} is not allowed")


def _is_infinite(found: Any) -> bool:
    import sympy

    return bool(found.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo))


def _power(base: Any, exponent: Any) -> Any:
    """Return a power, unless it would take all memory: 9**9**9, or ((9**64)**64)**64.

    Raises ValueError where the exponents, multiplied, or the numbers inside are too large.
    """
    import sympy

    if not exponent.is_Integer or abs(exponent) > _MAX_POWER:
        raise ValueError("the exponent is too large")
    inner = [abs(power.exp) for power in base.atoms(sympy.Pow)]
    bits = [max(abs(n.p), n.q).bit_length() for n in base.atoms(sympy.Rational)]
    if any(n * abs(exponent) > _MAX_POWER for n in inner if n != 1) or any(
        n * abs(exponent) > _MAX_BITS for n in bits
    ):
        raise ValueError("powers of powers are too large")
    return base**exponent


_MAX_POWER = 64
_MAX_BITS = 10_000


def _floor_divide(left: Any, right: Any) -> Any:
    import sympy

    return sympy.floor(left / right)


_FUNCTIONS = frozenset({"Max", "Min", "Mod", "floor", "ceiling", "log"})
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: _floor_divide,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}


# -- conditions on sizes ---------------------------------------------------------------------


def condition(text: str) -> Any:
    """Return the relation between sizes that `text` states, true or false where it is known.

    It compares two sizes, as `parse` reads them, by ``== != < <= > >=``; ``and``, ``or`` and
    ``not`` join comparisons. Raises FormatError for anything else.

    >>> condition("Mod(height, 8) == 0"), condition("2*batch > 3 or batch == 1")
    (Eq(Mod(height, 8), 0), Eq(batch, 1) | (2*batch > 3))
    >>> condition("6 % 4 == 2")
    True
    """
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError("too long")
        return _truth(ast.parse(text, mode="eval").body)
    except _REFUSED as error:
        raise FormatError(
            f"{text[:80]!r} is no condition on sizes",
            hint="a condition compares sizes by == != < <= > >=, joined by and, or, not",
        ) from error


def _truth(node: ast.expr) -> Any:
    import sympy

    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _RELATIONS:
            return getattr(sympy, _RELATIONS[type(op)][0])(_walk(left), _walk(right))
        case ast.BoolOp(op=ast.And(), values=parts):
            return sympy.And(*map(_truth, parts))
        case ast.BoolOp(op=ast.Or(), values=parts):
            return sympy.Or(*map(_truth, parts))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return sympy.Not(_truth(operand))
    raise ValueError(f"{type(node).__name__} is not allowed")


_RELATIONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Eq: ("Eq", "=="),
    ast.NotEq: ("Ne", "!="),
    ast.Lt: ("Lt", "<"),
    ast.LtE: ("Le", "<="),
    ast.Gt: ("Gt", ">"),
    ast.GtE: ("Ge", ">="),
}


def condition_text(relation: Any) -> str:
    """Return a relation between sizes as `condition` reads it.

    >>> condition_text(condition("height // 32 != 1 and width <= 512"))
    'width <= 512 and floor(height/32) != 1'
    """
    import sympy

    if isinstance(relation, sympy.And | sympy.Or):
        word = " and " if isinstance(relation, sympy.And) else " or "
        parts = sorted(relation.args, key=sympy.default_sort_key)
        return word.join(f"({t})" if " or " in t else t for t in map(condition_text, parts))
    if isinstance(relation, sympy.Not):
        return f"not ({condition_text(relation.args[0])})"
    signs = {getattr(sympy, name): sign for name, sign in _RELATIONS.values()}
    sign = next(sign for kind, sign in signs.items() if isinstance(relation, kind))
    return f"{relation.lhs} {sign} {relation.rhs}"


# -- sizes inside other values -----------------------------------------------------------------


class SizeMap:
    """Puts every symbolic size in a value through a function, each distinct one once.

    >>> double = SizeMap(lambda size: 2 * size)
    >>> double({"shape": (symbol("batch"), 3)}), str(double(TensorMeta((symbol("seq"),))))
    ({'shape': (2*batch, 3)}, 'float32[2*seq]')
    """

    def __init__(self, change: Callable[[Any], Any]) -> None:
        """Keep `change`, which takes a sympy expression and returns a size."""
        self._change = change
        self._known: dict[Any, Any] = {}

    def __call__(self, value: Any) -> Any:
        """Return `value` changed: a size, a tensor's metadata, or a tuple or mapping of them."""
        if isinstance(value, TensorMeta):
            return self._once(value, self._meta)
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self, value))
        if isinstance(value, Mapping):
            return {key: self(item) for key, item in value.items()}
        return self._once(value, self._change) if hasattr(value, "free_symbols") else value

    def _meta(self, meta: TensorMeta) -> TensorMeta:
        stride = None if meta.stride is None else self(meta.stride)
        return TensorMeta(self(meta.shape), meta.dtype, meta.device, stride, self(meta.nnz))

    def _once(self, value: Any, change: Callable[[Any], Any]) -> Any:
        if value not in self._known:
            self._known[value] = change(value)
        return self._known[value]
