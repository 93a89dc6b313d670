"""Write a graph in Graphviz's DOT language, in the dialect that Netron reads too.

A file has two halves. First every node and edge stands at top level, a node with its facts in
the kind of label that Netron takes apart into attributes. Then the same nodes stand again, in
one nested cluster per module, with the look of the picture and with their facts as attributes
of their own (``flops="236027904"``), for Graphviz and for scripts. Graphviz lets the second half
win; Netron drops whatever stands inside a subgraph and is left with the first.

Values are always in quotes. What one of the two readers would take for syntax is written in its
full-width form, so that no name, however hostile, ends a string, splits a label, opens an HTML
label, or asks for an image or a link.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..graph import ModelGraph, in_order
from ..names import UniqueNames, op_leaf
from ..schema import NODE_FIELDS, Module, TensorMeta, Use, is_dim
from ..sums import totals
from ..text import number
from .dot_quoting import quote, quote_name, quote_names, record
from .families import COLOURS, family
from .nesting import BODY, flat

if TYPE_CHECKING:
    import pydot

Node = Mapping[str, Any]
Place = tuple[str, ...]
"""Where a node is drawn: the paths of the modules around it, from the outermost inwards."""

SHOWN = ("params", "flops")
"""What stands under a node's title in the picture, unless `render` is told otherwise."""

CROWDED = 5000
"""Steps, over all edges, from which on sizes stand on nodes: labels would take Graphviz minutes."""

_WEIGHTS = ("parameter", "buffer", "constant")
_LEFT_OUT = ("target", "source")  # DOT gives `target` a meaning, and lines of code stay private
_TOLD_ELSEWHERE = ("kind", "index", "op", "outputs")  # to Netron, which shows them in other ways
_EXPECTED = (("phase", "forward"), ("overload", "default"))  # not worth a line of its side bar


def render(graph: ModelGraph, *, show: Sequence[str] = SHOWN, parameters: bool = True) -> bytes:
    """Return `graph` as a DOT file, in UTF-8.

    `show` names the keys that stand under a node's title in the picture, ``"shape"`` and
    ``"dtype"`` among them; the facts that Netron and scripts read are always whole.
    ``parameters=False`` leaves out the nodes of parameters, buffers and constants. The bodies of
    control flow stand in boxes of their own, between the operands of their op and the op. Raises
    UsageError where `show` names a key that no node can have.
    """
    import pydot

    title, graph = _headline(graph), flat(graph)
    nodes = dict(in_order(graph))
    if not parameters:
        nodes = {name: node for name, node in nodes.items() if node["kind"] not in _WEIGHTS}
    ids = quote_names(nodes)
    crowded = _steps(graph, nodes) > CROWDED
    shown = _checked(show, crowded)
    file = pydot.Dot(quote_name(graph.graph["name"]), strict=True, **_graph_look(title, crowded))
    file.add_node(pydot.Node("edge", **_EDGE_LOOK))
    for name, node in nodes.items():
        file.add_node(pydot.Node(ids[name], label=record(ids[name], *_label(name, node))))
    for source, target, attrs in _edges(graph, nodes):
        if crowded:
            attrs.pop("label", None)
        file.add_edge(pydot.Edge(ids[source], ids[target], **attrs))
    picture = pydot.Subgraph("picture")
    file.add_subgraph(picture)
    boxes = _Boxes(picture, nodes, {name: _host(graph, name, nodes) for name in nodes})
    for name, node in nodes.items():
        box, title = boxes.place(name)
        look = _node_look(node, quote(_short(title), *_shown(graph, name, node, shown)))
        facts = {key: quote(value) for key, value in _facts(node).items()}
        box.add_node(pydot.Node(ids[name], **look, **facts))
    return str(file.to_string(indent=1)).encode()


def _checked(show: Sequence[str], crowded: bool) -> Sequence[str]:
    keys = show.split(",") if isinstance(show, str) else show
    known = ("shape", "dtype", *NODE_FIELDS)
    if unknown := [key for key in keys if key not in known]:
        raise UsageError(
            f"a node has no key {unknown[0]!r} to show", hint=f"choose among {', '.join(known)}"
        )
    return ("shape", *keys) if crowded and "shape" not in keys else keys


