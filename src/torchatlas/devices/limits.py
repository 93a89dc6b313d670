"""What a device can do at most, as numbers with their sources."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError

SHAPES = ("product", "spatial", "pointwise", "depthwise")
"""The classes of contractions that `Device.by_shape` may know, which are other kernels."""

RATES = ("float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8")
"""The kinds of arithmetic that `Device.matrix` may know."""


@dataclass(frozen=True)
class Device:
    """What a device can do at most; rates in FLOP/s, for ``int8`` in operations per second.

    `matrix` has the rates of contractions, by one of `RATES`: those of tensor or matrix cores
    where a data type has them. `vector` has those of everything else, for ``float32`` and
    ``float64``. A kind that is missing is unknown. `bandwidth` is that of the device's memory in
    B/s, `memory` its size in bytes. `launch_us` is the least time in microseconds from the start
    of one kernel to that of the next, and `launch_source` says where the number is from. `names`
    are what drivers call the device.

    More is known of a device that was measured, not of one in the table: `special`, how many
    exponentials and the like it does in a second where that is slower than arithmetic; `cache`,
    the bytes that are read again at `cache_bandwidth` in B/s if they are read soon; `products`, by
    the kinds of `matrix`, pairs of how many FLOP a square product has and at what rate it ran: a
    small one does not fill the device; and `by_shape`, by one of `SHAPES` and the kinds of
    `matrix`, triples of a width, FLOP and a rate (see `shape_rate`).

    >>> mine = Device("mine", {"float32": 2e12}, {"float32": 2e12}, bandwidth=1e11)
    >>> mine.matrix_rate("float32"), mine.matrix_rate("float8_e4m3fn")
    (2000000000000.0, None)

    Raises UsageError for a kind that is none of `RATES`, and for what is no positive number.
    """

    name: str
    matrix: Mapping[str, float] = field(hash=False)
    vector: Mapping[str, float] = field(hash=False)
    bandwidth: float
    memory: int | None = None
    launch_us: float = 0.0
    source: str = ""
    url: str = ""
    launch_source: str = ""
    names: tuple[str, ...] = ()
    special: float | None = None
    cache: int | None = None
    cache_bandwidth: float | None = None
    products: Mapping[str, tuple[tuple[float, float], ...]] = field(
        default_factory=dict, hash=False
    )
    by_shape: Mapping[str, Mapping[str, tuple[tuple[float, float, float], ...]]] = field(
        default_factory=dict, hash=False
    )

    def __post_init__(self) -> None:
        # Copies of its own, so that nobody changes them behind its back.
        object.__setattr__(self, "matrix", dict(self.matrix))
        object.__setattr__(self, "vector", dict(self.vector))
        products = {kind: tuple(sorted(map(tuple, rates))) for kind, rates in self.products.items()}
        object.__setattr__(self, "products", products)
        shapes = {
            shape: {kind: tuple(sorted(map(tuple, rates))) for kind, rates in known.items()}
            for shape, known in self.by_shape.items()
        }
        object.__setattr__(self, "by_shape", shapes)
        self._check_kinds()
        self._check_numbers()

    def _check_kinds(self) -> None:
        for shape in self.by_shape:
            if shape not in SHAPES:
                raise UsageError(
                    f"the device {self.name!r} has rates for {shape!r}, which is no shape",
                    hint=f"the shapes are {', '.join(SHAPES)}",
                )
        shaped = (kind for known in self.by_shape.values() for kind in known)
        for key in (*self.matrix, *self.vector, *self.products, *shaped):
            if key not in RATES:
                raise UsageError(
                    f"the device {self.name!r} has a rate for {key!r}, which is no kind",
                    hint=f"the kinds are {', '.join(RATES)}",
                )

    def _check_numbers(self) -> None:
        for key, number in self._numbers():
            if not _is_positive(number):
                raise UsageError(
                    f"the device {self.name!r} has {key} = {number!r}",
                    hint="rates are in FLOP/s, bandwidth in B/s, memory in bytes, launch_us in us",
                )
        if (self.cache is None) != (self.cache_bandwidth is None):
            raise UsageError(
                f"the device {self.name!r} has a cache of {self.cache!r} B at "
                f"{self.cache_bandwidth!r} B/s",
                hint="give both, cache and cache_bandwidth, or neither",
            )

    def _numbers(self) -> Iterator[tuple[str, Any]]:
        """Yield what has to be positive, by its name; a point of the wrong length as a whole."""
        yield from ((f"matrix[{key!r}]", rate) for key, rate in self.matrix.items())
        yield from ((f"vector[{key!r}]", rate) for key, rate in self.vector.items())
        for key, pairs in self.products.items():
            yield from ((f"products[{key!r}]", n) for n in _flat(pairs, 2))
        for shape, known in self.by_shape.items():
            for key, triples in known.items():
                yield from ((f"by_shape[{shape!r}][{key!r}]", n) for n in _flat(triples, 3))
        yield "bandwidth", self.bandwidth
        for key in ("memory", "special", "cache", "cache_bandwidth"):
            if getattr(self, key) is not None:
                yield key, getattr(self, key)
        if self.launch_us != 0:
            yield "launch_us", self.launch_us

    def matrix_rate(
        self, dtype: str, *, tf32: bool = False, flops: float | None = None
    ) -> float | None:
        """Return the rate of contractions of `dtype` in FLOP/s; None where it is not known.

        With `tf32`, those of float32 run as TF32 where the device has it. A complex product takes
        four real ones. With `flops`, it is that of one product of so many FLOP, between those of
        the `products` that were measured; otherwise that of the fastest.

        >>> from torchatlas.devices import find
        >>> a100 = find("NVIDIA A100-SXM4-80GB")
        >>> a100.matrix_rate("float32", tf32=True), a100.matrix_rate("complex64")
        (156000000000000.0, 4875000000000.0)
        """
        if dtype in _COMPLEX:
            real = self.matrix.get(_COMPLEX[dtype])
            return None if real is None else real / 4
        kind = self._kind(dtype, tf32)
        measured = self.products.get(kind, ())
        return _between(measured, flops) if flops and measured else self.matrix.get(kind)

    def shape_rate(
        self, dtype: str, shape: str, width: float, flops: float, *, tf32: bool = False
    ) -> float | None:
        """Return the rate of a contraction of the class `shape`; None where none was measured.

        `width` says how thin it is: the least of the three sizes of a ``product``; the channels of
        a convolution, ``pointwise`` (one tap) or ``spatial`` (more); the taps of a ``depthwise``
        one. The rate is between those of the next widths that were measured, each at `flops`.

        >>> rates = {"pointwise": {"float32": ((16, 1e6, 1e9), (64, 1e6, 2e9), (64, 1e8, 8e9))}}
        >>> mine = Device("mine", {}, {}, 1e9, by_shape=rates)
        >>> [round(mine.shape_rate("float32", "pointwise", w, 1e7) / 1e9, 3) for w in (8, 32, 64)]
        [1.0, 2.0, 4.0]
        """
        points = self.by_shape.get(shape, {}).get(self._kind(dtype, tf32), ())
        if not points:
            return None
        widths: dict[float, list[tuple[float, float]]] = {}
        for wide, size, rate in points:
            widths.setdefault(wide, []).append((size, rate))
        return _between([(wide, _between(row, flops)) for wide, row in widths.items()], width)

    def _kind(self, dtype: str, tf32: bool) -> str:
        kind = _kind(dtype)
        return "tf32" if kind == "float32" and tf32 and "tf32" in self.matrix else kind

    def vector_rate(self, dtype: str) -> float | None:
        """Return the rate of operations outside contractions in FLOP/s; None if not known.

        All but float64 and complex128 count at the rate of float32, in which kernels compute on
        narrower types; an operation on complex numbers takes two real ones, as an addition does.

        >>> from torchatlas.devices import find
        >>> [find("NVIDIA A100-SXM4-80GB").vector_rate(t) for t in ("bfloat16", "float64")]
        [19500000000000.0, 9700000000000.0]
        """
        rate = self.vector.get("float64" if dtype in ("float64", "complex128") else "float32")
        return rate / 2 if rate is not None and dtype in _COMPLEX else rate


_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


def _kind(dtype: str) -> str:
    """Return the kind of arithmetic that contractions of a data type are.

    >>> _kind("float8_e4m3fn"), _kind("quint8"), _kind("int64")
    ('float8', 'int8', 'int64')
    """
    if dtype.startswith("float8"):
        return "float8"
    return "int8" if dtype in ("int8", "uint8", "qint8", "quint8") else dtype


def _between(points: Sequence[tuple[float, float]], size: float) -> float:
    """Return the rate at `size`: a line between the logarithms of points, which are in order.

    >>> [round(_between([(1e6, 1e9), (1e8, 1e10)], size)) for size in (1.0, 1e7, 1e12)]
    [1000000000, 3162277660, 10000000000]
    """
    after = bisect.bisect_left(points, (size, 0.0))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (low, slow), (high, fast) = points[after - 1 : after + 1]
    part = math.log(size / low) / math.log(high / low)
    return float(slow * (fast / slow) ** part)


def _flat(points: Iterable[Sequence[float]], length: int) -> Iterator[Any]:
    for point in points:
        yield from point if len(point) == length else (point,)


def _is_positive(number: Any) -> bool:
    good = isinstance(number, int | float) and not isinstance(number, bool)
    return good and math.isfinite(number) and number > 0
