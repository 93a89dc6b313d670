"""Control flow for formats without nested graphs: the bodies of an op drawn beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..graph import ModelGraph, in_order, inputs_of
from ..names import body_id, join_body
from ..schema import Module, TensorMeta, Use

BODY = "#"
"""What tells a body from a module among the places of a flat graph."""


def flat(graph: ModelGraph) -> ModelGraph:
    """Return a graph in which the nodes of bodies stand between the operands of their op and it.

    They are called by their names in the whole graph, ``cond#true/linear``, and their module
    stack has the body in it. Inputs that stand for an argument give way to what is behind it,
    and outputs to edges into the op. A graph without control flow comes back as it is.
    """
    if not any("subgraphs" in node for _, node in graph.nodes(data=True)):
        return graph
    made = ModelGraph(**graph.graph)
    _Flattening(made).add(graph, _Place())
    return made


Source = tuple[str, int]


class _Place(NamedTuple):
    """Where a graph goes: the front part of its names, the modules around it, its inputs."""

    prefix: str = ""
    outside: tuple[Module, ...] = ()
    """Modules around the op, which a node inside names as well."""
    stack: tuple[Module, ...] = ()
    """The same, and the body."""
    given: Mapping[str, Source] = {}


class _Flattening:
    def __init__(self, made: ModelGraph) -> None:
        self._made = made

    def add(self, graph: ModelGraph, place: _Place) -> list[Source]:
        """Add the nodes of `graph`; return where the results of a body come from."""
        sources: dict[Source, Source] = {(name, 0): given for name, given in place.given.items()}
        returned: list[Source] = []
        for name, node in in_order(graph):
            refs = {path: sources[ref] for path, ref in inputs_of(graph, name).items()}
            if place.prefix and node["kind"] == "output":
                returned += refs.values()
                continue
            if place.prefix and name in place.given:
                continue
            sources.update(((name, i), (place.prefix + name, i)) for i in range(_count(node)))
            results = self._bodies(name, node, refs, place)
            self._node(name, node, place)
            self._edges(graph, name, refs, results, place)
        return returned

    def _bodies(
        self, name: str, node: Mapping[str, Any], refs: dict[str, Source], place: _Place
    ) -> list[tuple[str, Source]]:
        """Add the bodies of a node and take out of `refs` what goes into them instead."""
        results: list[tuple[str, Source]] = []
        behind = {path.replace(".", "/"): path for path in refs}
        taken: set[str] = set()
        for key, body in node.get("subgraphs", {}).items():
            whole = body_id(place.prefix + name, key)
            outside = tuple(node.get("module_stack", ())) or (Module("", ""),)
            around = (*place.stack, *outside[len(place.outside) :])
            given: dict[str, Source] = {}
            for inner, inside in body.nodes(data=True):
                path = behind.get(_argument(inner)) if inside["kind"] == "input" else None
                if path is not None:
                    given[inner] = refs[path]
                    taken.update([path] if body.succ[inner] else ())
            times = f" \N{MULTIPLICATION SIGN} {node['trips']}" if "trips" in node else ""
            entry = Module(whole, node["op"] + times)
            inner_place = _Place(join_body(whole, ""), outside, (*around, entry), given)
            results += ((key, source) for source in self.add(body, inner_place))
        for path in taken:
            del refs[path]
        return results

    def _node(self, name: str, node: Mapping[str, Any], place: _Place) -> None:
        attrs = {key: value for key, value in node.items() if key != "subgraphs"}
        attrs["index"] = len(self._made)
        if place.prefix:
            inside = tuple(node.get("module_stack", ()))[len(place.outside) :]
            attrs["module_stack"] = (*place.stack, *inside)
        self._made.add_node(place.prefix + name, **attrs)

    def _edges(
        self,
        graph: ModelGraph,
        name: str,
        refs: Mapping[str, Source],
        results: list[tuple[str, Source]],
        place: _Place,
    ) -> None:
        uses: dict[str, list[Use]] = {}
        for path, (source, output) in (*refs.items(), *results):
            uses.setdefault(source, []).append(Use(output, path))
        for source in _earlier(graph, name):
            if (drawn := place.prefix + source) in self._made:
                uses.setdefault(drawn, [Use(None, "after")])
        for source, found in uses.items():
            outputs = {use.output for use in found if use.output is not None}
            metas: list[TensorMeta | None] = [
                self._made.nodes[source]["outputs"][output] for output in outputs
            ]
            size = sum((meta.nbytes for meta in metas if meta is not None), 0)
            self._made.add_edge(source, place.prefix + name, uses=tuple(found), bytes=size)


def _count(node: Mapping[str, Any]) -> int:
    return len(node["outputs"])


def _argument(name: str) -> str:
    """Return the argument that an input of a body is: both sides of a scan come from `xs`."""
    group, _, rest = name.partition("/")
    return f"xs/{rest}" if group in ("left", "right") else name


def _earlier(graph: ModelGraph, name: str) -> Iterator[str]:
    for source, _, edge in graph.in_edges(name, data=True):
        if any(use.output is None for use in edge["uses"]):
            yield source
