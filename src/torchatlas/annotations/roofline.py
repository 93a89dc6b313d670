"""The roofline: the least time that a device can take for each op, and what sets it.

Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore
architectures, Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import networkx as nx

from ..devices import Device, resolve
from ..errors import GraphError
from ..graph import ModelGraph, in_order, op_nodes, require
from ..memory import LOOPS
from ..schema import SCALARS, Bound, Dim, TensorMeta
from .shapes import shape_of
from .subgraphs import BRANCHES, ONCE, PER_SCORE

NEEDED = ("flops", "flops_other", "int_ops", "bytes_read", "bytes_written")
"""The keys of an op that its time at the limit comes from."""


class Limit(NamedTuple):
    """The least time of a piece of work in microseconds, and what sets it.

    `us` is None where it is not known; `bound` is None there, and where nothing is launched.
    """

    us: float | None
    bound: Bound | None


NOTHING, UNKNOWN = Limit(0.0, None), Limit(None, None)


def roofline(
    graph: ModelGraph, device: str | PathLike[str] | Device, *, tf32: bool = False
) -> None:
    """Write `roofline_us`, `bound` and the graph's `roofline_device`.

    `device` is a `Device`, the name that a driver reports, or a file that holds a device. An op
    takes the longest of three times, and `bound` says which: ``compute``, its operations at the
    device's rate; ``memory``, the bytes that it reads and writes at the device's bandwidth; and
    ``launch``, the least time between two kernels. Ops that move and compute nothing, such as
    views, launch nothing and take 0.

    Contractions run at the rate of their data type: that of the first operand, or of the result
    where that is narrower, as under autocast. Those in float32 run as such, or as TF32 with
    `tf32`. A depthwise convolution has one channel to sum over, too few for a matrix unit, and runs
    at the vector rate. Other operations run at the vector rate, beside the contractions of the same
    op: the longer of the two counts; and exponentials and the like at a rate of their own, where
    the device has one. Every op is one kernel that reads and writes memory, whatever a
    cache holds; a control flow op takes what its bodies take, of branches the longest.

    The time is None where it is not known: no rule counts the op, the device has no rate for
    its data type, or it sends messages between devices. Raises GraphError for symbolic costs.

    >>> import torch, torchatlas as ta
    >>> with torch.device("meta"):
    ...     model, x = torch.nn.Linear(8192, 8192, bias=False), torch.zeros(8192, 8192)
    >>> graph = ta.capture(model.bfloat16(), x.bfloat16())
    >>> roofline(graph, "NVIDIA H100 80GB HBM3")  # 2 * 8192**3 / 989.4e12 s
    >>> round(graph.nodes["linear"]["roofline_us"]), graph.nodes["linear"]["bound"]
    (1111, 'compute')
    """
    found = resolve(device)
    require(graph, *NEEDED)
    _annotate(graph, found, tf32)
    graph.graph["roofline_device"] = found.name


def _annotate(graph: ModelGraph, device: Device, tf32: bool) -> None:
    for name, node in op_nodes(graph):
        _check_numbers(name, node)
        limit = _control_flow(node, device, tf32) or limit_of(node, device, tf32=tf32)
        node["roofline_us"] = limit.us
        node.pop("bound", None)  # of an earlier annotation
        if limit.bound is not None:
            node["bound"] = limit.bound


def _check_numbers(name: str, node: Mapping[str, Any]) -> None:
    """Raise GraphError for symbolic costs, and for those of a collapsed module."""
    if "contains" in node:
        raise GraphError(
            f"{node['op']!r} stands for ops that were collapsed",
            node=name,
            hint="give the whole graph its times, and collapse it then",
        )
    costs = [node.get(key) for key in (*NEEDED, "trips")]
    symbols = sorted({str(s) for cost in costs for s in getattr(cost, "free_symbols", ())})
    if symbols:
        sizes = ", ".join(f"{symbol}=…" for symbol in symbols)
        raise GraphError(
            f"its costs depend on {', '.join(symbols)}",
            node=name,
            hint=f"times are for numbers: torchatlas.bind(graph, {sizes}) puts them in",
        )


# -- one op --------------------------------------------------------------------------------


def limit_of(node: Mapping[str, Any], device: Device, *, tf32: bool = False) -> Limit:
    """Return the least time of an op whose costs are numbers.

    >>> from torchatlas.schema import TensorMeta
    >>> a100, x = resolve("NVIDIA A100-SXM4-80GB"), TensorMeta((4096, 4096))
    >>> add = dict.fromkeys(NEEDED, 0) | {"args": {"self": x, "other": x}, "outputs": (x,)}
    >>> add |= {"flops_other": x.numel, "bytes_read": 2 * x.nbytes, "bytes_written": x.nbytes}
    >>> limit_of(add, a100)  # 3 * 64 MiB / 2039e9 B/s
    Limit(us=98.73790681706718, bound='memory')
    """
    compute = compute_seconds(node, device, tf32=tf32)
    if compute is None or node.get("comm_bytes", 0) != 0:
        return UNKNOWN
    moved = int(node["bytes_read"]) + int(node["bytes_written"])
    return longest(compute, moved / device.bandwidth, device)


def longest(compute: float, memory: float, device: Device) -> Limit:
    """Return the limit of one kernel from its times in seconds at the device's rates."""
    if compute == memory == 0:
        return NOTHING
    times: list[tuple[float, Bound]] = [
        (compute * 1e6, "compute"),
        (memory * 1e6, "memory"),
        (device.launch_us, "launch"),
    ]
    return Limit(*max(times, key=lambda time: time[0]))


