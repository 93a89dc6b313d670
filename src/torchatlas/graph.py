"""The graph: a networkx `DiGraph` that knows its model, and the one place that makes its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx

from .errors import GraphError
from .expressions import symbol
from .names import (
    REPLACEMENT,
    UniqueNames,
    body_id,
    clean,
    join_body,
    join_id,
    op_leaf,
    path_to_id,
)
from .ordering import Memory
from .records import OpRecord, Value, map_values
from .schema import (
    EDGE_FIELDS,
    GRAPH_FIELDS,
    NODE_FIELDS,
    REQUIRED_NODE_KEYS,
    VERSION,
    WEIGHTS,
    Dim,
    Module,
    Symbol,
    TensorMeta,
)
from .validation import check_edge, check_graph, check_keys, check_node

if TYPE_CHECKING:
    from os import PathLike

    from .text import Summary

    _DiGraph = nx.DiGraph[str]
else:
    _DiGraph = nx.DiGraph


class ModelGraph(_DiGraph):
    """A `networkx.DiGraph` of a model; `torchatlas.schema` declares its keys.

    Every networkx algorithm works on it. It adds only display, `summary`, `export`, and
    `source`: what the front end captured, kept in memory and never pickled or written.
    Nodes come in the order of execution, but a small `subgraph` iterates in any order, as
    networkx has it: `in_order` sorts.
    """

    source: Any = None

    def copy(self, as_view: bool = False) -> ModelGraph:
        """Return a copy, as networkx does, and of nested graphs too; `source` goes with it."""
        copied: ModelGraph = super().copy(as_view=as_view)
        copied.source = self.source
        if not as_view:
            for _, node in copied.nodes(data=True):
                if "subgraphs" in node:
                    node["subgraphs"] = {k: body.copy() for k, body in node["subgraphs"].items()}
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "source"}

    def summary(
        self, depth: int = 2, sort: str | None = None, columns: Sequence[str] | None = None
    ) -> Summary:
        """Return the module tree as a table; see `torchatlas.text.summary`."""
        from . import text

        return text.summary(self, depth=depth, sort=sort, columns=columns)

    def export(self, path: str | PathLike[str], format: str | None = None, **options: Any) -> None:
        """Write the graph to `path`; see `torchatlas.exporters.export`."""
        from .exporters import export

        export(self, path, format=format, **options)

    def to_frame(self, library: Literal["pandas", "polars"] | None = None) -> Any:
        """Return the nodes as a data frame; see `torchatlas.exporters.table.frame`."""
        from .exporters import table

        return table.frame(self, library)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from .exporters import notebook

        return notebook.mimebundle(self)

    def __str__(self) -> str:
        name = self.graph.get("name", "")
        ops = sum(1 for _ in op_nodes(self))
        return f"ModelGraph({name!r}: {ops} ops, {len(self)} nodes, {self.number_of_edges()} edges)"


def in_order(graph: _DiGraph) -> list[tuple[str, dict[str, Any]]]:
    """Return the nodes with their keys in the order of execution."""
    nodes: Any = graph.nodes(data=True)
    return sorted(nodes, key=lambda node: node[1]["index"])


def op_nodes(graph: _DiGraph) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes that compute, with their keys, in no particular order."""
    return ((name, node) for name, node in graph.nodes(data=True) if node["kind"] == "op")


def bodies(graph: _DiGraph) -> Iterator[tuple[str, ModelGraph]]:
    """Yield the nested graphs of control flow ops, in order and however deep, with their names.

    A name is that of the op and that of the body: ``encoder/cond#true``; a node inside it has
    the same name in front in every format that puts all nodes side by side.
    """
    for name, node in in_order(graph):
        for key, body in node.get("subgraphs", {}).items():
            yield body_id(name, key), body
            for inner, nested in bodies(body):
                yield join_body(body_id(name, key), inner), nested


def inputs_of(graph: _DiGraph, node: str) -> dict[str, tuple[str, int]]:
    """Return, by argument path, the node and the output that a tensor of `node` comes from."""
    return {
        use.argument: (source, use.output)
        for source, _, edge in graph.in_edges(node, data=True)
        for use in edge["uses"]
        if use.output is not None
    }


