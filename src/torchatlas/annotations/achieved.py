"""What was achieved: measured times beside what a device can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

from ..devices import Device, resolve
from ..errors import GraphError, UsageError
from ..graph import ModelGraph, op_nodes, require
from .roofline import NEEDED, compute_seconds, limit_of

T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True)
class Achieved:
    """What a node, a module or a model did in a measured time, beside what the device can do.

    `us` is the measured time in microseconds. The others are sums over the ops in it: `operations`
    of contractions, in floating point and in integers; `nbytes` read and written; and in
    microseconds `contraction_us`, the time of these operations at the device's rates, and
    `roofline_us`, the least time. A sum is None where it is not known of one of the ops.
    """

    us: float
    operations: int | None
    nbytes: int
    contraction_us: float | None
    roofline_us: float | None
    bandwidth: float

    @property
    def flops_per_second(self) -> float | None:
        """Operations of contractions per second."""
        return None if self.operations is None else self.operations / self.us * 1e6

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: the share of the device's peak rates, 0 to 1."""
        return None if self.contraction_us is None else self.contraction_us / self.us

    @property
    def bandwidth_share(self) -> float:
        """Bytes per second as a share of the device's bandwidth; above 1 where caches helped."""
        return self.nbytes / self.bandwidth / self.us * 1e6

    @property
    def roofline_share(self) -> float | None:
        """The least time as a share of the measured one: 1 at the limit."""
        return None if self.roofline_us is None else self.roofline_us / self.us


@dataclass(frozen=True, slots=True)
class Achievements:
    """`Achieved` by node id, by module path (with all inside), and of the whole model."""

    nodes: Mapping[str, Achieved]
    modules: Mapping[str, Achieved]
    total: Achieved


def achieved(
    graph: ModelGraph, device: str | PathLike[str] | Device | None = None, *, tf32: bool = False
) -> Achievements:
    """Return what each measured op, each module and the model achieved on `device`.

    The times are `latency_us` of the nodes; the model's is the graph's measured median where it
    has one, else their sum. Nodes without a time, or with 0, are left out. `device` is the one
    that was measured on, as `roofline` takes it; by default what the graph says of its
    measurement. A control flow op counts as one kernel.

    >>> import torch, torchatlas as ta
    >>> with torch.device("meta"):
    ...     graph = ta.capture(torch.nn.Linear(4096, 4096), torch.zeros(4096, 4096))
    >>> graph.nodes["linear"]["latency_us"] = 10_000.0  # 2 * 4096**3 in 10 ms are 13.7 TFLOP/s
    >>> total = achieved(graph, "NVIDIA A100-SXM4-80GB").total
    >>> round(total.flops_per_second / 1e12, 1), round(total.mfu, 3)
    (13.7, 0.705)

    Raises GraphError for a graph that was not measured, and for symbolic costs, and UsageError
    for a device that is not known.
    """
    measured: Any = graph.graph.get("measured")
    require(graph, *NEEDED)
    timed = {name: node for name, node in op_nodes(graph) if node.get("latency_us")}
    if not timed:
        raise GraphError("no node has a measured time", hint="torchatlas.measure(graph) adds them")
    if device is None and measured is None:
        raise UsageError("the device is not said", hint="give the one that was measured on")
    found = resolve(measured.device_name if device is None else device)
    nodes = {name: _of_node(name, node, found, tf32) for name, node in timed.items()}
    inside: dict[str, list[Achieved]] = {}
    for name, one in nodes.items():
        stack = timed[name].get("module_stack", ())
        for path in dict.fromkeys(["", *(module.path for module in stack)]):
            inside.setdefault(path, []).append(one)
    modules = {path: _sum(ones, found) for path, ones in inside.items()}
    total = _sum(inside[""], found, None if measured is None else measured.median_us)
    return Achievements(nodes, modules, total)


def _of_node(name: str, node: Mapping[str, Any], device: Device, tf32: bool) -> Achieved:
    costs = [node[key] for key in NEEDED]
    if any(hasattr(cost, "free_symbols") for cost in costs):
        raise GraphError("its costs are symbolic", node=name, hint="bind the graph to numbers")
    contractions = compute_seconds({**node, "flops_other": 0}, device, tf32=tf32)
    return Achieved(
        us=node["latency_us"],
        operations=_all([node["flops"], node["int_ops"]]),
        nbytes=node["bytes_read"] + node["bytes_written"],
        contraction_us=None if contractions is None else contractions * 1e6,
        roofline_us=limit_of(node, device, tf32=tf32).us,
        bandwidth=device.bandwidth,
    )


def _sum(ones: list[Achieved], device: Device, us: float | None = None) -> Achieved:
    return Achieved(
        us=sum(one.us for one in ones) if us is None else us,
        operations=_all([one.operations for one in ones]),
        nbytes=sum(one.nbytes for one in ones),
        contraction_us=_all([one.contraction_us for one in ones]),
        roofline_us=_all([one.roofline_us for one in ones]),
        bandwidth=device.bandwidth,
    )


def _all(terms: Sequence[T | None]) -> T | None:
    """Add up `terms`; None where one of them is not known."""
    known = [term for term in terms if term is not None]
    return sum(known[1:], known[0]) if len(known) == len(terms) else None
