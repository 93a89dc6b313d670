"""GraphML and GEXF, with flat attributes, for Gephi, yEd and networkx itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import networkx as nx

from ..graph import ModelGraph, in_order
from ..modules import shape_text
from ..names import UniqueNames, clean, op_leaf
from ..schema import Use
from ..sums import totals
from ..text import totals_line
from .nesting import flat
from .table import columns

_DECLARATION = "<?xml version='1.0' encoding='utf-8'?>\n"


def graphml(graph: ModelGraph) -> bytes:
    """Return `graph` as GraphML, in UTF-8.

    Nodes have their keys as attributes, and edges their bytes, shapes and uses. Whole numbers are
    ``long``; those of an attribute of which one is larger than that holds are all ``double``, and
    those of one that is symbolic somewhere are text. The nodes in the bodies of control flow
    stand between the operands of their op and the op.
    """
    from networkx.readwrite.graphml import GraphMLWriter

    writer = GraphMLWriter(encoding="utf-8", prettyprint=False)
    writer.add_graph_element(_plain(graph))
    return _content(writer.xml)


def gexf(graph: ModelGraph) -> bytes:
    """Return `graph` as GEXF 1.2, in UTF-8, with the attributes that `graphml` has."""
    from networkx.readwrite.gexf import GEXFWriter

    writer = GEXFWriter(encoding="utf-8", prettyprint=False, version="1.2draft")
    writer.add_graph(_plain(graph))
    for meta in writer.xml.iter("meta"):
        meta.attrib.pop("lastmodifieddate", None)
        for creator in meta.iter("creator"):
            creator.text = "torchatlas"
    return _content(writer.xml)


def _content(xml: ElementTree.Element) -> bytes:
    ElementTree.indent(xml, " ")
    return f"{_DECLARATION}{ElementTree.tostring(xml, encoding='unicode')}\n".encode()


def _plain(graph: ModelGraph) -> nx.DiGraph[str]:
    """Return `graph` with nothing but text and numbers on its nodes, its edges and itself."""
    names, whole = UniqueNames(), flat(graph)
    nodes = dict(in_order(whole))
    ids = {name: names.take(_text(name)) for name in nodes}
    made: nx.DiGraph[str] = nx.DiGraph(
        name=_text(str(graph.graph["name"])), totals=_text(totals_line(totals(graph)))
    )
    table = columns(nodes)
    keys = [key for key in table if key != "id"]
    for row in zip(*table.values(), strict=True):
        name, *values = row
        found = zip(keys, values, strict=True)
        told = {key: _field(value) for key, value in found if value is not None}
        made.add_node(ids[name], label=_label(name, nodes[name]), **told)
    edges = [
        (source, target, edge) for target in nodes for source, edge in whole.pred[target].items()
    ]
    edges.sort(key=lambda edge: (nodes[edge[1]]["index"], nodes[edge[0]]["index"]))
    sizes = [edge["bytes"] for _, _, edge in edges]
    kind: Any = int
    if not all(isinstance(size, int) for size in sizes):
        kind = str
    elif any(size >= 2**63 for size in sizes):
        kind = float
    for source, target, edge in edges:
        made.add_edge(
            ids[source], ids[target], bytes=kind(edge["bytes"]), **_flow(nodes[source], edge)
        )
    return made


def _label(name: str, node: Mapping[str, Any]) -> str:
    return _text(op_leaf(node["op"]) if node["kind"] == "op" else name.rpartition("/")[2])


def _flow(source: Mapping[str, Any], edge: Mapping[str, Any]) -> dict[str, str]:
    outputs = sorted({use.output for use in edge["uses"] if use.output is not None})
    made = [source["outputs"][output] for output in outputs]
    shapes = "; ".join(shape_text(out) for out in made if out is not None)
    return {"shape": _text(shapes), "uses": _text(", ".join(map(_use, edge["uses"])))}


def _use(use: Use) -> str:
    return use.argument if use.output is None else f"{use.argument}: output {use.output}"


def _field(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """Return `text` without what no XML may hold."""
    return text if text.isprintable() else "".join(map(clean, text))
