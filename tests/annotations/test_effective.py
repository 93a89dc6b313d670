"""What a causal or window mask leaves of attention, against every score looked at one by one."""

from __future__ import annotations

import itertools

import pytest
import sympy
import torch
import torch.nn.functional as F

from torchatlas.annotations.formulas import FORMULAS, Cost, evaluate
from torchatlas.annotations.formulas.attention import visible_scores
from torchatlas.schema import TensorMeta as T


def seen(rows, keys, left=None, right=None, offset=0):
    """Count scores one by one."""
    return sum(
        (left is None or key >= row + offset - left)
        and (right is None or key <= row + offset + right)
        for row, key in itertools.product(range(rows), range(keys))
    )


@pytest.mark.parametrize("left", [None, 0, 1, 2, 7])
@pytest.mark.parametrize("right", [None, 0, 1, 3, 8])
def test_windows(left, right):
    for rows, keys, offset in itertools.product(range(1, 6), range(1, 6), range(-4, 5)):
        counted = visible_scores(rows, keys, left, right, offset)
        assert counted == seen(rows, keys, left, right, offset)
        assert isinstance(counted, int)


def test_windows_of_symbols():
    rows, keys = sympy.symbols("rows keys", positive=True, integer=True)
    assert visible_scores(rows, rows, right=0) == rows**2 / 2 + rows / 2
    assert visible_scores(1, keys, right=0, offset=keys - 1) == keys
    causal = visible_scores(rows, keys, right=0)
    window = visible_scores(rows, keys, 2, 0, keys - rows)
    for r, k in itertools.product(range(1, 6), range(1, 6)):
        assert causal.subs({rows: r, keys: k}) == seen(r, k, right=0)
        assert window.subs({rows: r, keys: k}) == seen(r, k, 2, 0, k - r)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def shared(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


# function, shapes, scores of a head, those that the mask leaves, heads, width of key and value
CAUSAL = {
    "square": (causal, [(2, 3, 4, 8)] * 3, 16, 1 + 2 + 3 + 4, 6, 16),
    "more keys": (causal, [(1, 1, 3, 8), (1, 1, 5, 8), (1, 1, 5, 2)], 15, 1 + 2 + 3, 1, 10),
    "fewer keys": (
        causal,
        [(1, 2, 5, 8), (1, 2, 3, 8), (1, 2, 3, 8)],
        15,
        1 + 2 + 3 + 3 + 3,
        2,
        16,
    ),
    "shared keys": (shared, [(2, 8, 4, 8), (2, 2, 4, 8), (2, 2, 4, 8)], 16, 10, 16, 16),
    "no mask": (F.scaled_dot_product_attention, [(2, 3, 4, 8)] * 3, 16, 16, 6, 16),
}


@pytest.mark.parametrize(
    ("model", "shapes", "scores", "left", "heads", "width"), CAUSAL.values(), ids=CAUSAL.keys()
)
def test_causal_attention(sample, model, shapes, scores, left, heads, width):
    node = sample(model, *shapes).node("aten.scaled_dot_product_attention")
    assert node["macs"] == scores * heads * width
    assert node["flops"] == 2 * node["macs"]
    assert node["flops_effective"] == 2 * left * heads * width


def test_masks_of_torch_start_top_left():
    q, k = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 5, 4)
    mask = torch.ones(3, 5, dtype=torch.bool).tril()
    torch.testing.assert_close(causal(q, k, k), F.scaled_dot_product_attention(q, k, k, mask))
    assert mask.sum() == seen(3, 5, right=0)


Q, K = T((2, 3, 8, 4)), T((2, 5, 8, 4))  # 16 heads, 3 queries, 5 keys
PACKED, ENDS = T((10, 2, 4)), T((4,), "int32")  # 10 tokens in 3 sequences, 2 heads
FLASH = {"max_q": 3, "max_k": 5, "dropout_p": 0.0, "is_causal": False}
EFFICIENT = {"custom_mask_type": 0, "dropout_p": 0.0}

