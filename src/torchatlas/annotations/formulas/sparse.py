"""Sparse tensors: only stored elements are multiplied.

Where two of four elements are stored, their number follows from the shape. How many a tensor in
COO or CSR layout stores is known of what goes into a model, as `TensorMeta.nnz`; of what is made
on the way it is known at run time only, and a product with it stays unknown, because a dense
bound would be wrong by orders of magnitude.
"""

# ruff: noqa: N803 - arguments have the names of the schemas

from __future__ import annotations

from typing import Any

from ...schema import TensorMeta
from .registry import Cost, flop_formula

# -- two of four ---------------------------------------------------------------------------


@flop_formula("aten._sparse_semi_structured_linear")
def semi_structured_linear(
    weight: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    activation: str | None = None,
) -> Cost:
    """Apply a weight (out, in / 2) of which the stored half is given.

    >>> from torchatlas.schema import TensorMeta as T
    >>> # 4 x 32 results of 16 / 2 products; 128 biases
    >>> semi_structured_linear(T((32, 8), "float16"), T((4, 32), "float16"), T((32,)))
    Cost(macs=1024, other=128)
    """
    after = (bias is not None) + (activation not in (None, "none"))
    return Cost(out.numel * weight.shape[-1], out.numel * after)


@flop_formula("aten._sparse_semi_structured_mm")
def semi_structured_mm(mat1: TensorMeta, out: TensorMeta) -> Cost:
    """Multiply a matrix (m, k / 2), of which the stored half is given, by a dense one.

    >>> from torchatlas.schema import TensorMeta as T
    >>> semi_structured_mm(T((32, 8), "float16"), T((32, 4), "float16"))  # 128 of 8 products
    Cost(macs=1024, other=0)
    """
    return Cost(out.numel * mat1.shape[-1])


@flop_formula("aten._sparse_semi_structured_addmm")
def semi_structured_addmm(mat1: TensorMeta, out: TensorMeta, beta: float = 1) -> Cost:
    """Add to the product of `semi_structured_mm`.

    >>> from torchatlas.schema import TensorMeta as T
    >>> semi_structured_addmm(T((32, 8), "float16"), T((32, 4), "float16"))  # 128 additions
    Cost(macs=1024, other=128)
    """
    return Cost(out.numel * mat1.shape[-1], out.numel if beta != 0 else 0)


@flop_formula("aten._cslt_sparse_mm")
def cslt_sparse_mm(
    dense_B: TensorMeta,
    out: TensorMeta,
    bias: TensorMeta | None = None,
    alpha: TensorMeta | None = None,
) -> Cost:
    """Multiply a compressed matrix by a dense one (k, n): half of k products per result.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cslt_sparse_mm(T((16, 4), "float16"), T((32, 4), "float16"))  # 128 of 8 products
    Cost(macs=1024, other=0)
    >>> cslt_sparse_mm(T((16, 4), "int8"), T((32, 4), "bfloat16"), alpha=T((32,)))  # 128 scaled
    Cost(macs=1024, other=128, integer=True)
    """
    products = out.numel * dense_B.shape[0] // 2
    after = (bias is not None) + (alpha is not None)
    return Cost(products, out.numel * after, integer=dense_B.dtype == "int8")


@flop_formula(
    "aten._sparse_semi_structured_tile",
    "aten._sparse_semi_structured_apply",
    "aten._sparse_semi_structured_apply_dense",
)
def semi_structured_choice(input: TensorMeta) -> Cost:
    """Choose the larger two of four elements, or keep chosen ones: one operation each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> semi_structured_choice(T((32, 16)))
    Cost(macs=0, other=512)
    """
    return Cost(0, input.numel)


# -- stored elements -----------------------------------------------------------------------


@flop_formula("aten._sparse_mm", "aten.hspmm", "aten.smm")
def sparse_mm(
    out: TensorMeta,
    sparse: TensorMeta | None = None,
    mat1: TensorMeta | None = None,
    self: TensorMeta | None = None,
) -> Cost | None:
    """Multiply a sparse matrix by a dense one (k, n): n products for each stored element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sparse_mm(T((4, 3)), sparse=T((4, 8), nnz=5))  # 5 x 3
    Cost(macs=15, other=0)
    >>> sparse_mm(T((4, 3)), sparse=T((4, 8))) is None
    True
    """
    matrix = sparse or mat1 or self
    if matrix is None or matrix.nnz is None:
        return None
    return Cost(matrix.nnz * out.shape[-1])


