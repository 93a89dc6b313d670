"""ONNX ops that multiply and add: products, convolutions, recurrent layers, attention.

The rules are those of torch's ops; each formula brings the operands into their form.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import Dim, TensorMeta
from . import contractions, convolution, recurrent
from .attention import scaled_dot_product_attention, visible_scores
from .einsum import einsum
from .onnx_checked import onnx_formula
from .registry import Cost
from .sizes import product

# -- products ------------------------------------------------------------------------------


@onnx_formula("MatMul")
def onnx_matmul(A: TensorMeta, out: TensorMeta) -> Cost:
    """Contract the last dimension of `A`, batch dimensions broadcast.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_matmul(T((10, 1, 3, 4)), T((10, 7, 3, 5)))  # 10 x 7 x 3 x 5 results of 4 products
    Cost(macs=4200, other=0)
    """
    return contractions.matmul(A, out)


@onnx_formula("Gemm")
def gemm(
    A: TensorMeta, out: TensorMeta, C: object = None, transA: int = 0, beta: float = 1.0
) -> Cost:
    """Multiply matrices and add a third, ``alpha * A @ B + beta * C``.

    >>> from torchatlas.schema import TensorMeta as T
    >>> gemm(T((8, 512)), T((8, 1000)), T((1000,)))  # 8 x 1000 x 512; 8000 biases
    Cost(macs=4096000, other=8000)
    >>> gemm(T((512, 8)), T((8, 1000)), transA=1)
    Cost(macs=4096000, other=0)
    """
    inner = A.shape[0] if transA else A.shape[1]
    return Cost(out.numel * inner, out.numel if C is not None and beta != 0 else 0)


@onnx_formula("MatMulInteger")
def matmul_integer(A: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply 8-bit integers into 32-bit ones, which are not scaled.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matmul_integer(T((4, 64), "uint8"), T((4, 32), "int32"))  # 4 x 32 x 64
    Cost(macs=8192, other=0, integer=True)
    """
    return contractions.matmul(A, out)._replace(integer=True)


