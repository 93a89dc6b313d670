"""Reductions that take more than one pass, scans, and sorting."""

from __future__ import annotations

from ...schema import Dim, TensorMeta
from .passes import PASSES
from .registry import Cost, flop_formula
from .sizes import log2, product


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


@flop_formula("aten.logsumexp", "aten.special_logsumexp")
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
    "aten._cummax_helper",
    "aten._cummin_helper",
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


@flop_formula("aten.logcumsumexp", "aten._logcumsumexp")
def logcumsumexp(self: TensorMeta) -> Cost:
    """Keep a running sum of exponentials without overflow.

    >>> from torchatlas.schema import TensorMeta as T
    >>> logcumsumexp(T((3, 4)))  # 12 x (maximum, subtract, exp, sum)
    Cost(macs=0, other=48)
    """
    return Cost(0, self.numel * PASSES["logcumsumexp"])


@flop_formula("aten.unique_consecutive", "aten.unique_dim_consecutive")
def unique_consecutive(self: TensorMeta) -> Cost:
    """Compare every element with the one before it.

    >>> from torchatlas.schema import TensorMeta as T
    >>> unique_consecutive(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return Cost(0, self.numel)


@flop_formula("aten._unique", "aten._unique2")
def unique(self: TensorMeta) -> Cost:
    """Sort all elements, and compare neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> unique(T((2, 8)))  # 16 x (4 + 1)
    Cost(macs=0, other=80)
    """
    return Cost(0, self.numel * (log2(self.numel) + 1))


@flop_formula("aten.unique_dim")
def unique_dim(self: TensorMeta, dim: int) -> Cost:
    """Sort the slices along `dim` by all their elements, and compare neighbours.

    >>> from torchatlas.schema import TensorMeta as T
    >>> unique_dim(T((8, 3)), 0)  # 8 slices: 24 x (3 + 1)
    Cost(macs=0, other=96)
    """
    return Cost(0, self.numel * (log2(self.shape[dim]) + 1))


@flop_formula("aten.mode")
def mode(self: TensorMeta, dim: int = -1) -> Cost:
    """Sort rows, and count runs of equal elements.

    >>> from torchatlas.schema import TensorMeta as T
    >>> mode(T((2, 8)))  # 16 x (3 + 1)
    Cost(macs=0, other=64)
    """
    return Cost(0, sort(self, dim).other + self.numel)


@flop_formula("aten.multinomial")
def multinomial(self: TensorMeta, out: TensorMeta) -> Cost:
    """Sum up the weights of rows (*, n), and find each number drawn among the sums by halving.

    >>> from torchatlas.schema import TensorMeta as T
    >>> multinomial(T((2, 8)), T((2, 3), "int64"))  # 16 sums, 6 x log2(8)
    Cost(macs=0, other=34)
    """
    return Cost(0, self.numel + out.numel * log2(self.shape[-1]))


@flop_formula("aten.histogram")
def histogram(self: TensorMeta, bins: TensorMeta | int = 100) -> Cost:
    """Count the elements in bins: each is found at once among equal ones, else by halving.

    >>> from torchatlas.schema import TensorMeta as T
    >>> histogram(T((5,)), 100), histogram(T((5,)), T((9,)))  # 8 bins: 5 x 3
    (Cost(macs=0, other=5), Cost(macs=0, other=15))
    """
    steps = log2(bins.numel - 1) if isinstance(bins, TensorMeta) else 1
    return Cost(0, self.numel * steps)


@flop_formula("aten._histogramdd_from_bin_cts")
def histogram_of_points(self: TensorMeta) -> Cost:
    """Count points (n, d) in equal bins: each coordinate is found at once.

    >>> from torchatlas.schema import TensorMeta as T
    >>> histogram_of_points(T((5, 2)))
    Cost(macs=0, other=10)
    """
    return Cost(0, self.numel)


@flop_formula("aten._histogramdd_from_bin_tensors")
def histogram_of_points_in_bins(self: TensorMeta, bins: tuple[TensorMeta, ...]) -> Cost:
    """Count points (n, d) in bins: each coordinate is found by halving.

    >>> from torchatlas.schema import TensorMeta as T
    >>> histogram_of_points_in_bins(T((5, 2)), (T((9,)), T((3,))))  # 5 x (3 + 1)
    Cost(macs=0, other=20)
    """
    points = product(self.shape[:-1])
    return Cost(0, points * sum((log2(edges.numel - 1) for edges in bins), 0))


@flop_formula("aten._segment_reduce_backward")
def segment_reduce_backward(data: TensorMeta) -> Cost:
    """Give every element its share of the gradient of its segment.

    >>> from torchatlas.schema import TensorMeta as T
    >>> segment_reduce_backward(T((3, 4)))
    Cost(macs=0, other=12)
    """
    return Cost(0, data.numel)


@flop_formula("aten.pdist", "aten._pdist_forward")
def pdist(self: TensorMeta, out: TensorMeta) -> Cost:
    """Measure every pair of rows (n, d).

    >>> from torchatlas.schema import TensorMeta as T
    >>> pdist(T((4, 3)), T((6,)))  # 6 pairs of 3 x (subtract, power, sum)
    Cost(macs=0, other=54)
    """
    return Cost(0, out.numel * self.shape[-1] * PASSES["distance"])


@flop_formula("aten._pdist_backward")
def pdist_backward(pdist: TensorMeta, self: TensorMeta) -> Cost:
    """Give both rows of every pair their share of its gradient.

    >>> from torchatlas.schema import TensorMeta as T
    >>> pdist_backward(T((6,)), T((4, 3)))  # 6 pairs of 3 x (4 and one sum more)
    Cost(macs=0, other=90)
    """
    per_coordinate = PASSES["distance backward"] + 1
    return Cost(0, pdist.numel * self.shape[-1] * per_coordinate)


@flop_formula("aten.cross", "aten.linalg_cross")
def cross(out: TensorMeta) -> Cost:
    """Multiply vectors (3,) into vectors: two products and a difference per element.

    >>> from torchatlas.schema import TensorMeta as T
    >>> cross(T((4, 3)))  # 12 x 3
    Cost(macs=0, other=36)
    """
    return Cost(0, 3 * out.numel)


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
