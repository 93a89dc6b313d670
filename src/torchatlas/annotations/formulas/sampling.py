"""Resizing and sampling: each output element blends its taps, ``2 * taps - 1`` operations."""

from __future__ import annotations

from ...schema import TensorMeta
from .registry import Cost, flop_formula
from .sizes import ceil_div, product


def _blend(taps: int, out: TensorMeta) -> Cost:
    return Cost(0, out.numel * (2 * taps - 1))


@flop_formula("aten.upsample_linear1d")
def upsample_linear(out: TensorMeta) -> Cost:
    """Blend 2 neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_linear(T((1, 3, 8)))  # 24 x (2 products, 1 sum)
    Cost(macs=0, other=72)
    """
    return _blend(2, out)


@flop_formula("aten.upsample_bilinear2d")
def upsample_bilinear(out: TensorMeta) -> Cost:
    """Blend 4 neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_bilinear(T((1, 3, 8, 8)))  # 192 x (4 products, 3 sums)
    Cost(macs=0, other=1344)
    """
    return _blend(4, out)


@flop_formula("aten.upsample_trilinear3d")
def upsample_trilinear(out: TensorMeta) -> Cost:
    """Blend 8 neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_trilinear(T((1, 1, 2, 2, 2)))  # 8 x (8 products, 7 sums)
    Cost(macs=0, other=120)
    """
    return _blend(8, out)


@flop_formula("aten.upsample_bicubic2d")
def upsample_bicubic(out: TensorMeta) -> Cost:
    """Blend 16 neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_bicubic(T((1, 3, 8, 8)))  # 192 x (16 products, 15 sums)
    Cost(macs=0, other=5952)
    """
    return _blend(16, out)


def _antialiased(reach: int, source: TensorMeta | None, out: TensorMeta) -> Cost | None:
    """Resize one dimension after the other, blending `reach` input elements per step each way.

    Shrinking widens the filter by as much, so it meets every input element about as often.
    """
    if source is None:
        return None
    sizes = zip(source.shape[-2:], out.shape[-2:], strict=True)
    down, across = (2 * reach * ceil_div(before, after) for before, after in sizes)
    rows = product(out.shape[:-2]) * source.shape[-2] * out.shape[-1]
    return Cost(0, rows * (2 * across - 1) + out.numel * (2 * down - 1))


@flop_formula("aten._upsample_bilinear2d_aa")
def upsample_bilinear_aa(
    out: TensorMeta, self: TensorMeta | None = None, input: TensorMeta | None = None
) -> Cost | None:
    """Resize with a triangle filter as wide as the step between output elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # across: 8 x 4 results of 2 x 2 taps, 7 each; then down: 4 x 4 of 7
    >>> upsample_bilinear_aa(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=336)
    """
    return _antialiased(1, self or input, out)


@flop_formula("aten._upsample_bicubic2d_aa")
def upsample_bicubic_aa(
    out: TensorMeta, self: TensorMeta | None = None, input: TensorMeta | None = None
) -> Cost | None:
    """Resize with a cubic filter, twice as wide as a triangle.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # across: 8 x 4 results of 4 x 2 taps, 15 each; then down: 4 x 4 of 15
    >>> upsample_bicubic_aa(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=720)
    """
    return _antialiased(2, self or input, out)


_NEAREST = 1
_BICUBIC = 2


@flop_formula(
    "aten.grid_sampler",
    "aten.grid_sampler_2d",
    "aten.grid_sampler_3d",
    "aten.cudnn_grid_sampler",
    "aten._grid_sampler_2d_cpu_fallback",
)
def grid_sampler(grid: TensorMeta, out: TensorMeta, interpolation_mode: int = 0) -> Cost:
    """Blend the neighbours of each grid point; the nearest alone is a gather.

    >>> from torchatlas.schema import TensorMeta as T
    >>> grid_sampler(T((1, 4, 4, 2)), T((1, 3, 4, 4)))  # 48 x (4 products, 3 sums)
    Cost(macs=0, other=336)
    >>> grid_sampler(T((1, 4, 4, 2)), T((1, 3, 4, 4)), interpolation_mode=1)
    Cost(macs=0, other=0)
    """
    if interpolation_mode == _NEAREST:
        return Cost()
    dims = len(grid.shape) - 2
    return _blend((4 if interpolation_mode == _BICUBIC else 2) ** dims, out)


@flop_formula("aten.col2im")
def col2im(self: TensorMeta) -> Cost:
    """Add overlapping patches into an image.

    >>> from torchatlas.schema import TensorMeta as T
    >>> col2im(T((1, 9, 16)))
    Cost(macs=0, other=144)
    """
    return Cost(0, self.numel)
