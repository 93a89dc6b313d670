"""Modules as functions: the nodes of an ONNX file regrouped, so that a viewer opens them in turn.

Every call of a module becomes one node, and the function of the model that it calls holds the
module's nodes, or calls of the modules inside. Values keep their names all the way in: a
function's inputs are called as what it is given, so that Netron shows a weight beside the op
that reads it, and ids, metadata and shapes stay with their nodes.
"""

from __future__ import annotations

import math
from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ..graph import ModelGraph
from ..names import UniqueNames, path_to_id
from ..schema import Module
from .onnx_metadata import describe, places
from .onnx_order import all_nodes, ids_of, in_order, nested
from .onnx_sums import Sums

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

DOMAIN = "torchatlas.module"
"""Domain of the functions."""

MAX_DEPTH = 64
"""Modules in each other that become functions; what is deeper stays in the last of them."""

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
"""Modules that hold others and are never called."""

IR_VERSION = 10
"""The first version of the format in which functions know the shapes of their values."""

MAX_COPIED = 64
"""Elements of a constant up to which functions that share it get copies of their own."""

Calls = Mapping[str, Mapping[str, str]]
"""By the id of an op and the path of a module around it, which call of the module that was."""


def modules_to_functions(model: ModelProto, graph: ModelGraph, calls: Calls | None = None) -> None:
    """Regroup the nodes of `model`, which was written from `graph`, into functions.

    A module becomes a function where it stands for two nodes or more. It becomes several, in the
    order of execution, where it is called several times, or left and entered again. `calls` tells
    calls apart that follow each other directly; without it they are one.
    """
    from onnx import OperatorSetIdProto

    model.ir_version = max(model.ir_version, IR_VERSION)
    model.opset_import.append(OperatorSetIdProto(domain=DOMAIN, version=1))
    _Folding(model, graph, calls or {}).graph(model.graph, ChainMap())


class _Call(NamedTuple):
    """A call of a module: its path, what tells it from other calls, and where that stands."""

    path: str
    key: str
    phase: str
    body: str
    """What the ids in the same body of a control flow op begin with, empty outside of one."""


@dataclass(slots=True)
class _Step:
    """A node, its place in the order of execution, and the calls that it stands in."""

    node: NodeProto
    position: int
    place: tuple[_Call, ...]
    reads: list[str]


@dataclass(slots=True)
class _Scope:
    """What is known of the values of one graph: where they are made, last read, and their types."""

    made: dict[str, int]
    last_read: dict[str, int]
    infos: ChainMap[str, ValueInfoProto]


