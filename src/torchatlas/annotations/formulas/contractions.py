"""Products of matrices and vectors: one multiply-add per output element and contracted index."""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import product


@flop_formula("aten.linear", "aten.mkldnn_linear")
def linear(weight: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Apply a weight (out, in) to an input (*, in).

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear(T((1000, 512)), T((8, 1000)), T((1000,)))  # 8 x 1000 x 512; 8 x 1000 biases
    Cost(macs=4096000, other=8000)
    """
    return Cost(out.numel * weight.shape[-1], out.numel if bias is not None else 0)


@flop_formula(
    "aten.matmul",
    "aten.mm",
    "aten.bmm",
    "aten.mv",
    "aten.dot",
    "aten.vdot",
    "aten.linalg_matmul",
    "aten._int_mm",
)
def matmul(self: TensorMeta, out: TensorMeta) -> Cost:
    """Contract the last dimension of `self`, batch dimensions broadcast.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matmul(T((10, 1, 3, 4)), T((10, 7, 3, 5)))  # 10 x 7 x 3 x 5 results of 4 products
    Cost(macs=4200, other=0)
    >>> matmul(T((6,)), T(()))  # a dot product
    Cost(macs=6, other=0)
    >>> matmul(T((4, 8), nnz=5), T((4, 3)))  # of a sparse matrix, what is stored: 5 x 3
    Cost(macs=15, other=0)
    """
    if self.nnz is not None:
        return Cost(self.nnz * product(out.shape[1:]))
    return Cost(out.numel * self.shape[-1])


@flop_formula("aten.inner")
def inner(self: TensorMeta, other: TensorMeta, out: TensorMeta) -> Cost:
    """Contract the last dimensions of two operands; a scalar among them only scales the other.

    >>> from torchatlas.schema import TensorMeta as T
    >>> inner(T((3, 4)), T((5, 4)), T((3, 5))), inner(T((3, 4)), T(()), T((3, 4)))
    (Cost(macs=60, other=0), Cost(macs=0, other=12))
    """
    if not self.shape or not other.shape:
        return Cost(0, out.numel)
    return Cost(out.numel * self.shape[-1])


@flop_formula("aten._foreach_mm")
def foreach_mm(self: tuple[TensorMeta, ...], mat2: tuple[TensorMeta, ...]) -> Cost:
    """Multiply pairs of matrices.

    >>> from torchatlas.schema import TensorMeta as T
    >>> foreach_mm((T((2, 3)), T((4, 5))), (T((3, 6)), T((5, 7))))  # 2 x 3 x 6 + 4 x 5 x 7
    Cost(macs=176, other=0)
    """
    pairs = zip(self, mat2, strict=True)
    return Cost(sum((a.numel * b.shape[-1] for a, b in pairs), 0))


@flop_formula("aten._scaled_mm", "aten._scaled_mm_v2")
def scaled_mm(self: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None) -> Cost:
    """Multiply scaled matrices (m, k) and (k, n); the scaling is one operation per result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scaled_mm(T((16, 32), "float8_e4m3fn"), T((16, 8)))  # 16 x 8 x 32; 16 x 8 scalings
    Cost(macs=4096, other=128)
    """
    return Cost(out.numel * self.shape[-1], out.numel * (2 if bias is not None else 1))


@flop_formula("aten.addmm")
def addmm(mat1: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to a product of matrices, ``beta * self + alpha * (mat1 @ mat2)``.

    >>> from torchatlas.schema import TensorMeta as T
    >>> addmm(T((32, 64)), T((32, 96)))  # 32 x 96 x 64; 32 x 96 additions
    Cost(macs=196608, other=3072)
    >>> addmm(T((32, 64)), T((32, 96)), beta=0)  # nothing to add
    Cost(macs=196608, other=0)
    """
    return Cost(matmul(mat1, out).macs, out.numel if beta != 0 else 0)


@flop_formula("aten._addmm_activation")
def addmm_activation(mat1: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to a product of matrices, as `addmm` does, and apply ReLU or GELU.

    >>> from torchatlas.schema import TensorMeta as T
    >>> addmm_activation(T((32, 64)), T((32, 96)))  # 32 x 96 x 64; 3072 x (addition, activation)
    Cost(macs=196608, other=6144)
    """
    cost = addmm(mat1, out, beta)
    return Cost(cost.macs, cost.other + out.numel)


@flop_formula("aten._scaled_addmm")
def scaled_addmm(mat1: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to a product of scaled matrices; the scaling is one operation per result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scaled_addmm(T((16, 32), "float8_e4m3fn"), T((16, 8)))  # 16 x 8 x (scaling, addition)
    Cost(macs=4096, other=256)
    """
    cost = addmm(mat1, out, beta)
    return Cost(cost.macs, cost.other + out.numel)


@flop_formula("aten.baddbmm")
def baddbmm(batch1: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to a batch of products, as `addmm` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> baddbmm(T((2, 3, 4)), T((2, 3, 5)))  # 2 x 3 x 5 x 4; 2 x 3 x 5 additions
    Cost(macs=120, other=30)
    """
    return addmm(batch1, out, beta)


@flop_formula("aten.addmv")
def addmv(mat: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to the product of a matrix and a vector, as `addmm` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> addmv(T((3, 4)), T((3,)))  # 3 x 4; 3 additions
    Cost(macs=12, other=3)
    """
    return addmm(mat, out, beta)


@flop_formula("aten.addbmm")
def addbmm(batch1: TensorMeta, batch2: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Sum a batch of products (b, m, k) @ (b, k, n) into one matrix and add to it.

    >>> from torchatlas.schema import TensorMeta as T
    >>> addbmm(T((2, 3, 4)), T((2, 4, 5)), T((3, 5)))  # 2 x 3 x 4 x 5; 3 x 5 additions
    Cost(macs=120, other=15)
    """
    return Cost(batch1.numel * batch2.shape[-1], out.numel if beta != 0 else 0)


@flop_formula("aten.addr")
def addr(out: TensorMeta) -> Cost:
    """Add the outer product of two vectors: a contraction of length 1.

    >>> from torchatlas.schema import TensorMeta as T
    >>> addr(T((3, 4)))  # 3 x 4 products, each added
    Cost(macs=12, other=0)
    """
    return Cost(out.numel)


@flop_formula("aten.outer", "aten.ger", "aten.kron")
def outer(out: TensorMeta) -> Cost:
    """Multiply every element of one operand by every element of the other; nothing is summed.

    >>> from torchatlas.schema import TensorMeta as T
    >>> outer(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return Cost(0, out.numel)


@flop_formula("aten.tensordot")
def tensordot(self: TensorMeta, dims_self: tuple[int, ...], out: TensorMeta) -> Cost:
    """Contract the dimensions `dims_self` of `self` with as many of the other operand.

    >>> from torchatlas.schema import TensorMeta as T
    >>> tensordot(T((3, 4, 5)), (1, 2), T((3, 7)))  # (3, 4, 5) . (4, 5, 7): 3 x 7 x 4 x 5
    Cost(macs=420, other=0)
    """
    return Cost(out.numel * product(self.shape[d] for d in dims_self))


@flop_formula("aten.linalg_vecdot")
def vecdot(x: TensorMeta, out: TensorMeta, dim: int = -1) -> Cost:
    """Contract dimension `dim` of two batches of vectors.

    >>> from torchatlas.schema import TensorMeta as T
    >>> vecdot(T((5, 6)), T((5,)))
    Cost(macs=30, other=0)
    """
    return Cost(out.numel * x.shape[dim])


@flop_formula("aten.bilinear")
def bilinear(
    input1: TensorMeta,
    input2: TensorMeta,
    weight: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
) -> Cost:
    """Contract a weight (out, in1, in2) with input1 (*, in1), then with input2 (*, in2).

    >>> from torchatlas.schema import TensorMeta as T
    >>> bilinear(T((2, 3)), T((2, 4)), T((5, 3, 4)), T((2, 5)))  # 2 x 5 x (3 x 4 + 4)
    Cost(macs=160, other=0)
    """
    in1, in2 = input1.shape[-1], input2.shape[-1]
    return Cost(out.numel * (in1 * in2 + in2), out.numel if bias is not None else 0)


@flop_formula("aten.linear_backward", "aten.mkldnn_linear_backward")
def linear_backward(
    grad_output: TensorMeta, weight: TensorMeta, output_mask: tuple[bool, ...]
) -> Cost:
    """Take the gradients asked for: of the input, the weight and the bias.

    The first two are products of the forward's size each, ``grad @ weight`` and
    ``grad.T @ input``; the third sums the gradient.

    >>> from torchatlas.schema import TensorMeta as T
    >>> g, w = T((8, 10)), T((10, 5))  # forward: 8 x 10 x 5 = 400
    >>> linear_backward(g, w, (True, True, True)), linear_backward(g, w, (False, True, False))
    (Cost(macs=800, other=80), Cost(macs=400, other=0))
    """
    of_input, of_weight, of_bias = map(bool, output_mask)
    forward = grad_output.numel * weight.shape[-1]
    return Cost(forward * (of_input + of_weight), grad_output.numel if of_bias else 0)


@flop_formula("aten.mkldnn_linear_backward_input")
def linear_backward_input(grad_output: TensorMeta, weight: TensorMeta) -> Cost:
    """Take the gradient of a linear layer's input.

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear_backward_input(T((8, 10)), T((10, 5)))
    Cost(macs=400, other=0)
    """
    return linear_backward(grad_output, weight, (True, False, False))


@flop_formula("aten.mkldnn_linear_backward_weights")
def linear_backward_weights(
    grad_output: TensorMeta, weight: TensorMeta, bias_defined: bool
) -> Cost:
    """Take the gradients of a linear layer's weight and bias.

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear_backward_weights(T((8, 10)), T((10, 5)), bias_defined=True)
    Cost(macs=400, other=80)
    """
    return linear_backward(grad_output, weight, (False, True, bias_defined))


@flop_formula("aten.matmul_backward")
def matmul_backward(
    grad: TensorMeta, self: TensorMeta, mask: tuple[bool, ...] = (True, True)
) -> Cost:
    """Take the gradients asked for, each a product of the forward's size.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matmul_backward(T((3, 5)), T((3, 4)))  # 2 x 3 x 5 x 4
    Cost(macs=120, other=0)
    """
    return Cost(grad.numel * self.shape[-1] * sum(map(bool, mask)))


@flop_formula("aten.cdist", "aten._cdist_forward", "aten._euclidean_dist")
def cdist(x1: TensorMeta, out: TensorMeta, p: float = 2) -> Cost:
    """Measure every pair of vectors; for p = 2 through their products, as torch does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cdist(T((6, 3)), T((6, 7)))  # 6 x 7 x 3
    Cost(macs=126, other=0)
    >>> cdist(T((6, 3)), T((6, 7)), p=1)  # subtract, absolute value, sum
    Cost(macs=0, other=378)
    """
    pairs: Dim = out.numel * x1.shape[-1]
    return Cost(pairs) if p == 2 else Cost(0, 3 * pairs)


@flop_formula("aten._cdist_backward")
def cdist_backward(x1: TensorMeta, cdist: TensorMeta) -> Cost:
    """Take the gradient of the distances from one side, pair by pair.

    Each coordinate of a pair is subtracted, scaled by gradient and distance (p = 2; other norms
    take as many or more steps), and added: four operations.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cdist_backward(T((6, 3)), T((6, 7)))  # 6 x 7 pairs of 3 coordinates
    Cost(macs=0, other=504)
    """
    return Cost(0, 4 * cdist.numel * x1.shape[-1])


@flop_formula("aten._grouped_mm")
def grouped_mm(
    self: TensorMeta, mat2: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None
) -> Cost:
    """Multiply each group of rows (routed tokens) by the matrix of its expert.

    Every row counts once, whichever expert it goes to, so the offsets need not be known. Where
    both operands are matrices, the groups divide the contracted dimension between them.

    >>> from torchatlas.schema import TensorMeta as T
    >>> grouped_mm(T((64, 16)), T((4, 16, 32)), T((64, 32)))  # 64 tokens x 32 x 16, 4 experts
    Cost(macs=32768, other=0)
    >>> grouped_mm(T((8, 64)), T((64, 5)), T((4, 8, 5)))  # 4 groups share 64: 8 x 5 x 64
    Cost(macs=2560, other=0)
    """
    divided = len(self.shape) == len(mat2.shape) == 2
    results = product(out.shape[1:]) if divided else out.numel
    return Cost(results * self.shape[-1], out.numel if bias is not None else 0)


@flop_formula("aten._scaled_grouped_mm", "aten._scaled_grouped_mm_v2")
def scaled_grouped_mm(
    self: TensorMeta, mat2: TensorMeta, out: TensorMeta, bias: TensorMeta | None = None
) -> Cost:
    """Multiply each group of scaled rows by the matrix of its expert, then scale the results.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, w = T((64, 16), "float8_e4m3fn"), T((4, 16, 32), "float8_e4m3fn")
    >>> scaled_grouped_mm(x, w, T((64, 32)))  # 64 tokens x 32 x 16; 64 x 32 scalings
    Cost(macs=32768, other=2048)
    """
    cost = grouped_mm(self, mat2, out, bias)
    return Cost(cost.macs, cost.other + out.numel)


@flop_formula("transformers.grouped_mm_fallback")
def grouped_mm_fallback(input: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply each group of rows (routed tokens, in) by the matrix of its expert.

    >>> from torchatlas.schema import TensorMeta as T
    >>> grouped_mm_fallback(T((64, 16)), T((64, 32)))  # 64 routed tokens x 32 x 16
    Cost(macs=32768, other=0)
    """
    return Cost(out.numel * input.shape[-1])


@flop_formula("aten.affine_grid_generator")
def affine_grid(theta: TensorMeta, out: TensorMeta) -> Cost:
    """Map every grid point through an affine matrix (N, d, d + 1).

    >>> from torchatlas.schema import TensorMeta as T
    >>> affine_grid(T((1, 2, 3)), T((1, 8, 8, 2)))  # 8 x 8 points, 2 coordinates of 3 products
    Cost(macs=384, other=0)
    """
    return Cost(out.numel * theta.shape[-1])


# -- linear layers that torch.compile fuses for a CPU --------------------------------------


@flop_formula("mkldnn._linear_pointwise")
def linear_pointwise(
    X: TensorMeta, out: TensorMeta, attr: str, B: TensorMeta | None = None
) -> Cost:
    """Apply a linear layer, then an activation, or add another tensor.

    >>> from torchatlas.schema import TensorMeta as T
    >>> linear_pointwise(T((4, 16)), T((4, 32)), "relu", B=T((32,)))  # 128 x (bias, activation)
    Cost(macs=2048, other=256)
    """
    return Cost(out.numel * X.shape[-1], out.numel * ((B is not None) + (attr != "none")))


@flop_formula("mkl._mkl_linear")
def mkl_linear(X: TensorMeta, out: TensorMeta, B: TensorMeta | None = None) -> Cost:
    """Apply a linear layer.

    >>> from torchatlas.schema import TensorMeta as T
    >>> mkl_linear(T((4, 16)), T((4, 32)), T((32,)))  # 4 x 32 x 16; 128 biases
    Cost(macs=2048, other=128)
    """
    return Cost(out.numel * X.shape[-1], out.numel if B is not None else 0)
