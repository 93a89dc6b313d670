"""Quantised matrices and linear layers: the shape rule of their family, in integers.

Outside the contraction a quantised kernel takes one operation per result to bring it to its
scale, and one per element that it quantises itself; finding the range of a tensor takes one more
per element. The bias of a packed weight is not seen, so it is not counted. A product with
weights in 8 or 4 bits and activations in floating point is in floating point.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula

QUANTISE_DYNAMICALLY = 2
"""Operations per element of a tensor that is quantised on the way: its range, and the rounding."""

# -- matrices ------------------------------------------------------------------------------


@flop_formula("aten._weight_int8pack_mm")
def weight_int8_mm(self: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply by a weight in 8 bits, then scale each result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> weight_int8_mm(T((4, 64), "bfloat16"), T((4, 32), "bfloat16"))  # 4 x 32 x 64; 128 scaled
    Cost(macs=8192, other=128)
    """
    return Cost(out.numel * self.shape[-1], out.numel)


@flop_formula(
    "aten._weight_int4pack_mm",
    "aten._weight_int4pack_mm_for_cpu",
    "aten._weight_int4pack_mm_with_scales_and_zeros",
    "quantized.int4mm_packed_weight_cpu",
)
def weight_int4_mm(self: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply by a weight in 4 bits, each of which is scaled and shifted first.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 x 32 x 64; a weight of 32 x 64 x (multiply, add)
    >>> weight_int4_mm(T((4, 64), "bfloat16"), T((4, 32), "bfloat16"))
    Cost(macs=8192, other=4096)
    """
    weights = out.shape[-1] * self.shape[-1]
    return Cost(out.numel * self.shape[-1], 2 * weights)


@flop_formula("aten._mixed_dtypes_linear")
def mixed_linear(
    input: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    activation: str | None = None,
) -> Cost:
    """Apply a linear layer with a weight in 8 or 4 bits, then scale each result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> mixed_linear(T((4, 64), "bfloat16"), T((4, 32), "bfloat16"), activation="relu")
    Cost(macs=8192, other=256)
    """
    after = 1 + (bias is not None) + (activation not in (None, "none"))
    return Cost(out.numel * input.shape[-1], out.numel * after)


@flop_formula("aten._dyn_quant_matmul_4bit")
def dynamic_int4_mm(inp: TensorMeta, out: TensorMeta, in_features: Dim, block_size: Dim) -> Cost:
    """Quantise rows, multiply by a weight in 4 bits, and scale the sum over each block.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 x 32 x 64; 4 x 64 x 2 to quantise; 128 results of 2 blocks
    >>> dynamic_int4_mm(T((4, 64)), T((4, 32)), 64, 32)
    Cost(macs=8192, other=768, integer=True)
    """
    other = QUANTISE_DYNAMICALLY * inp.numel + out.numel * (in_features // block_size)
    return Cost(out.numel * in_features, other, integer=True)


@flop_formula("torchao.int_matmul", "torchao.int_scaled_matmul")
def torchao_int_mm(a: TensorMeta, out: TensorMeta, scales1: TensorMeta | None = None) -> Cost:
    """Multiply matrices of 8-bit integers; the scaling is one operation per result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> torchao_int_mm(T((4, 64), "int8"), T((4, 32), "bfloat16"), T((4, 1)))
    Cost(macs=8192, other=128, integer=True)
    """
    scaled = out.numel if scales1 is not None else 0
    return Cost(out.numel * a.shape[-1], scaled, integer=True)


@flop_formula("torchao.quant_llm_linear")
def torchao_float_linear(_in_feats: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a linear layer with a weight in 5 or 6 bits of floating point (arXiv:2401.14112).

    >>> from torchatlas.schema import TensorMeta as T
    >>> torchao_float_linear(T((4, 64), "float16"), T((4, 32), "float16"))  # 128 scaled
    Cost(macs=8192, other=128)
    """
    return Cost(out.numel * _in_feats.shape[-1], out.numel)


# -- linear layers with packed weights -----------------------------------------------------


@flop_formula(
    "aten.fbgemm_linear_int8_weight",
    "aten.fbgemm_linear_int8_weight_fp32_activation",
    "aten._wrapped_quantized_linear_prepacked",
)
def fbgemm_linear(input: TensorMeta, out: TensorMeta) -> Cost:
    """Quantise an input, apply a packed weight and a bias, and scale the results back.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fbgemm_linear(T((4, 16)), T((4, 32)))  # 64 x 2 to quantise; 128 x (scale, bias)
    Cost(macs=2048, other=384, integer=True)
    """
    other = QUANTISE_DYNAMICALLY * input.numel + 2 * out.numel
    return Cost(out.numel * input.shape[-1], other, integer=True)


@flop_formula("aten.fbgemm_linear_fp16_weight", "aten.fbgemm_linear_fp16_weight_fp32_activation")
def fbgemm_half_linear(input: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Apply a packed weight in half precision: floating point throughout.

    >>> from torchatlas.schema import TensorMeta as T
    >>> fbgemm_half_linear(T((4, 16)), T((4, 32)), T((32,)))  # 128 biases
    Cost(macs=2048, other=128)
    """
    return Cost(out.numel * input.shape[-1], out.numel if bias is not None else 0)


@flop_formula("quantized.linear", "_quantized.linear", "sparse.qlinear")
def quantized_linear(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a packed weight to a quantised input.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_linear(T((4, 16), "quint8"), T((4, 32), "quint8"))  # 128 brought to scale
    Cost(macs=2048, other=128, integer=True)
    """
    return Cost(out.numel * X.shape[-1], out.numel, integer=True)


@flop_formula(
    "quantized.linear_relu",
    "quantized.linear_leaky_relu",
    "quantized.linear_tanh",
    "quantized.linear_with_input_q_dq_qweight_dq_output_fp32",
    "quantized.linear_with_input_q_dq_qweight_dq_relu_output_fp32",
    "sparse.qlinear_relu",
)
def quantized_linear_activation(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a packed weight to a quantised input, and one more operation to each result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_linear_activation(T((4, 16), "quint8"), T((4, 32), "quint8"))
    Cost(macs=2048, other=256, integer=True)
    """
    return Cost(out.numel * X.shape[-1], 2 * out.numel, integer=True)


@flop_formula("quantized.linear_dynamic", "_quantized.linear_dynamic", "sparse.qlinear_dynamic")
def dynamic_linear(X: TensorMeta, out: TensorMeta) -> Cost:
    """Quantise an input, apply a packed weight, and scale the results back.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dynamic_linear(T((4, 16)), T((4, 32)))  # 64 x 2 to quantise, 128 results
    Cost(macs=2048, other=256, integer=True)
    """
    other = QUANTISE_DYNAMICALLY * X.numel + out.numel
    return Cost(out.numel * X.shape[-1], other, integer=True)


@flop_formula("quantized.linear_relu_dynamic", "sparse.qlinear_relu_dynamic")
def dynamic_linear_relu(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a dynamically quantised linear layer, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dynamic_linear_relu(T((4, 16)), T((4, 32)))  # as `dynamic_linear`; 128 x ReLU
    Cost(macs=2048, other=384, integer=True)
    """
    cost = dynamic_linear(X, out)
    return Cost(cost.macs, cost.other + out.numel, integer=True)


@flop_formula(
    "quantized.linear_dynamic_fp16",
    "quantized.linear_dynamic_fp16_unpacked_weight",
    "_quantized.wrapped_fbgemm_linear_fp16_weight",
)
def half_linear(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a packed weight in half precision: floating point throughout.

    >>> from torchatlas.schema import TensorMeta as T
    >>> half_linear(T((4, 16)), T((4, 32)))
    Cost(macs=2048, other=0)
    """
    return Cost(out.numel * X.shape[-1])


@flop_formula("quantized.linear_relu_dynamic_fp16")
def half_linear_relu(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply a packed weight in half precision, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> half_linear_relu(T((4, 16)), T((4, 32)))
    Cost(macs=2048, other=128)
    """
    return Cost(out.numel * X.shape[-1], out.numel)


@flop_formula("onednn.linear_dynamic_fp16")
def onednn_half_linear(x: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Apply a weight in half precision.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onednn_half_linear(T((4, 16)), T((4, 32)), T((32,)))  # 128 biases
    Cost(macs=2048, other=128)
    """
    return Cost(out.numel * x.shape[-1], out.numel if bias is not None else 0)


@flop_formula("onednn.linear_relu_dynamic_fp16")
def onednn_half_linear_relu(x: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Apply a weight in half precision, then ReLU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onednn_half_linear_relu(T((4, 16)), T((4, 32)), T((32,)))  # 128 x (bias, ReLU)
    Cost(macs=2048, other=256)
    """
    cost = onednn_half_linear(x, out, bias)
    return Cost(cost.macs, cost.other + out.numel)


@flop_formula("onednn.qlinear_pointwise")
def onednn_linear(
    qx: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    post_op_name: str = "none",
    binary_post_op: str = "none",
    unary_post_op: str = "none",
) -> Cost:
    """Apply a linear layer to a quantised input, then the operations fused with it.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 x 32 x 16; 128 x (scale, bias, ReLU)
    >>> onednn_linear(T((4, 16), "uint8"), T((4, 32), "uint8"), T((32,)), "relu")
    Cost(macs=2048, other=384, integer=True)
    """
    after = sum(op != "none" for op in (post_op_name, binary_post_op, unary_post_op))
    other = out.numel * (1 + (bias is not None) + after)
    return Cost(out.numel * qx.shape[-1], other, integer=True)


@flop_formula("quantized.matmul")
def quantized_matmul(qa: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply quantised matrices, and bring each result to scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantized_matmul(T((4, 16), "quint8"), T((4, 32), "quint8"))
    Cost(macs=2048, other=128, integer=True)
    """
    return Cost(out.numel * qa.shape[-1], out.numel, integer=True)
