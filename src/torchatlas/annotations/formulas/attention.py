"""Attention: queries times keys, softmax, weights times values."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import product

# -- scores that a mask leaves visible -----------------------------------------------------


def visible_scores(
    rows: Dim, keys: Dim, left: Dim | None = None, right: Dim | None = None, offset: Dim = 0
) -> Dim:
    """Count the scores that a window leaves, of `rows` queries and `keys` keys.

    Query i stands at key i + `offset` and sees from `left` keys before to `right` keys after it;
    None sets no limit.

    >>> visible_scores(3, 5, right=0)  # rows see 1, 2 and 3 keys: is_causal
    6
    >>> visible_scores(5, 3, right=0)  # 1, 2, 3, 3, 3
    12
    >>> visible_scores(3, 5, right=0, offset=2)  # 3, 4, 5: from the bottom right corner
    12
    >>> visible_scores(4, 4, left=1, right=0)  # 1, 2, 2, 2
    7
    >>> visible_scores(3, 5, left=1, right=1), visible_scores(3, 5)  # 2, 3, 3; everything
    (8, 15)
    """
    until = rows * keys if right is None else _up_to(rows, keys, offset + right)
    before = 0 if left is None else _up_to(rows, keys, offset - left - 1)
    return until - before


def _up_to(rows: Dim, keys: Dim, diagonal: Dim) -> Dim:
    """Count the scores on or below a diagonal, of which `diagonal` is the place in row 0."""
    below = _triangle(rows + diagonal) - _triangle(diagonal)
    return below - _triangle(rows + diagonal - keys) + _triangle(diagonal - keys)


def _triangle(n: Dim) -> Dim:
    """Add up 1 to `n`; 0 for a negative `n`.

    >>> _triangle(4), _triangle(-2)
    (10, 0)
    """
    if isinstance(n, int):
        return max(n, 0) * (n + 1) // 2
    import sympy

    positive = sympy.Max(n, 0)
    return sympy.expand(positive * (positive + 1) / 2)


# -- scaled dot product attention ----------------------------------------------------------


@flop_formula(
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_attention_math_for_mps",
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
    scores count, as in torch's counter; those above the diagonal of a causal mask are `skipped`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k, v = T((2, 8, 5, 4)), T((2, 2, 7, 4)), T((2, 2, 7, 3))
    >>> # 2 x 8 x 5 x 7 = 560 scores x (4 + 3); scaling 1 and softmax 5 on each score
    >>> scaled_dot_product_attention(q, k, v, T((2, 8, 5, 3)))
    Cost(macs=3920, other=3360)
    >>> # rows see 1 to 5 keys, so 16 x 15 = 240 scores are wanted and 320 are not; one more mask
    >>> scaled_dot_product_attention(q, k, v, T((2, 8, 5, 3)), is_causal=True)
    Cost(macs=3920, other=3920, skipped=2240)
    """
    heads, rows, keys = product(out.shape[:-2]), out.shape[-2], key.shape[-2]
    scores = heads * rows * keys
    masked = is_causal or attn_mask is not None or attn_bias is not None
    per_score = 1 + masked + PASSES["softmax"] + (dropout_p != 0)
    hidden = scores - heads * visible_scores(rows, keys, right=0) if is_causal else 0
    width = query.shape[-1] + value.shape[-1]
    return Cost(scores * width, scores * per_score, hidden * width)


@flop_formula(
    "aten._scaled_dot_product_flash_attention_backward",
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "aten._scaled_dot_product_efficient_attention_backward",
    "aten._scaled_dot_product_cudnn_attention_backward",
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
)
def attention_backward(
    query: TensorMeta, key: TensorMeta, value: TensorMeta, is_causal: bool = False
) -> Cost:
    """Take the gradients of queries, keys and values, after computing the scores again.

    Five products to the forward's two (arXiv:2205.14135, algorithm 4): the scores, and the
    gradients of the values, the weights, the queries and the keys.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 2, 5, 4))  # 2 x 5 x 5 = 50 scores, each 3 x 4 + 2 x 4; exp, softmax' 4, scale
    >>> attention_backward(q, q, q)
    Cost(macs=1000, other=300)
    >>> attention_backward(q, q, q, is_causal=True)  # 2 x 15 scores are wanted
    Cost(macs=1000, other=300, skipped=400)
    """
    heads, rows, keys = product(query.shape[:-2]), query.shape[-2], key.shape[-2]
    hidden = rows * keys - visible_scores(rows, keys, right=0) if is_causal else 0
    return backward_cost(heads * rows * keys, heads * hidden, query.shape[-1], value.shape[-1])


def backward_cost(scores: Dim, hidden: Dim, key_width: Dim, value_width: Dim) -> Cost:
    """Count five products over `scores`, of which a mask hides `hidden`.

    Exponential and scale of each score come on top of the softmax's own gradient.

    >>> backward_cost(50, 20, 4, 4)  # 50 x (3 x 4 + 2 x 4), 50 x (2 + 4), 20 x 20
    Cost(macs=1000, other=300, skipped=400)
    """
    width = 3 * key_width + 2 * value_width
    return Cost(scores * width, scores * (2 + PASSES["softmax backward"]), hidden * width)


@flop_formula("aten._fused_sdp_choice")
def sdp_choice(query: TensorMeta) -> Cost:
    """Choose a kernel: nothing is computed.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sdp_choice(T((2, 8, 5, 4)))
    Cost(macs=0, other=0)
    """
    return Cost()


# -- layers --------------------------------------------------------------------------------


@flop_formula("aten._native_multi_head_attention", "aten._triton_multi_head_attention")
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


@flop_formula("aten._transform_bias_rescale_qkv")
def bias_and_scale(qkv: TensorMeta) -> Cost:
    """Add a bias to projected queries, keys and values (B, S, 3 E), and scale the queries.

    >>> from torchatlas.schema import TensorMeta as T
    >>> bias_and_scale(T((2, 5, 24)))  # 240 biases, 80 scaled
    Cost(macs=0, other=320)
    """
    return Cost(0, qkv.numel + qkv.numel // 3)


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
