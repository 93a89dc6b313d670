"""How long the whole model takes, and then each op, with what lies between the two."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any, Literal

import torch

from ..collection import without_collection
from ..errors import AtlasError, MeasurementError
from ..frontends import Source
from ..frontends.replay import Program
from ..graph import ModelGraph
from ..schema import Measured, Way
from .accelerators import CPU, Gpu, Processor
from .bodies import add_body_latency
from .caches import flusher
from .kernels import Part, Parts, profiled
from .peaks import peaks
from .sampling import FEWEST, SECONDS, Spread, enough, sample, spread, timer_ns
from .training import ready_step
from .values import Changed, Restorable, ready, stand_ins
from .ways import time_ways

_UNSTABLE = 0.1
"""A tenth, from which on `torch.utils.benchmark` warns of the interquartile range too."""

Flush = Callable[[], None] | None


def add_latency(
    graph: ModelGraph,
    source: Source,
    steps: int | None,
    warmup: int,
    *,
    on: Processor = CPU,
    cache: Literal["warm", "cold"] = "warm",
    compare: Sequence[Way] = (),
) -> None:
    """Time the model, then each op; write what the nodes take, and the graph's key `measured`.

    Raises MeasurementError where the model cannot be run, or a GPU not be looked into.
    """
    flush: Flush = flusher(str(on.place)) if cache == "cold" else None
    program = Program(source, gradients=False, make=stand_ins())
    with (
        torch.no_grad(),
        without_collection(),
        on.current(),
        _ready(source, program) as (call, changed),
    ):

        def sampled(called: Callable[[], Any], most: int | None = steps) -> Spread:
            return sample(called, changed, most, on=on, flush=flush)

        _begin(call, changed, warmup)
        whole = sampled(call)
        if isinstance(on, Gpu):
            parts = profiled(program, on, changed, steps, flush=flush)
        else:
            parts = _timed(program, changed, steps, max(warmup, 1), flush)
        _begin(call, changed, 0)  # whether it takes as long as before
        again = sampled(call, max(3, min(FEWEST, whole.samples // 4)))
        if not isinstance(on, Gpu):
            add_body_latency(graph, program, changed, steps, max(warmup, 1))
        most, found = peaks(call, program, on, changed) if isinstance(on, Gpu) else (None, {})
        others = time_ways(
            call, compare, sampled, device=str(on.place), set_back=changed.set_back,
            warmup=max(warmup, 1),
        )  # fmt: skip
    sums = _write(graph, source, parts.ops, found)
    graph.graph["measured"] = Measured(
        device=str(on.place),
        device_name=on.name(),
        median_us=whole.median,
        iqr_us=whole.iqr,
        p90_us=whole.p90,
        residual_us=whole.median - sums,
        samples=whole.samples,
        steps=parts.runs,
        drift=again.median / whole.median - 1,
        cache=cache,
        mode="no_grad" if source.step is None else "training",
        threads=torch.get_num_threads(),
        torch=torch.__version__.partition("+")[0],
        unstable=tuple(_unstable(graph, source, parts.ops)),
        by="timers" if parts.launches is None else "profiler",
        launches=parts.launches,
        peak_bytes=most,
        others=others,
    )


def _write(
    graph: ModelGraph, source: Source, parts: dict[str, Part], memory: dict[str, int]
) -> float:
    """Write what each op takes; return the sum in microseconds."""
    total = []
    for key, part in parts.items():
        name = source.ids[key]
        if name not in graph:
            continue
        node = graph.nodes[name]
        node.update(latency_us=part.latency.median, latency_iqr_us=part.latency.iqr)
        total.append(part.latency.median)
        if part.launches is not None:
            node.update(launches=part.launches, kernels=part.kernels)
        if key in memory:
            node.update(peak_bytes=memory[key])
    return math.fsum(total)


def _unstable(graph: ModelGraph, source: Source, parts: dict[str, Part]) -> list[str]:
    """Return the nodes whose latencies spread."""
    return [
        source.ids[key]
        for key, (latency, *_) in parts.items()
        if source.ids[key] in graph and latency.iqr > _UNSTABLE * latency.median
    ]


@contextmanager
def _ready(source: Source, program: Program) -> Iterator[tuple[Callable[[], Any], Restorable]]:
    """Yield a function that calls the model, or runs a training step, and what that changes."""
    if source.step is not None:
        with ready_step(source, program) as found:
            yield found
        return
    program.run()
    changed = Changed(source, program.inputs)
    changed.set_back()
    with ready(source, program.copies) as call:
        yield call, changed


def _begin(call: Callable[[], Any], changed: Restorable, warmup: int) -> None:
    """Call the model once and `warmup` times more, without a look at the clock.

    Raises MeasurementError where it cannot be run.
    """
    changed.set_back()
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


def _timed(
    program: Program, changed: Restorable, steps: int | None, warmup: int, flush: Flush
) -> Parts:
    """Return what each op of the program takes, by a timer around it."""
    times: defaultdict[str, list[float]] = defaultdict(list)

    def invoke(key: str, target: Any, args: Any, kwargs: Any) -> Any:
        if flush:
            flush()
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
        if run >= 0 and enough(sums, steps, (perf_counter_ns() - began) / 1e9, SECONDS):
            break
        changed.set_back()
        program.run(invoke=invoke)
        if run >= 0:
            sums.append(math.fsum(taken[-1] for taken in times.values()) / 1e3)
    timer = timer_ns()
    found = {
        key: Part(spread([max(0.0, (one - timer) / 1e3) for one in taken]))
        for key, taken in times.items()
        if key in program.ids
    }
    return Parts(found, len(sums))