def compute_seconds(
    node: Mapping[str, Any], device: Device, *, tf32: bool, sized: bool = False
) -> float | None:
    """Return how long an op computes at the device's rates; None where that is not known.

    If `sized`, contractions run at the rate of their shape and size, where that was measured.
    """
    dtype = contraction_dtype(node)
    rate = _contraction_rate(node, dtype, device, tf32, sized)
    whole = dtype if dtype.startswith(("int", "uint", "qint", "quint")) else "int8"
    parts = (
        (node["flops"], rate),
        (node["int_ops"], device.matrix_rate(whole)),
    )
    contractions = _seconds(parts)
    # They are operations outside contractions too, so who leaves those out leaves them out.
    counted = device.special is not None and node["flops_other"] != 0
    special = special_count(node) if counted else 0
    others = _seconds([(node["flops_other"], device.vector_rate(dtype)), (special, device.special)])
    return None if contractions is None or others is None else max(contractions, others)


def _seconds(parts: Iterable[tuple[Dim | None, float | None]]) -> float | None:
    total = 0.0
    for count, rate in parts:
        if count is None:
            return None
        if count != 0:
            if rate is None:
                return None
            total += int(count) / rate
    return total


def _contraction_rate(
    node: Mapping[str, Any], dtype: str, device: Device, tf32: bool, sized: bool
) -> float | None:
    flops = float(node["flops"]) if sized and node["flops"] is not None else None
    shape = shape_of(node)
    if flops and shape is not None:
        measured = device.shape_rate(dtype, *shape, flops, tf32=tf32)
        if measured is not None:
            return measured
    if shape is not None and shape.kind == "depthwise":
        return device.vector_rate(dtype)
    return device.matrix_rate(dtype, tf32=tf32, flops=flops)


_SPECIAL = frozenset(
    {
        *("_log_softmax", "_safe_softmax", "_softmax", "celu", "cos", "elu", "erf", "exp", "exp2"),
        *("expm1", "gelu", "log", "log10", "log1p", "log2", "log_sigmoid", "log_softmax", "mish"),
        *("selu", "sigmoid", "silu", "sin", "softmax", "softplus", "tan", "tanh"),
    }
)
"""Ops that take an exponential, logarithm or angle of each element."""