def build(records: Sequence[OpRecord], **attrs: Any) -> tuple[ModelGraph, dict[str, str]]:
    """Make a graph of `records`; return it with the node id of every record's key.

    Edges follow the data. Where an op writes memory in place, whatever reads that memory later
    (the tensor itself, or a view of it) gets an edge from the writer, and the writer gets one
    from whatever read the memory before, so that every topological order computes the same.

    The bodies of a control flow op become graphs of their own; the keys of their records stand
    after the op's and the body's: ``cond/true/linear``. A loop that runs for as long as the
    values of tensors say gets a symbol for how often that is, such as ``while_loop_trips``.
    """
    if "modules" in attrs:
        attrs["modules"] = {clean_path(p): clean(t) for p, t in attrs["modules"].items()}
    loops = _Loops(attrs.get("symbols", {}))
    graph, ids = _build(records, attrs, loops)
    if loops.found:
        graph.graph["symbols"] = {**attrs.get("symbols", {}), **loops.found}
    return graph, ids


def _build(
    records: Sequence[OpRecord], attrs: Mapping[str, Any], loops: _Loops
) -> tuple[ModelGraph, dict[str, str]]:
    graph = ModelGraph(schema=VERSION, **attrs)
    names, ids = UniqueNames(), dict[str, str]()
    outputs = dict[str, tuple[TensorMeta | None, ...]]()
    stacks, sizes = _Stacks(attrs.get("modules", {})), dict[int, Dim]()
    memory = Memory(orders=any(record.writes for record in records))
    known: dict[str, dict[str, Any]] = {record.like: {} for record in records if record.like}

    def meta(value: Value) -> TensorMeta | None:
        current = memory.now.get(value, value)
        return outputs[current.key][current.output]

    def size(key: str, output: int) -> Dim:
        made = outputs[key][output]
        if id(made) not in sizes:
            sizes[id(made)] = 0 if made is None else made.nbytes
        return sizes[id(made)]

    for index, record in enumerate(records):
        node = ids[record.key] = names.take(_wanted_id(record))
        outputs[record.key] = record.outputs
        stack = stacks.full(record.stack)
        if record.like:
            made = {**known[record.like], **_place(index, record, stack)}
        else:
            args = {name: map_values(arg, meta) for name, arg in record.args.items()}
            made = _node_attrs(index, record, args, stack)
            if record.key in known:
                known[record.key] = {k: value for k, value in made.items() if k != "source"}
        uses = memory.step(index, record)
        made.update(memory.keys(record))
        if record.subgraphs:
            made.update(_nested(record, node, graph.graph, loops, ids))
        graph.add_node(node, **made)
        for key, edge_uses in uses.items():
            flowing = {use.output for use in edge_uses if use.output is not None}
            amount = sum([size(key, output) for output in flowing], 0)
            graph.add_edge(ids[key], node, uses=tuple(edge_uses), bytes=amount)
    for record in records:
        if record.links:
            links = ((key, ids[r]) for key, r in record.links.items())
            graph.nodes[ids[record.key]].update(links)
    return graph, ids