@onnx_formula("QLinearMatMul")
def qlinear_matmul(a: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply 8-bit integers, and bring each result to its scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> qlinear_matmul(T((4, 64), "uint8"), T((4, 32), "uint8"))  # 4 x 32 x 64; 128 scaled
    Cost(macs=8192, other=128, integer=True)
    """
    return Cost(contractions.matmul(a, out).macs, out.numel, integer=True)


@onnx_formula("Einsum")
def onnx_einsum(equation: str, Inputs: tuple[TensorMeta, ...]) -> Cost:
    """Contract operands from left to right.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_einsum("bij,bjk->bik", (T((10, 3, 4)), T((10, 4, 5))))  # 10 x 3 x 4 x 5
    Cost(macs=600, other=0)
    """
    return einsum(equation, Inputs)


@onnx_formula("AffineGrid")
def onnx_affine_grid(theta: TensorMeta, out: TensorMeta) -> Cost:
    """Map every grid point through an affine matrix (N, d, d + 1).

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_affine_grid(T((1, 2, 3)), T((1, 8, 8, 2)))  # 64 points, 2 coordinates of 3 products
    Cost(macs=384, other=0)
    """
    return contractions.affine_grid(theta, out)


@onnx_formula("ai.onnx.ml.LinearRegressor")
def linear_regressor(X: TensorMeta, out: TensorMeta) -> Cost:
    """Apply linear functions to rows of features, and add the intercepts.

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear_regressor(T((5, 10)), T((5, 3)))  # 5 x 3 x 10; 15 intercepts
    Cost(macs=150, other=15)
    """
    return Cost(out.numel * X.shape[-1], out.numel)


# -- convolutions --------------------------------------------------------------------------


@onnx_formula("Conv")
def onnx_conv(W: TensorMeta, out: TensorMeta, B: TensorMeta | None = None) -> Cost | None:
    """Convolve with a weight (Cout, Cin / groups, *kernel); taps on padding count.

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_conv(T((64, 3, 7, 7)), T((1, 64, 112, 112)))  # 64 x 112 x 112 x 3 x 7 x 7
    Cost(macs=118013952, other=0)
    >>> onnx_conv(T((8, 1, 3)), T((1, 8, 10)), T((8,)))  # depthwise: 8 x 10 x 1 x 3; 80 biases
    Cost(macs=240, other=80)
    """
    return convolution.conv(W, out, B) if len(W.shape) == len(out.shape) else None


@onnx_formula("ConvTranspose")
def onnx_conv_transpose(
    X: TensorMeta, W: TensorMeta, out: TensorMeta, B: TensorMeta | None = None
) -> Cost | None:
    """Spread every input element over a weight (Cin, Cout / groups, *kernel).

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_conv_transpose(T((1, 4, 5)), T((4, 6, 3)), T((1, 6, 11)))  # 4 x 5 x 6 x 3
    Cost(macs=360, other=0)
    """
    return convolution.conv_transpose(X, W, out, B) if len(W.shape) == len(X.shape) else None


@onnx_formula("ConvInteger")
def conv_integer(w: TensorMeta, out: TensorMeta) -> Cost:
    """Convolve 8-bit integers into 32-bit ones, which are not scaled.

    >>> from torchatlas.schema import TensorMeta as T
    >>> conv_integer(T((8, 3, 3, 3), "uint8"), T((1, 8, 6, 6), "int32"))  # 288 x 3 x 9
    Cost(macs=7776, other=0, integer=True)
    """
    return convolution.conv(w, out)._replace(integer=True)


@onnx_formula("QLinearConv")
def qlinear_conv(w: TensorMeta, out: TensorMeta, B: TensorMeta | None = None) -> Cost:
    """Convolve 8-bit integers, and bring each result to its scale.

    >>> from torchatlas.schema import TensorMeta as T
    >>> w, y = T((8, 3, 3, 3), "int8"), T((1, 8, 6, 6), "uint8")
    >>> qlinear_conv(w, y, T((8,), "int32"))  # 288 x 3 x 9; 288 x (scale, bias)
    Cost(macs=7776, other=576, integer=True)
    """
    cost = convolution.conv(w, out, B)
    return Cost(cost.macs, cost.other + out.numel, integer=True)


@onnx_formula("DeformConv")
def onnx_deform_conv(
    X: TensorMeta,
    W: TensorMeta,
    out: TensorMeta,
    B: TensorMeta | None = None,
    mask: TensorMeta | None = None,
) -> Cost | None:
    """Convolve two dimensions at sampled positions, each of which blends four neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, y = T((1, 4, 7, 7)), T((8, 4, 3, 3)), T((1, 8, 5, 5))
    >>> onnx_deform_conv(x, w, y)  # 8 x 25 x 4 x 9; 25 x 4 x 9 samples of 7
    Cost(macs=7200, other=6300)
    """
    if len(W.shape) != 4:
        return None
    return convolution.deform_conv2d(W, out, X, mask, B, mask is not None)


@onnx_formula("CausalConvWithState")
def causal_conv(
    weight: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    activation: str = "none",
) -> Cost:
    """Convolve each channel with the positions up to its own, then perhaps an activation.

    >>> from torchatlas.schema import TensorMeta as T
    >>> causal_conv(T((16, 1, 4)), T((1, 16, 7)), T((16,)), "silu")  # 112 x 4; 112 x 2
    Cost(macs=448, other=224)
    """
    cost = convolution.conv(weight, out, bias)
    return Cost(cost.macs, cost.other + (out.numel if activation not in ("", "none") else 0))


# -- recurrent layers ----------------------------------------------------------------------


def _directions(
    cell: str, gates: int, X: TensorMeta, W: TensorMeta, R: TensorMeta, B: TensorMeta | None
) -> Cost:
    """Run a sequence through a layer whose weights (directions, gates x H, ...) stand together."""
    directions, rows, hidden = R.shape
    params = [TensorMeta(W.shape[1:]), TensorMeta((rows, hidden))]
    if B is not None:
        params += [TensorMeta((rows,)), TensorMeta((rows,))]
    state = TensorMeta((hidden,))
    if cell == "lstm":
        cost = recurrent.lstm((state, state), tuple(params), X)
    elif cell == "gru":
        cost = recurrent.gru(state, tuple(params), X)
    else:
        cost = recurrent.rnn(state, tuple(params), X)
    if cost is None or rows != gates * hidden:
        raise ValueError("the weights do not belong together")
    return Cost(directions * cost.macs, directions * cost.other)


@onnx_formula("LSTM")
def onnx_lstm(
    X: TensorMeta,
    W: TensorMeta,
    R: TensorMeta,
    B: TensorMeta | None = None,
    P: TensorMeta | None = None,
) -> Cost:
    """Run a sequence (T, B, in) through an LSTM layer, weights (directions, 4 H, in).

    Peepholes `P` add a product and a sum to each of three gates.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w, r, b = T((5, 3, 8)), T((1, 64, 8)), T((1, 64, 16)), T((1, 128))
    >>> onnx_lstm(x, w, r, b)  # 15 tokens x (64 x 8 + 64 x 16); 15 x (128 biases + 16 units x 13)
    Cost(macs=23040, other=5040)
    >>> onnx_lstm(x, w, r, b, T((1, 48)))  # and 15 x 16 units x 6
    Cost(macs=23040, other=6480)
    """
    cost = _directions("lstm", 4, X, W, R, B)
    peepholes = 0 if P is None else 2 * product(X.shape[:-1]) * P.numel
    return Cost(cost.macs, cost.other + peepholes)


@onnx_formula("GRU")
def onnx_gru(X: TensorMeta, W: TensorMeta, R: TensorMeta, B: TensorMeta | None = None) -> Cost:
    """Run a sequence (T, B, in) through a GRU layer, weights (directions, 3 H, in).

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 15 tokens x 2 directions x (48 x 8 + 48 x 16); 30 x (96 biases + 16 units x 11)
    >>> onnx_gru(T((5, 3, 8)), T((2, 48, 8)), T((2, 48, 16)), T((2, 96)))
    Cost(macs=34560, other=8160)
    """
    return _directions("gru", 3, X, W, R, B)


@onnx_formula("RNN")
def onnx_rnn(X: TensorMeta, W: TensorMeta, R: TensorMeta, B: TensorMeta | None = None) -> Cost:
    """Run a sequence (T, B, in) through a plain recurrent layer, weights (directions, H, in).

    >>> from torchatlas.schema import TensorMeta as T
    >>> onnx_rnn(T((5, 3, 8)), T((1, 16, 8)), T((1, 16, 16)))  # 15 x 16 x 24; 15 x 16 units x 2
    Cost(macs=5760, other=480)
    """
    return _directions("rnn", 1, X, W, R, B)


# -- attention -----------------------------------------------------------------------------


def by_heads(
    query: tuple[Dim, Dim, Dim],
    key: tuple[Dim, Dim],
    heads: Dim,
    masked: bool,
    causal: bool = False,
    window: tuple[Dim | None, Dim | None] = (None, None),
    offset: Dim = 0,
) -> Cost:
    """Attend with queries (B, S, Hq x Dk) to T keys, and to values of Hq x Dv in all.

    `query` is (B, S, Hq x Dk) and `key` (T, Hq x Dv), with `heads` Hq. A query stands at its
    own position plus `offset`, and sees the `window` before and after it; `causal` hides what
    comes after.

    >>> by_heads((2, 5, 8 * 4), (7, 8 * 3), 8, masked=False)  # 560 scores x (4 + 3); 560 x 6
    Cost(macs=3920, other=3360)
    >>> by_heads((2, 5, 32), (7, 24), 8, masked=False, causal=True, offset=2)
    Cost(macs=3920, other=3920, skipped=1120)
    """
    batch, rows, width = query
    keys, values = key
    left, right = window
    right = 0 if causal else right
    heads_of = (batch, heads)
    shapes = ((rows, width // heads), (keys, width // heads), (keys, values // heads))
    q, k, v = (TensorMeta((*heads_of, *shape)) for shape in shapes)
    mask = k if masked or causal or left is not None or right is not None else None
    cost = scaled_dot_product_attention(q, k, v, TensorMeta((*heads_of, rows, v.shape[-1])), mask)
    if left is None and right is None:
        return cost
    hidden = rows * keys - visible_scores(rows, keys, left, right, offset)
    return cost._replace(skipped=batch * heads * hidden * (q.shape[-1] + v.shape[-1]))


def _limit(size: int) -> int | None:
    return size if size >= 0 else None


@onnx_formula("Attention")
def onnx_attention(
    Q: TensorMeta,
    K: TensorMeta,
    V: TensorMeta,
    attn_mask: TensorMeta | None = None,
    past_key: TensorMeta | None = None,
    nonpad_kv_seqlen: TensorMeta | None = None,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    is_causal: int = 0,
    left_window_size: int = -1,
    right_window_size: int = -1,
    softcap: float = 0.0,
) -> Cost:
    """Attend with queries (B, Hq, S, Dk) or (B, S, Hq x Dk) to past and present keys.

    Where `nonpad_kv_seqlen` says at run time which keys count, none are `skipped`. A soft cap
    takes three operations on each score: divide, tanh, multiply.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k, v = T((2, 8, 5, 4)), T((2, 2, 7, 4)), T((2, 2, 7, 3))
    >>> # 2 x 8 x 5 x 7 = 560 scores x (4 + 3); scaling 1 and softmax 5 on each score
    >>> onnx_attention(q, k, v)
    Cost(macs=3920, other=3360)
    >>> q, k, v = T((2, 5, 32)), T((2, 7, 8)), T((2, 7, 6))
    >>> onnx_attention(q, k, v, q_num_heads=8, kv_num_heads=2)  # the same
    Cost(macs=3920, other=3360)
    >>> # one token after 6 others: 8 heads x 7 scores, all of them visible
    >>> q, k, past = T((1, 8, 1, 4)), T((1, 2, 1, 4)), T((1, 2, 6, 4))
    >>> onnx_attention(q, k, k, past_key=past, is_causal=1)
    Cost(macs=448, other=392)
    """
    if len(Q.shape) == 3:
        batch, rows, width = Q.shape
        heads, present, values = q_num_heads, K.shape[1], V.shape[-1] * q_num_heads // kv_num_heads
    else:
        batch, heads, rows, size = Q.shape
        width, present, values = heads * size, K.shape[2], heads * V.shape[-1]
    past: Dim = 0 if past_key is None else past_key.shape[-2]
    window = _limit(left_window_size), _limit(right_window_size)
    masked = attn_mask is not None or bool(is_causal)
    if nonpad_kv_seqlen is not None:
        is_causal, window = 0, (None, None)
    cost = by_heads(
        (batch, rows, width), (past + present, values), heads, masked, bool(is_causal), window, past
    )
    capped = 3 * batch * heads * rows * (past + present) if softcap else 0
    return cost._replace(other=cost.other + capped)


@onnx_formula("LinearAttention")
def linear_attention(
    query: TensorMeta,
    key: TensorMeta,
    value: TensorMeta,
    q_num_heads: int,
    kv_num_heads: int,
    update_rule: str = "gated_delta",
) -> Cost:
    """Update a state (Dk, Dv) for each head and token (B, T, H x D), and ask it.

    A token adds the product of its key and value, and is answered by its query; a delta rule
    first asks the state for what the key stands for, and a gate scales the state.

    >>> from torchatlas.schema import TensorMeta as T
    >>> q, k, v = T((1, 5, 8 * 4)), T((1, 5, 2 * 4)), T((1, 5, 2 * 3))
    >>> linear_attention(q, k, v, 8, 2, "linear")  # 5 tokens x 12 x (2 updates + 8 answers)
    Cost(macs=600, other=0)
    >>> linear_attention(q, k, v, 8, 2)  # and 2 more; 5 x 2 x 12 scaled
    Cost(macs=720, other=120)
    """
    tokens = product(query.shape[:2])
    state = (key.shape[-1] // kv_num_heads) * (value.shape[-1] // kv_num_heads)
    asked = q_num_heads + kv_num_heads * (2 if "delta" in update_rule else 1)
    gated = tokens * kv_num_heads * state if update_rule.startswith("gated") else 0
    return Cost(tokens * state * asked, gated)


@onnx_formula("RotaryEmbedding")
def rotary_embedding(X: TensorMeta, rotary_embedding_dim: int = 0, num_heads: int = 0) -> Cost:
    """Turn pairs of elements: two products and a sum for each element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> rotary_embedding(T((1, 8, 5, 4)))  # 160 x 3
    Cost(macs=0, other=480)
    >>> rotary_embedding(T((1, 5, 32)), rotary_embedding_dim=2, num_heads=8)  # half of each head
    Cost(macs=0, other=240)
    """
    head = X.shape[-1] if len(X.shape) == 4 else X.shape[-1] // (num_heads or 1)
    turned = X.numel * rotary_embedding_dim // head if rotary_embedding_dim else X.numel
    return Cost(0, 3 * turned)
