"""Which kernels each op launches on a GPU, and how long they run: a profile, read op by op."""

from __future__ import annotations

import math
import re
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from time import perf_counter_ns
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import record_function

from ..errors import MeasurementError
from ..frontends.replay import Program
from .accelerators import Gpu
from .sampling import SECONDS, Spread, enough, spread
from .values import Restorable

PREFIX = "torchatlas/"
"""How the ranges are named that stand around ops in a profile, before the op's key."""

_RUNTIME = re.compile(r"(cuda|cu|hip)[A-Z]")
"""Names of calls into the driver and its library, such as ``cudaLaunchKernel``."""

_EVENTS, _MOST_EVENTS = 50_000, 100_000
"""How many events one profile may have, and all together: to read one takes some tens of µs."""

_RUNS = 8
"""How many runs one profile has at the most."""


class Launch(NamedTuple):
    """A kernel, copy or fill that ran on the device."""

    name: str
    micros: float


class Part(NamedTuple):
    """What is known of an op after several runs: its latency and, on a GPU, its kernels."""

    latency: Spread
    kernels: tuple[str, ...] = ()
    launches: int | None = None
    """How many kernels, copies and fills a run has of it; None where that is not known."""


class Parts(NamedTuple):
    """The ops of a program by their keys, how often they ran, and what one run launches."""

    ops: dict[str, Part]
    runs: int
    launches: int | None = None


# -- reading a profile -------------------------------------------------------------------------


def launched(events: Iterable[Any]) -> dict[str, list[list[Launch]]]:
    """Return what each call of each op has launched, by the op's key and in the order of calls.

    `events` are those of a profile, with a range around each op that is named by `PREFIX` and the
    op's key. The profiler links a kernel to the innermost event that it was launched in; to the op
    belongs what is linked to its range or to an event inside of it. A kernel that was launched
    without torch's dispatcher, as those of Triton are, is linked to nothing: of it counts when its
    launch was called.
    """
    events = sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end))
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    ranges = [event for event in on_cpu if event.name.startswith(PREFIX)]
    calls: dict[int, list[Launch]] = {id(found): [] for found in ranges}
    # The profiler shows on the device, too, how long the kernels inside of a range took in all.
    shown = {event.name for event in events if event.is_user_annotation or _is_range(event)}
    linked: Counter[tuple[str, int, float]] = Counter()
    for event in on_cpu:
        # In torch 2.11 the call of a launch may get the kernels of an op of the same number.
        if event.is_legacy or _RUNTIME.match(event.name):
            continue
        kernels = [kernel for kernel in event.kernels if kernel.name not in shown]
        linked.update((kernel.name, kernel.device, kernel.duration) for kernel in kernels)
        around = _range_around(event) if kernels else None
        if around is not None:
            calls[id(around)] += [Launch(kernel.name, kernel.duration) for kernel in kernels]
    for around, launch in _unlinked(events, ranges, shown, linked):
        calls[id(around)].append(launch)
    found: defaultdict[str, list[list[Launch]]] = defaultdict(list)
    for one in ranges:
        found[one.name.removeprefix(PREFIX)].append(calls[id(one)])
    return dict(found)


def saw_device(events: Iterable[Any]) -> bool:
    """Say whether a profile has seen anything on a device, and not only the time of ops there."""
    return any(
        event.device_type != DeviceType.CPU or (event.kernels and not event.is_legacy)
        for event in events
    )


def _is_range(event: Any) -> bool:
    return bool(event.name.startswith(PREFIX))


def _range_around(event: Any) -> Any:
    """Return the range of an op that `event` is or that it lies in, None where there is none."""
    while event is not None and not _is_range(event):
        event = event.cpu_parent
    return event


def _unlinked(
    events: Sequence[Any],
    ranges: Sequence[Any],
    shown: set[str],
    linked: Counter[tuple[str, int, float]],
) -> Iterable[tuple[Any, Launch]]:
    """Yield what ran on the device and is linked to nothing, with the range it was launched in."""
    starts = [found.time_range.start for found in ranges]
    on_cpu = (event for event in events if event.device_type == DeviceType.CPU)
    runtime = {event.id: event for event in on_cpu if _RUNTIME.match(event.name)}
    for event in events:
        if event.device_type == DeviceType.CPU or event.name in shown:
            continue
        micros = event.time_range.end - event.time_range.start
        key = event.name, event.device_index, micros
        if linked[key]:
            linked[key] -= 1
            continue
        call = runtime.get(event.id)
        if call is None:
            continue
        place = bisect_right(starts, call.time_range.start) - 1
        if place >= 0 and call.time_range.start <= ranges[place].time_range.end:
            yield ranges[place], Launch(event.name, micros)


# -- taking it ---------------------------------------------------------------------------------


def profiled(
    program: Program,
    gpu: Gpu,
    changed: Restorable,
    steps: int | None = None,
    *,
    flush: Callable[[], None] | None = None,
) -> Parts:
    """Run `program` under a profiler, and return what each of its ops launches.

    As often as `steps` says, or until the median of the sum is certain or time is over; but no
    more often than the profiler's events can be read in a few seconds. Raises MeasurementError
    where the profiler sees nothing of the device.
    """

    def invoke(key: str, target: Any, args: Any, kwargs: Any) -> Any:
        if flush:
            flush()
        with record_function(PREFIX + key):
            return target(*args, **kwargs)

    def events_of(runs: int, *, probe: bool = False) -> Sequence[Any]:
        with gpu.profiled() as events:
            if probe:  # a program of views alone launches nothing
                torch.ones(1, device=gpu.place).add_(1)
            for _ in range(runs):
                changed.set_back()
                program.run(invoke=invoke)
                gpu.synchronize()
        return events()

    first = events_of(1, probe=True)  # sets the profiler up, too, and does not count
    if not saw_device(first):
        raise MeasurementError(
            f"torch's profiler sees no kernels on {gpu.place}",
            hint="end other profilers of this GPU, and see whether its driver lets you use CUPTI; "
            "with steps=0 nothing is timed",
        )
    each = max(1, len(first))
    most = max(3, _MOST_EVENTS // each)
    batch = max(1, min(_RUNS, _EVENTS // each))
    wanted = most if steps is None else min(steps, most)
    calls: defaultdict[str, list[list[Launch]]] = defaultdict(list)
    sums: list[float] = []
    began = perf_counter_ns()
    while len(sums) < wanted:
        if steps is None and enough(sums, None, (perf_counter_ns() - began) / 1e9, SECONDS):
            break
        runs = min(batch, wanted - len(sums))
        found = launched(events_of(runs))
        sums += [_sum(found, run) for run in range(runs)]
        for key, those in found.items():
            calls[key] += those
    parts = {key: _part(those) for key, those in calls.items()}
    total = sum(part.launches or 0 for part in parts.values())
    return Parts({k: part for k, part in parts.items() if k in program.ids}, len(sums), total)


def _sum(calls: dict[str, list[list[Launch]]], run: int) -> float:
    """Return the microseconds of all kernels of one run."""
    launches = (those[run] for those in calls.values() if run < len(those))
    return math.fsum(launch.micros for those in launches for launch in those)


def _part(calls: Sequence[Sequence[Launch]]) -> Part:
    latency = spread([math.fsum(map(attrgetter("micros"), launches)) for launches in calls])
    names = dict.fromkeys(launch.name for launches in calls for launch in launches)
    return Part(latency, tuple(names), statistics.median_low(map(len, calls)))
