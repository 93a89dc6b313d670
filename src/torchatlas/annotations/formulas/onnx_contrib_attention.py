"""Attention as ONNX Runtime has it: operators that project, turn, and attend in one.

Each costs what the ops that it was fused from cost. Source: ONNX Runtime's
`docs/ContribOperators.md`.
"""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .onnx_checked import onnx_formula
from .onnx_products import by_heads, rotary_embedding
from .registry import Cost
from .sizes import product


def _projected(
    input: TensorMeta,
    weights: TensorMeta,
    biased: bool,
    num_heads: int,
    masked: bool,
    causal: bool,
    past: TensorMeta | None,
    sizes: tuple[int, ...] = (),
) -> Cost:
    """Project (B, S, in) to queries, keys and values, and attend."""
    batch, rows, _ = input.shape
    width, _, values = sizes or (weights.shape[1] // 3,) * 3
    before: Dim = 0 if past is None else past.shape[3]
    projected = batch * rows * weights.numel
    cost = by_heads(
        (batch, rows, width), (before + rows, values), num_heads, masked, causal, offset=before
    )
    biases = batch * rows * weights.shape[1] if biased else 0
    return cost._replace(macs=cost.macs + projected, other=cost.other + biases)


@onnx_formula("com.microsoft.Attention")
def ms_attention(
    input: TensorMeta,
    weights: TensorMeta,
    num_heads: int,
    bias: object = None,
    mask_index: object = None,
    attention_bias: object = None,
    past: TensorMeta | None = None,
    unidirectional: int = 0,
    qkv_hidden_sizes: tuple[int, ...] = (),
) -> Cost:
    """Project (B, S, in) by weights (in, 3 H) to queries, keys and values, and attend.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 2 x 5 x 32 x 96 for the projection; 2 x 4 x 5 x 5 = 200 scores x (8 + 8)
    >>> ms_attention(T((2, 5, 32)), T((32, 96)), 4, T((96,)))  # 960 biases; 200 x 6
    Cost(macs=33920, other=2160)
    """
    masked = mask_index is not None or attention_bias is not None
    return _projected(
        input,
        weights,
        bias is not None,
        num_heads,
        masked,
        bool(unidirectional),
        past,
        qkv_hidden_sizes,
    )


@onnx_formula("com.microsoft.QAttention")
def quantised_attention(
    input: TensorMeta,
    weight: TensorMeta,
    num_heads: int,
    mask_index: object = None,
    past: TensorMeta | None = None,
    unidirectional: int = 0,
) -> Cost:
    """Project integers (B, S, in) by weights (in, 3 H), scale and add biases, and attend.

    Only the projection is in integers, and most of the work: all products count as that.

    >>> from torchatlas.schema import TensorMeta as T
    >>> quantised_attention(T((2, 5, 32), "uint8"), T((32, 96), "int8"), 4)
    Cost(macs=33920, other=3120, integer=True)
    """
    cost = _projected(
        input, weight, True, num_heads, mask_index is not None, bool(unidirectional), past
    )
    scaled = product(input.shape[:2]) * weight.shape[1]
    return Cost(cost.macs, cost.other + scaled, integer=True)


@onnx_formula("com.microsoft.MultiHeadAttention")
def multi_head_attention(
    query: TensorMeta,
    num_heads: int,
    key: TensorMeta | None = None,
    value: TensorMeta | None = None,
    bias: TensorMeta | None = None,
    key_padding_mask: object = None,
    attention_bias: object = None,
    past_key: TensorMeta | None = None,
    unidirectional: int = 0,
) -> Cost:
    """Attend with queries (B, S, H); keys and values may come together, or with the queries.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k = T((2, 5, 32)), T((2, 7, 32))
    >>> multi_head_attention(q, 4, k, k)  # 2 x 4 x 5 x 7 = 280 scores x (8 + 8); 280 x 6
    Cost(macs=4480, other=1680)
    >>> multi_head_attention(T((2, 5, 4, 3, 8)), 4)  # packed: 200 scores x 16
    Cost(macs=3200, other=1200)
    """
    batch, rows = query.shape[:2]
    width = query.shape[-1] if len(query.shape) == 3 else num_heads * query.shape[-1]
    keys, values = rows, width
    if key is not None:  # (B, T, H), or (B, heads, T, size), or packed (B, T, heads, 2, size)
        keys = key.shape[2] if len(key.shape) == 4 else key.shape[1]
    if value is not None:
        values = value.shape[-1] if len(value.shape) == 3 else num_heads * value.shape[-1]
    before: Dim = 0 if past_key is None else past_key.shape[-2]
    masked = key_padding_mask is not None or attention_bias is not None
    cost = by_heads(
        (batch, rows, width),
        (before + keys, values),
        num_heads,
        masked,
        bool(unidirectional),
        offset=before,
    )
    biases = 0 if bias is None else batch * (rows * width + keys * (width + values))
    return cost._replace(other=cost.other + biases)


@onnx_formula("com.microsoft.GroupQueryAttention")
def group_query_attention(
    query: TensorMeta,
    num_heads: int,
    kv_num_heads: int,
    outs: tuple[TensorMeta | None, ...],
    key: TensorMeta | None = None,
    past_key: TensorMeta | None = None,
    total_sequence_length: object = None,
    attention_bias: object = None,
    do_rotary: int = 0,
    local_window_size: int = -1,
    softcap: float = 0.0,
) -> Cost:
    """Attend with queries (B, S, Hq x D), to which keys and values may be joined; it is causal.

    How many keys there are is the constant `total_sequence_length`, or the length of the keys
    that come out, or of past and new ones together.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k = T((1, 4, 8 * 16)), T((1, 4, 2 * 16))
    >>> # 8 x 4 x 4 = 128 scores x 32, of which 8 x 6 are hidden; scale, mask, softmax
    >>> group_query_attention(q, 8, 2, (q,), k)
    Cost(macs=4096, other=896, skipped=1536)
    >>> group_query_attention(T((1, 4, 12 * 16)), 8, 2, (q,), do_rotary=1)  # 640 x 3 turned
    Cost(macs=4096, other=2816, skipped=1536)
    """
    batch, rows, joined = query.shape
    size = joined // num_heads if key is not None else joined // (num_heads + 2 * kv_num_heads)
    total = _total_keys(rows, outs, past_key, total_sequence_length)
    left = local_window_size - 1 if local_window_size > 0 else None
    width = num_heads * size
    cost = by_heads(
        (batch, rows, width),
        (total, width),
        num_heads,
        attention_bias is not None,
        causal=True,
        window=(left, None),
        offset=total - rows,
    )
    turned = TensorMeta((batch, rows, (num_heads + kv_num_heads) * size))
    rotary = rotary_embedding(turned).other if do_rotary else 0
    capped = 3 * batch * num_heads * rows * total if softcap else 0
    return cost._replace(other=cost.other + rotary + capped)


def _total_keys(
    rows: Dim, outs: tuple[TensorMeta | None, ...], past: TensorMeta | None, told: object
) -> Dim:
    if isinstance(told, int) and told > 0:
        return told
    present = outs[1] if len(outs) > 1 else None
    if present is not None and len(present.shape) == 4 and isinstance(present.shape[2], int):
        return present.shape[2]
    return rows if past is None else past.shape[2] + rows


@onnx_formula("com.microsoft.RotaryEmbedding")
def ms_rotary_embedding(
    input: TensorMeta, rotary_embedding_dim: int = 0, num_heads: int = 0
) -> Cost:
    """Turn pairs of elements: two products and a sum for each element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ms_rotary_embedding(T((1, 8, 5, 4)))  # 160 x 3
    Cost(macs=0, other=480)
    """
    return rotary_embedding(input, rotary_embedding_dim, num_heads)
