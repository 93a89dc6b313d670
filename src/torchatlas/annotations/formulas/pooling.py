"""Pooling: one operation per output element and tap of its window."""

from __future__ import annotations

from ...schema import TensorMeta
from .registry import Cost, flop_formula
from .sizes import as_tuple, ceil_div, product

_Size = int | tuple[int, ...]


def _pool(kernel_size: _Size, out: TensorMeta, dims: int) -> Cost:
    return Cost(0, out.numel * product(as_tuple(kernel_size, dims)))


@flop_formula("aten.avg_pool1d", "aten.max_pool1d", "aten.max_pool1d_with_indices")
def pool1d(kernel_size: _Size, out: TensorMeta) -> Cost:
    """Reduce windows along one dimension; taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pool1d(2, T((1, 3, 5)))  # 15 windows of 2
    Cost(macs=0, other=30)
    """
    return _pool(kernel_size, out, 1)


@flop_formula(
    "aten.avg_pool2d",
    "aten.max_pool2d",
    "aten.max_pool2d_with_indices",
    "aten.mkldnn_max_pool2d",
    "aten.fractional_max_pool2d",
)
def pool2d(kernel_size: _Size, out: TensorMeta) -> Cost:
    """Reduce windows along two dimensions; taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pool2d(3, T((1, 64, 56, 56)))  # 64 x 56 x 56 windows of 3 x 3
    Cost(macs=0, other=1806336)
    """
    return _pool(kernel_size, out, 2)


@flop_formula(
    "aten.avg_pool3d",
    "aten.max_pool3d",
    "aten.max_pool3d_with_indices",
    "aten.mkldnn_max_pool3d",
    "aten.fractional_max_pool3d",
)
def pool3d(kernel_size: _Size, out: TensorMeta) -> Cost:
    """Reduce windows along three dimensions; taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pool3d((1, 2, 2), T((1, 3, 4, 5, 5)))  # 300 windows of 4
    Cost(macs=0, other=1200)
    """
    return _pool(kernel_size, out, 3)


def _adaptive(self: TensorMeta, out: TensorMeta, dims: int) -> Cost:
    sizes = zip(self.shape[-dims:], out.shape[-dims:], strict=True)
    return Cost(0, out.numel * product(ceil_div(before, after) for before, after in sizes))


@flop_formula("aten.adaptive_avg_pool1d", "aten.adaptive_max_pool1d")
def adaptive_pool1d(self: TensorMeta, out: TensorMeta) -> Cost:
    """Reduce one dimension to a given size, as `adaptive_pool2d` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adaptive_pool1d(T((1, 3, 10)), T((1, 3, 5)))  # 15 windows of 2
    Cost(macs=0, other=30)
    """
    return _adaptive(self, out, 1)


@flop_formula(
    "aten.adaptive_avg_pool2d",
    "aten._adaptive_avg_pool2d",
    "aten.adaptive_max_pool2d",
    "aten.mkldnn_adaptive_avg_pool2d",
)
def adaptive_pool2d(self: TensorMeta, out: TensorMeta) -> Cost:
    """Reduce two dimensions to a given size; windows have the quotient, rounded up, of taps.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adaptive_pool2d(T((1, 512, 7, 7)), T((1, 512, 1, 1)))  # 512 windows of 7 x 7
    Cost(macs=0, other=25088)
    """
    return _adaptive(self, out, 2)


@flop_formula("aten.adaptive_avg_pool3d", "aten._adaptive_avg_pool3d", "aten.adaptive_max_pool3d")
def adaptive_pool3d(self: TensorMeta, out: TensorMeta) -> Cost:
    """Reduce three dimensions to a given size, as `adaptive_pool2d` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adaptive_pool3d(T((1, 8, 2, 7, 7)), T((1, 8, 1, 1, 1)))  # 8 windows of 2 x 7 x 7
    Cost(macs=0, other=784)
    """
    return _adaptive(self, out, 3)


@flop_formula(
    "aten.max_pool2d_with_indices_backward",
    "aten.max_pool3d_with_indices_backward",
    "aten.adaptive_max_pool2d_backward",
    "aten.adaptive_max_pool3d_backward",
    "aten.fractional_max_pool2d_backward",
    "aten.fractional_max_pool3d_backward",
    "aten.max_pool2d_backward",
    "aten.mkldnn_max_pool2d_backward",
    "aten.mkldnn_max_pool3d_backward",
)
def max_pool_backward(grad_output: TensorMeta) -> Cost:
    """Add each gradient to the element that was the maximum of its window.

    >>> from torchatlas.schema import TensorMeta as T
    >>> max_pool_backward(T((1, 2, 3, 3)))
    Cost(macs=0, other=18)
    """
    return Cost(0, grad_output.numel)


@flop_formula("aten.avg_pool2d_backward", "aten.avg_pool3d_backward")
def avg_pool_backward(grad_output: TensorMeta, kernel_size: _Size) -> Cost:
    """Add each gradient to all elements of its window.

    >>> from torchatlas.schema import TensorMeta as T
    >>> avg_pool_backward(T((1, 2, 3, 3)), (2, 2))  # 18 windows of 4
    Cost(macs=0, other=72)
    """
    dims = 3 if len(grad_output.shape) == 5 else 2
    return _pool(kernel_size, grad_output, dims)


@flop_formula(
    "aten._adaptive_avg_pool2d_backward",
    "aten._adaptive_avg_pool3d_backward",
    "aten.adaptive_avg_pool3d_backward",
    "aten.mkldnn_adaptive_avg_pool2d_backward",
)
def adaptive_avg_pool_backward(grad_output: TensorMeta, self: TensorMeta) -> Cost:
    """Add each gradient to all elements of its window.

    >>> from torchatlas.schema import TensorMeta as T
    >>> adaptive_avg_pool_backward(T((1, 2, 1, 1)), T((1, 2, 3, 3)))  # 2 windows of 9
    Cost(macs=0, other=18)
    """
    dims = 3 if len(self.shape) == 5 else 2
    return _adaptive(self, grad_output, dims)
