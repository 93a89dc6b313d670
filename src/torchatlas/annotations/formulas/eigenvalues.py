"""Eigenvalues and singular values: the usual number of steps of iterative algorithms.

The counts are those of Golub and Van Loan, Matrix Computations, 4th edition, sections 7.5, 8.3 and
8.6. They are no contractions of given length, so they count as operations outside them. Terms of
lower order are left out, fractions are cut off, and a complex operation counts as one.
"""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .linear_algebra import matrices
from .registry import Cost, flop_formula
from .sizes import larger, smaller


def _svd(m: Dim, n: Dim, *, vectors: bool, full: bool) -> Dim:
    """Count Golub and Reinsch's algorithm."""
    long, short = larger(m, n), smaller(m, n)
    if not vectors:
        return (12 * long * short**2 - 4 * short**3) // 3
    if full:
        return 4 * long**2 * short + 8 * long * short**2 + 9 * short**3
    return 14 * long * short**2 + 8 * short**3


def _eigh(n: Dim, *, vectors: bool) -> Dim:
    return 9 * n**3 if vectors else 4 * n**3 // 3


@flop_formula("aten.linalg_eigh", "aten._linalg_eigh")
def symmetric_eigen(
    A: TensorMeta | None = None,  # noqa: N803
    self: TensorMeta | None = None,
    compute_v: bool = True,
) -> Cost | None:
    """Find eigenvalues of symmetric matrices (*, n, n), 4/3 n^3, and eigenvectors, 9 n^3 in all.

    >>> from torchatlas.schema import TensorMeta as T
    >>> symmetric_eigen(T((6, 6))), symmetric_eigen(T((6, 6)), compute_v=False)
    (Cost(macs=0, other=1944), Cost(macs=0, other=288))
    """
    matrix = A or self
    if matrix is None:
        return None
    return Cost(0, matrices(matrix) * _eigh(matrix.shape[-1], vectors=compute_v))


@flop_formula("aten.linalg_eigvalsh")
def symmetric_eigenvalues(self: TensorMeta) -> Cost:
    """Find eigenvalues of symmetric matrices (*, n, n): 4/3 n^3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> symmetric_eigenvalues(T((6, 6)))  # 4 x 216 / 3
    Cost(macs=0, other=288)
    """
    return Cost(0, matrices(self) * _eigh(self.shape[-1], vectors=False))


@flop_formula("aten.linalg_eig")
def eigen(self: TensorMeta) -> Cost:
    """Find eigenvalues and eigenvectors of matrices (*, n, n) by the QR algorithm: 25 n^3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> eigen(T((2, 3, 3)))  # 2 x 25 x 27
    Cost(macs=0, other=1350)
    """
    return Cost(0, matrices(self) * 25 * self.shape[-1] ** 3)


@flop_formula("aten.linalg_eigvals", "aten._linalg_eigvals")
def eigenvalues(self: TensorMeta) -> Cost:
    """Find eigenvalues of matrices (*, n, n) by the QR algorithm: 10 n^3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> eigenvalues(T((2, 3, 3)))  # 2 x 10 x 27
    Cost(macs=0, other=540)
    """
    return Cost(0, matrices(self) * 10 * self.shape[-1] ** 3)


@flop_formula("aten.linalg_svd")
def svd(A: TensorMeta, full_matrices: bool = True) -> Cost:  # noqa: N803
    """Find singular values and vectors of matrices (*, m, n), m >= n.

    14 m n^2 + 8 n^3; 4 m^2 n + 8 m n^2 + 9 n^3 where the larger factor is to be square.

    >>> from torchatlas.schema import TensorMeta as T
    >>> svd(T((4, 2)), full_matrices=False)  # 14 x 16 + 8 x 8
    Cost(macs=0, other=288)
    >>> svd(T((2, 4)))  # 4 x 32 + 8 x 16 + 9 x 8
    Cost(macs=0, other=328)
    """
    return Cost(0, matrices(A) * _svd(*A.shape[-2:], vectors=True, full=full_matrices))


@flop_formula("aten._linalg_svd")
def svd_kernel(
    A: TensorMeta,  # noqa: N803
    full_matrices: bool = False,
    compute_uv: bool = True,
) -> Cost:
    """Find singular values of matrices (*, m, n), and vectors as `svd` does.

    >>> from torchatlas.schema import TensorMeta as T
    >>> svd_kernel(T((4, 2))), svd_kernel(T((4, 2)), compute_uv=False)  # 4 x 16 - 4 x 8 / 3
    (Cost(macs=0, other=288), Cost(macs=0, other=53))
    """
    m, n = A.shape[-2:]
    return Cost(0, matrices(A) * _svd(m, n, vectors=compute_uv, full=full_matrices))


@flop_formula("aten.svd")
def svd_old(self: TensorMeta, some: bool = True, compute_uv: bool = True) -> Cost:
    """Find singular values and vectors, by the older name, where `some` asks for thin factors.

    >>> from torchatlas.schema import TensorMeta as T
    >>> svd_old(T((4, 2)))  # 14 x 16 + 8 x 8
    Cost(macs=0, other=288)
    """
    return svd_kernel(self, not some, compute_uv)


@flop_formula("aten.linalg_svdvals")
def singular_values(A: TensorMeta) -> Cost:  # noqa: N803
    """Find singular values of matrices (*, m, n): 4 m n^2 - 4/3 n^3 for m >= n.

    >>> from torchatlas.schema import TensorMeta as T
    >>> singular_values(T((6, 3)))  # 4 x 54 - 4 x 27 / 3
    Cost(macs=0, other=180)
    """
    return svd_kernel(A, compute_uv=False)


@flop_formula("aten.linalg_pinv", "aten.pinverse")
def pseudo_inverse(self: TensorMeta, hermitian: bool = False) -> Cost:
    """Invert singular values of matrices (*, m, n), and multiply the three factors again.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pseudo_inverse(T((4, 2)))  # 4 x 2 x 2; the thin factors 288, scaling 4 x 2
    Cost(macs=16, other=296)
    """
    m, n = self.shape[-2:]
    factors = _eigh(n, vectors=True) if hermitian else _svd(m, n, vectors=True, full=False)
    return Cost(self.numel * smaller(m, n), matrices(self) * factors + self.numel)


@flop_formula("aten.linalg_polar")
def polar(A: TensorMeta) -> Cost:  # noqa: N803
    """Factor matrices (*, m, n) into an orthogonal and a symmetric one, through singular vectors.

    The orthogonal factor is a product of n singular vectors, the symmetric one of n^2.

    >>> from torchatlas.schema import TensorMeta as T
    >>> polar(T((4, 2)))  # 4 x 2 x 2 + 2 x 2 x 2; the thin factors 288, scaling 2 x 2
    Cost(macs=24, other=292)
    """
    m, n = A.shape[-2:]
    k = smaller(m, n)
    macs = matrices(A) * (m * n * k + n * n * k)
    return Cost(macs, matrices(A) * (_svd(m, n, vectors=True, full=False) + n * k))


@flop_formula("aten.linalg_matrix_sqrth")
def symmetric_root(self: TensorMeta) -> Cost:
    """Take the root of symmetric matrices (*, n, n): of eigenvalues, between eigenvectors.

    >>> from torchatlas.schema import TensorMeta as T
    >>> symmetric_root(T((3, 3)))  # 27; eigenvectors 9 x 27, scaling 9
    Cost(macs=27, other=252)
    """
    n = self.shape[-1]
    return Cost(self.numel * n, matrices(self) * _eigh(n, vectors=True) + self.numel)
