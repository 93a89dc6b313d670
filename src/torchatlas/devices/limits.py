"""What a device can do at most, as numbers with their sources."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError

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

    Four more are known of a device that was measured, not of one in the table: `special`, how
    many exponentials and the like it does in a second where that is slower than arithmetic;
    `cache`, the bytes that are read again at `cache_bandwidth` in B/s if they are read soon; and
    `products`, by the kinds of `matrix`, pairs of how many FLOP a product has and at what rate it
    ran: a small one does not fill the device.

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

    def __post_init__(self) -> None:
        # Copies of its own, so that nobody changes them behind its back.
        object.__setattr__(self, "matrix", dict(self.matrix))
        object.__setattr__(self, "vector", dict(self.vector))
        products = {kind: tuple(sorted(map(tuple, rates))) for kind, rates in self.products.items()}
        object.__setattr__(self, "products", products)
        for key in (*self.matrix, *self.vector, *products):
            if key not in RATES:
                raise UsageError(
                    f"the device {self.name!r} has a rate for {key!r}, which is no kind",
                    hint=f"the kinds are {', '.join(RATES)}",
                )
        numbers = {f"matrix[{key!r}]": rate for key, rate in self.matrix.items()}
        numbers.update((f"vector[{key!r}]", rate) for key, rate in self.vector.items())
        numbers.update((f"products[{key!r}]", n) for key in products for n in _flat(products[key]))
        numbers["bandwidth"] = self.bandwidth
        for key in ("memory", "special", "cache", "cache_bandwidth"):
            if getattr(self, key) is not None:
                numbers[key] = getattr(self, key)
        wrong = {key: number for key, number in numbers.items() if not _is_positive(number)}
        if self.launch_us != 0 and not _is_positive(self.launch_us):
            wrong["launch_us"] = self.launch_us
        for key, number in wrong.items():
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
        kind = _kind(dtype)
        if kind == "float32" and tf32 and "tf32" in self.matrix:
            kind = "tf32"
        measured = self.products.get(kind, ())
        return _between(measured, flops) if flops and measured else self.matrix.get(kind)

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


def _between(points: Sequence[tuple[float, float]], flops: float) -> float:
    """Return the rate at `flops`: a line between the logarithms of points, which are in order.

    >>> [round(_between([(1e6, 1e9), (1e8, 1e10)], flops)) for flops in (1.0, 1e7, 1e12)]
    [1000000000, 3162277660, 10000000000]
    """
    after = bisect.bisect_left(points, (flops, 0.0))
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (low, slow), (high, fast) = points[after - 1 : after + 1]
    part = math.log(flops / low) / math.log(high / low)
    return float(slow * (fast / slow) ** part)


def _flat(pairs: Iterable[Iterable[float]]) -> Iterator[float]:
    for pair in pairs:
        yield from pair


def _is_positive(number: Any) -> bool:
    good = isinstance(number, int | float) and not isinstance(number, bool)
    return good and math.isfinite(number) and number > 0