def _host(graph: ModelGraph, name: str, nodes: Mapping[str, Node]) -> str:
    """Return the node beside which a node is drawn: for a weight the first one that uses it."""
    users = graph.succ[name] if nodes[name]["kind"] in _WEIGHTS else ()
    drawn = (user for user in users if user in nodes)
    return min(drawn, key=lambda user: int(nodes[user]["index"]), default=name)


def _steps(graph: ModelGraph, nodes: Mapping[str, Node]) -> int:
    """Return how many nodes all edges pass by together, weights and their edges left out."""
    drawn = (name for name in nodes if nodes[name]["kind"] not in _WEIGHTS)
    position = {name: i for i, name in enumerate(drawn)}
    edges = ((position.get(a), position.get(b)) for a, b in graph.edges)
    return sum(b - a for a, b in edges if a is not None and b is not None)


def _edges(
    graph: ModelGraph, nodes: Mapping[str, Node]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    # Netron numbers a node's inputs as they come: so they come as its arguments do.
    for target, node in nodes.items():
        places = {argument: place for place, argument in enumerate(node.get("args", ()))}
        first = {
            source: min(_position(use, places) for use in edge["uses"])
            for source, edge in graph.pred[target].items()
            if source in nodes
        }
        for source in sorted(first, key=lambda source: (first[source], nodes[source]["index"])):
            yield source, target, _edge_attrs(nodes[source], graph.edges[source, target])


def _position(use: Use, places: Mapping[str, int]) -> tuple[int, ...]:
    argument, *path = use.argument.split(".")
    return places.get(argument, len(places)), *(int(i) if i.isdecimal() else 0 for i in path)


def _edge_attrs(node: Node, edge: Mapping[str, Any]) -> dict[str, str]:
    outputs = sorted({use.output for use in edge["uses"] if use.output is not None})
    if not outputs:
        return {"uses": quote("after"), "style": quote("dashed")}
    uses = [f"{use.argument}: output {use.output}" for use in edge["uses"]]
    attrs = {"uses": quote(", ".join(uses)), "bytes": quote(str(edge["bytes"]))}
    if node["kind"] in _WEIGHTS:
        return attrs | _WEIGHT_EDGE_LOOK
    made = [node["outputs"][output] for output in outputs]
    lines = [f" {_tensor(out)}" for out in made if out is not None]
    more = [f" and {len(lines) - 4} more"] if len(lines) > 4 else []
    return attrs | {"label": quote(*lines[:4], *more)}


# -- facts -------------------------------------------------------------------------------------


def _facts(node: Node) -> dict[str, str]:
    """Return what is known of `node` in plain values: exact numbers, names, the tensors made."""
    facts = {
        key: "unknown" if node[key] is None else str(node[key])
        for key in NODE_FIELDS
        if node.get(key, "") != "" and key not in _LEFT_OUT and _is_plain(node[key])
    }
    facts["outputs"] = "; ".join("none" if out is None else str(out) for out in node["outputs"])
    return facts


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | float) or is_dim(value)


def _label(name: str, node: Node) -> tuple[str, dict[str, str]]:
    """Return what Netron shows of `node`: its type and its facts."""
    made = [out for out in node["outputs"] if out is not None]
    facts = {}
    if made:
        facts["shape"] = ", ".join(map(_sizes, made))
        facts["dtype"] = ", ".join(dict.fromkeys(out.dtype for out in made))
    for key, value in _facts(node).items():
        if key not in _TOLD_ELSEWHERE and (key, value) not in _EXPECTED:
            facts[key] = value.rpartition(".")[2] if key == "module_type" else value
    return node["op"] or f"{node['kind']}.{name.rpartition('/')[2]}", facts


