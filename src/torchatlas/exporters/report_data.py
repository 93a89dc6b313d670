"""The facts of a graph as compact JSON: columns by key, with what repeats stored once.

Node numbers are positions in the order of execution. A table of numbers has ``false`` where a
node lacks the key and ``null`` where the value is unknown; where it has expressions too
(``"expressions"``), negative numbers count them from -1 on. A table of texts has positions in
``strings``, -1 where a node lacks the key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Generic, TypeVar

import msgspec

from ..graph import ModelGraph, in_order
from ..memory import PURPOSES, inside, lifetimes
from ..modules import Row
from ..names import clean
from ..schema import NODE_FIELDS, TensorMeta, Use, is_dim
from ..text import number
from .families import COLOURS, family

Node = Mapping[str, Any]
T = TypeVar("T")
PRIVATE = ("source",)
"""Keys that are written on request only."""

_OF_NODES = ("id", "family", "stack", "args", "outputs")
_APART = ("index", "args", "outputs", "module_stack", "subgraphs")
"""Keys that are no column of their own: they have tables, or a place among the columns."""


def facts(
    graph: ModelGraph, drawn: ModelGraph, modules: Row, *, include_source: bool
) -> dict[str, Any]:
    """Return what the page knows.

    `drawn` is `graph` with its control flow laid flat, and `modules` its tree of modules.
    """
    nodes = in_order(drawn)
    strings: Table[str] = Table(str)
    tables = _Tables(strings)
    rows = [tables.node(name, node) for name, node in nodes]
    left_out = _APART if include_source else (*_APART, *PRIVATE)
    keys = [key for key in _keys(nodes) if key not in left_out]
    moments = _moments(graph, nodes)
    columns = {
        key: _column([_value(graph, moments, key, *node) for node in nodes], strings)
        for key in keys
    }
    return {
        "name": graph.graph["name"],
        "families": list(COLOURS),
        "fields": {key: _field(key) for key in keys},
        "columns": columns,
        "nodes": {name: [row[i] for row in rows] for i, name in enumerate(_OF_NODES)},
        "edges": _edges(drawn, nodes, strings),
        "memory": _memory(graph, nodes),
        "sums": _symbolic_sums(modules),
        "modules": tables.modules.items,
        "stacks": tables.stacks.items,
        "tensors": tables.tensors.items,
        "arguments": tables.arguments.items,
        "strings": strings.items,
    }


class Table(Generic[T]):
    """Hands out a position for every distinct value, and keeps what is made of it."""

    def __init__(self, make: Callable[[T], Any]) -> None:
        self.items: list[Any] = []
        self._make = make
        self._known: dict[Any, int] = {}

    def add(self, value: T, key: Any = None) -> int:
        """Return the position of `value`; `key` stands for it where it cannot be hashed."""
        key = value if key is None else key
        found = self._known.get(key)
        if found is None:
            made = self._make(value)
            found = self._known[key] = len(self.items)
            self.items.append(made)
        return found


class _Tables:
    """What nodes share: their modules, the tensors they make, their literal arguments."""

    def __init__(self, strings: Table[str]) -> None:
        self._strings = strings
        self.modules: Table[Any] = Table(
            lambda m: [strings.add(m.path), strings.add(clean(m.type))]
        )
        self.stacks: Table[Any] = Table(lambda stack: [self.modules.add(m) for m in stack])
        self.tensors: Table[Any] = Table(self._tensor)
        self.arguments: Table[Any] = Table(
            lambda pairs: [strings.add(clean(text)) for pair in pairs for text in pair]
        )
        self._families = {name: i for i, name in enumerate(COLOURS)}

    def node(self, name: str, node: Node) -> tuple[str, int, int, int, list[int]]:
        """Return the id, the family and the positions of what the node shares with others."""
        made = [-1 if meta is None else self.tensors.add(meta) for meta in node["outputs"]]
        stack = tuple(m for m in node.get("module_stack", ()) if m.path)
        literal = tuple(_literals(node.get("args", {}), ""))
        return (
            name,
            self._families[family(node)],
            self.stacks.add(stack),
            self.arguments.add(literal),
            made,
        )

    def _tensor(self, meta: TensorMeta) -> list[Any]:
        stride = None if meta.stride is None else list(map(_size, meta.stride))
        places = [self._strings.add(meta.dtype), self._strings.add(meta.device)]
        return [list(map(_size, meta.shape)), *places, stride, _size(meta.nbytes)]


def _size(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)


def _literals(args: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every argument that no edge brings."""
    if isinstance(args, Mapping):
        for name, arg in args.items():
            yield from _literals(arg, f"{path}.{name}" if path else name)
    elif isinstance(args, tuple) and any(isinstance(a, TensorMeta | tuple | Mapping) for a in args):
        for i, arg in enumerate(args):
            yield from _literals(arg, f"{path}.{i}")
    elif isinstance(args, tuple):
        yield path, f"[{', '.join(map(_literal, args))}]"
    elif not isinstance(args, TensorMeta):
        yield path, _literal(args)


