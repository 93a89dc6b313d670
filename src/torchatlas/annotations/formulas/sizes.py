"""Arithmetic on sizes that are numbers or sympy expressions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...schema import Dim


def product(sizes: Iterable[Dim]) -> Dim:
    """Multiply `sizes`; 1 where there are none.

    >>> product((2, 3)), product(())
    (6, 1)
    """
    return math.prod(sizes)


def as_tuple(value: Dim | Sequence[Dim], length: int) -> tuple[Dim, ...]:
    """Repeat a single size for every dimension, as torch does with ``kernel_size=3``.

    >>> as_tuple(3, 2), as_tuple((3,), 2), as_tuple((3, 5), 2)
    ((3, 3), (3, 3), (3, 5))
    """
    if not isinstance(value, Sequence):
        return (value,) * length
    return tuple(value) * length if len(value) == 1 else tuple(value)


def ceil_div(a: Dim, b: Dim) -> Dim:
    """Divide and round up.

    >>> ceil_div(7, 2), ceil_div(6, 2)
    (4, 3)
    """
    return -(-a // b)


def larger(a: Dim, b: Dim) -> Dim:
    """Return the larger of two sizes.

    >>> larger(7, 2)
    7
    """
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    import sympy

    return sympy.Max(a, b)


def smaller(a: Dim, b: Dim) -> Dim:
    """Return the smaller of two sizes.

    >>> smaller(7, 2)
    2
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    import sympy

    return sympy.Min(a, b)


def log2(n: Dim) -> Dim:
    """Return the binary logarithm, rounded up: how often `n` items can be halved.

    >>> log2(1), log2(8), log2(9)
    (0, 3, 4)
    """
    if isinstance(n, int):
        return max(n - 1, 0).bit_length()
    import sympy

    return sympy.ceiling(sympy.log(n, 2))


def broadcast(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """Return the shape that `shapes` broadcast to.

    >>> broadcast((8, 1, 5), (7, 1))
    (8, 7, 5)
    """
    length = max(map(len, shapes), default=0)
    padded = [(1,) * (length - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))
