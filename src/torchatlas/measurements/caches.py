"""Cold caches: a buffer larger than all of them is gone through before what is timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

_UNKNOWN = 2**27
"""Bytes that the caches of a machine are taken to have which does not say: 128 MiB."""

_CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def flusher(device: str) -> Callable[[], None]:
    """Return a function that puts other data into the caches of `device` than a model's.

    On a CPU it reads a buffer of twice the size of all data caches of the processors that this
    process may run on, with all of torch's threads. What is in the caches then is the buffer,
    unchanged, so that nothing of it has to be written back later. On a CUDA device it writes
    zeros to a buffer of twice the size of the level 2 cache, on the current stream: the call
    returns before that is done, and what is launched next on that stream runs after it.

    Flushed are the levels that data shares, the last one above all, and with that weights and
    activations. Not flushed on purpose are a processor's caches of instructions and of page
    addresses and its branch predictors, though the buffer drives out most of them; nor a GPU's
    caches of constants, nor anything that a driver, an allocator or Python keeps.

    >>> flush = flusher("cpu")
    >>> flush()
    """
    place = torch.device(device)
    if place.type == "cuda":
        size = 2 * int(torch.cuda.get_device_properties(place).L2_cache_size)
        zeros = torch.empty(size, dtype=torch.int8, device=place)
        return lambda: _drop(zeros.zero_())
    # Written to once: pages that were only ever read may all be one and the same page of zeros.
    buffer = torch.ones(2 * cache_bytes() // 8, dtype=torch.int64)
    return lambda: _drop(buffer.sum())


def cache_bytes(cpus: Path = _CPUS) -> int:
    """Return the bytes of all data caches of the processors that this process may run on.

    As Linux tells them under `cpus`, each counted once however many processors share it; 128 MiB
    where it does not. The levels are added up, because a last level may hold what no other does.

    >>> cache_bytes(Path("no such directory")) == 128 * 2**20
    True
    """
    found: dict[tuple[str, str, str], int] = {}
    for cache in cpus.glob("cpu[0-9]*/cache/index*"):
        if cache.parent.parent.name not in _allowed():
            continue
        told = {name: _read(cache / name) for name in ("type", "level", "shared_cpu_list", "size")}
        kind, level, shared, size = told.values()
        if kind != "Instruction" and size[:-1].isdecimal() and size[-1:] in _UNITS:
            found[kind, level, shared] = int(size[:-1]) * _UNITS[size[-1]]
    return sum(found.values()) or _UNKNOWN


def _allowed() -> set[str]:
    if hasattr(os, "sched_getaffinity"):
        return {f"cpu{i}" for i in os.sched_getaffinity(0)}
    return {f"cpu{i}" for i in range(os.cpu_count() or 1)}


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _drop(result: torch.Tensor) -> None:
    """Take what an op returns, which nobody wants."""
