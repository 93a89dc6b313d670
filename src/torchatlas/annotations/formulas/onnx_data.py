"""ONNX ops that sample, transform, compare, move and make data."""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from typing import Any

from ...schema import Dim, TensorMeta
from . import fourier, losses, sampling
from .onnx_checked import onnx_formula
from .registry import Cost
from .sampling import grid_sampler
from .sizes import product


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# -- losses --------------------------------------------------------------------------------


@onnx_formula("SoftmaxCrossEntropyLoss")
def onnx_cross_entropy(scores: TensorMeta, labels: TensorMeta, reduction: str = "mean") -> Cost:
    """Compare scores (N, C, ...) with classes (N, ...).

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_cross_entropy(T((4, 10)), T((4,), "int64"))  # log_softmax 40 x 5, sum of 4
    Cost(macs=0, other=204)
    """
    return losses.cross_entropy(scores, labels, 0 if reduction == "none" else 1)


@onnx_formula("NegativeLogLikelihoodLoss")
def onnx_nll_loss(target: TensorMeta) -> Cost:
    """Sum the entries that the targets pick.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_nll_loss(T((4,), "int64"))
    Cost(macs=0, other=4)
    """
    return losses.nll_loss(target)


# -- sampling and transforms ---------------------------------------------------------------


@onnx_formula("Resize", "Upsample")
def resize(
    X: TensorMeta, out: TensorMeta, mode: str = "nearest", antialias: int = 0
) -> Cost | None:
    """Blend 2 neighbours along each dimension that changes its size, 4 for a cubic; copy nearest.

    >>> from torchatlas.schema import TensorMeta as T
    >>> resize(T((1, 3, 4, 4)), T((1, 3, 8, 8)), "linear")  # 192 x (4 products, 3 sums)
    Cost(macs=0, other=1344)
    >>> resize(T((1, 3, 4, 4)), T((1, 3, 8, 8)), "cubic")  # 192 x (16 products, 15 sums)
    Cost(macs=0, other=5952)
    >>> resize(T((1, 3, 4, 4)), T((1, 3, 8, 8)))
    Cost(macs=0, other=0)
    """
    changed = sum(before != after for before, after in zip(X.shape, out.shape, strict=True))
    if mode == "nearest" or changed == 0:
        return Cost()
    if antialias:
        smooth = sampling.upsample_bicubic_aa if mode == "cubic" else sampling.upsample_bilinear_aa
        return smooth(out, X) if len(X.shape) == 4 and X.shape[:2] == out.shape[:2] else None
    taps = (4 if mode == "cubic" else 2) ** changed
    return Cost(0, out.numel * (2 * taps - 1))


_GRID_MODES = {"nearest": 1, "cubic": 2, "bicubic": 2}


@onnx_formula("GridSample")
def grid_sample(grid: TensorMeta, out: TensorMeta, mode: str = "linear") -> Cost:
    """Blend the neighbours of each grid point; the nearest alone is a gather.

    >>> from torchatlas.schema import TensorMeta as T
    >>> grid_sample(T((1, 4, 4, 2)), T((1, 3, 4, 4)))  # 48 x (4 products, 3 sums)
    Cost(macs=0, other=336)
    """
    return grid_sampler(grid, out, _GRID_MODES.get(mode, 0))


@onnx_formula("Col2Im")
def onnx_col2im(input: TensorMeta) -> Cost:
    """Add overlapping patches into an image.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_col2im(T((1, 9, 16)))
    Cost(macs=0, other=144)
    """
    return sampling.col2im(input)


@onnx_formula("DFT")
def discrete_fourier(
    input: TensorMeta,
    out: TensorMeta,
    dft_length: int | TensorMeta | None = None,
    axis: int | TensorMeta = -2,
    inverse: int = 0,
    onesided: int = 0,
) -> Cost | None:
    """Transform a signal (*, 1 or 2) along `axis`; real ones, which have 1, take half.

    >>> from torchatlas.schema import TensorMeta as T
    >>> discrete_fourier(T((2, 8, 2)), T((2, 8, 2)))  # 5 x 16 x log2(8)
    Cost(macs=0, other=240)
    >>> discrete_fourier(T((2, 8, 1)), T((2, 5, 2)), axis=1, onesided=1)
    Cost(macs=0, other=120)
    """
    if not isinstance(axis, int) or isinstance(dft_length, TensorMeta):
        return None
    length: Dim = out.shape[axis] if inverse and onesided else dft_length or input.shape[axis]
    others = product(n for i, n in enumerate(input.shape[:-1]) if i != axis % len(input.shape))
    whole = TensorMeta((others, length))
    if input.shape[-1] == 1 or onesided:
        return fourier.rfft(whole)
    return fourier.fft(whole)


@onnx_formula("STFT")
def short_time_fourier(
    out: TensorMeta, window: TensorMeta | None = None, frame_length: int | None = None
) -> Cost | None:
    """Transform frames of a signal, each weighted by a window; the result is (B, frames, bins, 2).

    >>> from torchatlas.schema import TensorMeta as T
    >>> short_time_fourier(T((2, 3, 5, 2)), T((8,)))  # 6 x (8 weights, half of 5 x 8 x log2(8))
    Cost(macs=0, other=408)
    """
    length: Any = frame_length if window is None else window.shape[0]
    if length is None:
        return None
    batch, frames, bins = out.shape[:3]
    return fourier.stft(length, TensorMeta((batch, bins, frames), "complex64"), window)


# -- moving and making data ----------------------------------------------------------------


@onnx_formula(
    *_names(
        """
    BitCast Cast CastLike CenterCropPad Compress Concat ConcatFromSequence DepthToSpace Expand
    Gather GatherElements GatherND MaxUnpool OneHot Optional OptionalGetElement
    OptionalHasElement Pad ReverseSequence SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength Shape Size Slice SpaceToDepth Split
    SplitToSequence TensorScatter Tile Transpose Trilu
    StringConcat StringNormalizer StringSplit RegexFullMatch
    ai.onnx.ml.ArrayFeatureExtractor ai.onnx.ml.CastMap ai.onnx.ml.CategoryMapper
    ai.onnx.ml.DictVectorizer ai.onnx.ml.FeatureVectorizer ai.onnx.ml.Imputer
    ai.onnx.ml.LabelEncoder ai.onnx.ml.OneHotEncoder ai.onnx.ml.ZipMap
    """
    )
)
def move() -> Cost:
    """Move data about, convert it, or look at text: nothing is computed.

    >>> move()
    Cost(macs=0, other=0)
    """
    return Cost()


@onnx_formula(
    *_names(
        """
    Bernoulli BlackmanWindow Constant ConstantOfShape EyeLike HammingWindow HannWindow
    MelWeightMatrix RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    """
    )
)
def create() -> Cost:
    """Make data: free, as in torch, whatever it takes to draw a number.

    >>> create()
    Cost(macs=0, other=0)
    """
    return Cost()
