"""Fourier transforms: 5 N log2 N operations for N complex numbers, half for real ones."""

from __future__ import annotations

import math
from typing import Any

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import product

_Dims = int | tuple[int, ...] | None


def _transform(wide: TensorMeta, dim: _Dims, *, real: bool, sizes: _Dims = None) -> Cost:
    """Count for the operand or result that has all N points.

    `dim` None means all dimensions, or the last ones that `sizes` names; the operand is cut or
    padded to `sizes` along them.
    """
    if dim is None:
        named = len(sizes) if isinstance(sizes, tuple) else len(wide.shape)
        dim = tuple(range(-named, 0))
    dims = dim if isinstance(dim, tuple) else (dim,)
    shape = list(wide.shape)
    if sizes is not None:
        for d, size in zip(dims, sizes if isinstance(sizes, tuple) else (sizes,), strict=True):
            shape[d] = size
    total = 5 * product(shape) * _log2(product(shape[d] for d in dims))
    return Cost(0, _whole(total / 2 if real else total))


def _log2(n: Dim) -> Any:
    if isinstance(n, int):
        return math.log2(max(n, 1))
    import sympy

    return sympy.log(n, 2)


def _whole(total: Any) -> Dim:
    return round(total) if isinstance(total, float | int) else total


@flop_formula("aten._fft_c2c", "aten.fft_fft", "aten.fft_ifft")
def fft(out: TensorMeta, dim: _Dims = -1) -> Cost:
    """Transform complex numbers along `dim`.

    The count is FFTW's measure (http://www.fftw.org/speed/method.html), whatever the algorithm.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fft(T((2, 8), "complex64"))  # 5 x 16 x log2(8)
    Cost(macs=0, other=240)
    """
    return _transform(out, dim, real=False)


@flop_formula("aten.fft_fft2", "aten.fft_ifft2")
def fft2(out: TensorMeta, dim: _Dims = (-2, -1)) -> Cost:
    """Transform complex numbers along two dimensions.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fft2(T((4, 8), "complex64"))  # 5 x 32 x log2(32)
    Cost(macs=0, other=800)
    """
    return _transform(out, dim, real=False)


@flop_formula("aten.fft_fftn", "aten.fft_ifftn")
def fftn(out: TensorMeta, dim: _Dims = None, s: _Dims = None) -> Cost:
    """Transform complex numbers along all dimensions, or those of `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fftn(T((2, 4, 8), "complex64"))  # 5 x 64 x log2(64)
    Cost(macs=0, other=1920)
    """
    return _transform(out, dim, real=False, sizes=s)


@flop_formula("aten._fft_r2c", "aten.fft_rfft")
def rfft(self: TensorMeta, dim: _Dims = -1, n: int | None = None) -> Cost:
    """Transform real numbers along `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfft(T((2, 8)))  # half of 5 x 16 x log2(8)
    Cost(macs=0, other=120)
    >>> rfft(T((2, 5)), n=8)  # padded to 8
    Cost(macs=0, other=120)
    """
    return _transform(self, dim, real=True, sizes=n)


@flop_formula("aten.fft_rfft2")
def rfft2(self: TensorMeta, dim: _Dims = (-2, -1), s: _Dims = None) -> Cost:
    """Transform real numbers along two dimensions.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfft2(T((4, 8)))  # half of 5 x 32 x log2(32)
    Cost(macs=0, other=400)
    """
    return _transform(self, dim, real=True, sizes=s)


@flop_formula("aten.fft_rfftn")
def rfftn(self: TensorMeta, dim: _Dims = None, s: _Dims = None) -> Cost:
    """Transform real numbers along all dimensions, or those of `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfftn(T((2, 4, 8)))  # half of 5 x 64 x log2(64)
    Cost(macs=0, other=960)
    """
    return _transform(self, dim, real=True, sizes=s)


@flop_formula("aten._fft_c2r", "aten.fft_irfft")
def irfft(out: TensorMeta, dim: _Dims = -1) -> Cost:
    """Transform back to real numbers along `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfft(T((2, 8)))  # half of 5 x 16 x log2(8)
    Cost(macs=0, other=120)
    """
    return _transform(out, dim, real=True)


@flop_formula("aten.fft_irfft2")
def irfft2(out: TensorMeta, dim: _Dims = (-2, -1)) -> Cost:
    """Transform back to real numbers along two dimensions.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfft2(T((4, 8)))  # half of 5 x 32 x log2(32)
    Cost(macs=0, other=400)
    """
    return _transform(out, dim, real=True)


@flop_formula("aten.fft_irfftn")
def irfftn(out: TensorMeta, dim: _Dims = None, s: _Dims = None) -> Cost:
    """Transform back to real numbers along all dimensions, or those of `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfftn(T((2, 4, 8)))  # half of 5 x 64 x log2(64)
    Cost(macs=0, other=960)
    """
    return _transform(out, dim, real=True, sizes=s)
