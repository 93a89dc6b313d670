"""Layers of Model Explorer: which one each node stands in, and what stands in it altogether."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..graph import ModelGraph
from ..names import clean, path_to_id
from ..schema import NODE_FIELDS, WEIGHTS, Dim
from ..sums import SUMMED, add_up, totals
from ..text import number, symbols_line
from .nesting import BODY
from .scopes import MARK, scopes

Node = Mapping[str, Any]

_FULL_WIDTH = str.maketrans({";": "\N{FULLWIDTH SEMICOLON}", "\\": "\N{FULLWIDTH REVERSE SOLIDUS}"})

CROWDED = 1000
"""Nodes from which on a layer is shown in parts: at tens of thousands the page gives up."""


def namespaces(graph: ModelGraph, nodes: Mapping[str, Node]) -> dict[str, str]:
    """Return the layer of each of `nodes`: modules from the outermost inwards, calls apart.

    A layer with more than `CROWDED` nodes of its own is parted in the order of execution, a
    weight with the first op that reads it.
    """
    found = {name: _clean(str(scope)) for name, scope in scopes(graph).items() if name in nodes}
    crowds = {space for space, count in Counter(found.values()).items() if count > CROWDED}
    if not crowds:
        return found
    members: dict[str, list[str]] = {space: [] for space in crowds}
    for name in sorted(nodes, key=lambda name: _turn(graph, name)):
        if found[name] in crowds:
            members[found[name]].append(name)
    for space, names in members.items():
        for start in range(0, len(names), CROWDED):
            part = f"nodes {start + 1} to {min(start + CROWDED, len(names))}"
            for name in names[start : start + CROWDED]:
                found[name] = f"{space}/{part}" if space else part
    return found


def _clean(space: str) -> str:
    """Return a namespace in which nothing but single slashes parts layers.

    Model Explorer takes what follows the last semicolon for the namespace, and a slash after a
    backslash for a part of a name.

    >>> _clean("layer1/0"), _clean("a;b/"), _clean("")
    ('layer1/0', 'a；b/_', '')
    """
    if not space:
        return space
    parts = space.translate(_FULL_WIDTH).split("/")
    return "/".join(part if part.strip() else "_" for part in parts)


def _turn(graph: ModelGraph, name: str) -> tuple[int, int]:
    node = graph.nodes[name]
    own = int(node["index"])
    if node["kind"] not in WEIGHTS:
        return own, 1
    users = (int(graph.nodes[user]["index"]) for user in graph.succ[name])
    return min(users, default=own), 0


@dataclass(slots=True)
class _Sum:
    """What stands in a layer, as far as it is known."""

    ops: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    terms: dict[str, list[Dim]] = field(default_factory=dict)


def group_attributes(
    whole: ModelGraph, graph: ModelGraph, spaces: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return, by layer, its module and the sums of what stands in it; ``""`` is the whole graph.

    What stands in a body counts in the layers inside that body only: the op that runs it has
    the cost of its runs already. Weights count where they stand, whether they are drawn or not.
    """
    sums: dict[str, _Sum] = {}
    kinds: dict[str, str] = {}
    for name, space in spaces.items():
        node = graph.nodes[name]
        for layer in layers(space):
            _add(sums.setdefault(layer, _Sum()), node)
        for path, kind in _modules(node):
            kinds.setdefault(path, kind)
    found = {"": _whole(whole)}
    for layer, total in sums.items():
        module = kinds.get(MARK.sub("", layer))
        found[layer] = ({"module": module} if module else {}) | _lines(total)
    return found


def layers(space: str) -> Iterator[str]:
    """Yield the layers around a node, from the innermost to the outermost or to its body.

    >>> list(layers("encoder/cond#true/linear")), list(layers(""))
    (['encoder/cond#true/linear', 'encoder/cond#true'], [])
    """
    while space:
        yield space
        space, _, last = space.rpartition("/")
        if BODY in last:
            return


def _modules(node: Node) -> Iterator[tuple[str, str]]:
    body, backward = "", node.get("phase", "forward")
    front = "" if backward == "forward" else f"{backward}/"
    for module in node.get("module_stack", ()):
        if BODY in module.path:
            body = f"{module.path}/"
            yield _clean(front + module.path), module.type
        elif module.path:
            yield _clean(front + body + path_to_id(module.path)), module.type


def _add(total: _Sum, node: Node) -> None:
    if node["kind"] == "op":
        total.ops += 1
        if node.get("flops") is None:
            total.unknown[node["op"]] += 1
    for key in SUMMED:
        if node.get(key):
            total.terms.setdefault(key, []).append(node[key])


def _lines(total: _Sum) -> dict[str, str]:
    found = {"ops": str(total.ops)}
    for key in dict.fromkeys(("flops", *SUMMED)):
        if (value := add_up(total.terms.get(key, []))) != 0:
            found[key] = number(value, NODE_FIELDS[key].unit)
    if total.ops:
        counted = 1 - total.unknown.total() / total.ops
        unknown = ", ".join(f"{clean(op)} x{n}" for op, n in sorted(total.unknown.items()))
        found["coverage"] = f"{counted:.1%} of ops counted"
        found["coverage"] += f"; unknown: {unknown}" if unknown else ""
    return found


def _whole(graph: ModelGraph) -> dict[str, str]:
    """Return what is known of the whole graph: who captured it, its sums, its symbols."""
    known: tuple[str, ...] = ("frontend", "torch")
    found = {key: str(graph.graph[key]) for key in known if key in graph.graph}
    sums = totals(graph)
    total = _Sum(sums.ops, Counter(sums.unknown), {key: [getattr(sums, key)] for key in SUMMED})
    found |= _lines(total)
    if sums.peak_bytes is not None:
        found["peak memory"] = number(sums.peak_bytes, "B")
    if symbols := symbols_line(graph):
        found["symbols"] = symbols
    if graph.graph.get("specialised"):
        read = len(graph.graph.get("decisions", ()))
        found["specialised"] = f"to the values of the example, {read} of which were read"
    return found
