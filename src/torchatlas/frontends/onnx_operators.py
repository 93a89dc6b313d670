"""What is known of ONNX's operators: the names of operands, classes, and the roles of constants."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx.defs import OpSchema


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names("Flatten Identity Reshape Squeeze Unsqueeze")
"""Ops that keep the order of elements: tensors of ONNX are dense, so the result is the operand
under another shape, and runtimes let both share memory. Whatever reorders or picks elements
(Transpose, Slice, Expand, Split) makes a copy."""

_POINTWISE = _names(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Ceil Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Mish Mod Mul
    Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
    Softplus Softsign Sqrt Sub Swish Tan Tanh ThresholdedRelu Where Xor
    com.microsoft.DequantizeLinear com.microsoft.Gelu
    com.microsoft.QuantizeLinear com.microsoft.QuickGelu
    ai.onnx.ml.Binarizer
    """
)

_REDUCTIONS = _names(
    """
    ArgMax ArgMin GlobalAveragePool GlobalMaxPool Hardmax ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum
    """
)


@cache
def tags_of(op: str) -> tuple[str, ...]:
    """Return the class of an operator, called with its domain unless that is ONNX's own.

    >>> tags_of("Relu"), tags_of("ReduceMean"), tags_of("Reshape"), tags_of("Conv")
    (('pointwise',), ('reduction',), ('view',), ())
    """
    if op in VIEWS:
        return ("view",)
    if op in _POINTWISE:
        return ("pointwise",)
    return ("reduction",) if op in _REDUCTIONS else ()


# -- operands ------------------------------------------------------------------------------

_CONTRIB = {
    "Attention": "input weights bias mask_index past attention_bias past_sequence_length",
    "BiasAdd": "X bias skip",
    "BiasGelu": "A B",
    "DequantizeLinear": "x x_scale x_zero_point",
    "DynamicQuantizeLSTM": "X W R B sequence_lens initial_h initial_c P W_scale W_zero_point "
    "R_scale R_zero_point",
    "DynamicQuantizeMatMul": "A B b_scale b_zero_point bias",
    "EmbedLayerNormalization": "input_ids segment_ids word_embedding position_embedding "
    "segment_embedding gamma beta mask position_ids",
    "FastGelu": "X bias",
    "FusedConv": "X W B Z",
    "FusedGemm": "A B C",
    "FusedMatMul": "A B",
    "Gelu": "X",
    "GroupNorm": "X gamma beta",
    "GroupQueryAttention": "query key value past_key past_value seqlens_k total_sequence_length "
    "cos_cache sin_cache position_ids attention_bias",
    "MatMulIntegerToFloat": "A B a_scale b_scale a_zero_point b_zero_point bias",
    "MatMulNBits": "A B scales zero_points g_idx bias",
    "MultiHeadAttention": "query key value bias key_padding_mask attention_bias past_key "
    "past_value past_sequence_length cache_indirection",
    "QAttention": "input weight bias input_scale weight_scale mask_index input_zero_point "
    "weight_zero_point past",
    "QGemm": "A a_scale a_zero_point B b_scale b_zero_point C y_scale y_zero_point",
    "QLinearAdd": "A A_scale A_zero_point B B_scale B_zero_point C_scale C_zero_point",
    "QLinearMul": "A A_scale A_zero_point B B_scale B_zero_point C_scale C_zero_point",
    "QLinearLeakyRelu": "X X_scale X_zero_point Y_scale Y_zero_point",
    "QLinearSigmoid": "X X_scale X_zero_point Y_scale Y_zero_point",
    "QLinearGlobalAveragePool": "X x_scale x_zero_point y_scale y_zero_point",
    "QLinearAveragePool": "X x_scale x_zero_point y_scale y_zero_point",
    "QuantizeLinear": "x y_scale y_zero_point",
    "QuickGelu": "X",
    "RotaryEmbedding": "input position_ids cos_cache sin_cache",
    "SimplifiedLayerNormalization": "X scale",
    "SkipGroupNorm": "X gamma beta skip bias",
    "SkipLayerNormalization": "input skip gamma beta bias",
    "SkipSimplifiedLayerNormalization": "input skip gamma bias",
    "TransposeMatMul": "A B",
}
"""Operands of the operators that ONNX Runtime adds (its `docs/ContribOperators.md`)."""


