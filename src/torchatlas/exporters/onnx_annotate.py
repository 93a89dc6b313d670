"""Names the nodes and values of an ONNX model after the graph, and tells what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..graph import ModelGraph, op_nodes
from ..names import UniqueNames
from .onnx_attribution import ID, Part, all_nodes
from .onnx_metadata import (
    Places,
    describe,
    graph_properties,
    places,
    properties,
    version,
)
from .onnx_structure import DOMAIN
from .onnx_values import arguments, names_text

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto

ADDED = (
    "params", "macs", "flops", "flops_other", "flops_effective", "int_ops", "bytes_read",
    "bytes_written", "comm_bytes",
)  # fmt: skip
"""Costs that add up where several ops became one ONNX node."""

OPAQUE = "an op that ONNX has no words for: it can be looked at and not be run"
"""What is said of a node that no runtime knows."""

_TRACE = "pkg.torch.onnx.stack_trace"
_RULE = "pkg.onnxscript.rewriter.rule_name"


def facts_of(part: Part, places: Places, *, include_source: bool = False) -> dict[str, Any]:
    """Return what is known of an ONNX node: the annotations of what it came from, added up."""
    found: dict[str, Any] = {"id": part.ids[0]}
    if len(part.ids) > 1:
        found["ids"] = part.ids
    if part.count > 1:
        found["part"] = f"{part.position}/{part.count}"
    found |= properties(*places[part.ids[0]], include_source=include_source)
    for name in part.owned[1:]:
        for key, value in properties(*places[name]).items():
            if key in ADDED and value is not None:
                found[key] = value + (found.get(key) or 0)
    return found


class Annotator:
    """Gives a model the graph's names, and its file what the graph knows; drops all else."""

    def __init__(
        self, graph: ModelGraph, model: ir.Model, parts: list[Part], include_source: bool
    ) -> None:
        self.graph, self.places = graph, places(graph)
        self.model = model
        self.parts = {part.node: part for part in parts}
        self.include_source = include_source
        self._nodes: dict[str, dict[str, Any]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._name_nodes()
        self._name_values()

    def file(self, opaque: Sequence[str]) -> ModelProto:
        """Return the annotated file; `opaque` names the ops that no runtime knows."""
        import onnx_ir as ir

        proto: ModelProto = ir.to_proto(self.model)
        proto.producer_name, proto.producer_version = "torchatlas", version()
        proto.graph.name = self.graph.graph["name"]
        found = {**graph_properties(self.graph), **self._lists(opaque)}
        for owner in (proto, proto.graph):
            owner.ClearField("metadata_props")
            describe(owner, found)
        for graph in (proto.graph, *proto.functions):
            self._describe_nodes(graph)
        for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
            describe(value, self._values.get(value.name, {}))
        return proto

    def _lists(self, opaque: Sequence[str]) -> dict[str, Sequence[str]]:
        seen = {name for part in self.parts.values() for name in part.ids}
        ops = sorted(op_nodes(self.graph), key=lambda node: node[1]["index"])
        folded = tuple(name for name, _ in ops if name not in seen)
        lists = {"folded": folded, "opaque": tuple(opaque)}
        return {key: names for key, names in lists.items() if names}

    # -- nodes ---------------------------------------------------------------------------------

    def _name_nodes(self) -> None:
        unique = UniqueNames()
        for name in self.places:
            unique.take(name)
        for node in all_nodes(self.model):
            part, before = self.parts.get(node), dict(node.metadata_props)
            node.metadata_props.clear()
            if part is None:
                node.name = unique.take(node.op_type)
                continue
            id = part.ids[0]
            node.name = id if id in part.owned else unique.take(f"{id}/{node.op_type}")
            found = facts_of(part, self.places, include_source=self.include_source)
            self._nodes[node.name] = found
            if node.domain == DOMAIN:
                node.doc_string = OPAQUE
                found["opaque"] = "true"
                found["input_names"] = names_text(arguments(*self.places[id]))
            if _RULE in before:
                found["rewrite"] = before[_RULE]
            if self.include_source and before.get(_TRACE):
                found["stack_trace"] = before[_TRACE]

    def _describe_nodes(self, graph: Any) -> None:
        for node in graph.node:
            describe(node, self._nodes.get(node.name, {}))
            for attribute in node.attribute:
                for inner in (
                    *attribute.graphs,
                    *([attribute.g] if attribute.HasField("g") else []),
                ):
                    self._describe_nodes(inner)

    # -- values --------------------------------------------------------------------------------

    def _name_values(self) -> None:
        graph, unique = self.model.graph, UniqueNames()
        for value in [*graph.inputs, *graph.outputs]:
            self._name(value, unique.take(self._interface_name(value)))
        for value in list(graph.initializers.values()):
            if not value.is_graph_output():
                self._name(value, unique.take(self._constant_name(value)))
        for node in all_nodes(self.model):
            for i, value in enumerate(node.outputs):
                if value.name and not value.is_graph_output():
                    name = node.name or node.op_type
                    single = len(node.outputs) == 1
                    self._name(value, unique.take(name if single else f"{name}:{i}"))

    def _interface_name(self, value: ir.Value) -> str:
        """Return the id of an input or output; a weight among the inputs keeps its own name."""
        id = value.meta.get(ID)
        if id is None or self.graph.nodes[id]["kind"] not in ("input", "output"):
            return value.name or "value"
        return str(id)

    def _constant_name(self, value: ir.Value) -> str:
        """Return a weight's own name; for what translation made, one after its first reader."""
        readers = value.consumers()
        if ID in value.meta or not readers:
            return value.name or "constant"
        return f"{readers[0].name}/constant"

    def _name(self, value: ir.Value, name: str) -> None:
        value.name = name
        value.metadata_props.clear()
        value.doc_string = _size_text(value)
        if (id := value.meta.get(ID)) is not None:
            self._values[name] = {"id": id, **properties(self.graph, id)}


def _size_text(value: ir.Value) -> str | None:
    """Return the bytes of a tensor as text, None where its size is not known."""
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return None
    size = value.dtype.itemsize
    for dim in value.shape:
        size *= int(dim)
    return f"{int(size)} B"
