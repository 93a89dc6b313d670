"""Puts the bodies of a model's own functions in place of the calls, and nodes in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import FormatError
from ..names import UniqueNames, clean
from .onnx_own import PRODUCER
from .onnx_proto import graphs

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        ValueInfoProto,
    )

MAX_NODES = 500_000
"""Nodes that a model may have once its functions are written out: a few calls of functions that
call each other could make any number."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Frame:
    """A call of a function of the model: its node, a name for it, and the function."""

    node: NodeProto
    name: str
    function: str


@dataclass(frozen=True, slots=True)
class Call:
    """A node, and the calls of functions that it stands in, outermost first."""

    node: NodeProto
    frames: tuple[Frame, ...] = ()


def domain(name: str) -> str:
    """Return a domain in its short form: ONNX's own has none."""
    return "" if name == "ai.onnx" else name


def _key(proto: NodeProto | FunctionProto, name: str) -> _Key:
    return domain(proto.domain), name, proto.overload


def inline(model: ModelProto) -> list[Call]:
    """Return the nodes of `model` with every call of one of its functions written out.

    Each node of a body is a copy: its values are called after the call, its attributes are those
    of the call. Raises FormatError for a function that calls itself, and for more nodes than
    `MAX_NODES`.
    """
    functions = {_key(function, function.name): function for function in model.functions}
    if not functions:
        return [Call(node) for node in model.graph.node]
    _check_size(model.graph, functions)
    inliner = _Inliner(functions, trusted=model.producer_name == PRODUCER)
    calls = list(inliner.expand(model.graph.node, _Names(), {}, ()))
    model.graph.value_info.extend(inliner.infos)
    return calls