class _Loops:
    """Names how often loops run whose bodies run as often as the values of tensors say."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.found: dict[str, Symbol] = {}
        self._names = UniqueNames()
        for name in taken:
            self._names.take(name)

    def trips(self, record: OpRecord) -> Dim:
        """Return how often the op of `record` runs its bodies."""
        if record.trips is not None:
            return record.trips
        leaf = clean(op_leaf(record.op)).lower()
        name = self._names.take(f"{leaf if leaf.isidentifier() else 'loop'}_trips")
        self.found[name] = Symbol()
        return symbol(name)


def _nested(
    record: OpRecord,
    node: str,
    outer: Mapping[str, Any],
    loops: _Loops,
    ids: dict[str, str],
) -> dict[str, Any]:
    """Return the keys of a node that runs bodies; adds what their records became to `ids`."""
    attrs: dict[str, Any] = {"subgraphs": {}}
    trips = loops.trips(record)
    if trips != 1:
        attrs["trips"] = trips
    for key, inside in record.subgraphs.items():
        name = clean(key)
        given = {"modules": outer["modules"]} if "modules" in outer else {}
        body, inner = _build(inside, {"name": name, **given}, loops)
        attrs["subgraphs"][name] = body
        for inner_key, inner_id in inner.items():
            ids[f"{record.key}/{key}/{inner_key}"] = join_body(body_id(node, name), inner_id)
    return attrs


def _wanted_id(record: OpRecord) -> str:
    path = clean_path(record.stack[-1].path) if record.stack else ""
    if record.kind == "op":
        return join_id(path, _leaf(record.op))
    if record.kind in WEIGHTS:
        leaf = record.target.removeprefix(f"{record.stack[-1].path}.") if path else record.target
        return join_id(path, path_to_id(clean(leaf)))
    return clean(record.target) or REPLACEMENT


@lru_cache(maxsize=4096)
def _leaf(op: str) -> str:
    return clean(op_leaf(op))


def clean_path(path: str) -> str:
    """Clean every module's name in a dotted path.

    >>> clean_path("a.b" + chr(0) + ".c") == f"a.b{REPLACEMENT}.c"
    True
    """
    return (
        path
        if path.isascii() and path.isprintable() and len(path) < 200
        else ".".join(clean(name) for name in path.split("."))
    )


class _Stacks:
    """Cleans stacks of modules, and adds the containers that hold a module but are never called.

    >>> stacks = _Stacks({"layers": "ModuleList"})
    >>> [m.path for m in stacks.full((Module("", "Net"), Module("layers.0", "Block")))]
    ['', 'layers', 'layers.0']
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        # By identity, which costs no hashing: the records of one call share their stack.
        self._known: dict[int, tuple[Module, ...]] = {}
        self._entered: dict[tuple[int, Module], tuple[Module, ...]] = {}

    def full(self, stack: tuple[Module, ...]) -> tuple[Module, ...]:
        """Return the stack with its containers; that of equal modules is the same object."""
        found = self._known.get(id(stack))
        if found is None:
            found = ()
            for module in stack:
                key = id(found), module
                found = self._entered.get(key) or self._enter(key, found, module)
            self._known[id(stack)] = found
        return found

    def _enter(
        self, key: tuple[int, Module], around: tuple[Module, ...], module: Module
    ) -> tuple[Module, ...]:
        path, outer = clean_path(module.path), around[-1].path if around else ""
        full = [*around]
        if path.startswith(f"{outer}." if outer else ""):
            parts, known = path.split("."), outer.count(".") + 1 if outer else 0
            for length in range(known + 1, len(parts)):
                inner = ".".join(parts[:length])
                full.append(Module(inner, self._types.get(inner, "")))
        self._entered[key] = (*full, Module(path, clean(module.type)))
        return self._entered[key]


def _place(index: int, record: OpRecord, stack: tuple[Module, ...]) -> dict[str, Any]:
    """Return where in the order of execution, in the model and in its code a node stands."""
    place = {
        "index": index,
        "module": stack[-1].path if stack else "",
        "module_type": stack[-1].type if stack else "",
        "module_stack": stack,
    }
    return {**place, "source": record.source} if record.source else place


def _node_attrs(
    index: int, record: OpRecord, args: Mapping[str, Any], stack: tuple[Module, ...]
) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "kind": record.kind,
        "op": record.op,
        **_place(index, record, stack),
        "phase": record.phase,
        "args": args,
        "outputs": record.outputs,
    }
    optional = {
        "overload": record.overload,
        "target": clean_path(record.target),
        "aliases": tuple(map(clean_path, record.aliases)),
        "tags": record.tags,
        "writes": record.writes,
        "saved": record.saved,
    }
    attrs.update((key, value) for key, value in optional.items() if value)
    return attrs


def validate(graph: _DiGraph) -> None:
    """Check every node, edge and graph key against the schema.

    Raises GraphError, which names the node, at the first key that is missing, unknown or not of
    its type, and where an edge runs against the order of execution; also inside nested graphs.
    """
    check_keys(graph.graph, GRAPH_FIELDS, {"schema", "name"}, where=None)
    check_graph(graph.graph)
    for name, node in graph.nodes(data=True):
        check_keys(node, NODE_FIELDS, REQUIRED_NODE_KEYS, where=name)
        check_node(name, node)
        for key, body in node.get("subgraphs", {}).items():
            _validate_body(body_id(name, key), body)
    for source, target, edge in graph.edges(data=True):
        check_keys(edge, EDGE_FIELDS, EDGE_FIELDS.keys(), where=target)
        check_edge(source, graph.nodes[source], target, graph.nodes[target], edge)


def _validate_body(name: str, body: _DiGraph) -> None:
    try:
        validate(body)
    except GraphError as error:
        where = name if error.node is None else join_body(name, error.node)
        raise GraphError(error.problem, node=where, hint=error.hint) from error


def require(graph: _DiGraph, *keys: str) -> None:
    """Raise GraphError unless every op node carries `keys`, naming who writes the missing one."""
    for name, node in op_nodes(graph):
        for key in keys:
            if key not in node:
                writer = NODE_FIELDS[key].by if key in NODE_FIELDS else "nothing"
                raise GraphError(
                    f"{key!r} has not been computed",
                    node=name,
                    hint=f"{writer} writes it: run torchatlas.annotate(graph) first",
                )
