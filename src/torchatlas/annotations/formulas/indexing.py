"""Indexed sums: moving rows about is free of operations, adding them up is not."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
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


@flop_formula("aten._embedding_bag_backward", "aten._embedding_bag_dense_backward")
def embedding_bag_backward(grad: TensorMeta, indices: TensorMeta) -> Cost:
    """Add the gradient of its bag to every row that was looked up.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embedding_bag_backward(T((4, 8)), T((20,), "int64"))  # 20 rows of 8
    Cost(macs=0, other=160)
    """
    return Cost(0, indices.numel * grad.shape[-1])


@flop_formula("aten._embedding_bag_per_sample_weights_backward")
def embedding_bag_weights_backward(weight: TensorMeta, indices: TensorMeta) -> Cost:
    """Multiply every row that was looked up with the gradient of its bag, and sum.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embedding_bag_weights_backward(T((100, 8)), T((20,), "int64"))  # 20 rows of 8 x 2
    Cost(macs=0, other=320)
    """
    return Cost(0, 2 * indices.numel * weight.shape[-1])


@flop_formula("aten.embedding_renorm")
def embedding_renorm(self: TensorMeta, indices: TensorMeta) -> Cost:
    """Shorten the rows that an index names, where they are too long.

    How many are, and how many are named twice, depends on values: this is an upper bound.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embedding_renorm(T((100, 8)), T((20,), "int64"))  # 160 x (power, sum, scale)
    Cost(macs=0, other=480)
    """
    return Cost(0, indices.numel * self.shape[-1] * (PASSES["vector norm"] + 1))


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


@flop_formula("aten._unsafe_masked_index_put_accumulate")
def masked_index_put(values: TensorMeta) -> Cost:
    """Add values, where a mask holds, to the places that indices name.

    >>> from torchatlas.schema import TensorMeta as T
    >>> masked_index_put(T((4, 5)))  # choose, add
    Cost(macs=0, other=40)
    """
    return Cost(0, 2 * values.numel)


@flop_formula(
    "aten.reflection_pad1d_backward",
    "aten.reflection_pad2d_backward",
    "aten.reflection_pad3d_backward",
    "aten.replication_pad1d_backward",
    "aten.replication_pad2d_backward",
    "aten.replication_pad3d_backward",
)
def pad_backward(grad_output: TensorMeta) -> Cost:
    """Add each gradient to the element that it is a copy of.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pad_backward(T((1, 3, 10)))
    Cost(macs=0, other=30)
    """
    return Cost(0, grad_output.numel)


@flop_formula("aten.put")
def put(source: TensorMeta, accumulate: bool = False) -> Cost:
    """Put elements where an index says, or add them to what is there.

    >>> from torchatlas.schema import TensorMeta as T
    >>> put(T((4,)), accumulate=True)
    Cost(macs=0, other=4)
    """
    total: Dim = source.numel
    return Cost(0, total if accumulate else 0)
