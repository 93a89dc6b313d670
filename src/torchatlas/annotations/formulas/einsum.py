"""`aten.einsum` and its like: pairs of operands contracted one after another."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import product

_Labels = tuple[str, ...]


@flop_formula("aten.einsum")
def einsum(
    equation: str, tensors: tuple[TensorMeta, ...], path: tuple[int, ...] | None = None
) -> Cost:
    """Contract along `path`, a flat list of pairs of positions; from left to right without one.

    An index that only one operand of a pair has, and that is not wanted later, is summed first.
    A pair of which nothing is summed is a pointwise product. Rule: torch's
    `aten/src/ATen/native/Linear.cpp`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> einsum("bij,bjk->bik", (T((10, 3, 4)), T((10, 4, 5))))  # 10 x 3 x 4 x 5
    Cost(macs=600, other=0)
    >>> einsum("i,j->ij", (T((3,)), T((4,))))  # an outer product
    Cost(macs=0, other=12)
    >>> einsum("ij,jk,kl->il", (T((2, 3)), T((3, 4)), T((4, 5))))  # 2x3x4 + 2x4x5
    Cost(macs=64, other=0)
    >>> einsum("ij,jk,kl->il", (T((2, 3)), T((3, 4)), T((4, 5))), (1, 2, 0, 1))  # 3x4x5 + 2x3x5
    Cost(macs=90, other=0)
    """
    operands, result, sizes = _parse(equation, [t.shape for t in tensors])
    return _fold(operands, result, sizes, _pairs(path, len(operands)))


@flop_formula("aten._trilinear")
def trilinear(
    i1: TensorMeta,
    i2: TensorMeta,
    i3: TensorMeta,
    expand1: tuple[int, ...],
    expand2: tuple[int, ...],
    expand3: tuple[int, ...],
    sumdim: tuple[int, ...],
) -> Cost:
    """Multiply three tensors, each broadcast along the dimensions that it lacks, and sum.

    The first two are contracted over what the third lacks, then with the third. Rule: torch's
    `aten/src/ATen/native/Linear.cpp`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # a bilinear layer: 2 x 5 x 3 x 4 with the first input, then 2 x 5 x 4 with the second
    >>> x, w, y = T((2, 3)), T((5, 3, 4)), T((2, 4))
    >>> trilinear(x, w, y, (1, 3), (0,), (1, 2), (2, 3))
    Cost(macs=160, other=0)
    """
    dims = len(i1.shape) + len(expand1)
    sizes: dict[str, Dim] = {}
    operands = []
    for tensor, lacking in ((i1, expand1), (i2, expand2), (i3, expand3)):
        labels = tuple(str(dim) for dim in range(dims) if dim not in lacking)
        operands.append(labels)
        _agree(sizes, labels, tensor.shape)
    result = tuple(str(dim) for dim in range(dims) if dim not in sumdim)
    return _fold(operands, result, sizes, _pairs(None, 3))


def _fold(
    operands: list[_Labels], result: _Labels, sizes: dict[str, Dim], pairs: list[tuple[int, int]]
) -> Cost:
    macs: Dim = 0
    other: Dim = 0
    for i, j in pairs:
        first, second = operands[i], operands[j]
        operands = [labels for k, labels in enumerate(operands) if k not in (i, j)]
        wanted = {label for labels in (*operands, result) for label in labels}
        cost, made = _pair(first, second, wanted, sizes)
        macs, other = macs + cost.macs, other + cost.other
        operands.append(made)
    if len(operands) == 1 and set(operands[0]) - set(result):
        other += product(sizes[label] for label in set(operands[0]))
    return Cost(macs, other)


def _pair(
    first: _Labels, second: _Labels, wanted: set[str], sizes: dict[str, Dim]
) -> tuple[Cost, _Labels]:
    a, b = dict.fromkeys(first), dict.fromkeys(second)
    presums: Dim = 0
    for own, others in ((a, b), (b, a)):
        lonely = [label for label in own if label not in others and label not in wanted]
        if lonely:
            presums += product(sizes[label] for label in own)
            for label in lonely:
                del own[label]
    together = dict.fromkeys((*a, *b))
    made = tuple(label for label in together if label in wanted)
    products = product(sizes[label] for label in together)
    contracted = len(made) < len(together)
    return Cost(products, presums) if contracted else Cost(0, products + presums), made


def _pairs(path: tuple[int, ...] | None, count: int) -> list[tuple[int, int]]:
    if path is not None and len(path) == 2 * (count - 1):
        return [(path[2 * i], path[2 * i + 1]) for i in range(count - 1)]
    # The result of a pair goes to the end of the list, so it is the last from the second pair on.
    return [(0, 1) if left == count else (left - 1, 0) for left in range(count, 1, -1)]


def _parse(
    equation: str, shapes: list[tuple[Dim, ...]]
) -> tuple[list[_Labels], _Labels, dict[str, Dim]]:
    left, arrow, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, Dim] = {}
    operands = []
    for term, shape in zip(left.split(","), shapes, strict=True):
        labels = _labels(term, len(shape))
        operands.append(labels)
        _agree(sizes, labels, shape)
    if arrow:
        longest = max(operands, key=_ellipsis_length)
        return operands, _labels(right, _right_length(right, longest)), sizes
    named = [label for labels in operands for label in labels]
    dots = sorted({label for label in named if label.startswith(".")}, reverse=True)
    once = sorted(label for label in named if label not in dots and named.count(label) == 1)
    return operands, (*dots, *once), sizes


def _agree(sizes: dict[str, Dim], labels: _Labels, shape: tuple[Dim, ...]) -> None:
    """Note the size behind each label; a size of 1 gives way to another."""
    for label, size in zip(labels, shape, strict=True):
        if sizes.get(label, 1) == 1:
            sizes[label] = size


def _labels(term: str, length: int) -> _Labels:
    # Dimensions under an ellipsis are numbered from the right, which is how they broadcast.
    before, dots, after = term.partition("...")
    covered = length - len(before) - len(after) if dots else 0
    return (*before, *(f".{i}" for i in range(covered, 0, -1)), *after)


def _ellipsis_length(labels: _Labels) -> int:
    return sum(label.startswith(".") for label in labels)


def _right_length(right: str, longest: _Labels) -> int:
    """Return how many dimensions the result has when its ellipsis is as long as `longest`'s.

    >>> _right_length("...k", (".2", ".1", "i"))
    3
    """
    if "..." not in right:
        return len(right)
    return len(right) - len("...") + _ellipsis_length(longest)
