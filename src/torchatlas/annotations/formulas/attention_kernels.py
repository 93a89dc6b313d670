"""Attention by the kernels behind it: other layouts, windows, sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable

from ...schema import Dim, TensorMeta
from .attention import (
    attention_backward,
    backward_cost,
    scaled_dot_product_attention,
    visible_scores,
)
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import ceil_div, product

_Window = Callable[[Dim, Dim], Dim]


def _kernel_scores(
    query: TensorMeta,
    key: TensorMeta,
    lengths: tuple[Dim | None, Dim | None] | None,
    visible: _Window,
) -> tuple[Dim, Dim]:
    """Return the scores of queries (B, Sq, H, D) or (tokens, H, D), and those out of sight.

    `lengths` are the longest sequences of queries and of keys where the sequences of a batch lie
    one after another (tokens, H, D), or the keys in pages. Each query then meets as many keys as
    the longest sequence has: the exact count where all are as long, and no more than torch's
    counter takes, which makes every sequence the longest.
    """
    heads = query.shape[-2]
    rows, keys = query.shape[-3], key.shape[-3]
    longest_rows, longest_keys = lengths or (None, None)
    if longest_rows is None or longest_keys is None:
        batch = product(query.shape[:-3])
        scores = rows * keys
        return batch * heads * scores, batch * heads * (scores - visible(rows, keys))
    tokens = product(query.shape[:-2])
    seen = ceil_div(tokens * visible(longest_rows, longest_keys), longest_rows)
    scores = tokens * longest_keys
    return heads * scores, heads * (scores - seen)


def _flash_window(is_causal: bool, left: Dim | None, right: Dim | None) -> _Window:
    """Return what a window leaves, counted from the bottom right corner; -1 sets no limit."""
    before = None if left is None or left == -1 else left
    after = 0 if is_causal else None if right is None or right == -1 else right
    return lambda rows, keys: visible_scores(rows, keys, before, after, keys - rows)


@flop_formula("aten._flash_attention_forward", "aten._flash_attention_forward_no_dropout_inplace")
def flash_attention(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    max_q: Dim,
    max_k: Dim,
    is_causal: bool,
    dropout_p: float,
    cum_seq_q: TensorMeta | None = None,
    block_table: TensorMeta | None = None,
    window_size_left: Dim | None = None,
    window_size_right: Dim | None = None,
    alibi_slopes: TensorMeta | None = None,
) -> Cost:
    """Attend with queries (B, Sq, H, D), or (tokens, H, D) where ``cum_seq_q`` tells them apart.

    A causal mask and a window count from the last key (arXiv:2307.08691, section 3.1, and the
    documentation of flash-attn from 2.1 on).

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k = T((2, 3, 8, 4)), T((2, 5, 8, 4))
    >>> # 2 x 8 x 3 x 5 = 240 scores x (4 + 4); rows see 3, 4 and 5 keys: 48 are needless
    >>> flash_attention(q, k, k, 3, 5, is_causal=True, dropout_p=0.0)
    Cost(macs=1920, other=1680, skipped=384)
    >>> # 10 tokens in sequences of at most 4: 10 x 4 scores x 8; a window of 1 before leaves
    >>> # 1 + 2 + 2 + 2 of 16, so 17.5 and rounded up 18 of the 40 scores
    >>> t, ends = T((10, 1, 4)), T((4,), "int32")
    >>> flash_attention(t, t, t, 4, 4, True, 0.0, ends, window_size_left=1)
    Cost(macs=320, other=280, skipped=176)
    """
    visible = _flash_window(is_causal, window_size_left, window_size_right)
    varied = cum_seq_q is not None or block_table is not None
    scores, hidden = _kernel_scores(query, key, (max_q, max_k) if varied else None, visible)
    windowed = is_causal or _limits(window_size_left) or _limits(window_size_right)
    added = windowed + (alibi_slopes is not None) + (dropout_p != 0)
    width = query.shape[-1] + value.shape[-1]
    return Cost(scores * width, scores * (1 + added + PASSES["softmax"]), hidden * width)


def _limits(window: Dim | None) -> bool:
    return window is not None and window != -1


@flop_formula("aten._flash_attention_backward")
def flash_attention_backward(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    max_q: Dim,
    max_k: Dim,
    is_causal: bool,
    cum_seq_q: TensorMeta | None = None,
    window_size_left: Dim | None = None,
    window_size_right: Dim | None = None,
) -> Cost:
    """Take the gradients of `flash_attention`, by the five products of `attention_backward`.

    Without sequences of different lengths ``cum_seq_q`` is None, or holds no element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 5, 2, 4))  # 2 x 5 x 5 = 50 scores x 20, of which 2 x 15 are wanted
    >>> flash_attention_backward(q, q, q, 5, 5, is_causal=True)
    Cost(macs=1000, other=300, skipped=400)
    """
    visible = _flash_window(is_causal, window_size_left, window_size_right)
    varied = len(query.shape) == 3
    scores, hidden = _kernel_scores(query, key, (max_q, max_k) if varied else None, visible)
    return backward_cost(scores, hidden, query.shape[-1], value.shape[-1])


def _efficient_window(mask_type: int, window: Dim | None) -> _Window:
    """Return what xFormers' masks leave: 0 all, 1 from the top left, 2 from the bottom right.

    A causal window of n lets a query see itself and n - 1 keys before it.
    """
    right = 0 if mask_type else None
    left = window - 1 if mask_type and window is not None and window != 0 else None
    return lambda rows, keys: visible_scores(
        rows, keys, left, right, keys - rows if mask_type == 2 else 0
    )


@flop_formula("aten._efficient_attention_forward")
def efficient_attention(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    custom_mask_type: int,
    dropout_p: float,
    bias: TensorMeta | None = None,
    cu_seqlens_q: TensorMeta | None = None,
    max_seqlen_q: Dim | None = None,
    max_seqlen_k: Dim | None = None,
    window_size: Dim | None = None,
) -> Cost:
    """Attend with queries (B, Sq, H, D); sequences of different lengths share one row.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k = T((2, 3, 8, 4)), T((2, 5, 8, 4))
    >>> # 240 scores x 8; from the top left rows see 1, 2 and 3 keys: 16 x 9 are needless
    >>> efficient_attention(q, k, k, 1, 0.0)
    Cost(macs=1920, other=1680, skipped=1152)
    >>> efficient_attention(q, k, k, 0, 0.0)
    Cost(macs=1920, other=1440)
    """
    visible = _efficient_window(custom_mask_type, window_size)
    longest = (max_seqlen_q, max_seqlen_k) if cu_seqlens_q is not None else None
    scores, hidden = _kernel_scores(query, key, longest, visible)
    added = (custom_mask_type != 0) + (bias is not None) + (dropout_p != 0)
    width = query.shape[-1] + value.shape[-1]
    return Cost(scores * width, scores * (1 + added + PASSES["softmax"]), hidden * width)


@flop_formula("aten._efficient_attention_backward")
def efficient_attention_backward(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    custom_mask_type: int,
    cu_seqlens_q: TensorMeta | None = None,
    max_seqlen_q: Dim | None = None,
    max_seqlen_k: Dim | None = None,
    window_size: Dim | None = None,
) -> Cost:
    """Take the gradients of `efficient_attention`, by the products of `attention_backward`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 5, 2, 4))  # 50 scores x 20, of which 2 x 15 are wanted
    >>> efficient_attention_backward(q, q, q, 1)
    Cost(macs=1000, other=300, skipped=400)
    """
    visible = _efficient_window(custom_mask_type, window_size)
    longest = (max_seqlen_q, max_seqlen_k) if cu_seqlens_q is not None else None
    scores, hidden = _kernel_scores(query, key, longest, visible)
    return backward_cost(scores, hidden, query.shape[-1], value.shape[-1])


@flop_formula("aten._cudnn_attention_forward", "aten._cudnn_attention_forward_no_dropout_inplace")
def cudnn_attention(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    max_q: Dim,
    max_k: Dim,
    attn_bias: TensorMeta | None = None,
    cum_seq_q: TensorMeta | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Cost:
    """Attend with queries (B, H, Sq, D), or (tokens, H, D) where ``cum_seq_q`` tells them apart.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((2, 8, 3, 4))  # 2 x 8 x 3 x 3 = 144 scores x 8; 16 x 3 are needless
    >>> cudnn_attention(q, q, q, 3, 3, is_causal=True)
    Cost(macs=1152, other=1008, skipped=384)
    """
    if cum_seq_q is None:
        return scaled_dot_product_attention(
            query, key, value, query, None, attn_bias, dropout_p, is_causal
        )
    none = None
    return flash_attention(query, key, value, max_q, max_k, is_causal, dropout_p, cum_seq_q, none)


@flop_formula("aten._cudnn_attention_backward")
def cudnn_attention_backward(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    max_q: Dim,
    max_k: Dim,
    is_causal: bool,
) -> Cost:
    """Take the gradients of `cudnn_attention`, by the products of `attention_backward`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 2, 5, 4))  # 50 scores x 20
    >>> cudnn_attention_backward(q, q, q, 5, 5, is_causal=False)
    Cost(macs=1000, other=300)
    """
    if len(query.shape) == 3:
        return flash_attention_backward(query, key, value, max_q, max_k, is_causal)
    return attention_backward(query, key, value, is_causal)


@flop_formula("aten._triton_scaled_dot_attention")
def triton_attention(q: TensorMeta, k: TensorMeta, v: TensorMeta, dropout_p: float = 0.0) -> Cost:
    """Attend with queries (B, H, Sq, D), as `scaled_dot_product_attention`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((2, 8, 3, 4))  # 144 scores x 8
    >>> triton_attention(q, q, q)
    Cost(macs=1152, other=864)
    """
    return scaled_dot_product_attention(q, k, v, q, dropout_p=dropout_p)


# -- flex attention ------------------------------------------------------------------------


@flop_formula("higher_order.flex_attention")
def flex_attention(
    query: TensorMeta, key: TensorMeta, value: TensorMeta, per_score: Dim = 1
) -> Cost:
    """Attend with queries (B, H, Sq, D); which blocks a mask leaves out is known at run time.

    The functions that change and mask scores take `per_score` operations on each of them; where
    they are not known, one together, as a bias would.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((2, 8, 3, 4))  # 144 scores x 8; scaling 1, function 1, softmax 5
    >>> flex_attention(q, q, q)
    Cost(macs=1152, other=1008)
    >>> flex_attention(q, q, q, per_score=3)
    Cost(macs=1152, other=1296)
    """
    plain = scaled_dot_product_attention(query, key, value, query)
    return plain._replace(other=plain.other + _scores(query, key) * per_score)


def _scores(query: TensorMeta, key: TensorMeta) -> Dim:
    return product(query.shape[:-1]) * key.shape[-2]


@flop_formula("higher_order.flex_attention_backward")
def flex_attention_backward(
    query: TensorMeta, key: TensorMeta, value: TensorMeta, per_score: Dim = 0
) -> Cost:
    """Take the gradients of `flex_attention`, by the products of `attention_backward`.

    The functions on scores, and their gradients, take `per_score` operations on each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q = T((1, 2, 5, 4))  # 50 scores x 20
    >>> flex_attention_backward(q, q, q)
    Cost(macs=1000, other=300)
    """
    plain = attention_backward(query, key, value)
    return plain._replace(other=plain.other + _scores(query, key) * per_score)