def _sizes(tensor: TensorMeta) -> str:
    """Return the shape of `tensor` in the way of the books.

    >>> _sizes(TensorMeta((1, 64, 56, 56))), _sizes(TensorMeta(())), _sizes(TensorMeta((0,)))
    ('1×64×56×56', 'scalar', '0')
    """
    sizes = (str(size) for size in tensor.shape)
    factors = [s if s.isidentifier() or s.isdigit() else f"({s})" for s in sizes]
    return "\N{MULTIPLICATION SIGN}".join(factors) or "scalar"


def _tensor(tensor: TensorMeta) -> str:
    return _sizes(tensor) + ("" if tensor.dtype == "float32" else f" {tensor.dtype}")


# -- the picture -------------------------------------------------------------------------------

_FONT = quote("Helvetica,Arial,sans-serif")
_INK, _LINE, _FAINT = quote("#1b1f24"), quote("#57606a"), quote("#b8bfc7")
_DOT = " \N{MIDDLE DOT} "

_EDGE_LOOK = {
    "fontname": _FONT, "fontsize": quote("9"), "fontcolor": _LINE, "color": _LINE,
    "arrowsize": quote("0.6"),
}  # fmt: skip
# A weight stands beside its op: one rank higher it would stretch its module's box into the rank
# of the module before, and the two boxes could only stand side by side.
_WEIGHT_EDGE_LOOK = {"color": _FAINT, "arrowsize": quote("0.4"), "minlen": quote("0")}


def _graph_look(title: str, crowded: bool) -> dict[str, str]:
    look = {
        "label": quote(title), "labelloc": quote("t"), "fontname": _FONT,
        "fontsize": quote("16"), "fontcolor": _INK, "rankdir": quote("TB"),
        "newrank": quote("true"), "nodesep": quote("0.2"), "ranksep": quote("0.3"),
    }  # fmt: skip
    return look | {"nslimit": quote("2")} if crowded else look


def _headline(graph: ModelGraph) -> str:
    sums = totals(graph)
    parts = [graph.graph["name"], f"{number(sums.params)} parameters"]
    if sums.flops != 0:
        counted = f" ({sums.coverage:.0%} of ops counted)" if sums.unknown else ""
        parts.append(number(sums.flops, "FLOP") + counted)
    return _DOT.center(7).join(parts)


def _node_look(node: Node, label: str) -> dict[str, str]:
    fill, line = COLOURS[family(node)]
    small = node["kind"] in _WEIGHTS
    terminal = node["kind"] in ("input", "output")
    return {
        "label": label, "shape": quote("box"), "fontname": _FONT,
        "style": quote("filled,dashed" if node["kind"] == "buffer" else "filled,rounded"),
        "fillcolor": quote(fill), "color": quote(line),
        "fontsize": quote("8" if small else "11"),
        "fontcolor": quote("#ffffff") if terminal else _LINE if small else _INK,
        "height": quote("0.2" if small else "0.35"), "width": quote("0.3" if small else "0.9"),
        "margin": quote("0.06,0.03" if small else "0.12,0.06"),
    }  # fmt: skip


def _shown(graph: ModelGraph, name: str, node: Node, show: Sequence[str]) -> Iterator[str]:
    """Yield the lines under the title of `node`: its shape for a weight, else what is asked."""
    if node["kind"] in (*_WEIGHTS, "input"):
        yield from (_tensor(out) for out in node["outputs"] if out is not None)
        return
    for key in show:
        value = _params(graph, name) if key == "params" else node.get(key)
        if key in ("shape", "dtype"):
            made = [out for out in node["outputs"] if out is not None]
            yield ", ".join(_sizes(out) if key == "shape" else out.dtype for out in made)
        elif is_dim(value) and value != 0:
            unit = NODE_FIELDS[key].unit
            yield number(value, unit) + ("" if unit else f" {key}")
        elif isinstance(value, float):
            yield f"{key}: {value:.4g} {NODE_FIELDS[key].unit}".rstrip()
        elif isinstance(value, str) and value:
            yield f"{key}: {value}"
        elif value is None and key in node:
            yield f"{key}: unknown"


