"""The strides that views have, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..schema import Dim

Static = tuple[int, ...]

RESHAPES = frozenset(
    f"aten.{name}"
    for name in ("flatten", "reshape", "reshape_as", "unflatten", "view", "view_as", "_unsafe_view")
)
"""Views for which tensors without values may have another stride along a dimension of size 1."""


def dense_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Return the strides of a tensor that lies in memory row by row.

    >>> dense_strides((2, 3, 4))
    (12, 4, 1)
    """
    steps: list[Dim] = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        steps[i - 1] = steps[i] * (1 if shape[i] == 0 else shape[i])
    return tuple(steps)


def view_strides(
    shape: Sequence[int], stride: Sequence[int], wanted: Sequence[int]
) -> Static | None:
    """Return the strides of a view in another shape; None where only a copy has that shape.

    Old dimensions fall into groups that lie in memory without gaps; a view exists where the new
    dimensions fill each group exactly.

    >>> view_strides((2, 3, 4), (12, 4, 1), (6, 4)), view_strides((3, 2), (1, 3), (6,))
    ((4, 1), None)
    >>> view_strides((2, 3, 4), (3, 1, 6), (2, 3, 2, 2))
    (3, 1, 12, 6)
    """
    if 0 in shape:
        return tuple(stride) if tuple(shape) == tuple(wanted) else dense_strides(wanted)
    steps = [0] * len(wanted)
    place = len(wanted) - 1
    for count, step in _groups(shape, stride):
        filled = 1
        while place >= 0 and (filled < count or wanted[place] == 1):
            steps[place] = filled * step
            filled *= wanted[place]
            place -= 1
        if filled != count:
            return None
    return tuple(steps) if place < 0 else None


def _groups(shape: Sequence[int], stride: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield, from the last dimension on, how many elements lie in a row, and how far apart."""
    if not shape:
        yield 1, 1
        return
    count, step = 1, stride[-1]
    for i in range(len(shape) - 1, -1, -1):
        count *= shape[i]
        if i == 0 or (shape[i - 1] != 1 and stride[i - 1] != count * step):
            yield count, step
            count, step = 1, stride[i - 1]


def strides_of(
    op: str, args: Mapping[str, Any], shape: Static, stride: Static, wanted: Static
) -> Static | None:
    """Return the strides that the view `op` gives a tensor; None where that is not known.

    >>> strides_of("aten.transpose", {"self": None, "dim0": 0, "dim1": 1}, (1, 3), (7, 1), (3, 1))
    (1, 7)
    """
    if op in RESHAPES:
        return view_strides(shape, stride, wanted)
    rule = _RULES.get(op)
    try:
        found = rule(args, shape, stride) if rule is not None else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None  # arguments that the operator would not take
    return found if found is not None and len(found) == len(wanted) else None


_Rule = Callable[[Mapping[str, Any], Static, Static], Static]


def _transpose(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    steps = list(stride)
    one, other = args["dim0"], args["dim1"]
    steps[one], steps[other] = steps[other], steps[one]
    return tuple(steps)


def _permute(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    return tuple(stride[dim] for dim in args["dims"])


def _unsqueeze(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    dim = args["dim"] % (len(shape) + 1)
    step = shape[dim] * stride[dim] if dim < len(shape) else 1
    return (*stride[:dim], step, *stride[dim:])


def _select(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    dim = args.get("dim", 0) % len(shape)
    return (*stride[:dim], *stride[dim + 1 :])


def _slice(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    dim = args.get("dim", 0) % len(shape)
    return (*stride[:dim], stride[dim] * args.get("step", 1), *stride[dim + 1 :])


def _squeeze(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    given = args.get("dim", tuple(range(len(shape))))
    dims = {dim % len(shape) for dim in (given if isinstance(given, tuple) else (given,))}
    return tuple(step for i, step in enumerate(stride) if shape[i] != 1 or i not in dims)


def _reverse(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    return (*stride[:-2], *stride[-2:][::-1])


def _kept(args: Mapping[str, Any], shape: Static, stride: Static) -> Static:
    return stride


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("aten.transpose", "aten.swapaxes", "aten.swapdims"), _transpose),
    "aten.permute": _permute,
    "aten.unsqueeze": _unsqueeze,
    **dict.fromkeys(("aten.select", "aten.unbind"), _select),
    "aten.slice": _slice,
    "aten.squeeze": _squeeze,
    **dict.fromkeys(("aten.t", "aten.mT", "aten.numpy_T"), _reverse),
    **dict.fromkeys(
        ("aten.chunk", "aten.narrow", "aten.split", "aten.split_with_sizes", "aten.tensor_split"),
        _kept,
    ),
}
"""The arguments, the shape and the strides of a view's operand to its own strides."""
