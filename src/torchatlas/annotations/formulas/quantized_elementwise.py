"""What surrounds quantised contractions: arithmetic on elements, ranges, packages.

A function of one element takes one operation, whatever its scale; finding a range takes one per
element; packing costs nothing.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from typing import Any

from ...schema import TensorMeta
from .normalisation import normalise
from .passes import PASSES
from .quantized import QUANTISE_DYNAMICALLY
from .registry import Cost, flop_formula
from .sizes import as_tuple, product

_ACTIVATIONS = "celu clamp dropout elu hardswish leaky_relu prelu relu6 sigmoid threshold"
_ARITHMETIC = "add add_scalar mul mul_scalar add_out add_scalar_out mul_out mul_scalar_out"
_CONVERSIONS = (
    "quantize_per_tensor quantize_per_channel quantize_per_channel_group quantize_per_token "
    "dequantize_per_tensor dequantize_per_channel dequantize_per_channel_group "
    "dequantize_per_token fake_quant_per_channel"
)


@flop_formula(
    *(f"quantized.{name}" for name in f"{_ACTIVATIONS} {_ARITHMETIC}".split()),
    *(f"quantized_decomposed.{name}" for name in _CONVERSIONS.split()),
    "_quantized.add",
    "onednn.qadd",
    "onednn.qmul",
)
def quantized_pointwise(out: TensorMeta) -> Cost:
    """Take one operation per element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_pointwise(T((4, 5), "quint8"))
    Cost(macs=0, other=20)
    """
    return Cost(0, out.numel)


@flop_formula(
    "quantized.add_relu",
    "quantized.mul_relu",
    "quantized.add_scalar_relu",
    "quantized.mul_scalar_relu",
    "quantized.add_relu_out",
    "quantized.mul_relu_out",
    "quantized.add_scalar_relu_out",
    "quantized.mul_scalar_relu_out",
    "onednn.qadd_relu",
)
def quantized_pointwise_relu(out: TensorMeta) -> Cost:
    """Take one operation per element, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_pointwise_relu(T((4, 5), "quint8"))
    Cost(macs=0, other=40)
    """
    return Cost(0, 2 * out.numel)


@flop_formula(
    "quantized_decomposed.choose_qparams",
    "quantized_decomposed.choose_qparams_symmetric",
    "quantized_decomposed.choose_qparams_per_token",
    "quantized_decomposed.choose_qparams_per_token_asymmetric",
    "quantized_decomposed._choose_qparams_per_token_asymmetric_impl",
)
def choose_range(input: TensorMeta) -> Cost:
    """Find the range of a tensor, or of its rows, from which scale and zero point follow.

    >>> from torchatlas.schema import TensorMeta as T
    >>> choose_range(T((4, 5)))
    Cost(macs=0, other=20)
    """
    return Cost(0, input.numel * PASSES["reduction"])


@flop_formula("aten.quantize_per_tensor_dynamic")
def quantize_dynamically(self: TensorMeta) -> Cost:
    """Find the range of a tensor and quantise it.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantize_dynamically(T((4, 5)))
    Cost(macs=0, other=40)
    """
    return Cost(0, self.numel * QUANTISE_DYNAMICALLY)


@flop_formula("quantized.softmax")
def quantized_softmax(qx: TensorMeta) -> Cost:
    """Turn rows into probabilities.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_softmax(T((2, 10), "quint8"))  # as `softmax`: 20 x 5
    Cost(macs=0, other=100)
    """
    return Cost(0, qx.numel * PASSES["softmax"])


@flop_formula("quantized.layer_norm", "quantized.group_norm", "quantized.instance_norm")
def quantized_norm(
    input: TensorMeta, weight: TensorMeta | None = None, bias: TensorMeta | None = None
) -> Cost:
    """Normalise rows, groups or channels.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_norm(T((2, 4), "quint8"), T((4,)), T((4,)))  # as `layer_norm`: 8 x 7
    Cost(macs=0, other=56)
    """
    return normalise(input, weight, bias)


@flop_formula(
    "quantized.batch_norm",
    "quantized.batch_norm1d",
    "quantized.batch_norm2d",
    "quantized.batch_norm3d",
    "onednn.qbatch_norm2d",
    "aten.quantized_batch_norm",
)
def quantized_batch_norm(out: TensorMeta) -> Cost:
    """Normalise each channel by given statistics.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_batch_norm(T((2, 3, 4, 4), "quint8"))  # 96 x (multiply, add)
    Cost(macs=0, other=192)
    """
    return Cost(0, out.numel * PASSES["normalise with given statistics"])


@flop_formula(
    "quantized.batch_norm_relu",
    "quantized.batch_norm1d_relu",
    "quantized.batch_norm2d_relu",
    "quantized.batch_norm3d_relu",
)
def quantized_batch_norm_relu(out: TensorMeta) -> Cost:
    """Normalise each channel by given statistics, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_batch_norm_relu(T((2, 3, 4, 4), "quint8"))  # 96 x (multiply, add, ReLU)
    Cost(macs=0, other=288)
    """
    return Cost(0, out.numel * (PASSES["normalise with given statistics"] + 1))


@flop_formula(
    "quantized.max_pool1d",
    "quantized.max_pool2d",
    "aten.quantized_max_pool1d",
    "aten.quantized_max_pool2d",
    "aten.quantized_max_pool3d",
)
def quantized_max_pool(kernel_size: int | tuple[int, ...], out: TensorMeta) -> Cost:
    """Take the maximum of each window (batch and channels first).

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_max_pool((3, 3), T((1, 4, 5, 5), "quint8"))  # 100 windows of 9
    Cost(macs=0, other=900)
    """
    return Cost(0, out.numel * product(as_tuple(kernel_size, len(out.shape) - 2)))


@flop_formula(
    "quantized.cat",
    "quantized.cat_out",
    "aten._dyn_quant_pack_4bit_weight",
    "aten._convert_weight_to_int4pack",
    "aten._convert_weight_to_int4pack_for_cpu",
    "aten._wrapped_linear_prepack",
    "_quantized._wrapped_linear_prepack",
    "aten._make_per_tensor_quantized_tensor",
    "aten._make_per_channel_quantized_tensor",
    "onednn.qlinear_prepack",
    "onednn.qconv_prepack",
    "onednn.linear_prepack_fp16",
    "mkldnn._reorder_linear_weight",
    "mkldnn._reorder_convolution_weight",
    "mkldnn._reorder_convolution_transpose_weight",
    "mkl._mkl_reorder_linear_weight",
    "aten.to_mkldnn",
    "aten.mkldnn_reorder_conv2d_weight",
    "aten.mkldnn_reorder_conv3d_weight",
    "mkldnn._reorder_mkldnn_rnn_layer_weight",
    "aten.to_mkldnn_backward",
    "aten._mkldnn_reshape",
    "aten._mkldnn_transpose",
    "aten._cudnn_rnn_flatten_weight",
    "aten._cudnn_init_dropout_state",
    "quantized_decomposed.convert_element_type",
)
def repack(out: TensorMeta) -> Cost:
    """Lay out data in another way.

    >>> from torchatlas.schema import TensorMeta as T
    >>> repack(T((64, 32), "uint8"))
    Cost(macs=0, other=0)
    """
    return Cost()


@flop_formula("quantized.cat_relu", "quantized.cat_relu_out")
def cat_relu(out: TensorMeta) -> Cost:
    """Concatenate, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cat_relu(T((4, 5), "quint8"))
    Cost(macs=0, other=20)
    """
    return Cost(0, out.numel)


@flop_formula("quantized.embedding_byte", "quantized.embedding_4bit")
def quantized_embedding(out: TensorMeta) -> Cost:
    """Look rows up, and scale and shift each element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_embedding(T((3, 8)))  # 24 x (multiply, add)
    Cost(macs=0, other=48)
    """
    return Cost(0, 2 * out.numel)


@flop_formula(
    "quantized.embedding_bag_byte",
    "quantized.embedding_bag_4bit",
    "quantized.embedding_bag_byte_rowwise_offsets",
    "quantized.embedding_bag_4bit_rowwise_offsets",
    "quantized.embedding_bag_2bit_rowwise_offsets",
)
def quantized_embedding_bag(
    indices: TensorMeta, out: TensorMeta, per_sample_weights: TensorMeta | None = None
) -> Cost:
    """Look rows up, scale, shift and add each element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_embedding_bag(T((6,), "int64"), T((2, 4)))  # 6 rows of 4 x 3
    Cost(macs=0, other=72)
    """
    weighted = per_sample_weights is not None
    return Cost(0, indices.numel * out.shape[-1] * (3 + weighted))


# -- quantisation in training ---------------------------------------------------------------


@flop_formula(
    "aten._fused_moving_avg_obs_fq_helper",
    "aten._fused_moving_avg_obs_fq_helper_functional",
    "aten.fused_moving_avg_obs_fake_quant",
)
def observe_and_fake_quantize(self: TensorMeta) -> Cost:
    """Find the range of a tensor and round each element to a level.

    >>> from torchatlas.schema import TensorMeta as T
    >>> observe_and_fake_quantize(T((4, 5)))
    Cost(macs=0, other=40)
    """
    return Cost(0, self.numel * QUANTISE_DYNAMICALLY)


_PREPACKS = (
    "linear_prepack linear_prepack_fp16 conv2d_prepack conv3d_prepack conv_transpose1d_prepack "
    "conv_transpose2d_prepack conv_transpose3d_prepack"
)


@flop_formula(
    *(f"quantized.{name}" for name in _PREPACKS.split()),
    *(f"_quantized.{name}" for name in _PREPACKS.split()),
    "quantized.conv_prepack",
    "quantized.conv1d_prepack",
    "sparse.qlinear_prepack",
)
def prepack(W: Any = None, weight: Any = None) -> Cost:
    """Pack a weight into an object that the graph cannot look into.

    >>> from torchatlas.schema import TensorMeta as T
    >>> prepack(T((64, 32), "qint8"))
    Cost(macs=0, other=0)
    """
    return Cost()
