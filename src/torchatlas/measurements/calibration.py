"""What this machine's device can do, measured: matrix rates, copy bandwidth, launch overhead."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

from ..devices import Device
from ..errors import UsageError

_KINDS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_SIZES = {"cpu": (128, 256, 512, 1024, 2048), "cuda": (1024, 2048, 4096, 8192)}
"""Rows of the square matrices: the fastest size counts, and none that takes too long is tried."""

_COPIED = {"cpu": 2**27, "cuda": 2**30}
"""Bytes of the tensor that is copied: too many for a cache."""

_LAUNCHES = 1000


def calibrate(device: str = "cpu", *, seconds: float = 0.5) -> Device:
    """Measure the device that torch calls `device`; every figure takes about `seconds`.

    A rate is that of the fastest of several sizes of square matrix products of random numbers,
    2n³ FLOP each; the bandwidth that of copying a tensor from one place in memory to another,
    read and written; the launch overhead that of adding to one element, one after the other. The
    rate outside contractions is taken to be that of float32 products, which run on the same units
    where TF32 is off. What torch cannot multiply there is left out, and so is float8.

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
    kind = "cuda" if place.type == "cuda" else "cpu"
    with _exact_float32():
        rates = {name: _matrix_rate(dtype, place, kind, seconds) for name, dtype in _KINDS.items()}
        if kind == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
            rates["tf32"] = _matrix_rate(torch.float32, place, kind, seconds)
    known = {name: rate for name, rate in rates.items() if rate is not None}
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return Device(
        _name(place),
        known,
        {name: known[name] for name in ("float32", "float64") if name in known},
        bandwidth=_bandwidth(place, kind, seconds),
        memory=_memory(place),
        launch_us=_launch(place, seconds),
        source=f"measured by torchatlas: {versions if kind == 'cpu' else versions.split(',')[0]}",
        launch_source="measured: additions to one element, one after the other",
    )


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Let no float32 product run as TF32 meanwhile, unless the block asks for it."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _least(run: Callable[[], object], place: torch.device, seconds: float) -> float:
    """Return the seconds of the fastest run, after one that does not count."""
    run()
    _wait(place)
    best, begun = float("inf"), perf_counter()
    while perf_counter() - begun < seconds:
        start = perf_counter()
        run()
        _wait(place)
        best = min(best, perf_counter() - start)
    return best


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _matrix_rate(
    dtype: torch.dtype, place: torch.device, kind: str, seconds: float
) -> float | None:
    best, each = 0.0, seconds / len(_SIZES[kind])
    for n in _SIZES[kind]:
        try:
            matrix = torch.rand(n, n, device=place).to(dtype)
            time = _least(lambda matrix=matrix: matrix @ matrix, place, each)  # type: ignore[misc]
        except RuntimeError:  # not implemented for this data type, or not enough memory
            break
        best = max(best, 2 * n**3 / time)
        if 8 * time > each:  # what the next one would take
            break
    return best or None


def _bandwidth(place: torch.device, kind: str, seconds: float) -> float:
    given = torch.zeros(_COPIED[kind] // 4, device=place)
    into = torch.empty_like(given)
    return 2 * _COPIED[kind] / _least(lambda: into.copy_(given), place, seconds)


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


def _name(place: torch.device) -> str:
    if place.type == "cuda":
        return str(torch.cuda.get_device_name(place))
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "CPU"
