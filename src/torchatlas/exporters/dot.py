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

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..graph import ModelGraph, in_order
from ..schema import NODE_FIELDS, WEIGHTS, Dim, TensorMeta, Use, is_dim
from ..sums import SUMMED, add_up, totals
from ..text import number
from ..transforms.collapse import collapse
from .dot_boxes import FAINT, FONT, INK, LINE, MIDDLE_DOT, Boxes, Place, places, short
from .dot_colours import Entry, Look, colouring
from .dot_quoting import Block, quote, quote_html, quote_name, quote_names, record
from .nesting import BODY, flat

Node = Mapping[str, Any]

SHOWN = ("params", "flops")
"""What stands under a node's title in the picture, unless `render` is told otherwise."""

CROWDED = 5000
"""Steps, over all edges, from which on sizes stand on nodes: labels would take Graphviz minutes."""

_TOLD = 4
"""Tensors that one label has room for."""

_LEFT_OUT = ("target", "source")  # DOT gives `target` a meaning, and lines of code stay private
_TOLD_ELSEWHERE = ("kind", "index", "op", "outputs")  # to Netron, which shows them in other ways
_EXPECTED = (("phase", "forward"), ("overload", "default"))  # not worth a line of its side bar


def render(
    graph: ModelGraph,
    *,
    show: Sequence[str] = SHOWN,
    parameters: bool = True,
    color_by: str | None = None,
    depth: int | None = None,
    legend: bool = True,
    rankdir: str = "TB",
) -> bytes:
    """Return `graph` as a DOT file, in UTF-8.

    `show` names the keys that stand under a node's title in the picture, ``"shape"`` and
    ``"dtype"`` among them; the facts that Netron and scripts read are always whole.
    ``parameters=False`` leaves out the nodes of parameters, buffers and constants. Colours tell
    families of ops, or the values of the key `color_by` (``"flops"``, ``"device"``, ``"dtype"``);
    what has no value is grey and dashed, and a `legend` under the title says what they mean. With
    `depth` the modules there are one node each, as `torchatlas.collapse` makes them. The more
    bytes flow along an edge, the wider it is. The bodies of control flow stand in boxes of their
    own, between the operands of their op and the op. `rankdir` is Graphviz's: ``"TB"`` draws
    from top to bottom, ``"LR"`` from left to right. Raises UsageError where `show` or `color_by`
    names a key that no node can have, for a depth below 0, and for an unknown `rankdir`.
    """
    file = drawn(graph, show, parameters, color_by, depth, legend, rankdir)
    return "".join(f"{line}\n" for line in file.lines()).encode()


def drawn(
    graph: ModelGraph,
    show: Sequence[str],
    parameters: bool,
    color_by: str | None,
    depth: int | None,
    legend: bool,
    rankdir: str,
) -> Block:
    """Return what `render` writes, as statements."""
    headline = _headline(graph, depth, parameters)
    graph = flat(graph if depth is None else collapse(graph, depth))
    nodes = dict(in_order(graph))
    if not parameters:
        nodes = {name: node for name, node in nodes.items() if node["kind"] not in WEIGHTS}
    ids = quote_names(nodes)
    crowded = _steps(graph, nodes) > CROWDED
    shown = _checked(show, crowded)
    colours = colouring(nodes, color_by)
    looks = {name: colours.look(node) for name, node in nodes.items()}
    table = _heading(headline, colours.title, colours.legend if legend else [])
    look = _graph_look(table, rankdir, crowded)
    file = Block(quote_name(graph.graph["name"]), look, kind="strict digraph")
    file.add("edge", _EDGE_LOOK)
    for name, node in nodes.items():
        file.add(ids[name], {"label": record(ids[name], *_label(name, node))})
    for source, target, attrs in _edges(graph, nodes):
        if crowded:
            attrs.pop("label", None)
        file.edge(ids[source], ids[target], attrs)
    hosts = {name: _host(graph, name, nodes) for name in nodes}
    boxes = Boxes(file.block("picture", {}), nodes, hosts, _sums(graph, shown))
    for name, node in nodes.items():
        box, title = boxes.place(name)
        label = quote(short(title), *_shown(graph, name, node, shown))
        facts = {key: quote(value) for key, value in _facts(node).items()}
        box.add(ids[name], _node_look(node, looks[name], label) | facts)
    return file


def _sums(graph: ModelGraph, show: Sequence[str]) -> dict[Place, str]:
    """Return, for every module and body, the sums of what the picture shows of its nodes."""
    terms: dict[Place, dict[str, list[Dim]]] = {}
    keys = [key for key in show if key in SUMMED]
    for _, node in in_order(graph):
        # What runs in a body counts there; around it the op of the body has those costs already.
        around = places(node)
        inner = max((i for i, place in enumerate(around) if BODY in place[-1]), default=0)
        for place in around[inner:]:
            told = terms.setdefault(place, {key: [] for key in keys})
            for key in keys:
                if node.get(key) is not None:
                    told[key].append(node[key])
    sums = {place: {k: add_up(found) for k, found in told.items()} for place, told in terms.items()}
    return {
        place: ", ".join(_counted(key, value) for key, value in found.items() if value != 0)
        for place, found in sums.items()
    }


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
    users = graph.succ[name] if nodes[name]["kind"] in WEIGHTS else ()
    drawn = (user for user in users if user in nodes)
    return min(drawn, key=lambda user: int(nodes[user]["index"]), default=name)


