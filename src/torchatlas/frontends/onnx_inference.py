"""The types of all values in an ONNX model, as far as ONNX's shape inference finds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .onnx_contrib import stand_ins
from .onnx_functions import domain
from .onnx_operators import needed_operands
from .onnx_proto import graphs
from .onnx_sizes import MAX_RANK

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

_IR_VERSION = 10
_DEFAULT_OPSET, _LAST_OPSET = 1, 10_000

Place = tuple[tuple[str, ...], str, int]
"""A nested graph: the outputs of its node, the attribute, and which of the attribute's graphs."""


@dataclass(slots=True)
class Types:
    """The types of a graph's values by name, and those of the graphs nested in its nodes.

    `nodes` are those of the model that were looked at, stand-ins included.
    """

    values: dict[str, TypeProto] = field(default_factory=dict)
    bodies: dict[Place, Types] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)


def infer(
    model: ModelProto,
    nodes: Sequence[NodeProto],
    more: Sequence[ValueInfoProto] = (),
) -> Types:
    """Return the types of the values of `model`, whose nodes are `nodes`.

    What the file says of a value holds, and what `more` adds; the rest is inferred. Operators of
    ONNX Runtime's own domain, which ONNX does not know, are stood in for by ones with results of
    the same shape. Where inference fails as a whole, what the file says is all there is.
    """
    asked = _asked(model, nodes)
    asked.graph.value_info.extend(more)
    inferred = _inferred(asked)
    found = _types(asked.graph if inferred is None else inferred.graph)
    found.nodes = list(asked.graph.node)
    return found


def _inferred(asked: ModelProto) -> ModelProto | None:
    from onnx import shape_inference

    content = asked.SerializeToString()
    for data_prop in (True, False):
        try:
            return shape_inference.infer_shapes(content, data_prop=data_prop)
        except Exception:  # its C++ raises RuntimeErrors, ValueErrors and errors of its own
            continue
    return None


def _asked(model: ModelProto, nodes: Sequence[NodeProto]) -> ModelProto:
    """Return the model to infer the types of: without functions, sparse weights and metadata."""
    from onnx import GraphProto, ModelProto, OperatorSetIdProto

    graph = GraphProto(name=model.graph.name or "graph")
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.initializer.extend(model.graph.initializer)
    for sparse in model.graph.sparse_initializer:
        _declare(graph, sparse.values.name, sparse.values.data_type, sparse.dims)
    versions = versions_of(model)
    for node in nodes:
        if _is_sound(node, versions):
            stand_ins(node, graph)
    _ready(graph, versions)
    for found in sorted({"", *_domains(graph)}):
        versions.setdefault(found, _DEFAULT_OPSET)
    imports = [OperatorSetIdProto(domain=name, version=n) for name, n in versions.items()]
    return ModelProto(ir_version=_IR_VERSION, graph=graph, opset_import=imports)


def dimensions(types: Types) -> set[str]:
    """Return the names of all dimensions."""
    found = set()
    for type in types.values.values():
        for tensor in (type.tensor_type, type.sparse_tensor_type):
            found |= {dim.dim_param for dim in tensor.shape.dim if dim.dim_param}
    return found.union(*map(dimensions, types.bodies.values()))


def versions_of(model: ModelProto) -> dict[str, int]:
    """Return the version of every set of operators that a model imports, by domain."""
    return {
        domain(opset.domain): min(max(opset.version, _DEFAULT_OPSET), _LAST_OPSET)
        for opset in model.opset_import
    }


def _is_sound(node: NodeProto, versions: Mapping[str, int]) -> bool:
    """Say whether ONNX's inference can be asked about a node without ending the process.

    Its rules for some operators (EyeLike, LayerNormalization, GatherND) follow an operand that is
    left out, and an axis that is none, out of their memory.
    """
    space = domain(node.domain)
    needed = needed_operands(node.op_type, space, versions.get(space, _DEFAULT_OPSET))
    if any(place >= len(node.input) or not node.input[place] for place in needed):
        return False
    for attribute in node.attribute:
        if attribute.name in ("axis", "axes", "batch_dims"):
            least = 0 if attribute.name == "batch_dims" else -MAX_RANK
            if any(not least <= n <= MAX_RANK for n in (attribute.i, *attribute.ints)):
                return False
    return True


def _ready(graph: GraphProto, versions: Mapping[str, int]) -> None:
    """Let go of metadata, which may be long, and of what stands in a nested graph by mistake."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for body in graphs(attribute):
                inner = list(body.node)
                del body.node[:]
                for nested in inner:
                    if _is_sound(nested, versions):
                        stand_ins(nested, body)
                _ready(body, versions)


def _domains(graph: GraphProto) -> Iterable[str]:
    for node in graph.node:
        yield domain(node.domain)
        for attribute in node.attribute:
            for body in graphs(attribute):
                yield from _domains(body)


def _declare(graph: GraphProto, name: str, data_type: int, dims: Iterable[int]) -> None:
    from onnx import helper

    graph.input.append(helper.make_tensor_value_info(name, data_type, list(dims)))


def _types(graph: GraphProto) -> Types:
    found = Types()
    for tensor in graph.initializer:
        found.values[tensor.name] = of_tensor(tensor)
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.HasField("type"):
            found.values[info.name] = info.type
    for node in graph.node:
        for attribute in node.attribute:
            for i, body in enumerate(graphs(attribute)):
                found.bodies[tuple(node.output), attribute.name, i] = _types(body)
    return found


def of_tensor(tensor: TensorProto) -> TypeProto:
    """Return the type of a tensor that a file holds."""
    from onnx import helper

    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
