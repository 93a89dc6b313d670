"""Bytes that an op reads and writes when each operand passes the memory bus once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..graph import ModelGraph, op_nodes
from ..schema import Dim, TensorMeta

GATHERS = {
    "aten.embedding": "weight",
    "aten.index_select": "self",
    "aten.gather": "self",
    "aten.index": "self",
    "aten.embedding_bag": "weight",
}
"""Ops that read only some rows of an operand: as many bytes of it as they write."""


def traffic(graph: ModelGraph) -> None:
    """Write `bytes_read` and `bytes_written` to every op node.

    A view moves nothing. Every other op reads each distinct operand once, a broadcast one only
    as far as it is stored, and writes what it produces; an op in place reads what it overwrites.
    """
    for name, node in op_nodes(graph):
        if "view" in node.get("tags", ()):
            node["bytes_read"] = node["bytes_written"] = 0
            continue
        written = sum((out.nbytes for out in node["outputs"] if out is not None), 0)
        node["bytes_read"] = _read(graph, name, node, written)
        node["bytes_written"] = written


def _read(graph: ModelGraph, name: str, node: Mapping[str, Any], written: Dim) -> Dim:
    sparse = GATHERS.get(node["op"])
    total: Dim = written if sparse else 0
    for tensor in _operands(graph, name, sparse):
        total += tensor.stored_bytes
    return total


def _operands(graph: ModelGraph, name: str, sparse: str | None) -> Iterator[TensorMeta]:
    for source, _, edge in graph.in_edges(name, data=True):
        outputs = graph.nodes[source]["outputs"]
        for index in {u.output for u in edge["uses"] if u.argument != sparse}:
            if index is not None and outputs[index] is not None:
                yield outputs[index]
