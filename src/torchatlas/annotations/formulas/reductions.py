"""Reductions that take more than one pass, scans, and sorting."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import log2


@flop_formula("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")
def variance(self: TensorMeta) -> Cost:
    """Average the squared distance to the mean.

    >>> from torchatlas.schema import TensorMeta as T
    >>> variance(T((3, 4)))  # 12 x (mean, centre, square, sum)
    Cost(macs=0, other=48)
    """
    return Cost(0, self.numel * PASSES["variance"])


@flop_formula("aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm", "aten.native_norm")
def vector_norm(self: TensorMeta) -> Cost:
    """Sum powers of the elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> vector_norm(T((3, 4)))  # 12 x (power, sum)
    Cost(macs=0, other=24)
    """
    return Cost(0, self.numel * PASSES["vector norm"])


@flop_formula("aten.logsumexp")
def logsumexp(self: TensorMeta) -> Cost:
    """Sum exponentials without overflow.

    >>> from torchatlas.schema import TensorMeta as T
    >>> logsumexp(T((3, 4)))  # 12 x (maximum, subtract, exp, sum)
    Cost(macs=0, other=48)
    """
    return Cost(0, self.numel * PASSES["logsumexp"])


@flop_formula("aten.cosine_similarity")
def cosine_similarity(x1: TensorMeta) -> Cost:
    """Divide the product of two vectors by their lengths.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cosine_similarity(T((3, 4)))  # 12 x three products, each summed
    Cost(macs=0, other=72)
    """
    return Cost(0, x1.numel * PASSES["cosine similarity"])


@flop_formula("aten.pairwise_distance")
def pairwise_distance(x1: TensorMeta) -> Cost:
    """Measure how far vectors lie apart.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pairwise_distance(T((3, 4)))  # 12 x (subtract, power, sum)
    Cost(macs=0, other=36)
    """
    return Cost(0, x1.numel * PASSES["distance"])


@flop_formula("aten.dist")
def dist(self: TensorMeta) -> Cost:
    """Measure how far two tensors lie apart.

    >>> from torchatlas.schema import TensorMeta as T
    >>> dist(T((3, 4)))  # 12 x (subtract, power, sum)
    Cost(macs=0, other=36)
    """
    return Cost(0, self.numel * PASSES["distance"])


@flop_formula(
    "aten.cumsum",
    "aten.cumprod",
    "aten.cummax",
    "aten.cummin",
    "aten.histc",
    "aten.bincount",
    "aten.nonzero",
    "aten.nonzero_numpy",
    "aten.nonzero_static",
    "aten.argwhere",
    "aten.masked_select",
)
def scan(self: TensorMeta) -> Cost:
    """Look at every element once: a running total, a count, a test.

    >>> from torchatlas.schema import TensorMeta as T
    >>> scan(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return Cost(0, self.numel)


@flop_formula("aten.topk", "aten.kthvalue", "aten.median", "aten.nanmedian")
def select_rank(self: TensorMeta) -> Cost:
    """Find the elements of some rank: selection takes time linear in the elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> select_rank(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return Cost(0, self.numel)


@flop_formula("aten.sort", "aten.argsort", "aten.msort")
def sort(self: TensorMeta, dim: int = -1) -> Cost:
    """Sort rows of n elements: log2(n) comparisons, rounded up, per element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> sort(T((2, 16)))  # 32 x 4
    Cost(macs=0, other=128)
    """
    length: Dim = self.shape[dim] if self.shape else 1
    return Cost(0, self.numel * log2(length))


@flop_formula("aten.bucketize")
def bucketize(boundaries: TensorMeta, out: TensorMeta) -> Cost:
    """Find the bucket of every element by halving: log2 of the number of buckets.

    >>> from torchatlas.schema import TensorMeta as T
    >>> bucketize(T((7,)), T((5,)))  # 5 x log2(8)
    Cost(macs=0, other=15)
    """
    return Cost(0, out.numel * log2(boundaries.numel + 1))


@flop_formula("aten.searchsorted")
def searchsorted(sorted_sequence: TensorMeta, out: TensorMeta) -> Cost:
    """Find the place of every element in a sorted row by halving.

    >>> from torchatlas.schema import TensorMeta as T
    >>> searchsorted(T((2, 7)), T((2, 5)))  # 10 x log2(8)
    Cost(macs=0, other=30)
    """
    return Cost(0, out.numel * log2(sorted_sequence.shape[-1] + 1))
