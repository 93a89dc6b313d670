"""Measurements run what was captured again, on a real device, and add what they find as keys."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import MeasurementError, UsageError
from ..graph import ModelGraph, op_nodes
from ..schema import Way

if TYPE_CHECKING:
    from ..frontends import Source
    from .accelerators import Processor

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
    strict: bool = True,
) -> ModelGraph:
    """Run `graph` again on `device`, check its tensors, and return a copy with latencies.

    The captured program is run op by op on real tensors: the model's weights and the example of
    the capture, or another `example` of the same form; made-up values stand in for what has
    none. They are copied to where the graph has them, so that a model on the CPU that was
    captured with ``device="cuda"`` runs on a GPU. Shape, data type, strides and device of every
    tensor that an op makes have to be those of the graph. A symbolic graph is bound to the sizes
    of the example, as `bind` does.

    Then the model itself is timed, called under `torch.no_grad` with nothing that watches it, or
    a training step with its loss, backward pass and optimizer if the capture was of one; and
    after that its ops: on a CPU with a timer around each, on a GPU by the kernels that torch's
    profiler sees it launch. Ops get the keys ``latency_us`` and ``latency_iqr_us``, on a GPU
    ``kernels``, ``launches`` and ``peak_bytes`` as well; and the graph gets ``measured``: a
    `torchatlas.schema.Measured`, whose residual is what the whole takes beyond the sum of the ops.
    There are `warmup` runs first; then `steps` runs of each kind, or by default as many as make the
    median certain to 1 %, for three seconds at the most. With ``steps=0`` nothing is timed. Without
    `strict` an op that makes another tensor than the graph says is no error, but a warning and a
    name in the graph's key ``contradicted``. With ``cache="cold"`` other data fills the caches
    before each sample and each op; `compare` names other ways in which the whole model is timed
    too.

    The model, the example and torch's random numbers are left as they are.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4), torch.randn(2, 8))
    >>> timed = ta.measure(graph, steps=20)
    >>> timed.nodes["linear"]["latency_us"] > 0, timed.graph["confirmed"]
    (True, 1)

    Raises MeasurementError, which names the node, where a tensor is not what the graph says, or
    an op cannot be run; and UsageError where there is nothing to run, something else watches the
    ops that run (a profiler, a counting mode), torch has no such device, or the graph lies on
    another one.
    """
    source = _source(graph)
    _check_request(steps, warmup, cache, compare)
    on = _accelerator(graph, device)
    if steps != 0:
        _check_timing(graph, source)
    from .confirm import bound_to_inputs, confirm
    from .latency import add_latency
    from .values import generators_kept, replaced

    on.synchronize()  # a GPU has generators once it is in use
    with generators_kept():
        source = replaced(source, example)
        measured = bound_to_inputs(graph, source)
        with on.current():
            confirmed, differences = confirm(measured, source)
        _judge(differences, strict)
        measured.graph["confirmed"] = confirmed
        if differences:
            measured.graph["contradicted"] = tuple(differences)
        if steps != 0:
            add_latency(measured, source, steps, warmup, on=on, cache=cache, compare=compare)
    return measured


def _judge(differences: Mapping[str, MeasurementError], strict: bool) -> None:
    """Raise the first of the differences if `strict`, else warn of them."""
    for first in differences.values():
        if strict:
            raise first
        others = len(differences) - 1
        more = f"\n  and {others} more, in the graph's key 'contradicted'" if others else ""
        warnings.warn(f"{first.problem}\n  at node {first.node!r}{more}", stacklevel=3)
        break


def _source(graph: ModelGraph) -> Source:
    """Return what `graph` was captured from; raise UsageError where it cannot be run."""
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
    return source


def _check_request(steps: int | None, warmup: int, cache: str, compare: Sequence[str]) -> None:
    """Raise UsageError for what is no number of runs, no state of a cache, or no way to run."""
    if (steps is not None and steps < 0) or warmup < 0:
        raise UsageError(
            f"steps={steps} and warmup={warmup} are no numbers of runs", hint="0 or more"
        )
    if cache not in ("warm", "cold"):
        raise UsageError(f"caches cannot be {cache!r}", hint="choose 'warm' or 'cold'")
    ways = [compare] if isinstance(compare, str) else compare
    for way in ways:
        if way not in get_args(Way) or ways is not compare:
            known = ", ".join(map(repr, get_args(Way)))
            raise UsageError(
                f"compare={compare!r} does not list ways to run a model",
                hint=f"a list of some of {known}",
            )


def _accelerator(graph: ModelGraph, device: str) -> Processor:
    """Return what `graph` is measured on; raise UsageError where there is none, or it lies away.

    A graph on a GPU may have ops on other GPUs and on the CPU.
    """
    import torch

    from ..frontends.placing import parse_device
    from . import accelerators

    place = parse_device(device)
    accelerators.accelerator(place)  # that it exists comes first
    devices = {n: at["device"] for n, at in op_nodes(graph) if "device" in at}
    away = {n: where for n, where in devices.items() if where != str(place)}
    if away and (place.type == "cpu" or len(away) == len(devices)):
        name, where = next(iter(away.items()))
        raise UsageError(
            f"{name!r} lies on {where}, and the run is on {place}",
            hint=f"capture it there: capture(model, example, device={str(place)!r})"
            + ("" if where == "meta" else f", or measure with device={where!r}"),
        )
    others = map(torch.device, dict.fromkeys(away.values()))
    return accelerators.accelerator(place, tuple(others))


def _check_timing(graph: ModelGraph, source: Source) -> None:
    """Raise UsageError for what is not timed, though its tensors may be checked."""
    from ..frontends.torch_api import watchers

    if watching := watchers():
        raise UsageError(
            f"{watching[0]} watches every op that runs, and makes it slower",
            hint="call `measure` outside of it",
        )
    given = [
        (value, graph.nodes[name]["device"])
        for key, value in source.placeholders.items()
        if hasattr(value, "device")
        if (name := source.ids.get(key, "")) in graph and "device" in graph.nodes[name]
        if graph.nodes[name]["kind"] != "constant"
    ]
    split = len({where for _, where in given}) > 1
    if split and any(str(value.device) != where for value, where in given):
        raise UsageError(
            "the model was split over devices by a map, and does not lie there itself",
            hint="dispatch it and capture it without `device`, or check its tensors with steps=0",
        )