def _steps(graph: ModelGraph, nodes: Mapping[str, Node]) -> int:
    """Return how many nodes all edges with a label pass by together."""
    drawn = (name for name in nodes if nodes[name]["kind"] not in WEIGHTS)
    position = {name: i for i, name in enumerate(drawn)}
    return sum(
        position[target] - position[source]
        for source, target in graph.edges
        if source in position and target in position and not _crosses(nodes[source], nodes[target])
    )


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
        # The backward pass of a module runs upwards, beside the module: nothing holds it below
        # the one before. Its ops, one by one, are easier to follow downwards.
        beside = "contains" in node and any(_crosses(nodes[source], node) for source in first)
        for source in sorted(first, key=lambda source: (first[source], nodes[source]["index"])):
            attrs = _edge_attrs(nodes[source], node, graph.edges[source, target])
            if beside and nodes[source].get("phase") == node.get("phase") == "backward":
                attrs["constraint"] = quote("false")
            yield source, target, attrs


def _crosses(source: Node, target: Node) -> bool:
    """Say whether an edge leads from the forward pass into the backward pass."""
    forward = source.get("phase", "forward") == "forward" and source["kind"] not in WEIGHTS
    return forward and target.get("phase") == "backward"


def _position(use: Use, places: Mapping[str, int]) -> tuple[int, ...]:
    argument, *path = use.argument.split(".")
    return places.get(argument, len(places)), *(int(i) if i.isdecimal() else 0 for i in path)


def _edge_attrs(source: Node, target: Node, edge: Mapping[str, Any]) -> dict[str, str]:
    outputs = sorted({use.output for use in edge["uses"] if use.output is not None})
    if not outputs:
        return {"uses": quote("after"), "style": quote("dashed")}
    uses = [f"{use.argument}: output {use.output}" for use in edge["uses"]]
    attrs = {"uses": quote(", ".join(uses)), "bytes": quote(str(edge["bytes"]))}
    if source["kind"] in WEIGHTS:
        return attrs | _WEIGHT_EDGE_LOOK
    attrs["penwidth"] = quote(_width(edge["bytes"]))
    if _crosses(source, target):
        return attrs | _SAVED_EDGE_LOOK
    made = [source["outputs"][output] for output in outputs]
    lines = [f" {_tensor(out)}" for out in made if out is not None]
    more = [f" and {len(lines) - _TOLD} more"] if len(lines) > _TOLD else []
    return attrs | {"label": quote(*lines[:_TOLD], *more)}


def _width(nbytes: Any) -> str:
    """Return the width of an edge in points: half a point more for every factor of ten.

    >>> _width(100), _width(3 * 224 * 224 * 4), _width(10**9)
    ('0.7', '1.6', '3.2')
    """
    if not isinstance(nbytes, int):
        return "1"
    return f"{min(max(0.7, 0.2 + 0.5 * (math.log10(max(nbytes, 1)) - 3)), 4):.1f}"


# -- facts -------------------------------------------------------------------------------------


def _facts(node: Node) -> dict[str, str]:
    """Return what is known of `node` in plain values: exact numbers, names, the tensors made."""
    facts = {
        key: "unknown" if node[key] is None else str(node[key])
        for key in NODE_FIELDS
        if node.get(key, "") != "" and key not in _LEFT_OUT and _is_plain(node[key])
    }
    for key in ("contains", "uncounted"):
        if key in node:
            facts[key] = ", ".join(f"{op} x{count}" for op, count in node[key].items())
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

_EDGE_LOOK = {
    "fontname": FONT, "fontsize": quote("9"), "fontcolor": LINE, "color": LINE,
    "arrowsize": quote("0.6"),
}  # fmt: skip
# A weight stands beside its op: one rank higher it would stretch its module's box into the rank
# of the module before, and the two boxes could only stand side by side.
_WEIGHT_EDGE_LOOK = {"color": FAINT, "arrowsize": quote("0.4"), "minlen": quote("0")}
# The backward pass of an op stands beside the op, and runs upwards.
_SAVED_EDGE_LOOK = {"color": FAINT, "style": quote("dotted"), "minlen": quote("0")}


_RANKDIRS = ("TB", "LR", "BT", "RL")


def _graph_look(heading: str, rankdir: str, crowded: bool) -> dict[str, str]:
    if rankdir not in _RANKDIRS:
        raise UsageError(f"there is no rankdir {rankdir!r}", hint=f"choose {', '.join(_RANKDIRS)}")
    look = {
        "label": heading, "labelloc": quote("t"), "fontname": FONT,
        "fontsize": quote("11"), "fontcolor": INK, "rankdir": quote(rankdir),
        "newrank": quote("true"), "nodesep": quote("0.2"), "ranksep": quote("0.3"),
    }  # fmt: skip
    return look | {"nslimit": quote("2")} if crowded else look


