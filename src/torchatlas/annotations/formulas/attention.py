"""Attention: queries times keys, softmax, weights times values."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import product


@flop_formula(
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_fused_attention_overrideable",
)
def scaled_dot_product_attention(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    out: TensorMeta,
    attn_mask: TensorMeta | None = None,
    attn_bias: TensorMeta | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Cost:
    """Attend with queries (*, Hq, Sq, Dk) to keys (*, H, Sk, Dk) and values (*, H, Sk, Dv).

    Each query head meets every key: heads that share keys (GQA) save memory, not work. Masked
    scores count, as in torch's counter; a causal mask makes this an upper bound.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k, v = T((2, 8, 5, 4)), T((2, 2, 7, 4)), T((2, 2, 7, 3))
    >>> # 2 x 8 x 5 x 7 = 560 scores x (4 + 3); scaling 1 and softmax 5 on each score
    >>> scaled_dot_product_attention(q, k, v, T((2, 8, 5, 3)))
    Cost(macs=3920, other=3360)
    """
    scores = product(out.shape[:-1]) * key.shape[-2]
    masked = is_causal or attn_mask is not None or attn_bias is not None
    per_score = 1 + masked + PASSES["softmax"] + (dropout_p != 0)
    return Cost(scores * (query.shape[-1] + value.shape[-1]), scores * per_score)


@flop_formula(
    "aten._scaled_dot_product_flash_attention_backward",
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "aten._scaled_dot_product_efficient_attention_backward",
    "aten._scaled_dot_product_cudnn_attention_backward",
)
def attention_backward(query: TensorMeta, key: TensorMeta, value: TensorMeta) -> Cost:
    """Take the gradients of queries, keys and values, after computing the scores again.

    Five products to the forward's two (arXiv:2205.14135, algorithm 4): the scores, and the
    gradients of the values, the weights, the queries and the keys.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 2, 5, 4))  # 2 x 5 x 5 = 50 scores, each 3 x 4 + 2 x 4; exp, softmax' 4, scale
    >>> attention_backward(q, q, q)
    Cost(macs=1000, other=300)
    """
    scores = product(query.shape[:-1]) * key.shape[-2]
    per_score = 2 + PASSES["softmax backward"]
    return Cost(scores * (3 * query.shape[-1] + 2 * value.shape[-1]), scores * per_score)


@flop_formula("aten._native_multi_head_attention")
def native_multi_head_attention(
    query: TensorMeta,
    key: TensorMeta,
    embed_dim: int,
    num_head: int,
    mask: TensorMeta | None = None,
) -> Cost:
    """Project (batch, length, embed_dim) to queries, keys and values, attend, project back.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x = T((2, 5, 8))  # projections 2 x 5 x 8 x 8 x 4 = 2560, scores 2 x 5 x 5 x 8 x 2 = 800
    >>> native_multi_head_attention(x, x, 8, 2)  # biases 2 x 5 x 8 x 4; 100 scores of 1 + 5
    Cost(macs=3360, other=920)
    """
    batch, length = query.shape[0], query.shape[1]
    keys = key.shape[1]
    projected: Dim = batch * embed_dim * (2 * length + 2 * keys)
    scores: Dim = batch * length * keys
    per_score = 1 + (mask is not None) + PASSES["softmax"]
    return Cost(
        projected * embed_dim + 2 * scores * embed_dim,
        projected + scores * num_head * per_score,
    )


@flop_formula("aten._transformer_encoder_layer_fwd")
def transformer_encoder_layer(
    src: TensorMeta,
    embed_dim: int,
    num_heads: int,
    ffn_weight_1: TensorMeta,
    mask: TensorMeta | None = None,
) -> Cost:
    """Attend to oneself, then two linear layers; two additions and two layer norms around them.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x = T((2, 5, 8))  # attention 3360; two layers of 2 x 5 x 8 x 16 = 1280
    >>> # attention 920; biases 10 x (16 + 8), activation 10 x 16, 2 x 80 x (addition, norm 7)
    >>> transformer_encoder_layer(x, 8, 2, T((16, 8)))
    Cost(macs=5920, other=2600)
    """
    attention = native_multi_head_attention(src, src, embed_dim, num_heads, mask)
    tokens: Dim = src.shape[0] * src.shape[1]
    hidden = ffn_weight_1.shape[0]
    norm = PASSES["normalise"] + PASSES["weight"] + PASSES["bias"]
    feed_forward = tokens * (hidden + embed_dim) + tokens * hidden
    around = 2 * src.numel * (1 + norm)
    return Cost(
        attention.macs + 2 * tokens * embed_dim * hidden,
        attention.other + feed_forward + around,
    )
