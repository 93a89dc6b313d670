"""ONNX models made by hand for the tests, and what torchatlas reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.frontends import onnx_file
from torchatlas.graph import build

F, I64 = TensorProto.FLOAT, TensorProto.INT64
MS = "com.microsoft"


def graph_of(content: bytes | ModelProto, **options: Any) -> ta.ModelGraph:
    """Read, build, annotate and validate."""
    content = content if isinstance(content, bytes) else content.SerializeToString()
    records, attrs = onnx_file.read(content, "folder/made.onnx", **options)
    graph, _ = build(records, **attrs)
    annotate(graph)
    ta.validate(graph)
    return graph


def info(name: str, shape: Sequence[Any] | None, dtype: int = F) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def values(name: str, *items: float, dtype: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(items, dtype), name)


def scalar(name: str, item: int) -> TensorProto:
    return TensorProto(name=name, data_type=I64, int64_data=[item])


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """Return a node; operands and results are names with spaces between, ``_`` is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def body(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Sequence[TensorProto] = (),
    name: str = "body",
) -> GraphProto:
    return helper.make_graph(nodes, name, inputs, outputs, initializer=weights)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[Any]] | Sequence[Any],
    outputs: str,
    weights: Sequence[TensorProto] = (),
    *,
    opset: int = 20,
    functions: Sequence[Any] = (),
    name: str = "made",
) -> ModelProto:
    """Return a model of float32 inputs by shape; what comes out says no type."""
    if isinstance(inputs, Mapping):
        inputs = [info(key, shape) for key, shape in inputs.items()]
    graph = body(
        nodes, inputs, [ValueInfoProto(name=key) for key in outputs.split()], weights, name
    )
    opsets = {"": opset, **{n.domain: 1 for n in nodes if n.domain}}
    opsets |= {function.domain: 1 for function in functions}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def ops(graph: ta.ModelGraph) -> dict[str, dict[str, Any]]:
    """Return the op nodes by id, in order."""
    return {name: data for name, data in graph.nodes(data=True) if data["kind"] == "op"}


def shapes(graph: ta.ModelGraph) -> dict[str, list[Any]]:
    """Return the shape of every first result by id, sizes that are no number as text."""
    return {
        name: [n if isinstance(n, int) else str(n) for n in data["outputs"][0].shape]
        for name, data in graph.nodes(data=True)
        if data["outputs"] and data["outputs"][0] is not None
    }
