"""Factorisations and solvers: the textbook count of each algorithm, to its leading order.

They are no contractions of given length, so they count as operations outside them. The counts of
LU, Cholesky, QR and what is built on them are those of LAPACK Working Note 41 (netlib.org,
appendix C). Terms of lower order are left out, fractions are cut off, and a complex operation
counts as one.
"""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .registry import Cost, flop_formula
from .sizes import larger, product, smaller


def matrices(matrix: TensorMeta) -> Dim:
    """Return how many matrices a batch has."""
    return product(matrix.shape[:-2])


def _lu(m: Dim, n: Dim) -> Dim:
    """Count the elimination of a matrix (m, n)."""
    long, short = larger(m, n), smaller(m, n)
    return (3 * long * short**2 - short**3) // 3


def _qr(m: Dim, n: Dim) -> Dim:
    """Count the reflectors of a matrix (m, n) and what is left of it, R."""
    long, short = larger(m, n), smaller(m, n)
    return (6 * long * short**2 - 2 * short**3) // 3


def _orthogonal(m: Dim, n: Dim, k: Dim) -> Dim:
    """Count the first n columns of the product of k reflectors of length m."""
    return (12 * m * n * k - 6 * (m + n) * k**2 + 4 * k**3) // 3


# -- triangular factors ------------------------------------------------------------------------


