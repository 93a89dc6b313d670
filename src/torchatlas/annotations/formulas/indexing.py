"""Indexed sums: moving rows about is free of operations, adding them up is not."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula


@flop_formula("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(
    weight: TensorMeta, indices: TensorMeta, per_sample_weights: TensorMeta | None = None
) -> Cost:
    """Add up (or take the maximum of) the rows of each bag.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embedding_bag(T((100, 8)), T((20,), "int64"))  # 20 rows of 8
    Cost(macs=0, other=160)
    """
    per_element = 1 if per_sample_weights is None else 2
    return Cost(0, indices.numel * weight.shape[-1] * per_element)


@flop_formula("aten.embedding_dense_backward")
def embedding_backward(grad_output: TensorMeta) -> Cost:
    """Add the gradient of every looked-up row to its row.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embedding_backward(T((2, 5, 8)))
    Cost(macs=0, other=80)
    """
    return Cost(0, grad_output.numel)


@flop_formula("aten.scatter_add", "aten.scatter_reduce")
def scatter_add(index: TensorMeta) -> Cost:
    """Add the elements that an index sends to the same place.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scatter_add(T((20,), "int64"))
    Cost(macs=0, other=20)
    """
    return Cost(0, index.numel)


@flop_formula("aten.scatter")
def scatter(index: TensorMeta, reduce: str | None = None) -> Cost:
    """Send elements to the places of an index; combine them where `reduce` says how.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scatter(T((20,), "int64")), scatter(T((20,), "int64"), reduce="add")
    (Cost(macs=0, other=0), Cost(macs=0, other=20))
    """
    return Cost(0, index.numel if reduce is not None else 0)


@flop_formula("aten.index_add", "aten.index_reduce")
def index_add(source: TensorMeta) -> Cost:
    """Add slices to the slices that an index names.

    >>> from torchatlas.schema import TensorMeta as T
    >>> index_add(T((4, 5)))
    Cost(macs=0, other=20)
    """
    return Cost(0, source.numel)


@flop_formula(
    "aten.index_put",
    "aten._unsafe_index_put",
    "aten._index_put_impl",
)
def index_put(values: TensorMeta, accumulate: bool = False) -> Cost:
    """Put values where indices say, or add them to what is there.

    >>> from torchatlas.schema import TensorMeta as T
    >>> index_put(T((4, 5))), index_put(T((4, 5)), accumulate=True)
    (Cost(macs=0, other=0), Cost(macs=0, other=20))
    """
    return Cost(0, values.numel if accumulate else 0)


@flop_formula("aten.put")
def put(source: TensorMeta, accumulate: bool = False) -> Cost:
    """Put elements where an index says, or add them to what is there.

    >>> from torchatlas.schema import TensorMeta as T
    >>> put(T((4,)), accumulate=True)
    Cost(macs=0, other=4)
    """
    total: Dim = source.numel
    return Cost(0, total if accumulate else 0)