def _params(graph: ModelGraph, name: str) -> Any:
    sources = (graph.nodes[source] for source in graph.pred[name])
    return sum((node.get("params", 0) for node in sources if node["kind"] == "parameter"), 0)


class _Boxes:
    """Makes a box for every module that holds several ops, nested as the modules are.

    A module that only calls one op needs no box: its name goes into the op's title. Nor does a
    ``relu`` that a block calls twice, whose box would pull the two calls together.
    """

    def __init__(
        self, picture: pydot.Subgraph, nodes: Mapping[str, Node], hosts: Mapping[str, str]
    ) -> None:
        self._nodes, self._hosts, self._guests = nodes, hosts, Counter(hosts.values())
        self._made: dict[Place | str, pydot.Subgraph] = {(): picture}
        self._names = UniqueNames()
        self._types: dict[Place, str] = {}
        self._ops: dict[Place, set[tuple[str, str]]] = {}
        for node in nodes.values():
            for module, place in zip(_modules(node), _places(node), strict=True):
                self._types[place] = module.type.rpartition(".")[2]
                ops = self._ops.setdefault(place, set())
                if node["kind"] == "op":
                    ops.add((node["module"], node["op"]))

    def place(self, name: str) -> tuple[pydot.Subgraph, str]:
        """Return the box in which a node stands, and the title that it bears there."""
        node, host = self._nodes[name], self._hosts[name]
        places = _places(self._nodes[host])
        place = next((p for p in reversed(places) if len(self._ops[p]) > 1 or BODY in p[-1]), ())
        if node["kind"] == "op":
            leaf, joint = op_leaf(node["op"]), _DOT
        else:
            leaf, joint = name.rpartition("/")[2], "."
        inner = "" if node["module"] in place else _below(node["module"], place)
        title = leaf if inner in ("", leaf) else f"{inner}{joint}{leaf}"
        return self._with_weights(host, place), title

    def _with_weights(self, host: str, place: Place) -> pydot.Subgraph:
        # Without a box of their own, unseen, the weights of one op mix with those of others.
        if self._guests[host] < 2:
            return self._module(place)
        if host not in self._made:
            look = {"label": quote(""), "peripheries": quote("0"), "margin": quote("4")}
            self._made[host] = self._add(self._module(place), host, look)
        return self._made[host]

    def _module(self, place: Place) -> pydot.Subgraph:
        if place not in self._made:
            title = (_below(place[-1], place[:-1]).rpartition(BODY)[2], self._types[place])
            look = {
                "label": quote(_DOT.join(map(_short, title))),
                "labeljust": quote("l"), "fontname": _FONT, "fontsize": quote("10"),
                "fontcolor": _LINE, "color": _FAINT, "style": quote("rounded,filled"),
                "fillcolor": quote("#f3f5f8" if len(place) % 2 else "#ffffff"),
                "margin": quote("10"),
            }  # fmt: skip
            self._made[place] = self._add(self._module(place[:-1]), place[-1], look)
        return self._made[place]

    def _add(self, outer: pydot.Subgraph, name: str, look: dict[str, str]) -> pydot.Subgraph:
        import pydot

        box = pydot.Subgraph(f'"{self._names.take(quote(f"cluster_{name}")[1:-1])}"', **look)
        outer.add_subgraph(box)
        return box


def _modules(node: Node) -> tuple[Module, ...]:
    """Return the modules around `node`, without the root."""
    return tuple(node.get("module_stack", ())[1:])


def _places(node: Node) -> list[Place]:
    """Return the place of every module around `node`, from the outermost."""
    paths = tuple(module.path for module in _modules(node))
    return [paths[: depth + 1] for depth in range(len(paths))]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:29]}…{text[-30:]}"


def _below(path: str, place: Place) -> str:
    """Return `path` as it reads inside the module of `place`.

    >>> _below("layer1.0.conv1", ("layer1", "layer1.0")), _below("fc", ())
    ('conv1', 'fc')
    """
    outer = next((module for module in reversed(place) if BODY not in module), "")
    if path == outer:
        return ""
    return path.removeprefix(f"{outer}.") if outer else path
