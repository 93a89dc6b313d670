"""Samples of how long a call takes: when there are enough of them, and what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any, NamedTuple

from .accelerators import CPU, Processor
from .values import Restorable

SECONDS = 3.0
"""How long the whole model is timed at the most, and how long its ops."""

FEWEST = 10
_CERTAIN = 0.01
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
        return self.samples >= FEWEST and notch <= _CERTAIN * self.median


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


def sample(
    call: Callable[[], Any],
    changed: Restorable | None = None,
    steps: int | None = None,
    seconds: float = SECONDS,
    *,
    on: Processor = CPU,
    flush: Callable[[], None] | None = None,
) -> Spread:
    """Time `call` as often as `steps` says, or until the median is certain or time is over.

    A sample is a block of calls that takes a thousand times as long as reading the clock. Where a
    call has `changed` what it works on, that is set back before each, and a block is one call; so
    it is where caches have to be cold, which `flush` makes them. What `on` has begun is done
    before the clock starts, and before it stops.
    """
    block = 1 if changed or flush else _block(call, on)
    times: list[float] = []
    began = perf_counter_ns()
    while not enough(times, steps, (perf_counter_ns() - began) / 1e9, seconds):
        if changed:
            changed.set_back()
        if flush:
            flush()
        on.synchronize()
        start = perf_counter_ns()
        for _ in itertools.repeat(None, block):
            call()
        on.synchronize()
        times.append((perf_counter_ns() - start) / block / 1e3)
    return spread(times)


def _block(call: Callable[[], Any], on: Processor) -> int:
    """Return how many calls make a sample; the shortest of three says how long one takes."""
    took = []
    for _ in range(3):
        on.synchronize()
        start = perf_counter_ns()
        call()
        on.synchronize()
        took.append(perf_counter_ns() - start)
    return max(1, math.ceil(_BLOCK * timer_ns() / max(1, min(took))))


def enough(times: Sequence[float], steps: int | None, passed: float, seconds: float) -> bool:
    """Say whether `times` are as many as wanted, or make a median certain after `passed` seconds.

    >>> enough([1.0] * 3, 4, 0.0, SECONDS), enough([1.0] * 16, None, 0.0, SECONDS)
    (False, True)
    """
    if steps is not None:
        return len(times) >= steps
    if len(times) < 3:
        return False
    # Sorting all samples after each would in the end take longer than what is timed.
    full = len(times) & (len(times) - 1) == 0 or len(times) % 32 == 0
    return passed >= seconds or (full and spread(times).certain)


def timer_ns() -> float:
    """Return the nanoseconds that a timer shows around a function that does nothing."""
    call: Callable[..., Any] = _nothing
    times = []
    for _ in range(1000):
        start = perf_counter_ns()
        call(*(), **{})
        times.append(perf_counter_ns() - start)
    return spread(times).median


def _nothing() -> None:
    pass
