"""Follows the small integer tensors in an ONNX graph that say which shapes others have.

Exporters compute the operand of a Reshape from shapes: Shape, Gather, Mul, Concat. ONNX's own
inference follows some of that and only numbers. Here elements may be expressions over sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..schema import Arg, Dim
from .onnx_proto import MAX_LITERAL


class Small(NamedTuple):
    """The elements of a scalar or of a list: numbers, expressions, truth values."""

    items: tuple[Any, ...]
    is_scalar: bool = False


def small(found: Arg) -> Small | None:
    """Return the value of a small tensor that a file holds, None for what is no such.

    Fractions are exact, so that sizes never have a decimal point.

    >>> small(0.5), small((1.0, -1)), small("<tensor float32[3, 3]>")
    (Small(items=(1/2,), is_scalar=True), Small(items=(1, -1), is_scalar=False), None)
    """
    items = found if isinstance(found, tuple) else (found,)
    if not all(isinstance(item, int | float) and math.isfinite(item) for item in items):
        return None
    exact = tuple(_exact(item) if isinstance(item, float) else item for item in items)
    return Small(exact, is_scalar=not isinstance(found, tuple))


def _exact(number: float) -> Any:
    import sympy

    return int(number) if number.is_integer() else sympy.Rational(repr(number))


class Given(NamedTuple):
    """What is known of a node: operands' values and shapes, attributes, the type of the result."""

    values: tuple[Small | None, ...]
    shapes: tuple[tuple[Dim, ...] | None, ...]
    attributes: Mapping[str, Any]
    is_integer: bool = True

    def value(self, position: int) -> Small | None:
        """Return the value of an operand, None where it is left out or not known."""
        return self.values[position] if position < len(self.values) else None

    def shape(self, position: int) -> tuple[Dim, ...] | None:
        """Return the shape of an operand, None where it is left out or not known."""
        return self.shapes[position] if position < len(self.shapes) else None

    def numbers(self, name: str, position: int) -> tuple[int, ...] | None:
        """Return a list of integers that was an attribute once and is an operand now."""
        found = self.attributes.get(name)
        if found is None:
            small = self.value(position)
            found = None if small is None else small.items
        is_list = isinstance(found, tuple) and all(isinstance(n, int) for n in found)
        return found if is_list else None


Rule = Callable[[Given], Small | None]


def evaluate(op: str, given: Given) -> Small | None:
    """Return the value of an operator's result, None where it is not known or not small.

    >>> from torchatlas.expressions import symbol
    >>> batch = symbol("batch")
    >>> shape = evaluate("Shape", Given((None,), ((batch, 3, 8),), {}))
    >>> evaluate("Gather", Given((shape, Small((0,), True)), ((3,), ()), {}))
    Small(items=(batch,), is_scalar=True)
    >>> evaluate("Mul", Given((shape, Small((2,), True)), ((3,), ()), {})).items
    (2*batch, 6, 16)
    """
    rule = _RULES.get(op)
    if rule is None:
        return None
    try:
        found = rule(given)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # a forged file may say anything
    if found is None or len(found.items) > MAX_LITERAL or any(map(_is_huge, found.items)):
        return None
    return found


def _is_huge(item: Any) -> bool:
    if isinstance(item, int):
        return abs(item) >= 2**63
    return bool(item.count_ops() > 100) if hasattr(item, "count_ops") else item is None


# -- elements ------------------------------------------------------------------------------


def _each(function: Callable[..., Any]) -> Rule:
    """Apply a function of elements to all of them, a single one with every one of a list."""

    def rule(given: Given) -> Small | None:
        operands = given.values
        if any(operand is None for operand in operands):
            return None
        known = [operand for operand in operands if operand is not None]
        length = max(len(operand.items) for operand in known)
        if any(len(operand.items) not in (1, length) for operand in known):
            return None
        rows = (o.items if len(o.items) == length else o.items * length for o in known)
        found = tuple(function(*row) for row in zip(*rows, strict=True))
        return None if None in found else Small(found, all(o.is_scalar for o in known))

    return rule


def _divide(given: Given) -> Small | None:
    """Divide; integers are rounded towards zero, which is down for the sizes that these are."""
    return _each(_quotient_of_integers if given.is_integer else _quotient)(given)


def _quotient(a: Any, b: Any) -> Any:
    import sympy

    return sympy.sympify(a) / b


def _quotient_of_integers(a: Any, b: Any) -> Any:
    import sympy

    if isinstance(a, int) and isinstance(b, int):
        return a // b if (a < 0) == (b < 0) else -(-a // b)
    return _plain(sympy.floor(sympy.sympify(a) / b))


def _plain(found: Any) -> Any:
    return int(found) if getattr(found, "is_Integer", False) else found


def _rounded(name: str) -> Rule:
    def function(item: Any) -> Any:
        import sympy

        return _plain(getattr(sympy, name)(item))

    return _each(function)


def _extreme(name: str) -> Rule:
    def function(*items: Any) -> Any:
        import sympy

        return _plain(getattr(sympy, name)(*items))

    return _each(function)


def _equal(a: Any, b: Any) -> bool | None:
    difference = a - b
    if difference == 0:
        return True
    zero = False if isinstance(difference, int | float) else difference.is_zero
    return None if zero is None else bool(zero)


