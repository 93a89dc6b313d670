"""What TensorBoard colours a graph by: the time and the memory of each node, under a tag.

Times stand one after the other, in the order of execution: the page takes the span from the
first start to the last end for the time of a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..graph import ModelGraph, in_order
from .tensorboard_names import Names, device_name

Node = Mapping[str, Any]

_STEPS = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))
_LARGEST = 2**53  # the page computes with the numbers of JavaScript


def run_metadata(graph: ModelGraph, names: Names) -> Iterator[tuple[str, Any]]:
    """Yield tags, and the times and sizes that stand under them.

    Memory is that of the tensors that a node makes. Times are measured ones if the graph has
    them, or else estimates; under a tag of their own stand FLOPs in the place of times, since
    the page colours by nothing else, and the tag says how many are one microsecond.
    """
    nodes = [(name, node) for name, node in in_order(graph) if name in names]
    timed = [(key, tag) for key, tag in _TIMES if any(key in node for _, node in nodes)]
    for key, tag in timed[:1]:
        yield tag, _stats(nodes, names, _microseconds(key))
    counts = [node["flops"] for _, node in nodes if type(node.get("flops")) is int]
    if most := max(counts, default=0):
        size, prefix = next(step for step in _STEPS if most >= step[0] * 1000 or step[0] == 1)
        tag = f"FLOPs as time: 1 us stands for 1 {prefix}FLOP"
        yield tag, _stats(nodes, names, lambda node: _rounded(node.get("flops"), size))
    elif not timed:
        yield "memory only", _stats(nodes, names, lambda node: 0)


_TIMES = (("latency_us", "measured latency"), ("roofline_us", "roofline estimate"))


def _microseconds(key: str) -> Callable[[Node], int]:
    # The page knows whole microseconds only: what takes any time takes one.
    return lambda node: max(_rounded(node.get(key), 1), 1) if node.get(key) else 0


def _rounded(value: Any, size: int) -> int:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return min(round(value / size), _LARGEST)


def _stats(nodes: Sequence[tuple[str, Node]], names: Names, time: Callable[[Node], int]) -> Any:
    from tensorboard.compat.proto.config_pb2 import RunMetadata

    made = RunMetadata()
    devices: dict[str, Any] = {}
    start = 1  # at 0 the page takes a node for one that never ran
    for name, node in nodes:
        device = device_name(node.get("device") or "cpu")
        if device not in devices:
            devices[device] = made.step_stats.dev_stats.add(device=device)
        took = time(node)
        stats = devices[device].node_stats.add(
            node_name=names[name],
            all_start_micros=start,
            op_end_rel_micros=took,
            all_end_rel_micros=took,
        )
        start += took
        sizes = [0 if meta is None else meta.nbytes for meta in node["outputs"]]
        known = sum(min(size, _LARGEST) for size in sizes if type(size) is int)
        stats.memory.add(allocator_name=device, total_bytes=known)
    return made
