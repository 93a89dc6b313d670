"""Write a graph for Model Explorer: `render` the graph itself, `overlays` what colours its nodes.

A node is called by its id in every format; its namespace, by which Model Explorer folds layers,
is that of its modules, with later calls of a module and the backward pass apart (`scopes`) and
crowded layers in parts. The search of Model Explorer looks at labels and attributes, so the id
stands among these. Names are data: a JSON string may hold any of them, and the page shows them
as text; only what parts a namespace, a slash or a semicolon, is taken out of them.

Format: `GraphCollection` and `NodeData` of the package ``ai-edge-model-explorer`` 0.1.34.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..graph import ModelGraph, in_order
from ..names import clean
from ..schema import WEIGHTS, TensorMeta, Use
from .families import COLOURS, family
from .model_explorer_groups import group_attributes, layers, namespaces
from .model_explorer_overlays import overlays, title_of
from .nesting import BODY, flat
from .told import facts, printable, told

__all__ = ["overlays", "render"]

Node = Mapping[str, Any]

ORDER = "after"
"""Output of a node from which an edge starts that carries no tensor, only the order."""

LINKS = ("differentiates", "recomputes", "gradient", "gradient_of", "state_of")
"""Keys that name another node: a click on their value jumps there."""

MOST_LINKS = 100
"""Links that one attribute shows at most; a constant may be read by thousands of ops."""


def render(graph: ModelGraph, *, parameters: bool = True, include_source: bool = False) -> bytes:
    """Return `graph` as a JSON file for Model Explorer, in UTF-8.

    ``parameters=False`` leaves out the nodes of parameters, buffers and constants; the ops that
    read them name them all the same. The bodies of control flow are layers of their own beside
    their op, which links to them. `include_source` adds the lines of code.
    """
    label, whole = title_of(graph), graph
    graph = flat(graph)
    nodes = {
        name: node for name, node in in_order(graph) if parameters or node["kind"] not in WEIGHTS
    }
    spaces = namespaces(graph, nodes)
    entries = _bodies(nodes)
    content = {
        "label": label,
        "graphs": [
            {
                "id": label,
                "nodes": _alone(
                    [
                        _node(graph, name, nodes, spaces[name], entries, include_source)
                        for name in nodes
                    ]
                ),
                "groupNodeAttributes": group_attributes(whole, graph, spaces),
            }
        ],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _alone(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name the body in the label of an op that is alone in it: its layer is not drawn."""
    inside = [node for node in nodes if BODY in node["namespace"]]
    count = Counter(layer for node in inside for layer in layers(node["namespace"]))
    for node in inside:
        *_, body = layers(node["namespace"])
        if count[body] == 1:
            node["label"] += f" ({body.rpartition('/')[2]})"
    return nodes


def _node(
    graph: ModelGraph,
    name: str,
    nodes: Mapping[str, Node],
    namespace: str,
    entries: Mapping[str, Sequence[str]],
    include_source: bool,
) -> dict[str, Any]:
    node = nodes[name]
    found: dict[str, Any] = {
        "id": name,
        "label": clean(node["op"]) or name.rpartition("/")[2],
        "namespace": namespace,
        "attrs": [
            {"key": key, "value": value}
            for key, value in _attributes(graph, name, nodes, entries, include_source)
        ],
    }
    edges, tags = _edges(graph, name, nodes)
    if edges:
        found["incomingEdges"] = edges
        found["inputsMetadata"] = tags
    if outputs := _outputs(graph, name):
        found["outputsMetadata"] = outputs
    fill, line = COLOURS[family(node)]
    if node["kind"] in ("input", "output"):  # the label is always dark
        fill = COLOURS["op"][0]
    found["style"] = {"backgroundColor": fill, "borderColor": line}
    return found


# -- attributes --------------------------------------------------------------------------------


def _attributes(
    graph: ModelGraph,
    name: str,
    nodes: Mapping[str, Node],
    entries: Mapping[str, Sequence[str]],
    include_source: bool,
) -> Iterator[tuple[str, Any]]:
    found = facts(graph, name, include_source=include_source)
    yield "id", name
    for key, value in found.items():
        if key in LINKS and value in nodes:
            yield key, _jump([value])
        else:
            yield clean(key), told(key, value)
    weights = [source for source in graph.pred[name] if graph.nodes[source]["kind"] in WEIGHTS]
    if weights and nodes[name]["kind"] == "op":
        shown = [source for source in weights if source in nodes]
        yield "weights", _jump(shown) if shown else ", ".join(weights)
    if nodes[name]["kind"] in WEIGHTS and graph.succ[name]:
        yield "read by", _jump(list(graph.succ[name]))
    if name in entries:
        yield "bodies", _jump(entries[name])


def _jump(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "node_ids", "nodeIds": list(names[:MOST_LINKS])}


def _bodies(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Return, by the op that runs them, the first op of each of its bodies."""
    found: dict[str, dict[str, str]] = {}
    for name, node in nodes.items():
        for module in node.get("module_stack", ()) if node["kind"] == "op" else ():
            if BODY in module.path:
                op = module.path.rpartition(BODY)[0]
                found.setdefault(op, {}).setdefault(module.path, name)
    return {op: list(first.values()) for op, first in found.items()}


# -- edges -------------------------------------------------------------------------------------


def _edges(
    graph: ModelGraph, name: str, nodes: Mapping[str, Node]
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Return the edges into a node, in the order of its arguments, and what each argument is."""
    places = {argument: place for place, argument in enumerate(nodes[name].get("args", ()))}
    uses: list[tuple[str, Use]] = [
        (source, use)
        for source, edge in graph.pred[name].items()
        if source in nodes
        for use in edge["uses"]
    ]
    uses.sort(key=lambda found: _position(found[1], places))
    edges, tags = [], []
    for place, (source, use) in enumerate(uses):
        output = ORDER if use.output is None else str(use.output)
        edges.append(
            {"sourceNodeId": source, "sourceNodeOutputId": output, "targetNodeInputId": str(place)}
        )
        tag = {"key": "__tensor_tag", "value": printable(use.argument)}
        tags.append({"id": str(place), "attrs": [tag]})
    return edges, tags


def _position(use: Use, places: Mapping[str, int]) -> tuple[int, ...]:
    argument, *path = use.argument.split(".")
    return places.get(argument, len(places)), *(int(i) if i.isdecimal() else 0 for i in path)


def _outputs(graph: ModelGraph, name: str) -> list[dict[str, Any]]:
    node = graph.nodes[name]
    found = [
        {"id": str(i), "attrs": _tensor(meta)}
        for i, meta in enumerate(node["outputs"])
        if meta is not None
    ]
    if any(use.output is None for edge in graph.succ[name].values() for use in edge["uses"]):
        found.append({"id": ORDER, "attrs": [{"key": "tensor_shape", "value": "runs before"}]})
    return found


def _tensor(meta: TensorMeta) -> list[dict[str, str]]:
    facts = {
        "tensor_shape": str(meta),
        "bytes": told("bytes_written", meta.nbytes),
        "device": meta.device,
    }
    return [{"key": key, "value": value} for key, value in facts.items()]