def _headline(graph: ModelGraph, depth: int | None, parameters: bool) -> tuple[str, str]:
    sums = totals(graph)
    phases = {node.get("phase") for _, node in graph.nodes(data=True)}
    parts = ["one training step"] if "backward" in phases else []
    parts.append(f"{number(sums.params)} parameters")
    if sums.flops != 0:
        counted = f" ({sums.coverage:.0%} of ops counted)" if sums.unknown else ""
        parts.append(number(sums.flops, "FLOP") + counted)
    if depth is not None:
        parts.append(f"collapsed to modules at depth {depth}" if depth else "collapsed to one node")
    if depth is None and not parameters:
        parts.append("weights not drawn")
    return graph.graph["name"], MIDDLE_DOT.join(parts)


def _heading(headline: tuple[str, str], key: str, legend: Sequence[Entry]) -> str:
    """Return the title of the picture, what it is about, and what its colours mean.

    They are the label of the graph, because the fields of a legend would be nodes of it.
    """
    name, facts = (quote_html(short(text) if i == 0 else text) for i, text in enumerate(headline))
    rows = [f'<FONT POINT-SIZE="20"><B>{name}</B></FONT>', f"<FONT COLOR={LINE}>{facts}</FONT>"]
    cells = [f"<TD>{quote_html(key)}</TD>"] if key else []
    cells += [
        f'<TD BGCOLOR="{look.fill}" COLOR="{look.line}" BORDER="1" STYLE="ROUNDED{dashed}">'
        f'<FONT COLOR="{look.text}">{quote_html(short(text))}</FONT></TD>'
        for look, text in legend
        for dashed in ["" if look.told else ",DASHED"]
    ]
    table = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="5" CELLPADDING="3">'
    lines = -(-len(cells) // _CELLS)
    for line in range(lines if legend else 0):
        row = "".join(cells[line * len(cells) // lines : (line + 1) * len(cells) // lines])
        rows.append(f'<FONT POINT-SIZE="9">{table}<TR>{row}</TR></TABLE></FONT>')
    body = "".join(f"<TR><TD>{row}</TD></TR>" for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="2">{body}</TABLE>>'


_CELLS = 7
"""Fields that a legend has in one line at most."""


def _node_look(node: Node, look: Look, label: str) -> dict[str, str]:
    small = node["kind"] in WEIGHTS
    dashed = node["kind"] == "buffer" or not look.told
    return {
        "label": label, "shape": quote("box"), "fontname": FONT,
        "style": quote("filled,dashed" if dashed else "filled,rounded"),
        "fillcolor": quote(look.fill), "color": quote(look.line),
        "fontsize": quote("8" if small else "11"),
        "fontcolor": LINE if small else quote(look.text),
        "height": quote("0.2" if small else "0.35"), "width": quote("0.3" if small else "0.9"),
        "margin": quote("0.06,0.03" if small else "0.12,0.06"),
    }  # fmt: skip


def _shown(graph: ModelGraph, name: str, node: Node, show: Sequence[str]) -> Iterator[str]:
    """Yield the lines under the title of `node`: its shape for a weight, else what is asked."""
    if node["kind"] in (*WEIGHTS, "input"):
        yield from (_tensor(out) for out in node["outputs"] if out is not None)
        return
    for key in show:
        value = _params(graph, name) if key == "params" else node.get(key)
        if key in ("shape", "dtype"):
            # What else leaves a collapsed module, mostly goes to its backward pass.
            made = [out for out in node["outputs"] if out is not None]
            told = made[:1] if "contains" in node else made[:_TOLD]
            more = [f"and {len(made) - _TOLD} more"] if len(made) > len(told) > 1 else []
            if told:
                texts = (_sizes(out) if key == "shape" else out.dtype for out in told)
                yield ", ".join([*texts, *more])
        elif is_dim(value) and value != 0:
            missing = "uncounted" in node and key in _FROM_RULES
            yield _counted(key, value) + (" +?" if missing else "")
        elif isinstance(value, float):
            yield f"{key}: {value:.4g} {NODE_FIELDS[key].unit}".rstrip()
        elif isinstance(value, str) and value:
            yield f"{key}: {value}"
        elif value is None and key in node:
            yield f"{key}: unknown"


def _counted(key: str, value: Dim) -> str:
    unit = NODE_FIELDS[key].unit
    return number(value, unit) + ("" if unit else f" {key}")


_FROM_RULES = ("macs", "flops", "flops_other", "flops_effective", "int_ops")
"""Costs that miss those of ops for which no rule is known."""


def _params(graph: ModelGraph, name: str) -> Any:
    own = graph.nodes[name].get("params", 0)
    sources = (graph.nodes[source] for source in graph.pred[name])
    return sum((node.get("params", 0) for node in sources if node["kind"] == "parameter"), own)
