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
    points = product(shape)
    total = 5 * points * _log2(product(shape[d] for d in dims), exact=not isinstance(points, int))
    return Cost(0, _whole(total / 2 if real else total))


def _log2(n: Dim, *, exact: bool) -> Any:
    """Return the binary logarithm as a float, or as an expression that sympy can go on with."""
    if not exact and isinstance(n, int):
        return math.log2(max(n, 1))
    import sympy

    return sympy.log(n, 2)


def _whole(total: Any) -> Dim:
    if isinstance(total, float | int):
        return round(total)
    import sympy

    return sympy.floor(total + sympy.Rational(1, 2))


@flop_formula("aten._fft_c2c", "aten.fft_fft", "aten.fft_ifft")
def fft(out: TensorMeta, dim: _Dims = -1, self: TensorMeta | None = None) -> Cost:
    """Transform complex numbers along `dim`; real ones take half, and the rest is mirrored.

    The count is FFTW's measure (http://www.fftw.org/speed/method.html), whatever the algorithm.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fft(T((2, 8), "complex64"))  # 5 x 16 x log2(8)
    Cost(macs=0, other=240)
    >>> fft(T((2, 8), "complex64"), self=T((2, 8)))
    Cost(macs=0, other=120)
    """
    real = self is not None and not self.dtype.startswith("complex")
    return _transform(out, dim, real=real)


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


@flop_formula("aten._fft_r2c", "aten.fft_rfft", "aten.fft_ihfft")
def rfft(self: TensorMeta, dim: _Dims = -1, n: int | None = None) -> Cost:
    """Transform real numbers along `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfft(T((2, 8)))  # half of 5 x 16 x log2(8)
    Cost(macs=0, other=120)
    >>> rfft(T((2, 5)), n=8)  # padded to 8
    Cost(macs=0, other=120)
    """
    return _transform(self, dim, real=True, sizes=n)


@flop_formula("aten.fft_rfft2", "aten.fft_ihfft2")
def rfft2(self: TensorMeta, dim: _Dims = (-2, -1), s: _Dims = None) -> Cost:
    """Transform real numbers along two dimensions.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfft2(T((4, 8)))  # half of 5 x 32 x log2(32)
    Cost(macs=0, other=400)
    """
    return _transform(self, dim, real=True, sizes=s)


@flop_formula("aten.fft_rfftn", "aten.fft_ihfftn")
def rfftn(self: TensorMeta, dim: _Dims = None, s: _Dims = None) -> Cost:
    """Transform real numbers along all dimensions, or those of `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rfftn(T((2, 4, 8)))  # half of 5 x 64 x log2(64)
    Cost(macs=0, other=960)
    """
    return _transform(self, dim, real=True, sizes=s)


@flop_formula("aten._fft_c2r", "aten.fft_irfft", "aten.fft_hfft")
def irfft(out: TensorMeta, dim: _Dims = -1) -> Cost:
    """Transform back to real numbers along `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfft(T((2, 8)))  # half of 5 x 16 x log2(8)
    Cost(macs=0, other=120)
    """
    return _transform(out, dim, real=True)


@flop_formula("aten.fft_irfft2", "aten.fft_hfft2")
def irfft2(out: TensorMeta, dim: _Dims = (-2, -1)) -> Cost:
    """Transform back to real numbers along two dimensions.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfft2(T((4, 8)))  # half of 5 x 32 x log2(32)
    Cost(macs=0, other=400)
    """
    return _transform(out, dim, real=True)


@flop_formula("aten.fft_irfftn", "aten.fft_hfftn")
def irfftn(out: TensorMeta, dim: _Dims = None, s: _Dims = None) -> Cost:
    """Transform back to real numbers along all dimensions, or those of `dim`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> irfftn(T((2, 4, 8)))  # half of 5 x 64 x log2(64)
    Cost(macs=0, other=960)
    """
    return _transform(out, dim, real=True, sizes=s)


@flop_formula("aten.stft")
def stft(n_fft: int, out: TensorMeta, window: TensorMeta | None = None) -> Cost:
    """Transform frames of a signal, each weighted by a window.

    >>> from torchatlas.schema import TensorMeta as T
    >>> spectrum = T((2, 5, 3), "complex64")  # 2 signals, 5 frequencies, 3 frames
    >>> stft(8, spectrum, T((8,)))  # 6 frames x (8 weights, half of 5 x 8 x log2(8))
    Cost(macs=0, other=408)
    """
    frequencies = out.shape[-2] if out.dtype.startswith("complex") else 2 * out.shape[-3]
    frames = out.numel // frequencies
    real = frequencies != n_fft if out.dtype.startswith("complex") else True
    transforms = _transform(TensorMeta((frames, n_fft)), -1, real=bool(real)).other
    return Cost(0, transforms + (frames * n_fft if window is not None else 0))


@flop_formula("aten.istft")
def istft(self: TensorMeta, n_fft: int, out: TensorMeta) -> Cost:
    """Transform spectra (*, frequencies, frames) back, weight and add the frames that overlap.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 6 frames x (half of 5 x 8 x log2(8); weight, add, add the windows' squares: 3 x 8)
    >>> istft(T((2, 5, 3), "complex64"), 8, T((2, 8)))  # and 16 divisions by the windows' sum
    Cost(macs=0, other=520)
    """
    frames = self.numel // self.shape[-2]
    transforms = _transform(TensorMeta((frames, n_fft)), -1, real=True).other
    return Cost(0, transforms + 3 * frames * n_fft + out.numel)
