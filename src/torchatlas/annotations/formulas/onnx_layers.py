"""ONNX ops outside contractions: norms, pooling, reductions.

The rules are those of torch's ops. Ops of a plain class, 1 per element, have no formula here:
the front end tags them ``pointwise`` or ``reduction``.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import TensorMeta
from . import detection, elementwise, reductions
from .linear_algebra import lu
from .normalisation import batch_norm, instance_norm, log_softmax, normalise, rms_norm, softmax
from .onnx_checked import onnx_formula
from .passes import PASSES
from .quantized import QUANTISE_DYNAMICALLY
from .registry import Cost
from .sizes import product

# -- normalisation -------------------------------------------------------------------------


@onnx_formula("BatchNormalization")
def onnx_batch_norm(X: TensorMeta, scale: TensorMeta, training_mode: int = 0) -> Cost:
    """Normalise each channel by the statistics given, or in training by those of the batch.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_batch_norm(T((2, 3, 4, 4)), T((3,)))  # 96 x (multiply, add)
    Cost(macs=0, other=192)
    >>> onnx_batch_norm(T((2, 3, 4, 4)), T((3,)), training_mode=1)  # 96 x (5 + 2)
    Cost(macs=0, other=672)
    """
    return batch_norm(X, scale, scale, scale, training=bool(training_mode))


@onnx_formula("LayerNormalization")
def onnx_layer_norm(X: TensorMeta, Scale: TensorMeta, B: TensorMeta | None = None) -> Cost:
    """Bring rows to mean 0 and variance 1, then scale and shift.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_layer_norm(T((2, 4)), T((4,)), T((4,)))  # 8 x (5 + 2)
    Cost(macs=0, other=56)
    """
    return normalise(X, Scale, B)


@onnx_formula("GroupNormalization")
def onnx_group_norm(X: TensorMeta, scale: TensorMeta, bias: TensorMeta) -> Cost:
    """Bring groups of channels to mean 0 and variance 1, then scale and shift.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_group_norm(T((2, 4)), T((4,)), T((4,)))  # 8 x (5 + 2)
    Cost(macs=0, other=56)
    """
    return normalise(X, scale, bias)


@onnx_formula("InstanceNormalization")
def onnx_instance_norm(input: TensorMeta, scale: TensorMeta, B: TensorMeta) -> Cost:
    """Normalise each channel of each sample, then scale and shift.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_instance_norm(T((2, 3, 4)), T((3,)), T((3,)))  # 24 x (5 + 2)
    Cost(macs=0, other=168)
    """
    return instance_norm(input, scale, B)


@onnx_formula("RMSNormalization", "SimplifiedLayerNormalization")
def onnx_rms_norm(X: TensorMeta, scale: TensorMeta) -> Cost:
    """Divide rows by their root mean square, then scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_rms_norm(T((2, 4)), T((4,)))  # 8 x (square, sum, scale, weight)
    Cost(macs=0, other=32)
    """
    return rms_norm(X, scale)


@onnx_formula("MeanVarianceNormalization")
def mean_variance_norm(X: TensorMeta) -> Cost:
    """Bring groups of elements to mean 0 and variance 1.

    >>> from torchatlas.schema import TensorMeta as T
    >>> mean_variance_norm(T((2, 4)))  # 8 x (mean, centre, square, sum, scale)
    Cost(macs=0, other=40)
    """
    return normalise(X)


@onnx_formula("LpNormalization")
def lp_norm(input: TensorMeta) -> Cost:
    """Divide rows by their length.

    >>> from torchatlas.schema import TensorMeta as T
    >>> lp_norm(T((2, 4)))  # 8 x (power, sum, scale)
    Cost(macs=0, other=24)
    """
    return rms_norm(input)


@onnx_formula("ai.onnx.ml.Normalizer")
def row_normalizer(X: TensorMeta) -> Cost:
    """Divide rows by their length, or by their largest or summed elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> row_normalizer(T((2, 4)))  # 8 x (power, sum, scale)
    Cost(macs=0, other=24)
    """
    return rms_norm(X)


@onnx_formula("ai.onnx.ml.Scaler")
def scaler(X: TensorMeta) -> Cost:
    """Subtract an offset and multiply by a scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scaler(T((2, 4)))
    Cost(macs=0, other=16)
    """
    return Cost(0, 2 * X.numel)


@onnx_formula("LRN")
def local_response_norm(X: TensorMeta, size: int) -> Cost:
    """Divide each element by a power of its neighbours across `size` channels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 96 x (square, 5 sums, scale, add, power, divide)
    >>> local_response_norm(T((1, 6, 4, 4)), 5)
    Cost(macs=0, other=960)
    """
    return Cost(0, X.numel * (size + 5))


@onnx_formula("Softmax")
def onnx_softmax(input: TensorMeta) -> Cost:
    """Turn rows into probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_softmax(T((2, 10)))  # 20 x (maximum, subtract, exp, sum, divide)
    Cost(macs=0, other=100)
    """
    return softmax(input)


@onnx_formula("LogSoftmax")
def onnx_log_softmax(input: TensorMeta) -> Cost:
    """Turn rows into logarithms of probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_log_softmax(T((2, 10)))  # 20 x (maximum, subtract, exp, sum, subtract)
    Cost(macs=0, other=100)
    """
    return log_softmax(input)


@onnx_formula("Dropout")
def onnx_dropout(out: TensorMeta) -> Cost:
    """Mask and scale, in training; the front end takes dropout outside training for a view.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_dropout(T((2, 8)))
    Cost(macs=0, other=16)
    """
    return elementwise.dropout(out)


# -- pooling and regions -------------------------------------------------------------------


@onnx_formula("AveragePool", "MaxPool")
def onnx_pool(kernel_shape: tuple[int, ...], out: TensorMeta) -> Cost:
    """Reduce windows; taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_pool((3, 3), T((1, 64, 56, 56)))  # 64 x 56 x 56 windows of 3 x 3
    Cost(macs=0, other=1806336)
    """
    return Cost(0, out.numel * product(kernel_shape))


@onnx_formula("LpPool")
def lp_pool(kernel_shape: tuple[int, ...], out: TensorMeta) -> Cost:
    """Sum powers over windows.

    >>> from torchatlas.schema import TensorMeta as T
    >>> lp_pool((2, 2), T((1, 3, 5, 5)))  # 75 windows of 4 x (power, sum)
    Cost(macs=0, other=600)
    """
    return Cost(0, out.numel * product(kernel_shape) * PASSES["vector norm"])


@onnx_formula("GlobalLpPool")
def global_lp_pool(X: TensorMeta) -> Cost:
    """Sum powers over whole channels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> global_lp_pool(T((1, 3, 5, 5)))  # 75 x (power, sum)
    Cost(macs=0, other=150)
    """
    return Cost(0, X.numel * PASSES["vector norm"])


@onnx_formula("RoiAlign")
def onnx_roi_align(
    X: TensorMeta,
    out: TensorMeta,
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
) -> Cost:
    """Average bilinear samples in each bin of each region (arXiv:1703.06870, section 3).

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_roi_align(T((1, 3, 14, 14)), T((5, 3, 7, 7)), 7, 7, 2)  # 735 bins of 4 samples x 8
    Cost(macs=0, other=23520)
    """
    return detection.roi_align(X, out, output_height, output_width, sampling_ratio)


@onnx_formula("MaxRoiPool")
def max_roi_pool(X: TensorMeta, out: TensorMeta, pooled_shape: tuple[int, int]) -> Cost:
    """Reduce the elements in each bin of each region, of the whole map at most.

    >>> from torchatlas.schema import TensorMeta as T
    >>> max_roi_pool(T((1, 3, 14, 14)), T((5, 3, 7, 7)), (7, 7))  # 735 bins of at most 2 x 2
    Cost(macs=0, other=2940)
    """
    return detection.roi_pool(X, out, *pooled_shape)


@onnx_formula("NonMaxSuppression")
def non_max_suppression(boxes: TensorMeta, scores: TensorMeta) -> Cost:
    """Compare the boxes (B, N, 4) of each sample and class: at most all pairs.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # twice 8 boxes: areas 8 x 3, sorting 8 x 3, 28 pairs x 13
    >>> non_max_suppression(T((1, 8, 4)), T((1, 2, 8)))
    Cost(macs=0, other=824)
    """
    per_class = detection.nms(TensorMeta(boxes.shape[1:]))
    return Cost(0, product(scores.shape[:2]) * per_class.other)


# -- reductions and scans ------------------------------------------------------------------


@onnx_formula("ReduceL1", "ReduceL2", "ReduceSumSquare")
def reduce_norm(data: TensorMeta) -> Cost:
    """Sum squares or absolute values.

    >>> from torchatlas.schema import TensorMeta as T
    >>> reduce_norm(T((3, 4)))  # 12 x (power, sum)
    Cost(macs=0, other=24)
    """
    return reductions.vector_norm(data)


@onnx_formula("ReduceLogSum")
def reduce_log_sum(data: TensorMeta, out: TensorMeta) -> Cost:
    """Take logarithms of sums.

    >>> from torchatlas.schema import TensorMeta as T
    >>> reduce_log_sum(T((3, 4)), T((3, 1)))  # 12 sums, 3 logarithms
    Cost(macs=0, other=15)
    """
    return Cost(0, data.numel + out.numel)


@onnx_formula("ReduceLogSumExp")
def reduce_log_sum_exp(data: TensorMeta) -> Cost:
    """Sum exponentials without overflow.

    >>> from torchatlas.schema import TensorMeta as T
    >>> reduce_log_sum_exp(T((3, 4)))  # 12 x (maximum, subtract, exp, sum)
    Cost(macs=0, other=48)
    """
    return reductions.logsumexp(data)


@onnx_formula("CumSum", "CumProd")
def cumulate(x: TensorMeta) -> Cost:
    """Keep a running total.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cumulate(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return reductions.scan(x)


@onnx_formula("NonZero")
def nonzero(X: TensorMeta) -> Cost:
    """Test every element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> nonzero(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return reductions.scan(X)


@onnx_formula("TopK")
def top_k(X: TensorMeta) -> Cost:
    """Find the largest elements: selection takes time linear in the elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> top_k(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return reductions.select_rank(X)


@onnx_formula("Unique")
def onnx_unique(X: TensorMeta, axis: int | None = None) -> Cost:
    """Sort all elements, or the slices along `axis`, and compare neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_unique(T((2, 8))), onnx_unique(T((8, 3)), axis=0)  # 16 x (4 + 1); 24 x (3 + 1)
    (Cost(macs=0, other=80), Cost(macs=0, other=96))
    """
    return reductions.unique(X) if axis is None else reductions.unique_dim(X, axis)


@onnx_formula("Multinomial")
def onnx_multinomial(input: TensorMeta, out: TensorMeta) -> Cost:
    """Sum up the weights of rows (*, n), and find each number drawn among the sums by halving.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_multinomial(T((2, 8)), T((2, 3), "int32"))  # 16 sums, 6 x log2(8)
    Cost(macs=0, other=34)
    """
    return reductions.multinomial(input, out)


@onnx_formula("Max", "Min", "Sum")
def combine(data_0: tuple[object, ...], out: TensorMeta) -> Cost:
    """Combine operands element by element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> combine((T((4,)), T((4,)), 0.5), T((4,)))  # 4 x 2
    Cost(macs=0, other=8)
    """
    return Cost(0, out.numel * (len(data_0) - 1))


@onnx_formula("Mean")
def onnx_mean(data_0: tuple[object, ...], out: TensorMeta) -> Cost:
    """Average operands element by element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_mean((T((4,)), T((4,))), T((4,)))  # 4 x (add, divide)
    Cost(macs=0, other=8)
    """
    return Cost(0, out.numel * len(data_0))


@onnx_formula("SwiGLU")
def swiglu(out: TensorMeta) -> Cost:
    """Activate one operand and multiply it by the other.

    >>> from torchatlas.schema import TensorMeta as T
    >>> swiglu(T((2, 8)))
    Cost(macs=0, other=32)
    """
    return Cost(0, 2 * out.numel)


@onnx_formula("DynamicQuantizeLinear")
def dynamic_quantize(x: TensorMeta) -> Cost:
    """Find the range of a tensor, and quantise it.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dynamic_quantize(T((3, 4)))  # 12 x 2
    Cost(macs=0, other=24)
    """
    return Cost(0, QUANTISE_DYNAMICALLY * x.numel)


@onnx_formula("Scatter", "ScatterElements", "ScatterND")
def onnx_scatter(updates: TensorMeta, reduction: str = "none") -> Cost:
    """Send elements to the places of an index; combine them where `reduction` says how.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_scatter(T((20,))), onnx_scatter(T((20,)), reduction="add")
    (Cost(macs=0, other=0), Cost(macs=0, other=20))
    """
    return Cost(0, updates.numel if reduction != "none" else 0)


@onnx_formula("Det")
def determinant(X: TensorMeta) -> Cost | None:
    """Factor square matrices by elimination.

    >>> from torchatlas.schema import TensorMeta as T
    >>> determinant(T((6, 6)))  # 216 - 216 / 3
    Cost(macs=0, other=144)
    """
    return lu(X)