@flop_formula("aten._sparse_mm_reduce_impl")
def sparse_mm_reduce(self: TensorMeta, out: TensorMeta, reduce: str) -> Cost | None:
    """Multiply as `sparse_mm` does, and combine with a sum, a mean, a maximum or a minimum.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sparse_mm_reduce(T((4, 8), nnz=5), T((4, 3)), "sum")  # 5 x 3
    Cost(macs=15, other=0)
    >>> sparse_mm_reduce(T((4, 8), nnz=5), T((4, 3)), "amax")  # 15 products, 15 comparisons
    Cost(macs=0, other=30)
    >>> sparse_mm_reduce(T((4, 8), nnz=5), T((4, 3)), "mean")  # 12 divisions
    Cost(macs=15, other=12)
    """
    if self.nnz is None:
        return None
    products = self.nnz * out.shape[-1]
    if reduce in ("sum", "mean"):
        return Cost(products, out.numel if reduce == "mean" else 0)
    return Cost(0, 2 * products)


@flop_formula("aten._sparse_mm_reduce_impl_backward")
def sparse_mm_reduce_backward(
    self: TensorMeta, grad_out: TensorMeta, output_mask: tuple[bool, ...]
) -> Cost | None:
    """Take the gradients asked for: of the stored elements, and of the dense matrix.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sparse_mm_reduce_backward(T((4, 8), nnz=5), T((4, 3)), (True, True))  # twice 5 x 3
    Cost(macs=30, other=0)
    """
    if self.nnz is None:
        return None
    return Cost(self.nnz * grad_out.shape[-1] * sum(map(bool, output_mask)))


@flop_formula("aten._sparse_addmm", "aten.sspaddmm")
def sparse_addmm(
    mat1: TensorMeta, mat2: TensorMeta, out: TensorMeta, beta: float = 1
) -> Cost | None:
    """Add to the product of a sparse and a dense matrix.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sparse_addmm(T((4, 8), nnz=5), T((8, 3)), T((4, 3)))  # 5 x 3; 12 additions
    Cost(macs=15, other=12)
    """
    if mat1.nnz is None:
        return None
    return Cost(mat1.nnz * mat2.shape[-1], out.numel if beta != 0 else 0)


@flop_formula("aten.sparse_sampled_addmm")
def sampled_addmm(self: TensorMeta, mat1: TensorMeta, beta: float = 1) -> Cost | None:
    """Multiply dense matrices (m, k) and (k, n) only where `self` stores an element, and add.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sampled_addmm(T((4, 3), nnz=5), T((4, 8)))  # 5 x 8; 5 additions
    Cost(macs=40, other=5)
    """
    if self.nnz is None:
        return None
    return Cost(self.nnz * mat1.shape[-1], self.nnz if beta != 0 else 0)


# -- layouts -------------------------------------------------------------------------------

_CONVERSIONS = (
    "to_sparse to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc _to_sparse _to_sparse_csr "
    "_to_sparse_csc _to_sparse_bsr _to_sparse_bsc _to_sparse_semi_structured to_dense _to_dense "
    "coalesce _coalesce _coalesced sparse_mask _cslt_compress copy_sparse_to_sparse "
    "_convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo sparse_resize "
    "sparse_resize_and_clear resize_as_sparse _sparse_broadcast_to _sparse_broadcast_to_copy "
    "indices _indices _values crow_indices col_indices ccol_indices row_indices "
    "embedding_sparse_backward"
)
_CREATIONS = (
    "sparse_coo_tensor sparse_compressed_tensor sparse_csr_tensor sparse_csc_tensor "
    "sparse_bsr_tensor sparse_bsc_tensor _sparse_coo_tensor_unsafe "
    "_sparse_compressed_tensor_unsafe _sparse_csr_tensor_unsafe _sparse_csc_tensor_unsafe "
    "_sparse_bsr_tensor_unsafe _sparse_bsc_tensor_unsafe _sparse_coo_tensor_with_dims "
    "_sparse_coo_tensor_with_dims_and_tensors _sparse_compressed_tensor_with_dims"
)


@flop_formula(*(f"aten.{name}" for name in f"{_CONVERSIONS} {_CREATIONS}".split()))
def relayout(out: TensorMeta) -> Cost:
    """Store elements in another layout, or look at what is stored.

    >>> from torchatlas.schema import TensorMeta as T
    >>> relayout(T((32, 16), stride=None))
    Cost(macs=0, other=0)
    """
    return Cost()


_CHECKS = (
    "_validate_compressed_sparse_indices _validate_sparse_coo_tensor_args "
    "_validate_sparse_compressed_tensor_args _validate_sparse_csr_tensor_args "
    "_validate_sparse_csc_tensor_args _validate_sparse_bsr_tensor_args "
    "_validate_sparse_bsc_tensor_args"
)


@flop_formula(*(f"aten.{name}" for name in _CHECKS.split()))
def check_layout(plain_idx: Any = None, size: Any = None) -> Cost:
    """Check that indices belong together: nothing is computed on elements.

    >>> check_layout()
    Cost(macs=0, other=0)
    """
    return Cost()