def _literal(arg: Any) -> str:
    return f'"{arg}"' if isinstance(arg, str) else str(arg)


# -- columns ---------------------------------------------------------------------------------

_ABSENT = object()


def _moments(graph: ModelGraph, nodes: Sequence[tuple[str, Node]]) -> dict[int, int]:
    """Return the position of every index: bodies of control flow have moved the nodes."""
    return {graph.nodes[name]["index"]: i for i, (name, _) in enumerate(nodes) if name in graph}


def _value(graph: ModelGraph, moments: Mapping[int, int], key: str, name: str, node: Node) -> Any:
    if key in ("first_use", "last_use"):  # indices, which inside a body are those of its own graph
        return moments.get(node.get(key, -1), _ABSENT) if name in graph else _ABSENT
    if key in ("op", "module_type") and key in node:
        return clean(node[key])
    return node.get(key, _ABSENT)


def _keys(nodes: Sequence[tuple[str, Node]]) -> list[str]:
    """Return the keys that any node has: those of the schema first, in its order."""
    found = {key for _, node in nodes for key in node}
    return [*(key for key in NODE_FIELDS if key in found), *sorted(found - NODE_FIELDS.keys())]


def _field(key: str) -> dict[str, str]:
    if key in NODE_FIELDS:
        return {"doc": NODE_FIELDS[key].doc, "unit": NODE_FIELDS[key].unit}
    units = {"_us": "µs", "_bytes": "B"}
    return {"doc": "", "unit": next((u for end, u in units.items() if key.endswith(end)), "")}


def _column(values: Sequence[Any], strings: Table[str]) -> dict[str, Any]:
    """Return a column, with the positions of its values where most nodes lack the key."""
    there = [i for i, value in enumerate(values) if value is not _ABSENT]
    present = [values[i] for i in there]
    if all(isinstance(value, str) for value in present):
        packed: dict[str, Any] = {"type": "text", "values": list(map(strings.add, present))}
        absent: Any = -1
    elif all(value is None or isinstance(value, float) or is_dim(value) for value in present):
        expressions: Table[Any] = Table(str)
        plain = [-1 - expressions.add(v) if hasattr(v, "free_symbols") else v for v in present]
        packed, absent = {"type": "number", "values": plain}, False
        if expressions.items:
            packed["expressions"] = expressions.items
    else:
        packed = {"type": "other", "values": list(map(_other, present))}
        absent = False
    if len(there) * 2 < len(values):
        packed["at"] = there
    elif len(there) < len(values):
        dense = [absent] * len(values)
        for i, value in zip(there, packed["values"], strict=True):
            dense[i] = value
        packed["values"] = dense
    return packed


