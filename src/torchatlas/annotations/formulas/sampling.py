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


@flop_formula("aten._upsample_lanczos2d_aa")
def upsample_lanczos_aa(
    out: TensorMeta, self: TensorMeta | None = None, input: TensorMeta | None = None
) -> Cost | None:
    """Resize with a windowed sinc filter, three times as wide as a triangle.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # across: 8 x 4 results of 6 x 2 taps, 23 each; then down: 4 x 4 of 23
    >>> upsample_lanczos_aa(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=1104)
    """
    return _antialiased(3, self or input, out)


_UPSAMPLING_TAPS = {3: 2, 4: 4, 5: 8}


@flop_formula(
    "aten.upsample_linear1d_backward",
    "aten.upsample_bilinear2d_backward",
    "aten.upsample_trilinear3d_backward",
)
def upsample_linear_backward(grad_output: TensorMeta) -> Cost:
    """Add each gradient, weighted, to the 2, 4 or 8 neighbours that it blended.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_linear_backward(T((1, 3, 8, 8)))  # 192 x 4 x (product, sum)
    Cost(macs=0, other=1536)
    """
    return Cost(0, 2 * _UPSAMPLING_TAPS[len(grad_output.shape)] * grad_output.numel)


@flop_formula("aten.upsample_bicubic2d_backward")
def upsample_bicubic_backward(grad_output: TensorMeta) -> Cost:
    """Add each gradient, weighted, to the 16 neighbours that it blended.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_bicubic_backward(T((1, 3, 8, 8)))  # 192 x 16 x (product, sum)
    Cost(macs=0, other=6144)
    """
    return Cost(0, 32 * grad_output.numel)


@flop_formula(
    "aten.upsample_nearest1d_backward",
    "aten.upsample_nearest2d_backward",
    "aten.upsample_nearest3d_backward",
    "aten._upsample_nearest_exact1d_backward",
    "aten._upsample_nearest_exact2d_backward",
    "aten._upsample_nearest_exact3d_backward",
)
def upsample_nearest_backward(grad_output: TensorMeta) -> Cost:
    """Add each gradient to the element that it is a copy of.

    >>> from torchatlas.schema import TensorMeta as T
    >>> upsample_nearest_backward(T((1, 3, 8)))
    Cost(macs=0, other=24)
    """
    return Cost(0, grad_output.numel)


def _antialiased_backward(reach: int, grad_output: TensorMeta, out: TensorMeta) -> Cost | None:
    """Undo one dimension after the other: a product and a sum where the forward pass has them."""
    forward = _antialiased(reach, out, grad_output)
    between = grad_output.numel + product(out.shape[:-1]) * grad_output.shape[-1]
    return None if forward is None else Cost(0, forward.other + between)


@flop_formula("aten._upsample_bilinear2d_aa_backward")
def upsample_bilinear_aa_backward(grad_output: TensorMeta, out: TensorMeta) -> Cost | None:
    """Add each gradient, weighted, to all that it blended.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # down: 4 x 4 gradients to 4 taps each; then across: 8 x 4; each a product and a sum
    >>> upsample_bilinear_aa_backward(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=384)
    """
    return _antialiased_backward(1, grad_output, out)


@flop_formula("aten._upsample_bicubic2d_aa_backward")
def upsample_bicubic_aa_backward(grad_output: TensorMeta, out: TensorMeta) -> Cost | None:
    """Add each gradient, weighted, to all that it blended.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # down: 4 x 4 gradients to 8 taps each; then across: 8 x 4; each a product and a sum
    >>> upsample_bicubic_aa_backward(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=768)
    """
    return _antialiased_backward(2, grad_output, out)


@flop_formula("aten._upsample_lanczos2d_aa_backward")
def upsample_lanczos_aa_backward(grad_output: TensorMeta, out: TensorMeta) -> Cost | None:
    """Add each gradient, weighted, to all that it blended.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # down: 4 x 4 gradients to 12 taps each; then across: 8 x 4; each a product and a sum
    >>> upsample_lanczos_aa_backward(T((1, 1, 4, 4)), T((1, 1, 8, 8)))
    Cost(macs=0, other=1152)
    """
    return _antialiased_backward(3, grad_output, out)


_NEAREST = 1
_BICUBIC = 2


def _grid_taps(grid: TensorMeta, interpolation_mode: int) -> int:
    if interpolation_mode == _NEAREST:
        return 1
    return int((4 if interpolation_mode == _BICUBIC else 2) ** (len(grid.shape) - 2))


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
    return _blend(_grid_taps(grid, interpolation_mode), out)


@flop_formula(
    "aten.grid_sampler_2d_backward",
    "aten.grid_sampler_3d_backward",
    "aten.cudnn_grid_sampler_backward",
    "aten._grid_sampler_2d_cpu_fallback_backward",
)
def grid_sampler_backward(
    grad_output: TensorMeta,
    grid: TensorMeta,
    interpolation_mode: int = 0,
    output_mask: tuple[bool, ...] = (True, True),
) -> Cost:
    """Take the gradients asked for: of the image and of the grid.

    Each gradient is added, weighted, to the neighbours that it blended. Along each dimension of
    the grid it gets a weighted neighbour for each: two products and a sum. The nearest neighbour
    is the same wherever in its cell the grid point is.

    >>> from torchatlas.schema import TensorMeta as T
    >>> y, grid = T((1, 3, 4, 4)), T((1, 4, 4, 2))  # 48 x 4 neighbours
    >>> grid_sampler_backward(y, grid)  # x (product, sum; 2 dimensions x 3)
    Cost(macs=0, other=1536)
    >>> grid_sampler_backward(y, grid, output_mask=(True, False))
    Cost(macs=0, other=384)
    >>> grid_sampler_backward(y, grid, interpolation_mode=1)  # one sum
    Cost(macs=0, other=48)
    """
    of_input, of_grid = map(bool, output_mask)
    if interpolation_mode == _NEAREST:
        return Cost(0, grad_output.numel if of_input else 0)
    dims = len(grid.shape) - 2
    taps = _grid_taps(grid, interpolation_mode)
    return Cost(0, grad_output.numel * taps * (2 * of_input + 3 * dims * of_grid))


@flop_formula("aten.col2im")
def col2im(self: TensorMeta) -> Cost:
    """Add overlapping patches into an image.

    >>> from torchatlas.schema import TensorMeta as T
    >>> col2im(T((1, 9, 16)))
    Cost(macs=0, other=144)
    """
    return Cost(0, self.numel)