@cache
def operands_of(op_type: str, domain: str, version: int) -> tuple[tuple[str, ...], bool]:
    """Return the names of an operator's operands, and whether the last one is a list.

    >>> operands_of("Conv", "", 20), operands_of("Concat", "", 20)
    ((('X', 'W', 'B'), False), (('inputs',), True))
    >>> operands_of("FusedMatMul", "com.microsoft", 1), operands_of("Mystery", "mine", 1)
    ((('A', 'B'), False), ((), False))
    """
    if domain == "com.microsoft" or (domain == "" and op_type == "SimplifiedLayerNormalization"):
        return tuple(_CONTRIB.get(op_type, "").split()), False
    schema = _schema(op_type, domain, version)
    if schema is None:
        return (), False
    inputs = list(schema.inputs)
    variadic = schema.FormalParameterOption.Variadic
    return tuple(i.name for i in inputs), bool(inputs) and inputs[-1].option == variadic


@cache
def needed_operands(op_type: str, domain: str, version: int) -> tuple[int, ...]:
    """Return the places of the operands that an operator cannot do without.

    >>> needed_operands("Conv", "", 20), needed_operands("Loop", "", 20)
    ((0, 1), ())
    """
    schema = _schema(op_type, domain, version)
    if schema is None:
        return ()
    single = schema.FormalParameterOption.Single
    return tuple(i for i, operand in enumerate(schema.inputs) if operand.option == single)


@cache
def _schema(op_type: str, domain: str, version: int) -> OpSchema | None:
    """Return what ONNX says of an operator, in a newer version where that one does not have it."""
    from onnx import defs

    try:
        return defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return defs.get_schema(op_type, domain) if defs.has(op_type, domain) else None


# -- constants -----------------------------------------------------------------------------

_SAYS_HOW = {
    "AffineGrid": "size",
    "CenterCropPad": "shape",
    "Clip": "min max",
    "Col2Im": "image_shape block_shape",
    "ConstantOfShape": "input",
    "CumProd": "axis",
    "CumSum": "axis",
    "DFT": "dft_length axis",
    "Dropout": "ratio training_mode",
    "Expand": "shape",
    "Loop": "M cond",
    "MaxUnpool": "output_shape",
    "NonMaxSuppression": "max_output_boxes_per_class iou_threshold score_threshold",
    "OneHot": "depth values",
    "Pad": "pads constant_value axes",
    "Range": "start limit delta",
    "Reshape": "shape",
    "Resize": "roi scales sizes",
    "STFT": "frame_step frame_length",
    "Slice": "starts ends axes steps",
    "Split": "split",
    "SplitToSequence": "split",
    "Squeeze": "axes",
    "Tile": "repeats",
    "TopK": "K",
    "Trilu": "k",
    "Unsqueeze": "axes",
    "Upsample": "scales",
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), "size"),
}


@cache
def says_how(op: str, operand: str) -> bool:
    """Say whether a constant operand tells what an op does, as an attribute would.

    >>> says_how("Reshape", "shape"), says_how("ReduceSum", "axes"), says_how("Gemm", "C")
    (True, True, False)
    """
    return operand in _SAYS_HOW.get(op, "").split() or (
        op.startswith("Reduce") and operand == "axes"
    )


_STATISTICS = frozenset({"input_mean", "input_var", "mean", "var"})
_STATES = frozenset({"initial_h", "initial_c"})
_QUANTISED = _names(
    """
    ConvInteger DequantizeLinear MatMulInteger QLinearConv QLinearMatMul
    com.microsoft.DequantizeLinear com.microsoft.DynamicQuantizeLSTM
    com.microsoft.DynamicQuantizeMatMul
    com.microsoft.MatMulIntegerToFloat com.microsoft.MatMulNBits com.microsoft.QAttention
    com.microsoft.QGemm
    """
)


@cache
def role(op: str, operand: str) -> str:
    """Say what a constant tensor is that an op reads as an operand.

    `statistic`: measured and not learned, as a running mean or a scale of quantisation;
    `state`: where a recurrent layer begins; `weight`: one in integers; or `""`.

    >>> role("BatchNormalization", "input_mean"), role("QLinearConv", "w"), role("Gather", "data")
    ('statistic', 'weight', '')
    >>> role("QLinearConv", "w_scale"), role("LSTM", "initial_h"), role("GroupNorm", "scale")
    ('statistic', 'state', '')
    """
    if op == "BatchNormalization" and operand in _STATISTICS:
        return "statistic"
    if operand in _STATES:
        return "state"
    if operand.endswith(("_zero_point", "_scale")):
        return "statistic"
    if op not in _QUANTISED:
        return ""
    return "statistic" if operand in ("scales", "zero_points") else "weight"
