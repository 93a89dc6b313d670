"""Measurements run what was captured again, on a real device, and add what they find as keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..graph import ModelGraph, op_nodes
from ..schema import Way

if TYPE_CHECKING:
    from ..frontends import Source

__all__ = ["measure"]


def measure(
    graph: ModelGraph,
    example: Any = None,
    *,
    device: str = "cpu",
    steps: int | None = None,
    warmup: int = 3,
    cache: Literal["warm", "cold"] = "warm",
    compare: Sequence[Way] = (),
) -> ModelGraph:
    """Run `graph` again on `device`, check its tensors, and return a copy with latencies.

    The captured program is run op by op on real tensors: the model's weights and the example of
    the capture, or another `example` of the same form; made-up values stand in for what has
    none. Shape, data type, strides and device of every tensor that an op makes have to be those
    of the graph. A symbolic graph is bound to the sizes of the example, as `bind` does.

    Then the model itself is timed, called under `torch.no_grad` with nothing that watches it, and
    after that its program with a timer around each op. Ops get the keys ``latency_us`` and
    ``latency_iqr_us``, and the graph ``measured``: a `torchatlas.schema.Measured`, whose residual
    is what the whole takes beyond the sum of the ops. There are `warmup` runs first; then `steps`
    runs of each kind, or by default as many as make the median certain to 1 %, for three seconds
    at the most. With ``steps=0`` nothing is timed.

    The model, the example and torch's random numbers are left as they are.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4), torch.randn(2, 8))
    >>> timed = ta.measure(graph, steps=20)
    >>> timed.nodes["linear"]["latency_us"] > 0, timed.graph["confirmed"]
    (True, 1)

    Raises MeasurementError, which names the node, where a tensor is not what the graph says, or
    an op cannot be run; and UsageError where there is nothing to run, something else watches the
    ops that run (a profiler, a counting mode), or the device cannot be measured on yet.
    """
    source = _check(graph, device, steps, warmup)
    from .confirm import bound_to_inputs, confirm
    from .latency import add_latency
    from .values import generators_kept, replaced

    with generators_kept():
        source = replaced(source, example)
        measured = bound_to_inputs(graph, source)
        measured.graph["confirmed"] = confirm(measured, source)
        if steps != 0:
            add_latency(measured, source, steps, warmup)
    return measured


def _check(graph: ModelGraph, device: str, steps: int | None, warmup: int) -> Source:
    """Return what `graph` was captured from; raise UsageError for what cannot be measured."""
    from ..frontends.torch_api import watchers

    source: Source | None = graph.source
    if source is None:
        raise UsageError(
            "this graph has no program behind it that could be run",
            hint="measure what `capture` returned: a loaded, bound or collapsed graph has none",
        )
    if source.frontend == "dynamo":
        raise UsageError(
            "what torch.compile was seen to compile is kept without values",
            hint="capture the model, and measure that",
        )
    if device != "cpu":
        raise UsageError(f"there is no measuring on {device!r} yet", hint="measure on 'cpu'")
    away = {n: at["device"] for n, at in op_nodes(graph) if at.get("device", device) != device}
    if away:
        name, place = next(iter(away.items()))
        raise UsageError(
            f"{name!r} lies on {place}, and the run is on {device}",
            hint=f"capture the model on {device}",
        )
    if (steps is not None and steps < 0) or warmup < 0:
        raise UsageError(
            f"steps={steps} and warmup={warmup} are no numbers of runs", hint="0 or more"
        )
    if steps != 0 and source.frontend == "training":
        raise UsageError(
            "a training step is not timed yet", hint="steps=0 checks its tensors all the same"
        )
    if steps != 0 and (watching := watchers()):
        raise UsageError(
            f"{watching[0]} watches every op that runs, and makes it slower",
            hint="call `measure` outside of it",
        )
    return source