class _Folding:
    def __init__(self, model: ModelProto, graph: ModelGraph, calls: Calls) -> None:
        self._model, self._calls = model, calls
        self._known = {name: body.nodes[own] for name, (body, own) in places(graph).items()}
        self._bodies = {name: name.removesuffix(own) for name, (_, own) in places(graph).items()}
        self._types: dict[str, str] = {}
        self._runs: Counter[str] = Counter()
        self._sums = Sums(graph, self._known)
        self._functions, self._names = UniqueNames(), UniqueNames()
        for node in all_nodes(model.graph):
            self._names.take(node.name)
        self._weights = _weights(model.graph)
        self._values = UniqueNames()
        for name in _value_names(model.graph):
            self._values.take(name)

    def graph(
        self, proto: GraphProto, outer: ChainMap[str, ValueInfoProto], depth: int = 0
    ) -> None:
        """Put calls in place of the nodes of a graph that stand in `depth` calls already."""
        steps = [
            _Step(node, i, self._place(node), reads)
            for i, (node, reads) in enumerate(in_order(proto.node, self._rank))
        ]
        if depth == 0:
            self._share_out(proto, steps)
        scope = _Scope({}, {}, outer.new_child(_infos(proto)))
        for step in steps:
            scope.made.update((name, step.position) for name in step.node.output if name)
            scope.last_read.update((name, step.position) for name in step.reads)
        scope.last_read.update((info.name, len(steps)) for info in proto.output)
        self._count(steps, depth)
        for step in steps:
            for body in nested(step.node):
                self.graph(body, scope.infos, len(step.place))
        folded = list(self._fold(steps, depth, scope))
        kept = {name for node in folded for name in node.output}
        del proto.node[:]
        proto.node.extend(folded)
        infos = [info for info in proto.value_info if info.name in kept]
        del proto.value_info[:]
        proto.value_info.extend(infos)

    # -- places --------------------------------------------------------------------------------

    def _ids(self, node: NodeProto) -> list[str]:
        return [name for name in ids_of(node) if name in self._known]

    def _rank(self, node: NodeProto) -> int:
        """Return when a node can run: a fused one when the last of what it came from could."""
        return max((int(self._known[name]["index"]) for name in self._ids(node)), default=-1)

    def _place(self, node: NodeProto) -> tuple[_Call, ...]:
        name = next(iter(self._ids(node)), None)
        if name is None:
            return ()
        known, calls = self._known[name], self._calls.get(name, {})
        stack: Sequence[Module] = known.get("module_stack", ())
        phase = str(known.get("phase", "forward"))
        place = []
        for module in stack:
            kind = module.type.rpartition(".")[2]
            if module.path and kind not in CONTAINERS:
                self._types[module.path] = module.type
                key = calls.get(module.path, "")
                place.append(_Call(module.path, key, phase, self._bodies[name]))
        return tuple(place[:MAX_DEPTH])

    def _count(self, steps: Sequence[_Step], depth: int) -> None:
        """Count how often each module is entered."""
        before: tuple[_Call, ...] = ()
        for step in steps:
            same = 0
            for a, b in zip(before, step.place, strict=False):
                if a != b:
                    break
                same += 1
            self._runs.update(call.path for call in step.place[max(same, depth) :])
            before = step.place

    def _share_out(self, proto: GraphProto, steps: Sequence[_Step]) -> None:
        """Give each module its own copy of the small constants that translation made for several.

        Netron shows a constant beside the op that reads it only where no other function does.
        """
        small = {t.name: t for t in proto.initializer if _is_small_constant(t)}
        owners: dict[tuple[str, tuple[_Call, ...]], str] = {}
        known: set[str] = set()
        for step in steps:
            for i, name in enumerate(step.node.input):
                if name not in small:
                    continue
                key = name, step.place
                if key not in owners:
                    owners[key] = self._copied(proto, small[name], step) if name in known else name
                    known.add(name)
                step.node.input[i] = step.reads[i] = owners[key]

    def _copied(self, proto: GraphProto, tensor: TensorProto, reader: _Step) -> str:
        copy = proto.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = self._values.take(f"{reader.node.name}/constant")
        self._weights.add(copy.name)
        return str(copy.name)

    # -- functions -----------------------------------------------------------------------------

    def _fold(self, steps: Sequence[_Step], depth: int, scope: _Scope) -> Iterator[NodeProto]:
        for call, run in groupby(
            steps, lambda step: (*step.place, None)[min(depth, len(step.place))]
        ):
            inside = list(run)
            if call is None:
                yield from (step.node for step in inside)
                continue
            body = list(self._fold(inside, depth + 1, scope))
            outputs = _outputs(inside, scope)
            if len(inside) == 1 or not outputs:
                yield from body
            else:
                yield self._function(call, inside, body, outputs, scope)

    def _function(
        self,
        call: _Call,
        steps: Sequence[_Step],
        body: Sequence[NodeProto],
        outputs: Sequence[str],
        scope: _Scope,
    ) -> NodeProto:
        """Add a function with the nodes of `body`; return the node that calls it."""
        from onnx import NodeProto

        kind = self._types[call.path].rpartition(".")[2] or "Module"
        suffix = "" if call.phase == "forward" else f"_{call.phase}"
        inputs = sorted(_inputs(steps, scope), key=self._weights.__contains__)
        function: FunctionProto = self._model.functions.add(
            domain=DOMAIN,
            name=self._functions.take(f"{call.path}.{kind}{suffix}"),
            input=inputs,
            output=outputs,
            node=body,
            opset_import=self._model.opset_import,
        )
        made = (name for node in body for name in node.output)
        known = (scope.infos.get(name) for name in dict.fromkeys([*inputs, *made]))
        function.value_info.extend(info for info in known if info is not None)
        node = NodeProto(
            name=self._names.take(f"{call.body}{path_to_id(call.path)}{suffix}"),
            domain=DOMAIN,
            op_type=function.name,
            input=inputs,
            output=outputs,
        )
        nodes = [step.node for step in steps]
        found = self._sums.of(call.path, nodes, is_whole=self._runs[call.path] == 1)
        told = {"module": call.path, "module_type": self._types[call.path], **found.properties}
        told |= {} if call.phase == "forward" else {"phase": call.phase}
        for proto in (function, node):
            proto.doc_string = f"{call.path}: {kind}, {found}"
        describe(function, told)
        describe(node, {"id": node.name, **told})
        return node


def _inputs(steps: Sequence[_Step], scope: _Scope) -> dict[str, None]:
    """Return the names of what a run of nodes reads from outside."""
    first = steps[0].position
    names = (name for step in steps for name in step.reads)
    return {name: None for name in names if name and scope.made.get(name, -1) < first}


def _outputs(steps: Sequence[_Step], scope: _Scope) -> list[str]:
    """Return the names of what a run of nodes makes and somebody reads after it."""
    last = steps[-1].position
    names = (name for step in steps for name in step.node.output)
    return [name for name in names if name and scope.last_read.get(name, -1) > last]


def _weights(graph: GraphProto) -> set[str]:
    """Return the names of the weights of a graph, those among its inputs included."""
    names = {tensor.name for tensor in graph.initializer}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    for info in graph.input:
        kinds = [entry.value for entry in info.metadata_props if entry.key == "kind"]
        names |= {info.name} if kinds and kinds[0] != "input" else set()
    return names


def _value_names(graph: GraphProto) -> Iterator[str]:
    """Yield the names of all values, those of nested graphs included, several times if need be."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output
        for body in nested(node):
            yield from _value_names(body)


def _is_small_constant(tensor: TensorProto) -> bool:
    """Say whether a tensor is a number or a list of sizes, and no weight of the model."""
    is_weight = any(entry.key == "id" for entry in tensor.metadata_props)
    count = math.prod(tensor.dims)
    is_list = tensor.data_type in (tensor.INT64, tensor.INT32) and len(tensor.dims) == 1
    return not is_weight and (count == 1 or (is_list and count <= MAX_COPIED))


def _infos(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """Return the types of the values of a graph by name, without their metadata."""
    from onnx import ValueInfoProto, helper

    found: dict[str, ValueInfoProto] = {}
    for tensor in graph.initializer:
        found[tensor.name] = helper.make_tensor_value_info(
            tensor.name, tensor.data_type, tensor.dims, tensor.doc_string
        )
    for sparse in graph.sparse_initializer:
        values = sparse.values
        found[values.name] = helper.make_tensor_value_info(
            values.name, values.data_type, sparse.dims, values.doc_string
        )
    for info in (*graph.input, *graph.output, *graph.value_info):
        found[info.name] = ValueInfoProto(
            name=info.name, type=info.type, doc_string=info.doc_string
        )
    return found
