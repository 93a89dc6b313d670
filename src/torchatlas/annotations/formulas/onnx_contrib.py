"""Operators that ONNX Runtime adds, ``com.microsoft``: what its optimiser and quantiser make.

Each costs what the ops that it was fused from cost. Source: ONNX Runtime's
`docs/ContribOperators.md`.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import TensorMeta
from . import convolution
from .normalisation import normalise, rms_norm
from .onnx_checked import onnx_formula
from .onnx_products import gemm
from .quantized import QUANTISE_DYNAMICALLY
from .quantized_layers import quantized_lstm
from .registry import Cost
from .sizes import product


def _ms(*ops: str) -> tuple[str, ...]:
    return tuple(f"com.microsoft.{op}" for op in ops)


# -- products ------------------------------------------------------------------------------


@onnx_formula(*_ms("FusedMatMul", "TransposeMatMul"))
def fused_matmul(A: TensorMeta, out: TensorMeta, transA: int = 0, transBatchA: int = 0) -> Cost:
    """Multiply matrices, either of them transposed.

    With `transBatchA` the rows of `A` stand in its first dimension, before those of the batch.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_matmul(T((2, 8, 5, 4)), T((2, 8, 5, 7)))  # 2 x 8 x 5 x 7 x 4
    Cost(macs=2240, other=0)
    >>> fused_matmul(T((4, 5)), T((5, 7)), transA=1)
    Cost(macs=140, other=0)
    >>> fused_matmul(T((7, 8, 4)), T((8, 7, 6)), transBatchA=1)  # 8 x 7 x 6 x 4
    Cost(macs=1344, other=0)
    """
    rows = 0 if transBatchA else -2
    return Cost(out.numel * A.shape[rows if transA else -1])


@onnx_formula(*_ms("FusedGemm"))
def fused_gemm(
    A: TensorMeta,
    out: TensorMeta,
    C: object = None,
    transA: int = 0,
    beta: float = 1.0,
    activation: str = "",
) -> Cost:
    """Multiply matrices, add a third, and apply an activation.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_gemm(T((4, 16)), T((4, 32)), T((32,)), activation="Relu")  # 128 x 2
    Cost(macs=2048, other=256)
    """
    cost = gemm(A, out, C, transA, beta)
    return Cost(cost.macs, cost.other + (out.numel if activation else 0))


@onnx_formula(*_ms("MatMulNBits"))
def matmul_nbits(A: TensorMeta, out: TensorMeta, K: int, N: int, bias: object = None) -> Cost:
    """Multiply by a weight (N, K) in a few bits, each of which is scaled and shifted first.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matmul_nbits(T((4, 64)), T((4, 32)), 64, 32)  # 4 x 32 x 64; 32 x 64 x 2
    Cost(macs=8192, other=4096)
    """
    return Cost(out.numel * K, 2 * K * N + (out.numel if bias is not None else 0))


@onnx_formula(*_ms("DynamicQuantizeMatMul"))
def dynamic_quantize_matmul(A: TensorMeta, out: TensorMeta, bias: object = None) -> Cost:
    """Quantise an operand, multiply integers, and scale the results.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dynamic_quantize_matmul(T((4, 64)), T((4, 32)))  # 256 x 2 to quantise; 128 scaled
    Cost(macs=8192, other=640, integer=True)
    """
    other = QUANTISE_DYNAMICALLY * A.numel + out.numel * (1 + (bias is not None))
    return Cost(out.numel * A.shape[-1], other, integer=True)


@onnx_formula(*_ms("MatMulIntegerToFloat"))
def matmul_integer_to_float(A: TensorMeta, out: TensorMeta, bias: object = None) -> Cost:
    """Multiply integers, and scale the results.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matmul_integer_to_float(T((4, 64), "uint8"), T((4, 32)))  # 4 x 32 x 64; 128 scaled
    Cost(macs=8192, other=128, integer=True)
    """
    return Cost(out.numel * A.shape[-1], out.numel * (1 + (bias is not None)), integer=True)


@onnx_formula(*_ms("QGemm"))
def quantised_gemm(A: TensorMeta, out: TensorMeta, C: object = None, transA: int = 0) -> Cost:
    """Multiply matrices of integers, add a third, and scale the results.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantised_gemm(T((4, 64), "uint8"), T((4, 32), "uint8"), T((32,), "int32"))
    Cost(macs=8192, other=256, integer=True)
    """
    cost = gemm(A, out, C, transA)
    return Cost(cost.macs, cost.other + out.numel, integer=True)


@onnx_formula(*_ms("DynamicQuantizeLSTM"))
def dynamic_quantize_lstm(X: TensorMeta, R: TensorMeta, B: TensorMeta | None = None) -> Cost | None:
    """Run a sequence (T, B, in) through an LSTM layer of integers, weights (directions, H, 4 H).

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 15 x 64 x (8 + 16); 15 x (24 x 2 to quantise + 16 x 13 + 2 x 64 x (scale, bias))
    >>> dynamic_quantize_lstm(T((5, 3, 8)), T((1, 16, 64), "int8"), T((1, 128)))
    Cost(macs=23040, other=7680, integer=True)
    """
    directions, hidden, _ = R.shape
    state = TensorMeta((directions, X.shape[1], hidden))
    return quantized_lstm((state, state), B is not None, 1, directions == 2, X)


@onnx_formula(*_ms("FusedConv"))
def fused_conv(
    W: TensorMeta,
    out: TensorMeta,
    B: TensorMeta | None = None,
    Z: object = None,
    activation: str = "",
) -> Cost:
    """Convolve, add another tensor, and apply an activation.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fused_conv(T((8, 4, 3)), T((1, 8, 10)), T((8,)), activation="Relu")  # 80 x (bias, ReLU)
    Cost(macs=960, other=160)
    """
    cost = convolution.conv(W, out, B)
    return Cost(cost.macs, cost.other + out.numel * ((Z is not None) + bool(activation)))


# -- norms, activations, quantised elements ------------------------------------------------


@onnx_formula(*_ms("SkipLayerNormalization"))
def skip_layer_norm(
    input: TensorMeta,
    gamma: TensorMeta,
    beta: TensorMeta | None = None,
    bias: TensorMeta | None = None,
) -> Cost:
    """Add a residual, and perhaps a bias, then normalise rows.

    >>> from torchatlas.schema import TensorMeta as T
    >>> skip_layer_norm(T((2, 4)), T((4,)), T((4,)), T((4,)))  # 8 x (2 + 5 + 2)
    Cost(macs=0, other=72)
    """
    added = input.numel * (1 + (bias is not None))
    return Cost(0, added + normalise(input, gamma, beta).other)


@onnx_formula(*_ms("SkipSimplifiedLayerNormalization"))
def skip_rms_norm(input: TensorMeta, gamma: TensorMeta, bias: object = None) -> Cost:
    """Add a residual, and perhaps a bias, then divide rows by their root mean square.

    >>> from torchatlas.schema import TensorMeta as T
    >>> skip_rms_norm(T((2, 4)), T((4,)))  # 8 x (1 + 4)
    Cost(macs=0, other=40)
    """
    added = input.numel * (1 + (bias is not None))
    return Cost(0, added + rms_norm(input, gamma).other)


@onnx_formula(*_ms("SimplifiedLayerNormalization"))
def ms_rms_norm(X: TensorMeta, scale: TensorMeta) -> Cost:
    """Divide rows by their root mean square, then scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ms_rms_norm(T((2, 4)), T((4,)))  # 8 x (square, sum, scale, weight)
    Cost(macs=0, other=32)
    """
    return rms_norm(X, scale)


@onnx_formula(*_ms("EmbedLayerNormalization"))
def embed_layer_norm(
    out: TensorMeta, gamma: TensorMeta, beta: TensorMeta, segment_ids: object = None
) -> Cost:
    """Add embeddings of words, positions and perhaps segments, then normalise rows.

    >>> from torchatlas.schema import TensorMeta as T
    >>> embed_layer_norm(T((1, 2, 4)), T((4,)), T((4,)), T((1, 2), "int32"))  # 8 x (2 + 5 + 2)
    Cost(macs=0, other=72)
    """
    added = out.numel * (1 + (segment_ids is not None))
    return Cost(0, added + normalise(out, gamma, beta).other)


@onnx_formula(*_ms("GroupNorm"))
def ms_group_norm(X: TensorMeta, gamma: TensorMeta, beta: TensorMeta, activation: int = 0) -> Cost:
    """Normalise groups of channels, then perhaps SiLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ms_group_norm(T((2, 4)), T((4,)), T((4,)), activation=1)  # 8 x (5 + 2 + 1)
    Cost(macs=0, other=64)
    """
    return Cost(0, normalise(X, gamma, beta).other + (X.numel if activation else 0))


@onnx_formula(*_ms("SkipGroupNorm"))
def skip_group_norm(
    X: TensorMeta, gamma: TensorMeta, beta: TensorMeta, bias: object = None, activation: int = 0
) -> Cost:
    """Add a residual, and perhaps a bias, then normalise groups of channels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> skip_group_norm(T((2, 4)), T((4,)), T((4,)))  # 8 x (1 + 5 + 2)
    Cost(macs=0, other=64)
    """
    added = X.numel * (1 + (bias is not None))
    return Cost(0, added + ms_group_norm(X, gamma, beta, activation).other)


@onnx_formula(*_ms("BiasAdd", "BiasGelu"))
def two_pointwise(out: TensorMeta) -> Cost:
    """Take two operations per element: a bias and an activation, or a bias and a residual.

    >>> from torchatlas.schema import TensorMeta as T
    >>> two_pointwise(T((2, 8)))
    Cost(macs=0, other=32)
    """
    return Cost(0, 2 * out.numel)


@onnx_formula(*_ms("FastGelu"))
def fast_gelu(out: TensorMeta, bias: object = None) -> Cost:
    """Apply GELU, perhaps after a bias.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fast_gelu(T((2, 8))), fast_gelu(T((2, 8)), T((8,)))
    (Cost(macs=0, other=16), Cost(macs=0, other=32))
    """
    return Cost(0, out.numel * (1 + (bias is not None)))


@onnx_formula(*_ms("QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid"))
def quantised_pointwise(out: TensorMeta) -> Cost:
    """Take one operation per element, whatever its scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantised_pointwise(T((4, 5), "uint8"))
    Cost(macs=0, other=20)
    """
    return Cost(0, out.numel)


@onnx_formula(*_ms("QLinearAveragePool"))
def quantised_pool(kernel_shape: tuple[int, ...], out: TensorMeta) -> Cost:
    """Average windows of integers.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantised_pool((2, 2), T((1, 3, 5, 5), "uint8"))  # 75 windows of 4
    Cost(macs=0, other=300)
    """
    return Cost(0, out.numel * product(kernel_shape))


@onnx_formula(*_ms("QLinearGlobalAveragePool"))
def quantised_global_pool(X: TensorMeta) -> Cost:
    """Average whole channels of integers.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantised_global_pool(T((1, 3, 5, 5), "uint8"))
    Cost(macs=0, other=75)
    """
    return Cost(0, X.numel)