def _other(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _other(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_other(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _other(asdict(value))
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _edges(
    graph: ModelGraph, nodes: Sequence[tuple[str, Node]], strings: Table[str]
) -> dict[str, list[Any]]:
    """Return the edges, by target and in the order of its arguments, each with its uses.

    A use is an output, -1 where only the order matters, and the position of an argument's path.
    """
    position = {name: i for i, (name, _) in enumerate(nodes)}
    uses: Table[Any] = Table(
        lambda found: [
            part
            for use in found
            for part in (-1 if use.output is None else use.output, strings.add(clean(use.argument)))
        ]
    )
    into: Any = graph._pred  # type: ignore[attr-defined]  # `pred` makes a view at each look
    sources, targets, how = [], [], []
    for target, (name, _) in enumerate(nodes):
        node = nodes[target][1]
        places = {argument: place for place, argument in enumerate(node.get("args", ()))}
        found = [
            (_first(edge["uses"], places), position[source], edge["uses"])
            for source, edge in into[name].items()
        ]
        for _, source, flowing in sorted(found, key=lambda one: one[:2]):
            sources.append(source)
            targets.append(target)
            how.append(uses.add(flowing))
    return {"source": sources, "target": targets, "how": how, "uses": uses.items}


def _first(uses: Sequence[Use], places: Mapping[str, int]) -> int:
    """Return the place of the first argument that an edge goes to."""
    return min(places.get(use.argument.partition(".")[0], len(places)) for use in uses)


# -- memory and sums -------------------------------------------------------------------------


def _memory(graph: ModelGraph, nodes: Sequence[tuple[str, Node]]) -> dict[str, Any] | str:
    """Return when which memory is in use, or why that cannot be drawn."""
    if not any("live_bytes" in node for _, node in nodes):
        return "The graph does not say how much memory is in use: it was not annotated."
    found = lifetimes(graph)
    sizes = [storage.nbytes for storage in found.storages]
    bodies = [(name, inside(node)) for name, node in found.nodes if "subgraphs" in node]
    if not all(isinstance(size, int) for size in (*sizes, *(size for _, size in bodies))):
        return "Memory depends on symbolic sizes: bind them to numbers to see it over time."
    place = {name: i for i, (name, _) in enumerate(nodes)}
    indices = [node["index"] for _, node in found.nodes]
    order = [place[name] for name, _ in found.nodes]

    def position(index: int) -> int:
        return order[min(bisect_left(indices, index), len(order) - 1)]

    rows = [
        (
            place[s.node],
            PURPOSES.index(s.purpose),
            s.nbytes,
            0 if s.held else position(s.first),
            len(nodes) - 1 if s.held else position(s.last),
        )
        for s in found.storages
        if s.nbytes != 0
    ]
    activations = PURPOSES.index("activations")
    rows += [(place[n], activations, size, place[n], place[n]) for n, size in bodies if size != 0]
    names = ("node", "purpose", "bytes", "first", "last")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {"purposes": PURPOSES, **dict(zip(names, columns, strict=True))}


def _symbolic_sums(modules: Row) -> dict[str, dict[str, str]]:
    """Return for every module its sums that are expressions: numbers the page adds up itself."""
    return {
        row.path: {key: number(value) for key, value in row.sums.items() if not _plain(value)}
        for row in _rows(modules)
        if not all(map(_plain, row.sums.values()))
    }


def _plain(value: Any) -> bool:
    return isinstance(value, int)


def _rows(row: Row) -> Iterator[Row]:
    yield row
    for child in row.children.values():
        yield from _rows(child)


# -- JSON inside HTML ------------------------------------------------------------------------

_ESCAPES = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}


def to_json(value: Any) -> str:
    """Return `value` as JSON that ends no script element and opens no comment in one.

    >>> print(to_json({"name": "</script>"}).replace(chr(92), "~"))
    {"name":"~u003c/script~u003e"}
    """
    content = msgspec.json.encode(value)
    for character, escape in _ESCAPES.items():
        content = content.replace(character, escape)
    return content.decode()
