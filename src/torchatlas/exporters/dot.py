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

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..graph import ModelGraph, in_order, totals
from ..names import REPLACEMENT, UniqueNames, clean, op_leaf
from ..schema import NODE_FIELDS, Dim, TensorMeta

if TYPE_CHECKING:
    import pydot

Node = Mapping[str, Any]
Place = tuple[str, ...]
"""Where a node is drawn: the paths of the modules around it, from the outermost inwards."""

SHOWN = ("params", "flops")
"""What stands under a node's title in the picture, unless `render` is told otherwise."""

LARGE = 1000
"""Nodes from which Graphviz is asked for straight lines and for an early end of its search."""

_WEIGHTS = ("parameter", "buffer", "constant")
_LEFT_OUT = ("target", "source")  # DOT gives `target` a meaning, and lines of code stay private
_TOLD_ELSEWHERE = ("kind", "index", "op")  # not repeated among the facts that Netron shows

# Netron does not know `\"` and splits labels at every `|`; Graphviz keeps `\\` as two, and
# writes `&#27;` into an SVG as it is. The last two are no characters, and no XML may hold them.
_QUOTED = {ord(c): ord(c) + 0xFEE0 for c in '"\\&|'} | {0xFFFE: REPLACEMENT, 0xFFFF: REPLACEMENT}
_RESERVED = ("node", "edge", "graph", "subgraph")  # keywords to Netron, even in quotes


def quote(*lines: str) -> str:
    r"""Return `lines` as one DOT string that means the same to Graphviz and to Netron.

    >>> print(quote("layer1/0/conv1/conv2d"), quote("<b>"), quote("conv2d", "64×56×56"))
    "layer1/0/conv1/conv2d" "<b>" "conv2d\n64×56×56"
    >>> print(quote('a"b|c'), quote("ends in \\"), quote("&#27;"))
    "a＂b｜c" "ends in ＼" "＆#27;"
    """
    return '"' + r"\n".join(map(_escape, lines)) + '"'


def _escape(text: str) -> str:
    printable = text if text.isprintable() else "".join(map(clean, text))
    return printable.translate(_QUOTED)


def render(graph: ModelGraph, *, show: Sequence[str] = SHOWN, parameters: bool = True) -> bytes:
    """Return `graph` as a DOT file, in UTF-8.

    `show` names the keys that stand under a node's title in the picture, ``"shape"`` and
    ``"dtype"`` among them; the facts that Netron and scripts read are always whole.
    ``parameters=False`` leaves out the nodes of parameters, buffers and constants. Raises
    UsageError where `show` names a key that no node can have.
    """
    import pydot

    known = ("shape", "dtype", *NODE_FIELDS)
    if unknown := [key for key in show if key not in known]:
        raise UsageError(
            f"a node has no key {unknown[0]!r} to show", hint=f"choose among {', '.join(known)}"
        )
    nodes = dict(in_order(graph))
    if not parameters:
        nodes = {name: node for name, node in nodes.items() if node["kind"] not in _WEIGHTS}
    ids = file_ids(nodes)
    file = pydot.Dot(quote(graph.graph["name"]), strict=True, **_graph_look(graph, len(nodes)))
    file.add_node(pydot.Node("edge", **_EDGE_LOOK))
    for name, node in nodes.items():
        file.add_node(pydot.Node(quote(ids[name]), label=_record(ids[name], node)))
    for source, target, attrs in _edges(graph, nodes):
        file.add_edge(pydot.Edge(quote(ids[source]), quote(ids[target]), **attrs))
    picture = pydot.Subgraph("picture")
    file.add_subgraph(picture)
    clusters = _Clusters(picture, nodes)
    for name, node in nodes.items():
        cluster, title = clusters.place(name, node)
        attrs = _node_look(node) | _facts(node)
        attrs["label"] = quote(title, *_shown(graph, name, node, show))
        cluster.add_node(pydot.Node(quote(ids[name]), **attrs))
    return str(file.to_string(indent=1)).encode()


def file_ids(names: Iterable[str]) -> dict[str, str]:
    """Return each node's name in the file: its id, unless one of the readers cannot take that.

    >>> file_ids(["fc/linear", "node", 'a"', "a＂"])
    {'fc/linear': 'fc/linear', 'node': 'node_1', 'a"': 'a＂_1', 'a＂': 'a＂'}
    """
    unique = UniqueNames()
    for word in _RESERVED:
        unique.take(word)
    plain = {name for name in names if name == _escape(name) and name not in _RESERVED}
    for name in plain:
        unique.take(name)
    return {name: name if name in plain else unique.take(_escape(name)) for name in names}


