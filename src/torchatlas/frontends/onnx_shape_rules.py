"""What shape the result of an ONNX operator has, where its operands' sizes are expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..schema import Dim
from .onnx_arithmetic import Given

Shape = tuple[Dim, ...]
Rule = Callable[[Given], Sequence[Any] | None]


def shape_of(op: str, given: Given) -> Sequence[Any] | None:
    """Return the shape of an operator's first result, with None for a size that stays open.

    None where no rule knows it.

    >>> from torchatlas.expressions import symbol
    >>> given = Given((None, None), ((symbol("n"), 3, 9, 9), (8, 3, 3, 3)), {"strides": (2, 2)})
    >>> shape_of("Conv", given)
    [n, 8, 4, 4]
    """
    rule = _RULES.get(op)
    try:
        return None if rule is None else rule(given)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # a forged file may say anything


def _reshape(given: Given) -> Sequence[Any] | None:
    """Take the shape that an operand says: 0 copies a size, -1 is what is left."""
    shape, target = given.shape(0), given.list("shape", 1)
    if target is None:
        return None
    found: list[Any] = list(target)
    if not given.attributes.get("allowzero", 0):
        for i, size in enumerate(found):
            if size == 0 and isinstance(size, int):
                found[i] = None if shape is None else shape[i]
    if -1 in found:
        place = found.index(-1)
        others = found[:place] + found[place + 1 :]
        found[place] = None if shape is None or None in others else _rest(shape, others)
    return found


def _rest(shape: Shape, others: Sequence[Any]) -> Dim | None:
    import sympy

    left = sympy.sympify(math.prod(shape)) / math.prod(others)
    left = sympy.cancel(left) if left.free_symbols else left
    if left.is_Integer:
        return int(left)
    return left if left.is_integer else None


def _target(position: int) -> Rule:
    """Take the shape that an operand says."""

    def rule(given: Given) -> Sequence[Any] | None:
        target = given.value(position)
        return None if target is None else list(target.flat)

    return rule


def _expand(given: Given) -> Sequence[Any] | None:
    shape, target = given.shape(0), given.list("shape", 1)
    return None if shape is None or target is None else _together(shape, target)


def _broadcast(given: Given) -> Sequence[Any] | None:
    found: Sequence[Any] | None = ()
    for shape in given.shapes:
        if shape is None or found is None:
            return None
        found = _together(found, shape)
    return found


def _together(one: Sequence[Any], other: Sequence[Any]) -> Sequence[Any]:
    """Return the shape that two broadcast to, None for a size that may be that of either.

    >>> from torchatlas.expressions import parse, symbol
    >>> _together((symbol("n"), 1, 5), (7, 5)), _together((symbol("n"),), (symbol("m"),))
    ([n, 7, 5], [None])
    >>> _together((symbol("n"),), (parse("Min(n, 512)"),))
    [n]
    """
    length = max(len(one), len(other))
    one = (1,) * (length - len(one)) + tuple(one)
    other = (1,) * (length - len(other)) + tuple(other)
    return [_wider(a, b) for a, b in zip(one, other, strict=True)]


@lru_cache(maxsize=4096)
def _wider(a: Any, b: Any) -> Any:
    """Return the larger of two sizes that are equal, or of which one is 1."""
    import sympy

    if a == b or b == 1:
        return a
    if a == 1:
        return b
    largest = sympy.Max(a, b)
    return next((size for size in (a, b) if isinstance(size, int) or size == largest), None)


def _matmul(given: Given) -> Sequence[Any] | None:
    a, b = given.shape(0), given.shape(1)
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    return [*_together(a[:-2], b[:-2]), a[-2], b[-1]]


def _gemm(given: Given) -> Sequence[Any] | None:
    a, b = given.shape(0), given.shape(1)
    if a is None or b is None:
        return None
    rows, columns = (given.attributes.get(name, 0) for name in ("transA", "transB"))
    return [a[1 if rows else 0], b[0 if columns else 1]]


def _windows(given: Given, kernel: Sequence[int], channels: Any) -> Sequence[Any] | None:
    """Slide a window: ``floor((n + pads - dilation (k - 1) - 1) / stride) + 1`` places."""
    import sympy

    shape, attributes = given.shape(0), given.attributes
    if shape is None or len(kernel) != len(shape) - 2 or attributes.get("ceil_mode", 0):
        return None
    count = len(kernel)
    strides = attributes.get("strides", (1,) * count)
    dilations = attributes.get("dilations", (1,) * count)
    pads = attributes.get("pads", (0,) * 2 * count)
    padding = attributes.get("auto_pad", "NOTSET")
    found = [shape[0], channels]
    for i, size in enumerate(shape[2:]):
        if padding.startswith("SAME"):
            places = sympy.ceiling(sympy.sympify(size) / strides[i])
        else:
            around = 0 if padding == "VALID" else pads[i] + pads[count + i]
            reach = dilations[i] * (kernel[i] - 1) + 1
            places = _floor_divide(sympy.sympify(size) + around - reach, strides[i]) + 1
        found.append(int(places) if places.is_Integer else places)
    return found


@lru_cache(maxsize=4096)
def _floor_divide(size: Any, step: int) -> Any:
    """Divide and round down; rounding twice is rounding once.

    >>> from torchatlas.expressions import parse
    >>> _floor_divide(parse("floor(height/2 - 1/2) + 1"), 2)
    floor(height/4 + 1/4)
    """
    import sympy

    rounded = [term for term in sympy.Add.make_args(size) if isinstance(term, sympy.floor)]
    for term in rounded:  # the other terms are whole, so the last rounding takes care of it
        size = size - term + term.args[0]
        break
    return sympy.floor(size / step)


def _conv(given: Given) -> Sequence[Any] | None:
    weight = given.shape(1)
    if weight is None or not all(isinstance(size, int) for size in weight[2:]):
        return None
    return _windows(given, weight[2:], weight[0])


def _pool(given: Given) -> Sequence[Any] | None:
    shape = given.shape(0)
    if shape is None:
        return None
    return _windows(given, given.attributes["kernel_shape"], shape[1])


def _conv_transpose(given: Given) -> Sequence[Any] | None:
    shape, weight, attributes = given.shape(0), given.shape(1), given.attributes
    if shape is None or weight is None or "output_shape" in attributes:
        return None
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    count = len(shape) - 2
    strides = attributes.get("strides", (1,) * count)
    dilations = attributes.get("dilations", (1,) * count)
    pads = attributes.get("pads", (0,) * 2 * count)
    more = attributes.get("output_padding", (0,) * count)
    found = [shape[0], weight[1] * attributes.get("group", 1)]
    for i, size in enumerate(shape[2:]):
        reach = dilations[i] * (weight[2 + i] - 1) + 1
        found.append(strides[i] * (size - 1) + more[i] + reach - pads[i] - pads[count + i])
    return found


def _concat(given: Given) -> Sequence[Any] | None:
    shapes = [shape for shape in given.shapes if shape is not None]
    if len(shapes) < len(given.shapes) or not shapes:
        return None
    axis = given.attributes["axis"] % len(shapes[0])
    found: list[Any] = list(shapes[0])
    found[axis] = sum(shape[axis] for shape in shapes)
    return found


def _slice(given: Given) -> Sequence[Any] | None:
    shape = given.shape(0)
    starts, ends = given.list("starts", 1), given.list("ends", 2)
    if shape is None or starts is None or ends is None:
        return None
    axes = given.numbers("axes", 3) or tuple(range(len(starts)))
    steps = given.numbers("steps", 4) or (1,) * len(starts)
    found: list[Any] = list(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        found[axis] = _cut(shape[axis], start, end, step) if step > 0 else None
    return found


def _cut(size: Dim, start: Any, end: Any, step: int = 1) -> Dim:
    """Return the length of ``[start:end:step]`` of `size` elements.

    >>> from torchatlas.expressions import symbol
    >>> n = symbol("n")
    >>> _cut(n, 0, 2**63 - 1), _cut(n, 1, n), _cut(10, 2, -1), _cut(n, 0, 4), _cut(512, 0, n)
    (n, n - 1, 7, Min(4, n), Min(512, n))
    >>> _cut(n, 0, n, 2), _cut(7, 1, 7, 2)
    (ceiling(n/2), 3)
    """
    import sympy

    first, last = (_place(bound, size) for bound in (start, end))
    last = size if last == math.inf else last if last == size else sympy.Min(last, size)
    found = sympy.sympify(last - first)
    if not found.is_nonnegative:
        found = sympy.Max(found, 0)
    if step > 1:
        found = sympy.ceiling(found / step)
    return int(found) if found.is_Integer else found


def _place(bound: Any, size: Dim) -> Any:
    if isinstance(bound, int):
        if bound >= 2**31 - 1:
            return math.inf
        return bound + size if bound < 0 else bound
    return bound


def _tile(given: Given) -> Sequence[Any] | None:
    shape, repeats = given.shape(0), given.list("repeats", 1)
    if shape is None or repeats is None:
        return None
    return [size * times for size, times in zip(shape, repeats, strict=True)]


def _pad(given: Given) -> Sequence[Any] | None:
    shape, pads = given.shape(0), given.list("pads", 1)
    if shape is None or pads is None or given.value(3) is not None or len(given.values) > 3:
        return None
    count = len(shape)
    return [size + pads[i] + pads[count + i] for i, size in enumerate(shape)]


def _resize(given: Given) -> Sequence[Any] | None:
    shape, sizes = given.shape(0), given.list("sizes", 3)
    if shape is None or "axes" in given.attributes:
        return None
    return sizes if sizes else _scaled(shape, given.list("scales", 2))


def _upsample(given: Given) -> Sequence[Any] | None:
    shape = given.shape(0)
    return None if shape is None else _scaled(shape, given.list("scales", 1))


def _scaled(shape: Shape, scales: Sequence[Any] | None) -> Sequence[Any] | None:
    import sympy

    if not scales:
        return None
    exact = (sympy.nsimplify(scale, rational=True) for scale in scales)
    found = [sympy.floor(size * scale) for size, scale in zip(shape, exact, strict=True)]
    return [int(size) if size.is_Integer else size for size in found]


def _range(given: Given) -> Sequence[Any] | None:
    bounds = [value.item() for value in given.values if value is not None]
    if len(bounds) != 3 or bounds[2] != 1:
        return None
    return [bounds[1] - bounds[0]]


def _same(given: Given) -> Sequence[Any] | None:
    return given.shape(0)


_RULES: Mapping[str, Rule] = {
    "AveragePool": _pool,
    "Concat": _concat,
    "ConstantOfShape": _target(0),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Gemm": _gemm,
    "LpPool": _pool,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Tile": _tile,
    "Upsample": _upsample,
    **dict.fromkeys(
        ("BatchNormalization", "Identity", "LayerNormalization", "Relu", "Softmax"), _same
    ),
    **dict.fromkeys(
        (
            "Add",
            "And",
            "Div",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Min",
            "Mod",
            "Mul",
            "Or",
            "PRelu",
            "Pow",
            "Sub",
            "Sum",
            "Where",
            "Xor",
        ),
        _broadcast,
    ),
}
