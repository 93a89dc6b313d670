"""What this machine's device can do, measured: rates, copy bandwidth, launch overhead."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, process_time

import torch

from ..devices import Device
from ..errors import UsageError
from .accelerators import accelerator
from .shapes import WIDE, Points, rates_by_shape

_KINDS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_SHAPED = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}
"""The kinds whose thin products and convolutions are measured: those that models run in."""

_ROUNDS = 2
"""Times that those are gone through: what a neighbour does for a second weighs on one of them."""

_SIZES = {"cpu": (64, 128, 256, 512, 1024, 2048), "cuda": (256, 512, 1024, 2048, 4096, 8192)}
"""Rows of the square matrices; none that takes too long is tried."""

_ALWAYS = 512
"""Rows that are tried in any case: on a busy machine small products wait more than they compute."""

_IN_A_ROW = 2e9
"""FLOP of the products that are timed together."""

_COPIED = {"cpu": 2**27, "cuda": 2**30}
"""Bytes of the tensor that is copied: too many for a cache."""

_LAUNCHES = 1000

_FEWEST = 5
"""Runs at the least: a thread that has to be woken up, or waits for a processor that others use,
takes a hundred times as long as what it is to do."""

_WORKING_SETS = tuple(2**power for power in range(27, 19, -1))
"""Bytes, from 128 MiB to 1 MiB: the largest that is copied fast is the size of the cache."""

_CACHED = 1.5
"""How many times the memory's bandwidth a copy has to reach for a cache to hold it."""

_SPECIALS = 2**16
"""Numbers to take the exponential of: few enough for any cache."""


def calibrate(device: str = "cpu", *, seconds: float = 0.5) -> Device:
    """Measure the device that torch calls `device`; every figure takes about `seconds`.

    A rate is that of the fastest of several sizes of square matrix products of random numbers,
    2n³ FLOP each, and all of them are kept as `products`. Products of few rows and convolutions,
    pointwise, spatial and depthwise, are measured for a few widths and sizes in the data types
    that models run in, and kept as `by_shape`. The bandwidth is that of copying a tensor from one
    place in memory to another, read and written; the launch overhead that of adding to one
    element, one after the other. The rate outside contractions is taken to be that of float32
    products, which run on the same units where TF32 is off. The cache is the largest working set
    that copies at 1.5 times the memory's bandwidth. On a CPU the rate of exponentials is measured
    too; a GPU has units for them, which keep up with its memory. What torch cannot multiply there
    is left out, and so is float8.

    >>> calibrate(seconds=0.01).matrix["float32"] > 1e6
    True

    Raises UsageError where torch has no such device.
    """
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"there is no device {device!r} here: {reason}", hint="choose cpu, cuda or cuda:1"
        ) from error
    on, kind = accelerator(place), "cuda" if place.type == "cuda" else "cpu"
    with _float32(tf32=False):
        products = {name: _products(dtype, place, kind, seconds) for name, dtype in _KINDS.items()}
        shaped = [name for name in _SHAPED[kind] if products[name]]
        shapes = _shapes({name: _KINDS[name] for name in shaped}, place, seconds)
    if kind == "cuda":
        with _float32(tf32=True):
            products["tf32"] = _products(torch.float32, place, kind, seconds)
            shapes |= _shapes({"tf32": torch.float32}, place, seconds)
    products = {name: rates for name, rates in products.items() if rates}
    known = {name: max(rate for _, rate in rates) for name, rates in products.items()}
    bandwidth = _bandwidth(place, _COPIED[kind], seconds)
    cache, cached = _cache(place, bandwidth, seconds)
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return Device(
        on.name() or "CPU",
        known,
        {name: known[name] for name in ("float32", "float64") if name in known},
        bandwidth=bandwidth,
        memory=_memory(place),
        launch_us=_launch(place, seconds),
        source=f"measured by torchatlas: {versions if kind == 'cpu' else versions.split(',')[0]}",
        launch_source="measured: additions to one element, one after the other",
        special=_special(place, seconds) if kind == "cpu" else None,
        cache=cache,
        cache_bandwidth=cached,
        products=products,
        by_shape=_by_class(shapes, products),
    )


