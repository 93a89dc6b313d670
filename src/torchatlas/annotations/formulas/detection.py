"""torchvision's ops on boxes and regions.

How many taps a region has may depend on the box: an upper bound then takes a box as large as the
whole map, as adaptive pooling would.
"""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import ceil_div, log2, product

SAMPLE = 8
"""Operations per bilinear sample: four products, three sums, and the sum over the bin."""

PAIR = 13
"""Operations per pair of boxes: four limits, two extents above 0 (4), three products and sums of
areas to a quotient (intersection 1, union 2, quotient 1), one comparison."""


def _taps(sampling_ratio: int, whole: tuple[Dim, ...], pooled: tuple[Dim, ...]) -> Dim:
    """Return the samples of a bin; where the box decides, those of the largest box."""
    if sampling_ratio > 0:
        return sampling_ratio**2
    return product(ceil_div(size, bins) for size, bins in zip(whole, pooled, strict=True))


@flop_formula("torchvision.nms", "torchvision.qnms")
def nms(dets: TensorMeta) -> Cost:
    """Sort boxes (N, 4) by score, and compare each with those after it: at most all pairs.

    Three operations give the area of a box. Algorithm: torchvision's `csrc/ops/cpu/nms_kernel.cpp`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> nms(T((8, 4)))  # areas 8 x 3, sorting 8 x 3, 28 pairs x 13
    Cost(macs=0, other=412)
    """
    boxes = dets.shape[0]
    pairs = boxes * (boxes - 1) // 2
    return Cost(0, boxes * (3 + log2(boxes)) + pairs * PAIR)


@flop_formula("torchvision.roi_align", "torchvision.ps_roi_align", "torchvision.qroi_align")
def roi_align(
    input: TensorMeta,
    out: TensorMeta,
    pooled_height: Dim,
    pooled_width: Dim,
    sampling_ratio: int,
) -> Cost:
    """Average bilinear samples in each bin of each region (arXiv:1703.06870, section 3).

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, y = T((1, 3, 14, 14)), T((5, 3, 7, 7))
    >>> roi_align(x, y, 7, 7, 2)  # 735 bins of 4 samples x 8
    Cost(macs=0, other=23520)
    >>> roi_align(x, y, 7, 7, -1)  # at most 14 / 7 squared, which is 4 again
    Cost(macs=0, other=23520)
    """
    taps = _taps(sampling_ratio, input.shape[-2:], (pooled_height, pooled_width))
    return Cost(0, out.numel * taps * SAMPLE)


@flop_formula("torchvision._roi_align_backward", "torchvision._ps_roi_align_backward")
def roi_align_backward(
    grad: TensorMeta,
    pooled_height: Dim,
    pooled_width: Dim,
    height: Dim,
    width: Dim,
    sampling_ratio: int,
) -> Cost:
    """Spread each gradient over the four neighbours of each sample: four products, four sums.

    >>> from torchatlas.schema import TensorMeta as T
    >>> roi_align_backward(T((5, 3, 7, 7)), 7, 7, 14, 14, 2)  # 735 gradients, 4 samples x 8
    Cost(macs=0, other=23520)
    """
    taps = _taps(sampling_ratio, (height, width), (pooled_height, pooled_width))
    return Cost(0, grad.numel * taps * SAMPLE)


@flop_formula("torchvision.roi_pool", "torchvision.ps_roi_pool")
def roi_pool(input: TensorMeta, out: TensorMeta, pooled_height: Dim, pooled_width: Dim) -> Cost:
    """Reduce the elements in each bin of each region, of the whole map at most.

    >>> from torchatlas.schema import TensorMeta as T
    >>> roi_pool(T((1, 3, 14, 14)), T((5, 3, 7, 7)), 7, 7)  # 735 bins of at most 2 x 2
    Cost(macs=0, other=2940)
    """
    return Cost(0, out.numel * _taps(0, input.shape[-2:], (pooled_height, pooled_width)))


@flop_formula("torchvision._roi_pool_backward")
def roi_pool_backward(grad: TensorMeta) -> Cost:
    """Add each gradient to the element that was the maximum of its bin.

    >>> from torchatlas.schema import TensorMeta as T
    >>> roi_pool_backward(T((5, 3, 7, 7)))
    Cost(macs=0, other=735)
    """
    return Cost(0, grad.numel)


@flop_formula("torchvision._ps_roi_pool_backward")
def ps_roi_pool_backward(
    grad: TensorMeta, pooled_height: Dim, pooled_width: Dim, height: Dim, width: Dim
) -> Cost:
    """Add each gradient to all elements of its bin.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ps_roi_pool_backward(T((5, 3, 7, 7)), 7, 7, 14, 14)  # 735 bins of at most 2 x 2
    Cost(macs=0, other=2940)
    """
    return Cost(0, grad.numel * _taps(0, (height, width), (pooled_height, pooled_width)))