@flop_formula("aten.linalg_cholesky", "aten.linalg_cholesky_ex", "aten.cholesky")
def cholesky(self: TensorMeta) -> Cost:
    """Factor symmetric matrices (*, n, n) into a triangle and its transpose: n^3 / 3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cholesky(T((2, 6, 6)))  # 2 x 216 / 3
    Cost(macs=0, other=144)
    """
    return Cost(0, matrices(self) * (self.shape[-1] ** 3 // 3))


@flop_formula(
    "aten.linalg_lu",
    "aten.linalg_lu_factor",
    "aten.linalg_lu_factor_ex",
    "aten._lu_with_info",
    "aten.linalg_det",
    "aten._linalg_det",
    "aten.linalg_slogdet",
    "aten._linalg_slogdet",
    "aten.det",
    "aten.slogdet",
    "aten.logdet",
)
def lu(A: TensorMeta | None = None, self: TensorMeta | None = None) -> Cost | None:  # noqa: N803
    """Factor matrices (*, m, n) by elimination: m n^2 - n^3 / 3 for m >= n.

    A determinant is the product of the diagonal, which is of lower order.

    >>> from torchatlas.schema import TensorMeta as T
    >>> lu(T((6, 6)))  # 216 - 216 / 3
    Cost(macs=0, other=144)
    >>> lu(T((2, 3, 6)))  # 2 x (6 x 9 - 27 / 3)
    Cost(macs=0, other=90)
    """
    matrix = A or self
    return None if matrix is None else Cost(0, matrices(matrix) * _lu(*matrix.shape[-2:]))


@flop_formula("aten.linalg_ldl_factor", "aten.linalg_ldl_factor_ex")
def ldl_factor(self: TensorMeta) -> Cost:
    """Factor symmetric matrices (*, n, n) that need not be positive: n^3 / 3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> ldl_factor(T((6, 6)))  # 216 / 3
    Cost(macs=0, other=72)
    """
    return cholesky(self)


# -- systems of equations ----------------------------------------------------------------------


@flop_formula(
    "aten.linalg_solve", "aten.linalg_solve_ex", "aten._linalg_solve_ex", "aten.linalg_tensorsolve"
)
def solve(
    out: TensorMeta,
    A: TensorMeta | None = None,  # noqa: N803
    self: TensorMeta | None = None,
) -> Cost | None:
    """Factor matrices (*, n, n) and solve for each right-hand side: 2/3 n^3, then 2 n^2 each.

    >>> from torchatlas.schema import TensorMeta as T
    >>> solve(T((6, 2)), T((6, 6)))  # 144, and 2 x 12 unknowns x 6
    Cost(macs=0, other=288)
    >>> solve(T((2, 3)), self=T((6, 2, 3)))  # the same for a tensor of 6 equations in 2 x 3
    Cost(macs=0, other=216)
    """
    if A is not None:
        n = A.shape[-1]
        return Cost(0, matrices(A) * _lu(n, n) + 2 * n * out.numel)
    if self is None:
        return None
    return Cost(0, _lu(out.numel, out.numel) + 2 * out.numel**2)


@flop_formula(
    "aten.linalg_lu_solve",
    "aten.lu_solve",
    "aten.cholesky_solve",
    "aten._cholesky_solve_helper",
    "aten.linalg_ldl_solve",
)
def solve_factored(
    out: TensorMeta,
    LU: TensorMeta | None = None,  # noqa: N803
    LU_data: TensorMeta | None = None,  # noqa: N803
    LD: TensorMeta | None = None,  # noqa: N803
    input2: TensorMeta | None = None,
    A: TensorMeta | None = None,  # noqa: N803
) -> Cost | None:
    """Solve with both triangles of a factorisation (*, n, n): 2 n for each unknown.

    >>> from torchatlas.schema import TensorMeta as T
    >>> solve_factored(T((6, 2)), T((6, 6)))  # 12 unknowns x 2 x 6
    Cost(macs=0, other=144)
    """
    factors = LU or LU_data or LD or input2 or A
    return None if factors is None else Cost(0, 2 * out.numel * factors.shape[-1])


@flop_formula("aten.linalg_solve_triangular", "aten.triangular_solve")
def solve_triangular(
    out: TensorMeta,
    self: TensorMeta,
    A: TensorMeta | None = None,  # noqa: N803
) -> Cost:
    """Solve with one triangle (*, n, n): n for each unknown.

    >>> from torchatlas.schema import TensorMeta as T
    >>> solve_triangular(T((6, 2)), T((6, 6)))  # 12 unknowns x 6
    Cost(macs=0, other=72)
    """
    return Cost(0, out.numel * (A or self).shape[-1])


@flop_formula("aten.linalg_lstsq")
def least_squares(self: TensorMeta, b: TensorMeta) -> Cost:
    """Solve for matrices (*, m, n) by QR: the factors, then 4 m n - n^2 for each right-hand side.

    Applying the reflectors takes 4 m n - 2 n^2, the triangle n^2 more; for m < n they swap. So
    LAPACK's gelsy, which torch uses on a CPU; drivers through singular values take more.

    >>> from torchatlas.schema import TensorMeta as T
    >>> least_squares(T((6, 3)), T((6, 2)))  # 2 x 6 x 9 - 2 x 27 / 3, and 2 x (4 x 18 - 9)
    Cost(macs=0, other=216)
    """
    m, n = self.shape[-2:]
    long, short = larger(m, n), smaller(m, n)
    vector = len(b.shape) == 1 or b.shape == self.shape[:-1]
    right = 1 if vector else b.shape[-1]
    return Cost(0, matrices(self) * (_qr(m, n) + right * (4 * long * short - short**2)))


# -- inverses and functions of matrices --------------------------------------------------------


@flop_formula("aten.linalg_inv", "aten.linalg_inv_ex", "aten.inverse")
def inverse(
    A: TensorMeta | None = None,  # noqa: N803
    self: TensorMeta | None = None,
) -> Cost | None:
    """Invert matrices (*, n, n): 2/3 n^3 for the factors, 4/3 n^3 for the inverse.

    >>> from torchatlas.schema import TensorMeta as T
    >>> inverse(T((2, 6, 6)))  # 2 x 2 x 216
    Cost(macs=0, other=864)
    """
    matrix = A or self
    return None if matrix is None else Cost(0, matrices(matrix) * 2 * matrix.shape[-1] ** 3)


@flop_formula("aten.cholesky_inverse")
def cholesky_inverse(self: TensorMeta) -> Cost:
    """Invert matrices given by a triangular factor (*, n, n): 2/3 n^3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cholesky_inverse(T((6, 6)))  # 2 x 216 / 3
    Cost(macs=0, other=144)
    """
    return Cost(0, matrices(self) * (2 * self.shape[-1] ** 3 // 3))


@flop_formula("aten.linalg_matrix_exp", "aten.matrix_exp")
def matrix_exponential(self: TensorMeta) -> Cost:
    """Take the exponential of matrices (*, n, n): five products of 2 n^3.

    So a Taylor polynomial of degree 18 (Bader, Blanes and Casas, doi:10.3390/math7121174), the
    longest that torch uses. Matrices of small norm take fewer products; those of a large one are
    halved first and the result is squared as often, which depends on values and is left out.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matrix_exponential(T((2, 3, 3)))  # 2 x 5 x 2 x 27
    Cost(macs=0, other=540)
    """
    return Cost(0, matrices(self) * 10 * self.shape[-1] ** 3)


@flop_formula("aten.linalg_matrix_power", "aten.matrix_power")
def matrix_power(self: TensorMeta, n: int) -> Cost:
    """Multiply a matrix (*, n, n) with itself, by squaring; invert it first for a negative power.

    >>> from torchatlas.schema import TensorMeta as T
    >>> matrix_power(T((3, 3)), 5)  # two squarings, one more product: 3 x 27
    Cost(macs=81, other=0)
    >>> matrix_power(T((3, 3)), -2)  # one product; the inverse takes 2 x 27
    Cost(macs=27, other=54)
    """
    cube = product(self.shape) * self.shape[-1]
    power = abs(n)
    products = power.bit_length() - 1 + power.bit_count() - 1 if power else 0
    return Cost(products * cube, 2 * cube if n < 0 else 0)


# -- orthogonal factors ------------------------------------------------------------------------


@flop_formula("aten.linalg_qr")
def qr(A: TensorMeta, mode: str = "reduced") -> Cost:  # noqa: N803
    """Factor matrices (*, m, n) by reflections: 2 m n^2 - 2/3 n^3 for m >= n, and again for Q.

    >>> from torchatlas.schema import TensorMeta as T
    >>> qr(T((6, 3)), "r")  # 2 x 6 x 9 - 2 x 27 / 3
    Cost(macs=0, other=90)
    >>> qr(T((6, 3)))  # as much again for a Q of (6, 3)
    Cost(macs=0, other=180)
    >>> qr(T((6, 3)), "complete")  # Q of (6, 6): 4 x 108 - 2 x 12 x 9 + 4 x 27 / 3
    Cost(macs=0, other=342)
    """
    m, n = A.shape[-2:]
    short = smaller(m, n)
    columns = m if mode == "complete" else short
    of_q = 0 if mode == "r" else _orthogonal(m, columns, short)
    return Cost(0, matrices(A) * (_qr(m, n) + of_q))


@flop_formula("aten.geqrf")
def reflectors(self: TensorMeta) -> Cost:
    """Factor matrices (*, m, n) by reflections that are left as they are.

    >>> from torchatlas.schema import TensorMeta as T
    >>> reflectors(T((6, 3)))  # 2 x 6 x 9 - 2 x 27 / 3
    Cost(macs=0, other=90)
    """
    return qr(self, "r")


@flop_formula("aten.linalg_householder_product", "aten.orgqr")
def reflector_product(
    out: TensorMeta,
    tau: TensorMeta | None = None,
    input2: TensorMeta | None = None,
) -> Cost | None:
    """Multiply k reflectors of length m into n columns: 4 m n k - 2 (m + n) k^2 + 4/3 k^3.

    >>> from torchatlas.schema import TensorMeta as T
    >>> reflector_product(T((6, 3)), T((3,)))  # 4 x 54 - 2 x 9 x 9 + 4 x 27 / 3
    Cost(macs=0, other=90)
    """
    scales = tau or input2
    if scales is None:
        return None
    m, n = out.shape[-2:]
    return Cost(0, matrices(out) * _orthogonal(m, n, scales.shape[-1]))


@flop_formula("aten.ormqr")
def apply_reflectors(input2: TensorMeta, out: TensorMeta, left: bool = True) -> Cost:
    """Multiply a matrix (*, m, n) by k reflectors: 4 m n k - 2 n k^2; n and m swap on the right.

    >>> from torchatlas.schema import TensorMeta as T
    >>> apply_reflectors(T((3,)), T((6, 2)))  # 4 x 36 - 2 x 2 x 9
    Cost(macs=0, other=108)
    """
    m, n = out.shape[-2:]
    k = input2.shape[-1]
    return Cost(0, matrices(out) * (4 * m * n * k - 2 * (n if left else m) * k**2))
