"""What an ONNX file says of a graph and its nodes: annotations by key, the telling ones first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ..graph import ModelGraph, bodies, inputs_of
from ..names import join_body
from ..schema import NODE_FIELDS, TensorMeta
from ..sums import totals

LEADING = ("op", "flops", "macs", "params", "module", "module_type", "shape", "dtype", "device")
"""Keys that come first, because viewers keep the order and people read from the top."""

_LEFT_OUT = {"kind", "index", "overload", "source", "outputs"}
Places = Mapping[str, tuple[ModelGraph, str]]
"""By its name in the whole graph, the graph that a node stands in and its name there."""

_OF_THE_GRAPH = ("name", "frontend", "torch", "schema")


def places(graph: ModelGraph) -> Places:
    """Return where every node stands, those in the bodies of control flow included."""
    found = {name: (graph, name) for name in graph}
    for outer, body in bodies(graph):
        found.update((join_body(outer, name), (body, name)) for name in body)
    return found


def properties(graph: ModelGraph, name: str, *, include_source: bool = False) -> dict[str, Any]:
    """Return what is known of a node, by key: numbers, symbolic sizes, text, None for unknown.

    Besides the annotations these are `shape` and `dtype` of what the node produces, and for an
    op `params`, the elements of the parameters that it reads: a tied one counts at each reader.
    """
    node = graph.nodes[name]
    found = {key: node[key] for key in NODE_FIELDS if key in node and _is_told(key, node[key])}
    if node["kind"] == "op":
        found.setdefault("flops", None)
        params = sum(graph.nodes[source].get("params", 0) for source in graph.predecessors(name))
        if params:
            found["params"] = params
    else:
        found = {"kind": node["kind"], **{k: v for k, v in found.items() if v not in ("", None)}}
    if tensors := produced(graph, name):
        found["shape"] = ", ".join(map(shape_text, tensors))
        found["dtype"] = ", ".join("none" if meta is None else meta.dtype for meta in tensors)
    if include_source and node.get("source"):
        found["source"] = node["source"]
    leading = {key: found[key] for key in LEADING if key in found}
    return {**leading, **found}


def produced(graph: ModelGraph, name: str) -> tuple[TensorMeta | None, ...]:
    """Return the tensors that a node stands for; for an output node, what it returns."""
    node = graph.nodes[name]
    if node["kind"] != "output":
        return tuple(node["outputs"])
    sources = inputs_of(graph, name).values()
    return tuple(graph.nodes[source]["outputs"][output] for source, output in sources)


def _is_told(key: str, value: Any) -> bool:
    if key in _LEFT_OUT or (key == "phase" and value == "forward"):
        return False
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, str) for item in value)
    return not isinstance(value, Mapping)


def shape_text(meta: TensorMeta | None) -> str:
    """Return a shape as text.

    >>> shape_text(TensorMeta((2, 3))), shape_text(None)
    ('[2, 3]', 'none')
    """
    return "none" if meta is None else f"[{', '.join(map(str, meta.shape))}]"


def text(value: Any) -> str:
    """Return the value of a key as text; what is unknown says so.

    >>> text(None), text(12), text(("pointwise", "view"))
    ('unknown', '12', '["pointwise", "view"]')
    """
    if value is None:
        return "unknown"
    if isinstance(value, tuple | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, Mapping):
        return json.dumps(dict(sorted(value.items())), ensure_ascii=False, default=str)
    return str(value)


def graph_properties(graph: ModelGraph) -> dict[str, str]:
    """Return what is known of a whole graph: its name, who captured it, and its totals."""
    found = {key: text(graph.graph[key]) for key in _OF_THE_GRAPH if key in graph.graph}
    sums = totals(graph)
    for field in dataclasses.fields(sums):
        value = getattr(sums, field.name)
        if field.name != "peak" and value is not None and value != {}:  # None was not asked for
            found[field.name] = text(value)
    if sums.peak is not None:
        found["peak_bytes"], found["peak_node"] = text(sums.peak_bytes), sums.peak.node
    found["coverage"] = f"{sums.coverage:.6g}"
    return found


def bytes_text(meta: TensorMeta | None) -> str:
    """Return a tensor and its size as a line of text.

    >>> bytes_text(TensorMeta((2, 3)))
    'float32[2, 3], 24 B'
    """
    return "" if meta is None else f"{meta}, {meta.nbytes} B"


def describe(proto: Any, found: Mapping[str, Any]) -> None:
    """Write `found` to the metadata of a protobuf message."""
    for key, value in found.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, text(value)


def version() -> str:
    """Return the version of torchatlas, which every file names as its producer's."""
    # By name, since exporters may not import the package, which leads to everything above them.
    return str(import_module(__name__.partition(".")[0]).__version__)
