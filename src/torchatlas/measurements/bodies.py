"""How long the ops in the bodies of control flow take, in runs that go through the bodies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Any

from torch import fx

from ..frontends.control_flow import take_bodies
from ..frontends.metadata import named_arguments, op_info
from ..frontends.replay import Program
from ..graph import ModelGraph, bodies, op_nodes
from ..names import join_body
from .sampling import SECONDS, Spread, enough, spread, timer_ns
from .values import Restorable


def add_body_latency(
    graph: ModelGraph, program: Program, changed: Restorable, steps: int | None, warmup: int
) -> None:
    """Write `latency_us` and `latency_iqr_us` of the ops in the bodies of control flow.

    That is the time of all their runs within one run of the program. The op that runs a body has
    its own, of runs that do not look into it, and is the one that counts for the sum. Nothing is
    written of an op that does not run, as in the other branch; of those in the bodies of an op
    that stands in a body itself; and where a body cannot be run one op after the other.
    """
    inside = {
        join_body(name, op): node for name, body in bodies(graph) for op, node in op_nodes(body)
    }
    if not inside:
        return
    try:
        latencies = _latencies(program, changed, steps, warmup)
    except Exception:  # the program has run before: it is taken apart that it does not
        return
    for key, found in latencies.items():
        if (node := inside.get(program.ids.get(key, ""))) is not None:
            node.update(latency_us=found.median, latency_iqr_us=found.iqr)


def _latencies(
    program: Program, changed: Restorable, steps: int | None, warmup: int
) -> dict[str, Spread]:
    """Return what each op in a body takes in one run of the program, by its key."""
    timer, taken = timer_ns(), _Timers(program)
    runs: list[dict[str, float]] = []
    sums: list[float] = []
    began = perf_counter_ns()
    while not enough(sums, steps, (perf_counter_ns() - began) / 1e9, SECONDS):
        changed.set_back()
        program.run(invoke=taken.invoke)
        run = {
            key: sum(max(0.0, time - timer) for time in times) / 1e3
            for key, times in taken.take().items()
        }
        if warmup > 0:
            warmup, began = warmup - 1, perf_counter_ns()
        else:
            runs.append(run)
            sums.append(sum(run.values()))
    keys = {key for run in runs for key in run}
    return {key: spread([run.get(key, 0.0) for run in runs]) for key in keys}


class _Timers:
    """Runs the bodies of control flow op by op, with a timer around each op in them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._times: defaultdict[str, list[float]] = defaultdict(list)

    def take(self) -> dict[str, list[float]]:
        """Return the times of each op in nanoseconds, by its key, and begin anew."""
        found = dict(self._times)
        self._times.clear()
        return found

    def invoke(self, key: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator of the program itself."""
        with self._opened(key, _bodies(target, args, kwargs)):
            return target(*args, **kwargs)

    def _invoke_inside(self, key: str, target: Any, args: Any, kwargs: Any) -> Any:
        start = perf_counter_ns()
        result = target(*args, **kwargs)
        self._times[key].append(perf_counter_ns() - start)
        return result

    @contextmanager
    def _opened(self, key: str, found: Mapping[str, fx.GraphModule]) -> Iterator[None]:
        """Let calls of these graphs run their ops one by one meanwhile."""

        def opened(name: str, body: fx.GraphModule) -> Any:
            prefix = f"{key}/{name}/"
            return lambda *args: self._program.run_body(body, args, prefix, self._invoke_inside)

        try:
            for name, body in found.items():
                body.forward = opened(name, body)
            yield
        finally:
            for body in found.values():
                vars(body).pop("forward", None)


def _bodies(target: Any, args: Any, kwargs: Any) -> dict[str, fx.GraphModule]:
    """Return the graphs that `target` is called with, by the names that the records have."""
    given = [*args, *kwargs.values()]
    nested = [item for arg in given if isinstance(arg, list | tuple) for item in arg]
    if not any(isinstance(item, fx.GraphModule) for item in [*given, *nested]):
        return {}
    named = named_arguments(op_info(target), args, kwargs)
    return take_bodies(named, lambda arg: isinstance(arg, fx.GraphModule)).graphs
