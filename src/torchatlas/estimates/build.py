"""Puts an estimate together: sizes, data type, limits, fusion, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from ..annotations import annotate
from ..annotations.roofline import compute_seconds, longest
from ..annotations.roofline import roofline as add_roofline
from ..devices import Device, resolve
from ..errors import UsageError
from ..graph import ModelGraph, in_order
from ..memory import peak
from ..transforms.bind import bind, symbols_of
from .cache import Memory
from .dtypes import retyped
from .fusion import Fusion
from .result import Estimate, Step


def estimate(
    graph: ModelGraph,
    device: str | PathLike[str] | Device,
    *,
    dtype: Any = None,
    tf32: bool = False,
    fuse: bool = True,
    **sizes: int,
) -> Estimate:
    """Return what the model of `graph` would take on `device`, which need not be there.

    `device` is a `torchatlas.devices.Device`, the name that a driver reports, or a file that
    holds one. `sizes` are numbers for the symbols of the graph, such as ``batch=8``. `dtype`
    puts every floating-point tensor in another type, by name (``"bfloat16"``) or torch's own;
    `tf32` lets products of float32 run as TF32. With `fuse`, runs of pointwise ops and of
    reductions of rows are one kernel, as in compiled execution: what enters them is read once,
    what leaves them written once, and one launch paid. All else is a kernel of its own at the
    limit of the device (see `torchatlas.annotations.roofline`). On a device whose cache is known,
    as `torchatlas calibrate` measures it, what was touched shortly before comes from there.
    `graph` itself stays as it is.

    >>> import torch, torchatlas as ta
    >>> model = torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.GELU())
    >>> graph = ta.capture(model.to("meta"), torch.zeros(2, 4096, device="meta"), dynamic=["batch"])
    >>> found = ta.estimate(graph, "NVIDIA H200", dtype="bfloat16", batch=8192)
    >>> found.bounds.keys(), found.fits, round(found.us)  # 275 GFLOP / 989.4 TFLOP/s + 28 us
    (dict_keys(['compute', 'memory']), True, 306)

    Raises UsageError for an unknown device or type, a size that is missing, and one that the
    graph does not have; GraphError for a graph without costs.
    """
    found = resolve(device)
    numbers = _with_sizes(graph, sizes)
    if dtype is not None:
        numbers = annotate(retyped(numbers, dtype))
    add_roofline(numbers, found, tf32=tf32)
    apart = _steps(numbers, found, False, tf32)
    steps = _steps(numbers, found, True, tf32) if fuse else apart
    most = peak(numbers)
    untimed = Counter(numbers.nodes[n]["op"] for s in steps if s.us is None for n in s.nodes)
    return Estimate(
        model=str(numbers.graph.get("name", "")),
        device=found,
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        sizes=dict(sizes),
        us=_total(steps),
        unfused_us=_total(apart),
        steps=tuple(steps),
        modules=_by_module(numbers, steps),
        peak_bytes=None if most is None else int(most.nbytes),
        untimed=dict(untimed),
        assumptions=tuple(_assumptions(found, dtype, tf32, fuse)),
    )


def _with_sizes(graph: ModelGraph, sizes: Mapping[str, int]) -> ModelGraph:
    """Return a graph of numbers, to be changed; it has no `source`."""
    known = symbols_of(graph)
    if not known and sizes:
        raise UsageError(
            f"the graph has no symbol {next(iter(sizes))!r}: all of its sizes are numbers",
            hint='capture it with symbolic sizes: torchatlas.capture(model, x, dynamic=["batch"])',
        )
    missing = [name for name in known if name not in sizes]
    if missing:
        raise UsageError(
            f"the graph needs a number for {', '.join(missing)}",
            hint=f"estimate(graph, device, {', '.join(f'{name}=…' for name in missing)})",
        )
    numbers = bind(graph, **sizes) if known else graph.copy()
    numbers.source = None
    return numbers


# -- steps ---------------------------------------------------------------------------------


def _steps(graph: ModelGraph, device: Device, fuse: bool, tf32: bool) -> list[Step]:
    """Return what runs, in order; ops that launch nothing are left out."""
    fusion, memory = Fusion(graph), Memory(device)
    steps: list[Step] = []
    for _ in range(1 if device.cache is None else 2):
        steps = list(_run(graph, device, fusion, memory, fuse, tf32))
    return steps


def _run(
    graph: ModelGraph, device: Device, fusion: Fusion, memory: Memory, fuse: bool, tf32: bool
) -> Iterator[Step]:
    runs = fusion.runs if fuse else {}
    joined = {name for run in runs.values() for name in run}
    for name, node in in_order(graph):
        if name in runs:
            run = runs[name]
        elif node["kind"] == "op" and name not in joined and node["roofline_us"] != 0.0:
            run = (name,)
        else:
            continue
        nodes = [graph.nodes[member] for member in run]
        apart = sum(int(n["bytes_read"]) + int(n["bytes_written"]) for n in nodes)
        nbytes = fusion.bytes_moved(run) if len(run) > 1 else apart
        if len(run) == 1 and (node["roofline_us"] is None or "subgraphs" in node):
            yield Step(name, run, node["roofline_us"], node.get("bound"), nbytes)
            continue
        moving = memory.seconds(fusion.entering(run), fusion.leaving(run), nbytes)
        yield _step(nodes, run, device, moving, nbytes, tf32)


def _step(
    nodes: Sequence[Mapping[str, Any]],
    run: tuple[str, ...],
    device: Device,
    moving: float,
    nbytes: int,
    tf32: bool,
) -> Step:
    computing = [compute_seconds(node, device, tf32=tf32, sized=True) for node in nodes]
    known = [seconds for seconds in computing if seconds is not None]
    if len(known) < len(run):
        return Step(run[-1], run, None, None, nbytes)
    limit = longest(sum(known), moving, device)
    return Step(run[-1], run, limit.us, limit.bound, nbytes)


def _total(steps: Sequence[Step]) -> float:
    return sum((step.us for step in steps if step.us is not None), 0.0)


def _by_module(graph: ModelGraph, steps: Sequence[Step]) -> dict[str, float]:
    times: dict[str, float] = {"": 0.0}
    for step in steps:
        stack = graph.nodes[step.node].get("module_stack", ())
        for path in dict.fromkeys(["", *(module.path for module in stack)]):
            times[path] = times.get(path, 0.0) + (step.us or 0.0)
    return times


def _assumptions(device: Device, dtype: Any, tf32: bool, fuse: bool) -> Iterator[str]:
    if device.products:
        yield "a product runs as fast as a square one with as many operations, which was measured"
    if device.by_shape:
        yield (
            f"or, where its shape was measured ({', '.join(device.by_shape)}), as one that is as "
            "thin and has as many operations"
        )
    if device.products or device.by_shape:
        yield "other kernels reach the device's rates; real ones reach a part of them"
    else:
        yield "every kernel reaches the device's peak rates; real ones reach a part of them"
    yield "kernels run one after the other, and " + (
        "nothing stays in a cache between two of them"
        if device.cache is None
        else f"{device.cache / 2**20:.4g} MiB of what they touch stay in a cache, which moves "
        f"{(device.cache_bandwidth or 0) / 1e9:.4g} GB/s"
    )
    yield f"a kernel takes {device.launch_us:g} µs at least ({device.launch_source or 'as given'})"
    if fuse:
        yield "pointwise ops and the norms and other reductions of rows between them are one kernel"
        yield "products, convolutions and pooling are kernels of their own"
    else:
        yield "every op is a kernel of its own"
    if dtype is not None:
        yield f"all floating-point tensors are in {dtype}, also those that a model casts to another"
    yield f"products of float32 run {'as TF32 where there is such' if tf32 else 'in float32'}"
    yield "memory is that of an eager run, without what kernels and the allocator take besides"
    yield "everything runs on the one device"
