"""What a measured graph says, as a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..annotations import critical_path
from ..annotations.achieved import Achievements, achieved
from ..annotations.roofline import roofline
from ..devices import Device, resolve
from ..errors import AtlasError, UsageError
from ..graph import ModelGraph, in_order, op_nodes
from ..names import clean
from ..schema import Dim, Measured, TensorMeta
from ..sums import Totals, totals
from .ranking import top_modules, top_nodes
from .result import Benchmark, Limits, Run

_ABOVE = 1.05
"""A share of the limits that no spread of the samples explains."""


def describe(
    graph: ModelGraph,
    *,
    model: str | None = None,
    limits: Device | None = None,
    tf32: bool = False,
    top: int = 10,
) -> Benchmark:
    """Return what a measured graph says of its model; write its roofline where that is known.

    The options are those of `benchmark`. Raises UsageError for a graph that was not measured.
    """
    measured: Measured | None = graph.graph.get("measured")
    if measured is None:
        raise UsageError("the graph was not measured", hint="torchatlas.measure(graph)")
    found, notes = _achieved(graph, measured, limits, tf32)
    whole = totals(graph)
    batch = _batch(graph)
    return Benchmark(
        model=clean(model or graph.graph.get("name", "model")),
        device=measured.device,
        device_name=measured.device_name,
        torch=measured.torch,
        threads=measured.threads,
        mode=measured.mode,
        cache=measured.cache,
        dtype=_dtype(graph),
        batch=batch,
        ops=whole.ops,
        params=_number(whole.params),
        param_bytes=_number(whole.param_bytes),
        flops=_number(whole.flops),
        coverage=whole.coverage,
        uncounted=dict(sorted(whole.unknown.items())),
        runs=tuple(_runs(measured, batch, found)),
        sum_us=measured.sum_us,
        residual_us=measured.residual_us,
        drift=measured.drift,
        launches=measured.launches,
        peak_bytes=measured.peak_bytes,
        predicted_peak_bytes=_number(whole.peak_bytes),
        critical_path_us=_critical(graph),
        limits=None if found is None else _limits(graph, whole, measured, found, tf32),
        nodes=top_nodes(graph, measured, found, top),
        modules=top_modules(graph, top),
        unstable=len(measured.unstable),
        phases=_phases(graph),
        notes=(*notes, *_contradictions(graph)),
    )


def _contradictions(graph: ModelGraph) -> Iterator[str]:
    """Yield which ops make other tensors than the graph says."""
    names: tuple[str, ...] = graph.graph.get("contradicted", ())
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            f"Of {names[0]}{more} the graph has another shape, type or stride than the device "
            "makes, and so other bytes."
        )


def _number(value: Dim | None) -> int | None:
    """Return a count; None where it is not known, or depends on values."""
    return value if isinstance(value, int) else None


def _achieved(
    graph: ModelGraph, measured: Measured, limits: Device | None, tf32: bool
) -> tuple[Achievements | None, list[str]]:
    """Write the roofline and return what was achieved; or None, and why there is none."""
    try:
        device = limits or resolve(measured.device_name)
    except UsageError:
        return None, [
            f"The limits of {measured.device_name!r} are not known: "
            f"`torchatlas calibrate --device {measured.device} --out mine.json` measures them, "
            "and `--limits mine.json` takes them."
        ]
    try:
        roofline(graph, device, tf32=tf32)
        found = achieved(graph, device, tf32=tf32)
    except AtlasError as error:
        return None, [f"There is no roofline: {error.problem}."]
    return found, list(_doubts(found, tf32))


def _doubts(found: Achievements, tf32: bool) -> Iterator[str]:
    """Yield why more may have been achieved than the limits allow."""
    if (found.total.mfu or 0.0) > _ABOVE:
        other = "" if tf32 else ", or products of float32 ran as TF32 (`--tf32`)"
        yield (
            "The model ran faster than the limits allow: they are too low, as those are that were "
            f"measured on a busy machine{other}."
        )
    elif (found.total.roofline_share or 0.0) > _ABOVE:
        yield "Caches held what the roofline takes to be read from memory."


def _runs(measured: Measured, batch: int, found: Achievements | None) -> Iterator[Run]:
    """Yield the model as it is called, and then the other ways to run it."""
    contractions = None if found is None else found.total.contraction_us
    ways: list[Any] = [measured, *measured.others]
    for one in ways:
        median = one.median_us
        yield Run(
            way=getattr(one, "way", "eager"),
            median_us=median,
            iqr_us=one.iqr_us,
            p90_us=one.p90_us,
            samples=one.samples,
            stable=one.stable,
            throughput=None if not median else batch * 1e6 / median,
            speedup=None if not median else measured.median_us / median,
            mfu=None if not median or contractions is None else contractions / median,
            error=getattr(one, "error", ""),
            note=getattr(one, "note", ""),
        )


def _phases(graph: ModelGraph) -> dict[str, float]:
    """Return the latencies of the parts of a training step; nothing of what is none."""
    found: dict[str, float] = {}
    for _, node in op_nodes(graph):
        if "phase" in node:
            found[node["phase"]] = found.get(node["phase"], 0.0) + (node.get("latency_us") or 0.0)
    return found if len(found) > 1 else {}


def _critical(graph: ModelGraph) -> float | None:
    """Return the latencies along the critical path; None where no op was timed."""
    if not any(node.get("latency_us") for _, node in op_nodes(graph)):
        return None
    path = critical_path(graph, "latency_us")
    return sum(graph.nodes[name].get("latency_us") or 0.0 for name in path)


def _limits(
    graph: ModelGraph, whole: Totals, measured: Measured, found: Achievements, tf32: bool
) -> Limits:
    us = None if whole.untimed else whole.roofline_us
    bounds: Counter[str] = Counter()
    for _, node in op_nodes(graph):
        if "bound" in node:
            bounds[node["bound"]] += node["roofline_us"]
    return Limits(
        device=graph.graph["roofline_device"],
        roofline_us=us,
        roofline_share=None if us is None else us / measured.median_us,
        mfu=found.total.mfu,
        bandwidth_share=found.total.bandwidth_share,
        flops_per_second=found.total.flops_per_second,
        bounds=dict(bounds.most_common()),
        untimed=dict(sorted(whole.untimed.items())),
        tf32=tf32,
    )


# -- what it was run on --------------------------------------------------------------------


def _batch(graph: ModelGraph) -> int:
    """Return the leading size of the first input tensor that has a dimension, or else 1."""
    for meta in _tensors(graph, "input"):
        if meta.shape and isinstance(meta.shape[0], int):
            return meta.shape[0]
    return 1


def _dtype(graph: ModelGraph) -> str:
    """Return the data type of most bytes of parameters, or else of the first input."""
    sizes: Counter[str] = Counter()
    for meta in _tensors(graph, "parameter"):
        sizes[meta.dtype] += _number(meta.nbytes) or 0
    for meta in () if sizes else _tensors(graph, "input"):
        return meta.dtype
    return sizes.most_common(1)[0][0] if sizes else ""


def _tensors(graph: ModelGraph, kind: str) -> Iterator[TensorMeta]:
    for _, node in in_order(graph):
        if node["kind"] == kind:
            yield from (meta for meta in node["outputs"] if meta is not None)