def special_count(node: Mapping[str, Any]) -> int:
    """Return how many exponentials and the like an op takes: one for each element, or score.

    >>> from torchatlas.schema import TensorMeta as T
    >>> special_count({"op": "aten.gelu", "args": {}, "outputs": (T((2, 8)),)})
    16
    >>> q, kept = T((1, 4, 32, 64)), {"flops": 2 * 4 * 32 * 32 * (64 + 64)}
    >>> args = {"query": q, "key": q, "value": q}
    >>> op = {"op": "aten.scaled_dot_product_attention", "args": args, "outputs": (q,)}
    >>> special_count(op | kept)  # 4 heads of 32 x 32 scores
    4096
    """
    namespace, _, name = node["op"].partition(".")
    if namespace == "aten" and name.removesuffix("_") in _SPECIAL:
        return int(next((meta.numel for meta in _tensors(node["outputs"])), 0))
    query, value = node["args"].get("query"), node["args"].get("value")
    if "attention" in name and isinstance(query, TensorMeta) and isinstance(value, TensorMeta):
        wide = int(query.shape[-1]) + int(value.shape[-1])
        return int(node["flops"] or 0) // (2 * wide)
    return 0


_WIDTH = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def contraction_dtype(node: Mapping[str, Any]) -> str:
    """Return the data type that an op computes in.

    >>> from torchatlas.schema import TensorMeta as T
    >>> x, half = T((2, 2)), T((2, 2), "bfloat16")
    >>> contraction_dtype({"args": {"self": x}, "outputs": (half,)})  # under autocast
    'bfloat16'
    >>> contraction_dtype({"args": {"self": half}, "outputs": (x,)})
    'bfloat16'
    """
    operand = next(_tensors(node["args"].values()), None)
    result = next(_tensors(node["outputs"]), None)
    first = operand or result
    if first is None:
        return "float32"
    if result is not None and _WIDTH.get(result.dtype, 9) < _WIDTH.get(first.dtype, 0):
        return result.dtype
    return first.dtype


def _tensors(values: Iterable[Any]) -> Iterator[TensorMeta]:
    for value in values:
        if isinstance(value, TensorMeta):
            if value.dtype not in SCALARS:
                yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


# -- control flow --------------------------------------------------------------------------


def _control_flow(node: Mapping[str, Any], device: Device, tf32: bool) -> Limit | None:
    """Annotate the bodies of a control flow op and return their time; None where it is a kernel."""
    if "subgraphs" not in node or node["op"] in PER_SCORE:
        return None
    times = {}
    for key, body in node["subgraphs"].items():
        _annotate(body, device, tf32)
        times[key] = total_us(body)
    runs_bodies = node["op"] in BRANCHES | LOOPS | ONCE
    if not runs_bodies or node.get("cost_source") == "user":
        return None
    known = [time for time in times.values() if time is not None]
    if len(known) < len(times):
        return UNKNOWN
    if node["op"] in BRANCHES:
        return Limit(max(known, default=0.0), None)
    trips = node.get("trips", 1)
    runs = {key: trips + (key == "cond") for key in times}
    return Limit(sum(runs[key] * time for key, time in zip(times, known, strict=True)), None)


def total_us(graph: ModelGraph) -> float | None:
    """Return the `roofline_us` of all nodes together; None where that of one is not known."""
    times = [node["roofline_us"] for _, node in op_nodes(graph)]
    return None if None in times else sum(times, 0.0)


# -- paths ---------------------------------------------------------------------------------


def critical_path(graph: ModelGraph, key: str = "roofline_us") -> list[str]:
    """Return the chain of nodes that depend on each other and take longest together.

    No schedule, on however many streams, takes less than the sum of `key` over it. It begins and
    ends with a node that takes time; one without the key takes none, nor does one for which it
    is None.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Sequential(torch.nn.Linear(8, 8)), torch.zeros(2, 8))
    >>> roofline(graph, "T4")
    >>> critical_path(graph)
    ['0/linear']

    Raises GraphError where no node has the key.
    """
    nodes = in_order(graph)
    times = {name: node.get(key) or 0.0 for name, node in nodes}
    if not any(key in node for _, node in nodes):
        raise GraphError(
            f"no node has {key!r}", hint='torchatlas.annotate(graph, roofline="NVIDIA H200")'
        )
    # The time of a node stands on the edges into it, so those without any need one.
    start: Any = object()
    weighted: nx.DiGraph[Any] = nx.DiGraph()
    weighted.add_weighted_edges_from((start, name, times[name]) for name in times)
    weighted.add_weighted_edges_from((one, other, times[other]) for one, other in graph.edges)
    path: list[Any] = nx.dag_longest_path(weighted, topo_order=[start, *times])
    return path[1:]
