"""A graph in another floating-point type: its shapes stay, its bytes and rates change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..graph import ModelGraph
from ..schema import TensorMeta

FLOATING = ("float64", "float32", "float16", "bfloat16")
"""The types that `retyped` changes, and those that it changes them to."""


def retyped(graph: ModelGraph, dtype: Any) -> ModelGraph:
    """Return `graph` with every tensor of a type of `FLOATING` in `dtype`.

    Narrower and complex types stay, as integers do. Costs are those of `graph`: annotate the
    result. It has no `source`. `dtype` is a name such as ``"bfloat16"``, or torch's own.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.ReLU(), torch.zeros(2, 8))
    >>> print(retyped(graph, torch.bfloat16).nodes["relu"]["outputs"][0])
    bfloat16[2, 8]

    Raises UsageError for another type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in FLOATING:
        raise UsageError(
            f"there is no estimate in {name!r}", hint=f"choose among {', '.join(FLOATING)}"
        )
    return _Retyping(name).graph(graph)


class _Retyping:
    """Puts tensors into a data type, each distinct one once."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._known: dict[TensorMeta, TensorMeta] = {}

    def graph(self, graph: ModelGraph) -> ModelGraph:
        changed = ModelGraph(**graph.graph)
        for name, node in graph.nodes(data=True):
            attrs = {**node, "outputs": self._value(node["outputs"])}
            if "args" in node:
                attrs["args"] = self._value(node["args"])
            if "subgraphs" in node:
                bodies = node["subgraphs"].items()
                attrs["subgraphs"] = {key: self.graph(body) for key, body in bodies}
            changed.add_node(name, **attrs)
        for source, target, edge in graph.edges(data=True):
            made = changed.nodes[source]["outputs"]
            flowing = {use.output for use in edge["uses"] if use.output is not None}
            tensors = [made[output] for output in flowing]
            size = sum((meta.nbytes for meta in tensors if meta is not None), 0)
            changed.add_edge(source, target, uses=edge["uses"], bytes=size)
        return changed

    def _value(self, value: Any) -> Any:
        if isinstance(value, TensorMeta):
            return self._tensor(value) if value.dtype in FLOATING else value
        if isinstance(value, tuple):
            return tuple(map(self._value, value))
        if isinstance(value, Mapping):
            return {key: self._value(item) for key, item in value.items()}
        return value

    def _tensor(self, meta: TensorMeta) -> TensorMeta:
        if meta not in self._known:
            dtype = self._dtype
            made = TensorMeta(meta.shape, dtype, meta.device, meta.stride, meta.nnz)
            self._known[meta] = made
        return self._known[meta]