def _check_size(graph: GraphProto, functions: Mapping[_Key, FunctionProto]) -> None:
    sizes: dict[_Key, int | None] = {}

    def size(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for node in _all_nodes(nodes):
            key = _key(node, node.op_type)
            total += of_function(key) if key in functions else 1
        return total

    def of_function(key: _Key) -> int:
        if key in sizes:
            known = sizes[key]
            if known is None:
                raise FormatError(
                    f"the function {clean(key[1])!r} of the model calls itself",
                    hint="a function may call only others",
                )
            return known
        sizes[key] = None
        sizes[key] = found = size(functions[key].node)
        return found

    try:
        total = size(graph.node)
    except RecursionError as error:
        raise FormatError(
            "the functions of the model call each other too deeply", hint="inline them"
        ) from error
    if total > MAX_NODES:
        raise FormatError(
            f"the functions of the model stand for more than {MAX_NODES:,} nodes",
            hint="the file is broken, or meant to take all memory",
        )


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in graphs(attribute):
                yield from _all_nodes(graph.node)


class _Names:
    """What the names in a function's body are called where the body is put."""

    def __init__(self, prefix: str = "", known: Mapping[str, str] | None = None) -> None:
        self._prefix, self._known = prefix, known or {}

    def __getitem__(self, name: str) -> str:
        if not name:
            return name
        return self._known.get(name, self._prefix + name)


class _Inliner:
    """Writes out calls; `trusted` says that types in a function are those of its first call."""

    def __init__(self, functions: Mapping[_Key, FunctionProto], *, trusted: bool) -> None:
        self._functions, self._trusted = functions, trusted
        self._calls = UniqueNames()
        self.infos: list[ValueInfoProto] = []

    def expand(
        self,
        nodes: Iterable[NodeProto],
        names: _Names,
        attributes: Mapping[str, AttributeProto],
        frames: tuple[Frame, ...],
    ) -> Iterator[Call]:
        """Yield the nodes of a graph or body, with the calls among them written out."""
        for original in nodes:
            node = self._copy(original, names, attributes, frames)
            function = self._functions.get(_key(node, node.op_type))
            if function is None:
                yield Call(node, frames)
            else:
                yield from self._call(node, function, frames)

    def _call(
        self, node: NodeProto, function: FunctionProto, frames: tuple[Frame, ...]
    ) -> Iterator[Call]:
        name = self._calls.take(node.name or function.name)
        actual = [*node.input, *("" for _ in function.input[len(node.input) :])]
        known = dict(zip(function.input, actual, strict=False))
        handed_on = []
        for formal, result in zip(function.output, node.output, strict=False):
            if formal in known:  # an operand is returned, or one value twice
                handed_on.append(_identity(known[formal], result))
            elif result:
                known[formal] = result
        given = {attribute.name: attribute for attribute in function.attribute_proto}
        given |= {attribute.name: attribute for attribute in node.attribute}
        frame = Frame(node, name, f"{domain(function.domain)}.{function.name}".lstrip("."))
        inside, names = (*frames, frame), _Names(f"{name}::", known)
        for info in list(function.value_info) if self._trusted else ():
            if info.name not in known:
                info.name = names[info.name]
                self.infos.append(info)
        function.ClearField("value_info")
        yield from self.expand(function.node, names, given, inside)
        yield from (Call(alias, inside) for alias in handed_on)

    def _copy(
        self,
        node: NodeProto,
        names: _Names,
        attributes: Mapping[str, AttributeProto],
        frames: tuple[Frame, ...],
    ) -> NodeProto:
        """Return `node` with the names of its values, and the values of its attributes."""
        from onnx import AttributeProto, NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names[name] for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        del copy.attribute[:]
        for attribute in node.attribute:
            actual = attribute
            if attribute.ref_attr_name:
                found = attributes.get(attribute.ref_attr_name)
                if found is None:
                    continue
                actual = AttributeProto()
                actual.CopyFrom(found)
                actual.name = attribute.name
            added = copy.attribute.add()
            added.CopyFrom(actual)
            if actual is attribute:  # a graph handed in has the names of its own place
                for graph in graphs(added):
                    self._rename(graph, names, attributes, frames)
        return copy

    def _rename(
        self,
        graph: GraphProto,
        names: _Names,
        attributes: Mapping[str, AttributeProto],
        frames: tuple[Frame, ...],
    ) -> None:
        """Rename the values of a nested graph, and write out the calls in it."""
        for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            info.name = names[info.name]
        for sparse in graph.sparse_initializer:
            sparse.values.name = names[sparse.values.name]
        outer, self.infos = self.infos, []
        inner = [call.node for call in self.expand(list(graph.node), names, attributes, frames)]
        del graph.node[:]
        graph.node.extend(inner)
        graph.value_info.extend(self.infos)
        self.infos = outer


def _identity(source: str, result: str) -> NodeProto:
    from onnx import NodeProto

    return NodeProto(op_type="Identity", input=[source], output=[result])


# -- order ---------------------------------------------------------------------------------


def in_order(calls: Sequence[Call], graph: GraphProto, around: Iterable[str] = ()) -> list[Call]:
    """Return the nodes of `graph` with every one after those that it reads.

    `around` are values of the graphs around it.

    Nodes keep their order as far as that allows. Raises FormatError for a value that two nodes
    make, one that none makes, and for nodes that wait for each other.
    """
    makers = _makers(calls, {*around, *_given(graph)})
    waiting: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, call in enumerate(calls):
        sources = {makers[name] for name in _reads(call.node, makers)} - {None}
        waiting.append(len(sources))
        for source in sources:
            readers.setdefault(source, []).append(i)  # type: ignore[arg-type]
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        done = heapq.heappop(ready)
        order.append(done)
        for reader in readers.get(done, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(calls):
        stuck = next(call.node for call, count in zip(calls, waiting, strict=True) if count)
        raise FormatError(
            f"the node {_label(stuck)} waits for its own result, or for one that does",
            hint="the nodes of a model must be sortable",
        )
    return [calls[i] for i in order]


def _given(graph: GraphProto) -> Iterator[str]:
    yield from (info.name for info in (*graph.input, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)


def _makers(calls: Sequence[Call], known: Iterable[str]) -> dict[str, int | None]:
    makers: dict[str, int | None] = dict.fromkeys(known)
    for i, call in enumerate(calls):
        for name in filter(None, call.node.output):
            if name in makers:
                raise FormatError(
                    f"the value {clean(name)!r} is made twice, again by {_label(call.node)}",
                    hint="every value of a graph has a name of its own",
                )
            makers[name] = i
    return makers


def _reads(node: NodeProto, makers: Mapping[str, int | None]) -> Iterator[str]:
    """Yield what a node reads, also inside of it."""
    for name in (*node.input, *captured(node)):
        if name and name not in makers:
            raise FormatError(
                f"the node {_label(node)} reads {clean(name)!r}, which nothing makes",
                hint="the file is broken, or a part of a model",
            )
        if name:
            yield name


def _label(node: NodeProto) -> str:
    return f"{clean(node.name or next(iter(node.output), ''))!r} ({clean(node.op_type)})"


def captured(node: NodeProto) -> list[str]:
    """Return what the bodies of a node read of the graphs around them, each name once."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in graphs(attribute):
            found |= dict.fromkeys(free_names(graph))
    return list(found)


def free_names(graph: GraphProto) -> list[str]:
    """Return what a nested graph reads of the graphs around it, each name once."""
    return list(dict.fromkeys(_free(graph)))


def _free(graph: GraphProto) -> Iterator[str]:
    own = {*_given(graph)} | {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in (*node.input, *captured(node)) if name and name not in own)
    yield from (info.name for info in graph.output if info.name not in own)