@contextmanager
def _float32(*, tf32: bool) -> Iterator[None]:
    """Let products and convolutions of float32 run as TF32 meanwhile, or not."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = products.allow_tf32
    # A context of torch's own, for its flags may be closed to assignments; None leaves one alone.
    flags = convolutions.flags(
        enabled=convolutions.enabled,
        benchmark=convolutions.benchmark,
        benchmark_limit=None,
        deterministic=convolutions.deterministic,
        allow_tf32=tf32,
        fp32_precision=None,
    )
    with flags:
        products.allow_tf32 = tf32
        try:
            yield
        finally:
            products.allow_tf32 = allowed


def _least(run: Callable[[], object], place: torch.device, seconds: float) -> float:
    """Return the seconds of the fastest run, after one that does not count."""
    clock = _clock(place)
    run()
    _wait(place)
    best, begun, runs = float("inf"), perf_counter(), 0
    while runs < _FEWEST or perf_counter() - begun < seconds:
        runs += 1
        start = clock()
        run()
        _wait(place)
        best = min(best, clock() - start)
    return best


def _clock(place: torch.device) -> Callable[[], float]:
    """Return what tells the time: of one thread the processor's, which no one else's work is in."""
    one_thread = place.type != "cuda" and torch.get_num_threads() == 1
    return process_time if one_thread else perf_counter


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _products(
    dtype: torch.dtype, place: torch.device, kind: str, seconds: float
) -> tuple[tuple[float, float], ...]:
    """Return FLOP and FLOP/s of square products, smallest first; none where torch has none."""
    found: list[tuple[float, float]] = []
    each = seconds / len(_SIZES[kind])
    for n in _SIZES[kind]:
        flops = 2.0 * n**3
        # Several in a row, so that a GPU does not wait for the next.
        repeats = max(1, round(_IN_A_ROW / flops)) if kind == "cuda" else 1
        try:
            matrix = torch.rand(n, n, device=place).to(dtype)
            time = _least(lambda m=matrix, r=repeats: _multiply(m, r), place, each)  # type: ignore[misc]
        except RuntimeError:  # not implemented for this data type, or not enough memory
            break
        found.append((flops, flops * repeats / time))
        if n >= _ALWAYS and 8 * time / repeats > each:  # what the next one would take
            break
    return tuple(found)


def _multiply(matrix: torch.Tensor, repeats: int) -> None:
    for _ in range(repeats):
        matrix @ matrix


def _shapes(
    kinds: Mapping[str, torch.dtype], place: torch.device, seconds: float
) -> dict[str, dict[str, Points]]:
    """Return the rates of thin products and convolutions by kind and class: the best of rounds."""
    found: dict[str, dict[str, Points]] = {}
    for _ in range(_ROUNDS):
        for kind, dtype in kinds.items():
            known = found.setdefault(kind, {})
            classes = rates_by_shape(
                dtype, place, seconds / _ROUNDS, lambda run, each: _least(run, place, each)
            )
            for name, points in classes.items():
                known[name] = _best((*known.get(name, ()), *points))
    return found


def _best(points: Points) -> Points:
    """Return one of the points at each width and size: the fastest."""
    return tuple({point[:2]: point for point in sorted(points)}.values())


def _by_class(
    shapes: Mapping[str, Mapping[str, Points]],
    products: Mapping[str, tuple[tuple[float, float], ...]],
) -> dict[str, dict[str, Points]]:
    """Return rates by class and then by kind.

    The square products stand for all that are `WIDE`, whatever their own size: what limits those
    is how much there is to do, not how thin they are.
    """
    found: dict[str, dict[str, Points]] = {}
    for kind, classes in shapes.items():
        for name, points in classes.items():
            wide = [(WIDE, *pair) for pair in products[kind]] if name == "product" else ()
            found.setdefault(name, {})[kind] = (*points, *wide)
    return found


def _bandwidth(place: torch.device, nbytes: int, seconds: float, repeats: int = 1) -> float:
    """Return B/s, read and written, of copies of `nbytes`, so many one after the other."""
    given = torch.zeros(nbytes // 4, device=place)
    into = torch.empty_like(given)

    def copy() -> None:
        for _ in range(repeats):
            into.copy_(given)

    return 2 * nbytes * repeats / _least(copy, place, seconds)


def _cache(
    place: torch.device, bandwidth: float, seconds: float
) -> tuple[int, float] | tuple[None, None]:
    """Return the largest working set that is copied fast, and its bandwidth; None without one."""
    for working_set in _WORKING_SETS:
        # Several in a row, so that a GPU does not wait for the next.
        repeats = max(1, _WORKING_SETS[0] // working_set)
        found = _bandwidth(place, working_set // 2, seconds / len(_WORKING_SETS), repeats)
        if found >= _CACHED * bandwidth:
            return working_set, found
    return None, None


def _special(place: torch.device, seconds: float) -> float:
    """Return exponentials a second."""
    given = torch.rand(_SPECIALS, device=place)
    into = torch.empty_like(given)
    return _SPECIALS / _least(lambda: torch.exp(given, out=into), place, seconds)


def _launch(place: torch.device, seconds: float) -> float:
    """Return microseconds from the start of one small op to that of the next."""
    small = torch.zeros(1, device=place)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            small.add_(1)

    return 1e6 * _least(launch, place, seconds) / _LAUNCHES


def _memory(place: torch.device) -> int | None:
    if place.type == "cuda":
        return int(torch.cuda.get_device_properties(place).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
