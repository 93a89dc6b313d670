"""Follows the small integer tensors in an ONNX graph that say which shapes others have.

Exporters compute the operand of a Reshape from shapes: Shape, Gather, Mul, Concat. ONNX's own
inference follows some of that, and only numbers. Here elements may be expressions over sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..schema import Arg, Dim
from .onnx_proto import MAX_LITERAL

if TYPE_CHECKING:
    from numpy import ndarray

    Small = ndarray[Any, Any]
    """The elements of a small tensor, in its shape: numbers, expressions, truth values."""

_MAX_OPERATIONS = 100


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

    def list(self, name: str, position: int) -> tuple[Any, ...] | None:
        """Return the items of a list that was an attribute once and is an operand now."""
        found = self.attributes.get(name)
        if isinstance(found, tuple):
            return found
        value = self.value(position)
        return None if value is None else tuple(value.flat)

    def numbers(self, name: str, position: int) -> tuple[int, ...] | None:
        """Return such a list where all of its items are integers."""
        found = self.list(name, position)
        return found if found is not None and all(isinstance(n, int) for n in found) else None


Rule = Callable[[Given], Any]


def small(found: Arg) -> Small | None:
    """Return the value of a small tensor that a file holds, None for what is no such.

    Fractions are exact, so that sizes never have a decimal point.

    >>> small(0.5).item(), small((1.0, -1)).tolist(), small("<tensor float32[3, 3]>")
    (1/2, [1, -1], None)
    """
    items = found if isinstance(found, tuple) else (found,)
    if not all(isinstance(item, int | float) and math.isfinite(item) for item in items):
        return None
    exact = [_exact(item) if isinstance(item, float) else item for item in items]
    return _array(exact, (len(items),) if isinstance(found, tuple) else ())


def _exact(number: float) -> Any:
    import sympy

    return int(number) if number.is_integer() else sympy.Rational(repr(number))


def _array(items: Iterable[Any], shape: tuple[int, ...]) -> Small:
    import numpy

    found = numpy.empty(shape, object)
    for i, item in enumerate(items):
        found.flat[i] = item
    return found


def evaluate(op: str, given: Given) -> Small | None:
    """Return the value of an operator's result, None where it is not known or not small.

    >>> from torchatlas.expressions import symbol
    >>> shape = evaluate("Shape", Given((None,), ((symbol("batch"), 3, 8),), {}))
    >>> evaluate("Gather", Given((shape, small(0)), ((3,), ()), {})).item()
    batch
    >>> evaluate("Mul", Given((shape, small(2)), ((3,), ()), {})).tolist()
    [2*batch, 6, 16]
    """
    rule = _RULES.get(op)
    if rule is None:
        return None
    try:
        found = rule(given)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # a forged file may say anything
    if found is None:
        return None
    value = found if hasattr(found, "flat") else _array([found], ())  # numpy unwraps single ones
    return None if value.size > MAX_LITERAL or any(map(_is_huge, value.flat)) else value


def _is_huge(item: Any) -> bool:
    if isinstance(item, int):
        return abs(item) >= 2**63
    return bool(item.count_ops() > _MAX_OPERATIONS) if hasattr(item, "count_ops") else item is None


# -- elements ------------------------------------------------------------------------------


def _each(function: Callable[..., Any]) -> Rule:
    """Apply a function to all elements, those of small operands broadcast."""

    def rule(given: Given) -> Small | None:
        import numpy

        if any(value is None for value in given.values):
            return None
        known = [value for value in given.values if value is not None]
        shape = numpy.broadcast_shapes(*(value.shape for value in known))
        if math.prod(shape) > MAX_LITERAL:
            return None
        rows = (numpy.broadcast_to(value, shape).flat for value in known)
        return _array((function(*row) for row in zip(*rows, strict=True)), shape)

    return rule


def _divide(given: Given) -> Small | None:
    """Divide; integers are rounded towards zero, which is down for the sizes that these are."""
    found: Small | None = _each(_quotient_of_integers if given.is_integer else _quotient)(given)
    return found


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


def _by_sympy(name: str) -> Rule:
    """Apply a function of sympy to all elements."""

    def function(*items: Any) -> Any:
        import sympy

        return _plain(getattr(sympy, name)(*items))

    return _each(function)


def _equal(a: Any, b: Any) -> bool | None:
    difference = a - b
    if difference == 0:
        return True
    zero = False if isinstance(difference, int) else difference.is_zero
    return None if zero is None else bool(zero)


def _less(a: Any, b: Any) -> bool | None:
    difference = a - b
    if isinstance(difference, int):
        return difference < 0
    negative: bool | None = difference.is_negative
    return negative


def _negated(found: bool | None) -> bool | None:
    return None if found is None else not found


def _cast(given: Given) -> Small | None:
    value = given.value(0)
    if value is None or not given.is_integer or all(map(_is_whole, value.flat)):
        return value
    found: Small | None = _by_sympy("floor")(given)
    return found


def _is_whole(item: Any) -> bool:
    return isinstance(item, int) or bool(getattr(item, "is_integer", False))


# -- whole tensors -------------------------------------------------------------------------

_VALUES = ("value", "value_int", "value_ints", "value_float", "value_floats")


def _constant(given: Given) -> Small | None:
    found = (given.attributes.get(name) for name in _VALUES)
    return small(next((value for value in found if value is not None), None))


def _of(function: Callable[..., Any]) -> Rule:
    """Apply a function to the value of the first operand, and to what is given."""

    def rule(given: Given) -> Any:
        value = given.value(0)
        return None if value is None else function(value, given)

    return rule


def _shape(given: Given) -> Small | None:
    shape = given.shape(0)
    if shape is None:
        return None
    start, end = given.attributes.get("start", 0), given.attributes.get("end", len(shape))
    kept = shape[start:end]
    return _array(kept, (len(kept),))


def _size(given: Given) -> Small | None:
    shape = given.shape(0)
    return None if shape is None else _array([_product(shape)], ())


def _product(items: Iterable[Any]) -> Any:
    return math.prod(items)


def _gather(data: Small, given: Given) -> Any:
    indices = given.value(1)
    if indices is None:
        return None
    return data.take(indices.astype(int), axis=given.attributes.get("axis", 0))


def _slice(data: Small, given: Given) -> Small | None:
    starts, ends = given.numbers("starts", 1), given.numbers("ends", 2)
    if starts is None or ends is None:
        return None
    axes = given.numbers("axes", 3) or tuple(range(len(starts)))
    steps = given.numbers("steps", 4) or (1,) * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Backwards to the very first element there is no end that a slice could name.
        last = None if step < 0 and end < -data.shape[axis] else end
        place = [slice(None)] * data.ndim
        place[axis] = slice(start, last, step)
        data = data[tuple(place)]
    return data


def _concat(given: Given) -> Small | None:
    import numpy

    parts = [value for value in given.values if value is not None]
    if len(parts) < len(given.values):
        return None
    return numpy.concatenate(parts, axis=given.attributes.get("axis", 0))


def _unsqueeze(data: Small, given: Given) -> Small | None:
    import numpy

    axes = given.numbers("axes", 1)
    return None if axes is None else numpy.expand_dims(data, axes)


def _squeeze(data: Small, given: Given) -> Small:
    return data.squeeze(given.numbers("axes", 1))


def _reshape(data: Small, given: Given) -> Small | None:
    shape = given.numbers("shape", 1)
    if shape is None or len(shape) > 8:
        return None
    return data.reshape([data.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _transpose(data: Small, given: Given) -> Small:
    return data.transpose(given.attributes.get("perm"))


def _constant_of_shape(shape: Small, given: Given) -> Small | None:
    dims = tuple(shape.flat)
    value = small(given.attributes.get("value", 0))
    if value is None or len(dims) > 8 or not all(isinstance(n, int) and n >= 0 for n in dims):
        return None
    count = math.prod(dims)
    return _array([value.flat[0]] * count, dims) if count <= MAX_LITERAL else None


def _range(given: Given) -> Small | None:
    bounds = [value.item() for value in given.values if value is not None]
    if len(bounds) != 3 or not all(isinstance(n, int) for n in bounds):
        return None
    found = range(*bounds)
    return _array(found, (len(found),)) if len(found) <= MAX_LITERAL else None


def _expand(data: Small, given: Given) -> Small | None:
    import numpy

    shape = given.numbers("shape", 1)
    if shape is None or len(shape) > 8 or math.prod(shape) > MAX_LITERAL:
        return None
    return numpy.broadcast_to(data, numpy.broadcast_shapes(data.shape, shape))


def _reduce(function: Callable[[Sequence[Any]], Any]) -> Rule:
    """Apply a function to all elements of a list."""

    def rule(data: Small, given: Given) -> Small | None:
        if data.ndim > 1 or not data.size:
            return None
        kept = given.attributes.get("keepdims", 1)
        return _array([function(list(data.flat))], (1,) * data.ndim if kept else ())

    return _of(rule)


_RULES: Mapping[str, Rule] = {
    "Add": _each(lambda a, b: a + b),
    "And": _each(lambda a, b: bool(a and b)),
    "Cast": _cast,
    "Ceil": _by_sympy("ceiling"),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _of(_constant_of_shape),
    "Div": _divide,
    "Equal": _each(_equal),
    "Expand": _of(_expand),
    "Floor": _by_sympy("floor"),
    "Gather": _of(_gather),
    "Greater": _each(lambda a, b: _less(b, a)),
    "GreaterOrEqual": _each(lambda a, b: _negated(_less(a, b))),
    "Identity": lambda given: given.value(0),
    "Less": _each(_less),
    "LessOrEqual": _each(lambda a, b: _negated(_less(b, a))),
    "Max": _by_sympy("Max"),
    "Min": _by_sympy("Min"),
    "Mod": _each(lambda a, b: a % b),
    "Mul": _each(lambda a, b: a * b),
    "Neg": _each(lambda a: -a),
    "Not": _each(lambda a: not a),
    "Or": _each(lambda a, b: bool(a or b)),
    "Range": _range,
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(sum),
    "Reshape": _of(_reshape),
    "Shape": _shape,
    "Size": _size,
    "Slice": _of(_slice),
    "Squeeze": _of(_squeeze),
    "Sub": _each(lambda a, b: a - b),
    "Transpose": _of(_transpose),
    "Unsqueeze": _of(_unsqueeze),
    "Where": _each(lambda condition, a, b: a if condition else b),
}
