"""What side panels tell of a node: every annotation by key, the telling ones first, as text."""

from __future__ import annotations

from typing import Any

from ..graph import ModelGraph
from ..names import clean
from ..schema import NODE_FIELDS, is_dim
from ..text import number
from .onnx_metadata import properties, text
from .onnx_values import arguments, literals


def facts(graph: ModelGraph, name: str, *, include_source: bool = False) -> dict[str, Any]:
    """Return what is known of a node, by key, and the arguments of its op that are no tensors.

    An argument that is called like a key has ``arg_`` in front.
    """
    found = properties(graph, name, include_source=include_source)
    node = graph.nodes[name]
    if node["kind"] != "op":
        return found
    sources = {path: source for path, (source, _) in arguments(graph, name).items()}
    given = literals(node.get("args", {}), sources)
    return found | {f"arg_{k}" if k in found else k: v for k, v in given.items()}


def told(key: str, value: Any) -> str:
    """Return the value of a key as text: a count exactly, and if it is long, in short as well.

    >>> told("flops", 27648), told("params", 108), told("flops", None), told("device", "cpu")
    ('27648 (27.6 kFLOP)', '108', 'unknown', 'cpu')
    >>> told("stride", (2, 2)), told("bytes_read", 512), told("padding", 1)
    ('[2, 2]', '512 B', '1')
    """
    if key not in NODE_FIELDS or not is_dim(value):
        return printable(text(value))
    unit = NODE_FIELDS[key].unit
    if not isinstance(value, int):
        return number(value, unit)
    return f"{value} ({number(value, unit)})" if value >= 1000 else f"{value} {unit}".rstrip()


def printable(value: str) -> str:
    """Return text with control and direction characters replaced.

    >>> printable("conv1"), printable("a" + chr(27)) == f"a{chr(0xFFFD)}"
    ('conv1', True)
    """
    if value.isascii() and value.isprintable():
        return value
    return "".join(map(clean, value))