def _less(a: Any, b: Any) -> bool | None:
    difference = a - b
    if isinstance(difference, int | float):
        return difference < 0
    negative: bool | None = difference.is_negative
    return negative


def _negated(found: bool | None) -> bool | None:
    return None if found is None else not found


def _cast(given: Given) -> Small | None:
    (small,) = given.values
    if small is None or not given.is_integer:
        return small
    return _rounded("floor")(given) if not all(map(_is_whole, small.items)) else small


def _is_whole(item: Any) -> bool:
    return isinstance(item, int) or bool(getattr(item, "is_integer", False))


def _constant(given: Given) -> Small | None:
    found = (given.attributes.get(name) for name in _VALUES)
    return small(next((value for value in found if value is not None), None))


_VALUES = ("value", "value_int", "value_ints", "value_float", "value_floats")

# -- lists ---------------------------------------------------------------------------------


def _shape(given: Given) -> Small | None:
    shape = given.shape(0)
    if shape is None:
        return None
    start, end = given.attributes.get("start", 0), given.attributes.get("end", len(shape))
    return Small(shape[start:end])


def _size(given: Given) -> Small | None:
    shape = given.shape(0)
    return None if shape is None else Small((_product(shape),), True)


def _product(items: Sequence[Any]) -> Any:
    total: Any = 1
    for item in items:
        total = total * item
    return total


def _gather(given: Given) -> Small | None:
    data, indices = given.value(0), given.value(1)
    if data is None or indices is None or given.attributes.get("axis", 0) not in (0, -1):
        return None
    return Small(tuple(data.items[i] for i in indices.items), indices.is_scalar)


def _slice(given: Given) -> Small | None:
    data = given.value(0)
    starts, ends = given.numbers("starts", 1), given.numbers("ends", 2)
    steps = given.numbers("steps", 4) or (1,)
    if data is None or starts is None or ends is None or len(starts) != 1:
        return None
    return Small(data.items[slice(starts[0], ends[0], steps[0])])


def _concat(given: Given) -> Small | None:
    parts = [small.items for small in given.values if small is not None]
    return Small(tuple(sum(parts, ()))) if len(parts) == len(given.values) else None


def _as_list(given: Given) -> Small | None:
    small = given.value(0)
    return None if small is None or (given.shapes[0] or (1,)) != (len(small.items),) else small


def _unsqueeze(given: Given) -> Small | None:
    small = given.value(0)
    return Small(small.items) if small is not None and small.is_scalar else None


def _squeeze(given: Given) -> Small | None:
    small = given.value(0)
    return Small(small.items, True) if small is not None and len(small.items) == 1 else None


def _reshape(given: Given) -> Small | None:
    small, shape = given.value(0), given.value(1)
    if small is None or shape is None or len(shape.items) > 1:
        return None
    return Small(small.items, is_scalar=not shape.items)


def _constant_of_shape(given: Given) -> Small | None:
    shape = given.value(0)
    if shape is None or len(shape.items) > 1:
        return None
    count = shape.items[0] if shape.items else 1
    value = small(given.attributes.get("value", 0))
    if not isinstance(count, int) or not 0 <= count <= MAX_LITERAL or value is None:
        return None
    return Small(value.items[:1] * count, is_scalar=not shape.items)


def _range(given: Given) -> Small | None:
    bounds = [small.items[0] for small in given.values if small is not None and small.items]
    if len(bounds) != 3 or not all(isinstance(n, int) for n in bounds):
        return None
    found = range(*bounds)
    return Small(tuple(found)) if len(found) <= MAX_LITERAL else None


def _expand(given: Given) -> Small | None:
    small, shape = given.value(0), given.value(1)
    if small is None or shape is None or len(shape.items) != 1 or len(small.items) != 1:
        return None
    count = shape.items[0]
    return Small(small.items * count) if isinstance(count, int) and count <= MAX_LITERAL else None


def _reduce(function: Callable[[Sequence[Any]], Any]) -> Rule:
    def rule(given: Given) -> Small | None:
        small = given.value(0)
        if small is None or not small.items:
            return None
        return Small((function(small.items),), not given.attributes.get("keepdims", 1))

    return rule


def _choose(condition: Any, a: Any, b: Any) -> Any:
    return a if condition else b


_RULES: Mapping[str, Rule] = {
    "Add": _each(lambda a, b: a + b),
    "And": _each(lambda a, b: bool(a and b)),
    "Cast": _cast,
    "Ceil": _rounded("ceiling"),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _each(_equal),
    "Expand": _expand,
    "Flatten": _as_list,
    "Floor": _rounded("floor"),
    "Gather": _gather,
    "Greater": _each(lambda a, b: _less(b, a)),
    "GreaterOrEqual": _each(lambda a, b: _negated(_less(a, b))),
    "Identity": lambda given: given.value(0),
    "Less": _each(_less),
    "LessOrEqual": _each(lambda a, b: _negated(_less(b, a))),
    "Max": _extreme("Max"),
    "Min": _extreme("Min"),
    "Mod": _each(lambda a, b: a % b),
    "Mul": _each(lambda a, b: a * b),
    "Neg": _each(lambda a: -a),
    "Not": _each(lambda a: not a),
    "Or": _each(lambda a, b: bool(a or b)),
    "Range": _range,
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda items: sum(items)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _each(lambda a, b: a - b),
    "Unsqueeze": _unsqueeze,
    "Where": _each(_choose),
}
