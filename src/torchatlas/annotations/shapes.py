"""What kernel a contraction is: a product or one of three convolutions, and how thin it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..schema import TensorMeta


class Shape(NamedTuple):
    """The class of a contraction, one of `torchatlas.devices.SHAPES`, and its width.

    The width of a product is the least of its three sizes, for that limits how often an operand
    that was loaded is used; that of a dense convolution the mean of the channels that it reads
    and writes, of one group, and that of a depthwise one, which has a channel each, its taps.
    """

    kind: Literal["product", "spatial", "pointwise", "depthwise"]
    width: float


_OPERANDS = {
    "aten.addmm": ("mat1", "mat2"),
    "aten.linear": ("input", "weight"),
    "aten.matmul": ("self", "other"),
    "aten.mm": ("self", "mat2"),
}
"""Products with one matrix on the right, and the arguments that hold the operands."""


def shape_of(node: Mapping[str, Any]) -> Shape | None:
    """Return the shape of an op whose sizes are numbers; None for one of no such class.

    The width of a dense convolution is the geometric mean of its channels, so that its weights
    and operations are those of a convolution with as many channels on both sides.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x = T((1, 32, 56, 56))
    >>> shape_of({"op": "aten.conv2d", "args": {"input": x, "weight": T((128, 32, 1, 1))}})
    Shape(kind='pointwise', width=64.0)
    >>> args = {"input": x, "weight": T((32, 1, 5, 5)), "groups": 32}
    >>> shape_of({"op": "aten.conv2d", "args": args})
    Shape(kind='depthwise', width=25.0)
    >>> args = {"input": T((2, 8, 512)), "weight": T((64, 512))}
    >>> shape_of({"op": "aten.linear", "args": args})  # 16 x 512 x 64
    Shape(kind='product', width=16.0)
    """
    args = node["args"]
    weight = args.get("weight")
    op = node.get("op", "")
    if "conv" in op and isinstance(weight, TensorMeta) and len(weight.shape) > 2:
        return _convolution(weight, args.get("groups", 1))
    left, right = (args.get(name) for name in _OPERANDS.get(op, ("", "")))
    if isinstance(left, TensorMeta) and isinstance(right, TensorMeta) and len(right.shape) == 2:
        summed = int(left.shape[-1])
        sizes = summed, int(left.numel) // max(1, summed), int(right.numel) // max(1, summed)
        return Shape("product", float(max(1, min(sizes))))
    return None


def _convolution(weight: TensorMeta, groups: Any) -> Shape:
    """Return the shape of a convolution; a transposed one has its channels the other way round."""
    groups = groups if isinstance(groups, int) else 1
    first, second, *kernel = map(int, weight.shape)
    taps = math.prod(kernel)
    if groups > 1 and second == 1:
        return Shape("depthwise", float(max(1, taps)))
    width = math.sqrt(max(1, first // groups * second))
    return Shape("pointwise" if taps == 1 else "spatial", width)
