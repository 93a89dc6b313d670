"""Overlays of Model Explorer ("node data"): one number or category a node, and its colour."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError
from ..graph import ModelGraph, in_order
from ..names import clean
from .nesting import BODY, flat

Overlay = dict[str, Any]

# From light to dark in one hue: told apart by lightness alone, so by colour-blind people too.
GRADIENT = [
    {"stop": 0, "bgColor": "#f7fbff"},
    {"stop": 0.5, "bgColor": "#6baed6"},
    {"stop": 1, "bgColor": "#08306b"},
]
# After Okabe and Ito, "Color universal design" (2008), in light tints.
CATEGORIES = ("#bfe3f7", "#f9dca6", "#b7e2d3", "#f3d3e4", "#fbf6bd", "#b9d3e8", "#f0c4a8")

NUMBERS = {
    "flops": ("FLOPs", "FLOP"),
    "flops_other": ("other FLOPs", "FLOP"),
    "bytes": ("bytes moved", "B"),
    "params": ("parameters", ""),
    "live_bytes": ("memory in use", "B"),
    "latency_us": ("measured latency", "us"),
    "roofline_us": ("roofline estimate", "us"),
    "peak_bytes": ("measured peak memory", "B"),
}
"""Key to the title and the unit of its overlay; `bytes` are those read and those written."""

_AT_ONCE = ("live_bytes", "peak_bytes")
# What is in use at one time and at another does not add up.
_NO_SUM: Overlay = {"hideAggregatedStats": ["sum"], "hideInChildrenStatsTable": True}
STATISTICS = ("weight_stats", "activation_stats", "gradient_stats")
_DIGITS = 10**5
"""What the largest number comes to at least, if it is shown in a larger unit."""

_PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def overlays(graph: ModelGraph, *, key: str | None = None) -> bytes:
    """Return the overlays of `graph` as a JSON file for Model Explorer, in UTF-8.

    Model Explorer takes one overlay from a file: that of `key` (by default FLOPs, or the first
    that there is), which stands under the name of the graph. The others stand beside it under
    names of their own, ``Net: bytes``, for scripts and for ``torchatlas view``, which loads them
    all. Raises UsageError where the graph has no overlay of `key`.
    """
    found = dict(all_overlays(graph))
    if key is not None and key not in found:
        raise UsageError(
            f"this graph has no overlay of {key!r}",
            hint=f"it has those of {', '.join(found) or 'nothing'}",
        )
    name = title_of(graph)
    shown = key if key is not None else next(iter(found), None)
    first = {} if shown is None else {name: found.pop(shown)}
    content = first | {f"{name}: {key}": overlay for key, overlay in found.items()}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def title_of(graph: ModelGraph) -> str:
    """Return what a graph is called in the files; the page needs some name for each."""
    return clean(graph.graph["name"]) or "graph"


def all_overlays(graph: ModelGraph) -> Iterator[tuple[str, Overlay]]:
    """Yield the key and the content of every overlay that has something to show.

    What is unknown or symbolic has no colour. An op that runs bodies has none either: its
    bodies stand for it, so that the sums of layers count nothing twice.
    """
    nodes = dict(in_order(flat(graph)))
    runs = {
        module.path.rpartition(BODY)[0]
        for node in nodes.values()
        for module in node.get("module_stack", ())
        if BODY in module.path
    }
    for key, (title, unit) in NUMBERS.items():
        values = {name: _value(nodes[name], key) for name in nodes if name not in runs}
        if any(values.values()):
            yield key, _numbers(title, unit, values) | (_NO_SUM if key in _AT_ONCE else {})
    for key in STATISTICS:
        for statistic in ("mean", "std"):
            values = {
                name: (node.get(key) or {}).get(statistic)
                for name, node in nodes.items()
                if isinstance(node.get(key), Mapping)
            }
            if any(_is_number(value) for value in values.values()):
                title = f"{statistic} of {key.removesuffix('_stats')}s"
                yield f"{key}.{statistic}", _numbers(title, "", values)
    if devices := {name: node["device"] for name, node in nodes.items() if node.get("device")}:
        yield "device", _categories("device", devices)


def _value(node: Mapping[str, Any], key: str) -> Any:
    if key in _AT_ONCE and node["kind"] != "op":
        return None
    if key != "bytes":
        return node.get(key)
    parts = [node.get("bytes_read"), node.get("bytes_written")]
    known = [part for part in parts if _is_number(part)]
    return sum(known) if len(known) == len(parts) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _numbers(title: str, unit: str, values: Mapping[str, Any]) -> Overlay:
    known = {name: value for name, value in values.items() if _is_number(value)}
    most = max(map(abs, known.values()), default=0)
    size, prefix = next((step for step in _PREFIXES if most >= step[0] * _DIGITS), (1, ""))
    unit = f"{prefix}{unit}"
    return {
        "name": f"{title} ({unit})" if unit else title,
        "results": {name: {"value": _short(value, size)} for name, value in known.items()},
        "gradient": GRADIENT,
    }


def _short(value: float, size: int) -> float:
    """Return a value in a larger unit: whole, so that the sums on the page have no tails.

    >>> _short(236_027_904, 10**3), _short(64, 1), _short(0.123456789, 1)
    (236028, 64, 0.123457)
    """
    return round(value / size) if isinstance(value, int) else float(f"{value / size:.6g}")


def _categories(title: str, values: Mapping[str, str]) -> Overlay:
    colours = {value: CATEGORIES[i % len(CATEGORIES)] for i, value in enumerate(_new(values))}
    results = {name: {"value": value, "bgColor": colours[value]} for name, value in values.items()}
    return {"name": title, "results": results}


def _new(values: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(values.values()))