def _edges(
    graph: ModelGraph, nodes: Mapping[str, Node]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    for source, node in nodes.items():
        for target, edge in graph.adj[source].items():
            if target in nodes:
                yield source, target, _edge_attrs(node, edge)


def _edge_attrs(node: Node, edge: Mapping[str, Any]) -> dict[str, str]:
    outputs = sorted({use.output for use in edge["uses"] if use.output is not None})
    if not outputs:
        return {"uses": quote("after"), "style": quote("dashed")}
    uses = [f"{use.argument} = output {use.output}" for use in edge["uses"]]
    attrs = {"uses": quote(", ".join(uses)), "bytes": quote(str(edge["bytes"]))}
    if node["kind"] in _WEIGHTS:
        return attrs | _WEIGHT_EDGE_LOOK
    return attrs | {"label": quote(*(_shape(node["outputs"][output]) for output in outputs))}


# -- facts -------------------------------------------------------------------------------------


def _facts(node: Node) -> dict[str, str]:
    """Return what is known of `node` in plain values: exact numbers, names, the tensors made."""
    facts = {
        key: str(node[key])
        for key in NODE_FIELDS
        if key in node and key not in _LEFT_OUT and _is_plain(node[key])
    }
    facts["outputs"] = "; ".join("none" if out is None else str(out) for out in node["outputs"])
    return facts


def _is_plain(value: object) -> bool:
    return (isinstance(value, str) and value != "") or isinstance(value, float) or is_dim(value)


def _record(name: str, node: Node) -> str:
    r"""Return the label that Netron takes apart: the node's name, its op, a fact a line.

    >>> out = TensorMeta((2, 8), "float32", "cuda:0")
    >>> print(_record("act/relu", {"kind": "op", "op": "aten.relu", "outputs": (out,), "flops": 0}))
    "{act/relu|op_code=aten.relu|shape: 2×8\ldtype: float32\lflops: 0\l}"
    """
    made = [out for out in node["outputs"] if out is not None]
    facts = {
        "shape": ", ".join(map(_sizes, made)),
        "dtype": ", ".join(dict.fromkeys(out.dtype for out in made)),
    }
    facts |= {key: value for key, value in _facts(node).items() if key not in _TOLD_ELSEWHERE}
    lines = "".join(f"{key}: {_fact(value)}" + r"\l" for key, value in facts.items())
    return f'"{{{_escape(name)}|op_code={_op_code(name, node)}|{lines}}}"'


def _op_code(name: str, node: Node) -> str:
    op = str(node["op"]) or f"{node['kind']}.{name.rpartition('/')[2]}"
    # Netron folds or parses away the bare words that torch's own DOT files use.
    safe = "." in op and not op.startswith("get_parameter")
    return _escape(op if safe else f"op.{op}").replace("=", "＝")


def _fact(value: str) -> str:
    # Netron drops a line with a second colon, and reads what stands in parentheses as JSON.
    return re.sub(r"^\(", "（", _escape(value).replace(":", "："))


def _sizes(tensor: TensorMeta) -> str:
    """Return the shape of `tensor` in the way of the books.

    >>> _sizes(TensorMeta((1, 64, 56, 56))), _sizes(TensorMeta(())), _sizes(TensorMeta((0,)))
    ('1×64×56×56', 'scalar', '0')
    """
    sizes = (str(size) for size in tensor.shape)
    return "×".join(s if s.isidentifier() or s.isdigit() else f"({s})" for s in sizes) or "scalar"


# -- the picture -------------------------------------------------------------------------------


def _graph_look(graph: ModelGraph, size: int) -> dict[str, str]:
    look = {
        "label": quote(_headline(graph), " "),
        "labelloc": "t",
        "rankdir": "TB",
        "newrank": "true",
        "nodesep": "0.25",
        "ranksep": "0.35",
        "fontsize": "18",
        "fontname": _FONT,
        "fontcolor": _INK,
    }
    if size >= LARGE:
        look |= {"splines": "line", "nslimit": "2", "nslimit1": "2", "mclimit": "0.5"}
    return {key: quote(value) if value[0] != '"' else value for key, value in look.items()}
