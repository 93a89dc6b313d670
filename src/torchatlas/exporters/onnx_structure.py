"""Structural ONNX: one node for each op of any graph, to be looked at and not to be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..graph import ModelGraph, in_order
from ..names import body_id, join_body
from .onnx_functions import modules_to_functions
from .onnx_metadata import describe, graph_properties, properties, text, version
from .onnx_values import (
    arguments,
    attribute,
    data_type,
    literals,
    names_text,
    returned,
    value_info,
    value_names,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

DOMAIN = "pkg.torch.ops"
"""Domain of every op; Netron knows it and takes ``aten.add.Tensor`` apart."""

OPSET, IR_VERSION = 18, 10
NO_VALUES = "the values are left out"


def render(graph: ModelGraph, *, functions: bool = False, include_source: bool = False) -> bytes:
    """Return `graph` as an ONNX file that passes the checker and holds no tensor values.

    Every op is one node, called by its id, of a domain of its own: the file opens in viewers and
    runs nowhere. Annotations are attributes and metadata; weights have shapes but no values. The
    bodies of control flow are attributes of its op, which Netron opens as graphs.
    With `functions` every module of two ops or more is one node, which Netron opens with ƒ.
    `include_source` adds the lines of code.
    """
    model = _Writer(graph, include_source).model()
    if functions:
        modules_to_functions(model, graph)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Writer:
    def __init__(self, graph: ModelGraph, include_source: bool, prefix: str = "") -> None:
        """Begin a file, or with a `prefix` of all names the graph of a body."""
        from onnx import GraphProto

        self.graph = graph
        self.include_source, self.prefix = include_source, prefix
        self.values = {key: prefix + value for key, value in value_names(graph).items()}
        self.proto = GraphProto(name=prefix.rstrip("/") or graph.graph["name"])

    def model(self) -> ModelProto:
        """Return the whole file."""
        from onnx import ModelProto, OperatorSetIdProto

        found = {**graph_properties(self.graph), **self._nodes()}
        describe(self.proto, found)
        model = ModelProto(
            ir_version=IR_VERSION,
            producer_name="torchatlas",
            producer_version=version(),
            graph=self.proto,
            opset_import=[
                OperatorSetIdProto(domain="", version=OPSET),
                OperatorSetIdProto(domain=DOMAIN, version=1),
            ],
        )
        describe(model, found)
        return model

    def body(self) -> GraphProto:
        """Return the graph of a body, as an attribute holds it."""
        describe(self.proto, {**graph_properties(self.graph), **self._nodes()})
        return self.proto

    def _nodes(self) -> dict[str, Any]:
        """Write every node; return those inputs and outputs that are no tensors, by value."""
        plain: dict[str, str] = {}
        for name, node in in_order(self.graph):
            meta = node["outputs"][0] if node["outputs"] else None
            if node["kind"] == "op":
                self._op(name, node)
            elif (source := returned(self.graph, name)) is not None:
                self._output(name, source)
            elif meta is None:
                plain[name] = text(node.get("args", {}).get("value"))
            elif node["kind"] == "input" or not all(isinstance(n, int) for n in meta.shape):
                self.proto.input.append(self._interface(name, meta))
            else:
                self._weight(name, meta)
        return {"literals": plain} if plain else {}

    def _properties(self, name: str) -> dict[str, Any]:
        found = properties(self.graph, name, include_source=self.include_source)
        return {"id": self.prefix + name, **found}

    # -- ops -----------------------------------------------------------------------------------

    def _op(self, name: str, node: Mapping[str, Any]) -> None:
        from onnx import AttributeProto, NodeProto

        sources = arguments(self.graph, name)
        inputs = {path: self.values[source] for path, source in sources.items()}
        outputs = [self.values[name, i] for i in range(len(node["outputs"]))]
        found = self._properties(name)
        if after := self._after(name):
            found["after"] = after
        proto = NodeProto(
            name=self.prefix + name,
            domain=DOMAIN,
            op_type=f"{node['op']}.{node.get('overload') or 'default'}",
            input=inputs.values(),
            # The checker refuses a node with neither inputs nor outputs; "" is one left out.
            output=outputs or [""],
        )
        describe(proto, {**found, "input_names": names_text(inputs)})
        attributes = {key: value for key, value in found.items() if key not in ("id", "op")}
        for key, literal in literals(node.get("args", {}), inputs).items():
            attributes[f"arg_{key}" if key in attributes else key] = literal
        proto.attribute.extend(attribute(key, value) for key, value in attributes.items())
        for key, body in node.get("subgraphs", {}).items():
            name = f"body_{key}" if key in attributes else key
            held = proto.attribute.add(name=name, type=AttributeProto.GRAPH)
            inner = _Writer(body, self.include_source, join_body(body_id(proto.name, key), ""))
            held.g.CopyFrom(inner.body())
        self.proto.node.append(proto)
        for value, meta in zip(outputs, node["outputs"], strict=True):
            if meta is not None and not self._is_output(value):
                self.proto.value_info.append(value_info(value, meta))

    def _after(self, name: str) -> tuple[str, ...]:
        """Return the nodes that only the order of execution puts before `name`."""
        before = [
            source
            for source, _, edge in self.graph.in_edges(name, data=True)
            if all(use.output is None for use in edge["uses"])
        ]
        return tuple(sorted(before, key=lambda source: self.graph.nodes[source]["index"]))

    def _is_output(self, value: str) -> bool:
        name = value.removeprefix(self.prefix)
        return name in self.graph and self.graph.nodes[name]["kind"] == "output"

    # -- what enters and leaves ----------------------------------------------------------------

    def _interface(self, name: str, meta: Any) -> Any:
        info = value_info(self.prefix + name, meta)
        describe(info, self._properties(name))
        return info

    def _output(self, name: str, source: tuple[str, int]) -> None:
        from onnx import NodeProto

        meta = self.graph.nodes[source[0]]["outputs"][source[1]]
        info = self._interface(name, meta)
        self.proto.output.append(info)
        own = self.prefix + name
        if self.values[source] != own:
            alias = NodeProto(
                name=own, op_type="Identity", input=[self.values[source]], output=[own]
            )
            describe(alias, {**self._properties(name), "flops": 0})
            self.proto.node.append(alias)

    def _weight(self, name: str, meta: Any) -> None:
        """Declare a weight by its type and shape.

        The checker insists on values, or on a file that holds them. A sparse tensor without an
        entry is the one well-formed tensor of a given shape that stores none.
        """
        from onnx import SparseTensorProto, TensorProto

        values = TensorProto(
            name=self.prefix + name, data_type=data_type(meta.dtype), doc_string=NO_VALUES
        )
        describe(values, self._properties(name))
        if not meta.shape or not meta.numel:
            values.dims.extend(meta.shape)
            # A scalar cannot be sparse. All bits set is NaN, or -1: no value that one expects.
            values.raw_data = b"\xff" * max(1, meta.nbytes) if meta.numel else b""
            self.proto.initializer.append(values)
            return
        values.dims.append(0)
        indices = TensorProto(data_type=TensorProto.INT64, dims=[0])
        self.proto.sparse_initializer.append(
            SparseTensorProto(values=values, indices=indices, dims=meta.shape)
        )
