"""How long the whole model takes, and then each op, with what lies between the two."""

from __future__ import annotations

import itertools
import math
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import torch

from ..collection import without_collection
from ..errors import AtlasError, MeasurementError
from ..frontends import Source
from ..frontends.replay import Program
from ..graph import ModelGraph
from ..schema import Measured
from .values import Changed, ready, stand_ins

SECONDS = 3.0
"""How long the whole model is timed at the most, and how long its ops."""

_FEWEST, _CERTAIN = 10, 0.01
_UNSTABLE = 0.1
"""A tenth, from which on `torch.utils.benchmark` warns of the interquartile range too."""
_BLOCK = 1000
"""How many times longer than reading the clock what is timed is to take."""


class Spread(NamedTuple):
    """The quartiles and the ninth decile of samples, in microseconds."""

    median: float
    iqr: float
    p90: float
    samples: int

    @property
    def certain(self) -> bool:
        """Whether the median is known to 1 %, with a confidence of about 95 %.

        By the notches of McGill, Tukey and Larsen, 1978: the median ± 1.57 IQR / √n.
        """
        notch = 1.57 * self.iqr / math.sqrt(self.samples)
        return self.samples >= _FEWEST and notch <= _CERTAIN * self.median


def spread(samples: Sequence[float]) -> Spread:
    """Describe samples; between two of them quantiles are interpolated.

    >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
    Spread(median=3.0, iqr=2.0, p90=4.6, samples=5)
    """
    ranked = sorted(samples)

    def quantile(part: float) -> float:
        place = part * (len(ranked) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ranked) - 1)
        return ranked[low] + (place - low) * (ranked[high] - ranked[low])

    q1, median, q3, p90 = map(quantile, (0.25, 0.5, 0.75, 0.9))
    return Spread(median, q3 - q1, p90, len(ranked))


def add_latency(graph: ModelGraph, source: Source, steps: int | None, warmup: int) -> None:
    """Time the model, then each op; write `latency_us`, `latency_iqr_us` and `measured`.

    Raises MeasurementError where the model cannot be run.
    """
    program = Program(source, gradients=False, make=stand_ins())
    with torch.no_grad(), without_collection():
        program.run()
        changed = Changed(source, program.inputs)
        changed.set_back()
        with ready(source, program.copies) as call:
            whole = _whole(call, changed, steps, warmup)
            parts, runs = _parts(program, changed, steps, max(warmup, 1))
            again = _again(call, changed, whole)
    sums = _write(graph, source, parts)
    graph.graph["measured"] = Measured(
        device="cpu",
        device_name=_processor(),
        median_us=whole.median,
        iqr_us=whole.iqr,
        p90_us=whole.p90,
        residual_us=whole.median - sums,
        samples=whole.samples,
        steps=runs,
        drift=again.median / whole.median - 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__.partition("+")[0],
        unstable=tuple(
            source.ids[key]
            for key, found in parts.items()
            if source.ids[key] in graph and found.iqr > _UNSTABLE * found.median
        ),
    )


def _write(graph: ModelGraph, source: Source, parts: dict[str, Spread]) -> float:
    """Write what each op takes; return the sum in microseconds."""
    total = []
    for key, found in parts.items():
        name = source.ids[key]
        if name in graph:
            graph.nodes[name].update(latency_us=found.median, latency_iqr_us=found.iqr)
            total.append(found.median)
    return math.fsum(total)


# -- the whole -------------------------------------------------------------------------------


def _whole(call: Callable[[], Any], changed: Changed, steps: int | None, warmup: int) -> Spread:
    try:
        call()
    except AtlasError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise MeasurementError(
            f"the model cannot be run: {type(error).__name__}: {lines[0] if lines else ''}",
            hint="values may be needed that it was captured without: pass an example",
        ) from error
    for _ in range(warmup):
        changed.set_back()
        call()
    return sample(call, changed, steps)


def _again(call: Callable[[], Any], changed: Changed, before: Spread) -> Spread:
    """Time the model a few times more, to see whether it takes as long as `before`."""
    changed.set_back()
    call()
    return sample(call, changed, max(3, min(_FEWEST, before.samples // 4)))


def sample(
    call: Callable[[], Any],
    changed: Changed | None = None,
    steps: int | None = None,
    seconds: float = SECONDS,
) -> Spread:
    """Time `call` as often as `steps` says, or until the median is certain or time is over.

    A sample is a block of calls that takes a thousand times as long as reading the clock. Where a
    call has `changed` what it works on, that is set back before each, and a block is one call.
    """
    block = 1 if changed else _block(call)
    times: list[float] = []
    began = perf_counter_ns()
    while not _enough(times, steps, (perf_counter_ns() - began) / 1e9, seconds):
        if changed:
            changed.set_back()
        start = perf_counter_ns()
        for _ in itertools.repeat(None, block):
            call()
        times.append((perf_counter_ns() - start) / block / 1e3)
    return spread(times)


def _block(call: Callable[[], Any]) -> int:
    """Return how many calls make a sample; the shortest of three says how long one takes."""
    took = []
    for _ in range(3):
        start = perf_counter_ns()
        call()
        took.append(perf_counter_ns() - start)
    return max(1, math.ceil(_BLOCK * _timer_ns(_nothing) / max(1, min(took))))


def _enough(times: Sequence[float], steps: int | None, passed: float, seconds: float) -> bool:
    if steps is not None:
        return len(times) >= steps
    if len(times) < 3:
        return False
    # Sorting all samples after each would in the end take longer than what is timed.
    full = len(times) & (len(times) - 1) == 0 or len(times) % 32 == 0
    return passed >= seconds or (full and spread(times).certain)


# -- the parts ---------------------------------------------------------------------------------


def _parts(
    program: Program, changed: Changed, steps: int | None, warmup: int
) -> tuple[dict[str, Spread], int]:
    """Return what each op of the program takes, by its key, and how many runs that was seen in."""
    times: defaultdict[str, list[float]] = defaultdict(list)

    def invoke(key: str, target: Any, args: Any, kwargs: Any) -> Any:
        start = perf_counter_ns()
        result = target(*args, **kwargs)
        times[key].append(perf_counter_ns() - start)
        return result

    sums: list[float] = []
    began = perf_counter_ns()
    for run in itertools.count(-warmup):
        if run == 0:
            times.clear()
            began = perf_counter_ns()
        if run >= 0 and _enough(sums, steps, (perf_counter_ns() - began) / 1e9, SECONDS):
            break
        changed.set_back()
        program.run(invoke=invoke)
        if run >= 0:
            sums.append(math.fsum(taken[-1] for taken in times.values()) / 1e3)
    timer = _timer_ns(_nothing)
    found = {
        key: spread([max(0.0, (one - timer) / 1e3) for one in taken])
        for key, taken in times.items()
        if key in program.ids
    }
    return found, len(sums)


def _nothing() -> None:
    pass


def _timer_ns(call: Callable[..., Any]) -> float:
    """Return the nanoseconds that a timer around `call`, which does nothing, shows."""
    times = []
    for _ in range(1000):
        start = perf_counter_ns()
        call(*(), **{})
        times.append(perf_counter_ns() - start)
    return spread(times).median


def _processor() -> str:
    """Return the name of the processor as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