KERNELS = [
    # a causal mask of flash attention ends in the bottom right corner: 3 + 4 + 5
    ("aten._flash_attention_forward", FLASH | {"is_causal": True}, 16, 12),
    ("aten._flash_attention_forward", FLASH, 16, 15),
    # rows stand at keys 2, 3 and 4, and see one key before and one after: 3, 3, 2
    (
        "aten._flash_attention_forward",
        FLASH | {"window_size_left": 1, "window_size_right": 1},
        16,
        8,
    ),
    ("aten._flash_attention_forward", FLASH | {"window_size_left": 1, "is_causal": True}, 16, 6),
    (
        "aten._flash_attention_forward",
        FLASH | {"window_size_left": -1, "window_size_right": -1},
        16,
        15,
    ),
    ("aten._efficient_attention_forward", EFFICIENT, 16, 15),
    ("aten._efficient_attention_forward", EFFICIENT | {"custom_mask_type": 1}, 16, 1 + 2 + 3),
    ("aten._efficient_attention_forward", EFFICIENT | {"custom_mask_type": 2}, 16, 3 + 4 + 5),
    # a window of 2 from the bottom right: each row sees itself and one key before
    (
        "aten._efficient_attention_forward",
        EFFICIENT | {"custom_mask_type": 2, "window_size": 2},
        16,
        6,
    ),
]


@pytest.mark.parametrize(("op", "args", "heads", "left"), KERNELS)
def test_kernels(op, args, heads, left):
    operands = {"query": Q, "key": K, "value": K}
    cost = evaluate(FORMULAS[op], operands | args, (Q,))
    assert cost is not None
    assert cost.macs == heads * 15 * (4 + 4)
    assert cost.macs - cost.skipped == heads * left * (4 + 4)
    backward = op.replace("forward", "backward")
    cost = evaluate(FORMULAS[backward], operands | args, (Q, K, K))
    assert cost is not None
    assert cost.macs == heads * 15 * 5 * 4
    assert cost.macs - cost.skipped == heads * left * 5 * 4


def test_sequences_of_different_lengths():
    args = dict.fromkeys(("query", "key", "value"), PACKED) | FLASH | {"max_q": 4, "max_k": 4}
    args |= {"cum_seq_q": ENDS, "cum_seq_k": ENDS}
    op = FORMULAS["aten._flash_attention_forward"]
    cost = evaluate(op, args, (PACKED,))
    # each of 10 tokens meets at most 4 keys; lengths of 4, 4 and 2 would make 36 scores a head
    assert cost == Cost(2 * 10 * 4 * 8, 2 * 10 * 4 * 6)
    cost = evaluate(op, args | {"is_causal": True}, (PACKED,))
    # (1 + 2 + 3 + 4) / 4 keys a token; lengths of 4, 4 and 2 would see 10 + 10 + 3 a head
    assert cost is not None
    assert cost.macs - cost.skipped == 2 * 25 * 8


def test_decoding_sees_all_keys():
    one, cache = T((2, 1, 8, 4)), T((2, 100, 8, 4))
    args = {"query": one, "key": cache, "value": cache} | FLASH | {"is_causal": True}
    cost = evaluate(FORMULAS["aten._flash_attention_forward"], args, (one,))
    assert cost is not None
    assert (cost.macs, cost.skipped) == (2 * 8 * 100 * 8, 0)


def test_symbolic_sizes():
    batch, length = sympy.symbols("batch length", positive=True, integer=True)
    q = T((batch, 2, length, 4))
    args = {"query": q, "key": q, "value": q, "is_causal": True}
    cost = evaluate(FORMULAS["aten.scaled_dot_product_attention"], args, (q,))
    assert cost is not None
    effective = 2 * batch * length * (length + 1) / 2 * 8
    assert sympy.expand(cost.macs - cost.skipped - effective) == 0


def test_flex_attention_by_name():
    args = {"query": T((1, 4, 8, 16)), "key": T((1, 2, 8, 16)), "value": T((1, 2, 8, 8))}
    cost = evaluate(FORMULAS["higher_order.flex_attention"], args, (T((1, 4, 8, 8)),))
    assert cost is not None
    assert cost.macs == 4 * 8 * 8 * (16 + 8)
