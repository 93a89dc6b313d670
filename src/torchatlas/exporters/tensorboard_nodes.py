"""Nodes of TensorBoard's graph: what computes what, of which shapes, where, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..graph import ModelGraph, in_order, inputs_of
from ..names import clean
from ..schema import WEIGHTS, TensorMeta
from .onnx_metadata import text
from .tensorboard_names import Names, device_name, escape
from .told import facts, printable

Node = Mapping[str, Any]

LONGEST = 900
"""Bytes of an attribute's text: from 1024 bytes on TensorBoard leaves the attribute out."""

_INT64 = 2**63


def graph_def(graph: ModelGraph, names: Names, include_source: bool) -> Any:
    """Return a flat graph as a GraphDef, in the order of execution."""
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    made = GraphDef()
    for name, node in in_order(graph):
        if name not in names:
            continue
        proto = made.node.add(name=names[name], op=_op(graph, name, node))
        proto.input.extend(_inputs(graph, name, names))
        _describe(proto, graph, name, include_source)
        if (alias := names.alias(name)) is not None:
            # A constant is drawn as a mark beside its reader, and the search finds it.
            mark = made.node.add(name=alias, op="Const.id")
            proto.input.append(alias)
            _describe(mark, graph, name, include_source)
            mark.attr["drawn_as"].s = names[name].encode()
    return made


def _op(graph: ModelGraph, name: str, node: Node) -> str:
    """Return the type of a node; those called Const are drawn small, beside what reads them."""
    if node["kind"] == "op":
        return escape(clean(node["op"])).replace("Const", "const")
    if node["kind"] in WEIGHTS and graph.succ[name]:
        return f"Const.{node['kind']}"
    return str(node["kind"])


def _inputs(graph: ModelGraph, name: str, names: Names) -> Iterator[str]:
    """Yield what a node reads, in the order of its arguments, and then what runs before it."""
    places = {argument: i for i, argument in enumerate(graph.nodes[name].get("args", ()))}
    sources = inputs_of(graph, name)

    def place(path: str) -> tuple[int, ...]:
        argument, *rest = path.split(".")
        inner = (int(part) if part.isdecimal() else 0 for part in rest)
        return places.get(argument, len(places)), *inner

    for path in sorted(sources, key=place):
        source, output = sources[path]
        if source in names:
            yield f"{names[source]}:{output}" if output else names[source]
    for source, edge in graph.pred[name].items():
        if source in names and all(use.output is None for use in edge["uses"]):
            yield f"^{names[source]}"


def _describe(proto: Any, graph: ModelGraph, name: str, include_source: bool) -> None:
    node = graph.nodes[name]
    if device := node.get("device"):
        proto.device = device_name(device)
    attr = proto.attr
    attr["id"].s = name.encode()
    for key, value in facts(graph, name, include_source=include_source).items():
        key = clean(key)
        if type(value) is int and -_INT64 <= value < _INT64:
            attr[key].i = value
        else:
            attr[key].s = _cut(printable(_plain(value))).encode()
    if node["outputs"]:
        shapes = attr["_output_shapes"].list.shape
        for meta in node["outputs"]:
            _add_shape(shapes.add(), meta)


def _add_shape(shape: Any, meta: TensorMeta | None) -> None:
    if meta is None:
        shape.unknown_rank = True
        return
    for size in meta.shape:
        shape.dim.add(size=size if type(size) is int and size < _INT64 else -1)


def _plain(value: Any) -> str:
    # The page shows text with a backslash before each quotation mark.
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return text(value)


def _cut(value: str) -> str:
    if len(value) * 4 <= LONGEST:
        return value
    return value if len(value.encode()) <= LONGEST else f"{value[: LONGEST // 4]}…"
