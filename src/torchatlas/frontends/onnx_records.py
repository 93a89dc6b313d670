"""Turns the graphs of an ONNX file into records, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import FormatError
from ..names import clean
from ..records import OpRecord, RecordArg, Value, values
from ..schema import WEIGHTS, Arg, Dim, Kind, Module, TensorMeta
from . import onnx_own
from .onnx_bodies import body_argument, trips
from .onnx_constants import Constants, Tensor, short_name
from .onnx_functions import Call, captured, domain, free_names, in_order
from .onnx_inference import Types
from .onnx_operators import VIEWS, operands_of, tags_of
from .onnx_proto import facts, graphs, literal
from .onnx_scopes import Scopes
from .onnx_sizes import Sizes

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


@dataclass(slots=True)
class Context:
    """What all graphs of a file have in common."""

    own: bool
    sizes: Sizes
    scopes: Scopes
    versions: Mapping[str, int]
    dropped: Counter[str] = field(default_factory=Counter)


class Reader:
    """Reads one graph: the model's, or one that is nested in an op.

    `outer` has, for each value that a nested graph reads of those around it, the path of the
    argument that brings it and its metadata; `stands_for` the paths for its declared inputs.
    `shapes` has those that inference did not find, and `module` is where nodes are that say
    nothing of their own.
    """

    def __init__(
        self,
        graph: GraphProto,
        calls: Sequence[Call],
        types: Types,
        context: Context,
        outer: Mapping[str, tuple[str, TensorMeta | None]] | None = None,
        shapes: Mapping[str, tuple[Dim, ...]] | None = None,
        module: str = "",
    ) -> None:
        self.graph, self.types, self.context = graph, types, context
        self.shapes = shapes or {}
        self.outer = outer or {}
        self.stands_for: dict[str, str] = {}
        self.records: list[OpRecord] = []
        self._env: dict[str, Value] = {}
        self._metas: dict[str, TensorMeta | None] = {}
        self._by_value: dict[Value, TensorMeta | None] = {}
        self._storages: dict[Value, Hashable] = {}
        self._constants = Constants(graph, calls)
        self._calls = self._constants.rest
        self._constants.find_uses(self._calls, self._operands)
        self._paths = self._find_modules(calls, module)
        self._results = {info.name for info in graph.output}

    def _find_modules(self, calls: Sequence[Call], module: str) -> dict[int, str]:
        """Return the module of every node, once the classes of all modules are known."""
        scopes = self.context.scopes
        if self.context.own:
            weights = (tensor.told for tensor in self._constants.tensors.values())
            for told in (*weights, *map(facts, self.graph.input)):
                if "module" in told:
                    scopes.told(told)
        return {id(call): scopes.path(call) or module for call in calls}

    def read(self) -> list[OpRecord]:
        """Return the records of the graph, in the order of execution."""
        self._inputs()
        self._weights()
        plain = onnx_own.plain(self.graph) if self.context.own else {}
        self._plain("input", {n: v for n, v in plain.items() if not _is_output(n)})
        for call in self._calls:
            if self._is_alias(call.node):
                self._env[call.node.output[0]] = self._env[call.node.input[0]]
            else:
                self._op(call)
        self._outputs()
        self._plain("output", {n: v for n, v in plain.items() if _is_output(n)})
        return self.records

    # -- inputs ----------------------------------------------------------------------------

    def _inputs(self) -> None:
        for name, (target, meta) in self.outer.items():
            self._metas[name] = meta
            self._add(f"outer:{name}", "input", name, target)
        for info in self.graph.input:
            if info.name not in self._constants.tensors:
                self._input(info.name, facts(info))

    def _input(self, name: str, told: Mapping[str, str]) -> None:
        """Record an input; a weight whose values were left out of the file is one too."""
        meta = self._meta(name)
        kind: Kind = "input"
        path, target = "", self.stands_for.get(name, name)
        if self.context.own and told.get("kind") in WEIGHTS:
            kind, path = told["kind"], self.context.scopes.told(told)  # type: ignore[assignment]
        if self.context.own:
            target = told.get("target", target)
            (self._metas[name],) = onnx_own.told((meta,), told)
        stack = self.context.scopes.stack(path) if kind != "input" else ()
        self._add(f"input:{name}", kind, name, target, stack, told)

    def _weights(self) -> None:
        """Record the constants that are more than literals."""
        for name, tensor in self._constants.tensors.items():
            kind = tensor.kind
            if kind is None or (kind != "parameter" and not tensor.needed):
                if tensor.reader is None:
                    self.context.dropped["unused constant"] += 1
                continue
            path = self._path_of(tensor)
            target = f"{path}.constant".lstrip(".") if tensor.call is not None else tensor.target
            if self.context.own:
                target = tensor.told.get("target", tensor.name.rpartition("/")[2])
            self._metas[name] = self._meta_of(tensor)
            stack = self.context.scopes.stack(path)
            self._add(f"constant:{name}", kind, name, target, stack, tensor.told)

    def _path_of(self, tensor: Tensor) -> str:
        """Return the module of a constant: told, in its name, or that of the first op it is for."""
        scopes = self.context.scopes
        if self.context.own and "id" in tensor.told:
            return scopes.told(tensor.told)
        if tensor.call is not None:
            return self._paths[id(tensor.call)]
        if not self.context.own and tensor.path is not None:
            return tensor.path
        return "" if tensor.reader is None else self._paths[id(tensor.reader)]

    def _meta_of(self, tensor: Tensor) -> TensorMeta | None:
        meta = self.context.sizes.of_numbers(tensor.dims, tensor.dtype)
        if tensor.nnz is not None:
            meta = replace(meta, nnz=tensor.nnz)
        return onnx_own.told((meta,), tensor.told)[0] if self.context.own else meta

    def _plain(self, kind: Kind, found: Mapping[str, Arg]) -> None:
        """Record the inputs or outputs that are no tensors, which torchatlas lists by name."""
        for name, value in found.items():
            record = OpRecord(f"plain:{name}", kind, target=name, args={"value": value})
            self.records.append(record)

    def _add(
        self,
        key: str,
        kind: Kind,
        name: str,
        target: str,
        stack: tuple[Module, ...] = (),
        told: Mapping[str, str] | None = None,
    ) -> None:
        """Record where a value comes from that no op makes."""
        aliases = onnx_own.texts((told or {}).get("aliases", "")) if self.context.own else ()
        self.records.append(
            OpRecord(
                key, kind, target=target, outputs=(self._meta(name),), stack=stack, aliases=aliases
            )
        )
        self._env[name] = Value(key)
        self._by_value[Value(key)] = self._meta(name)

    def _meta(self, name: str) -> TensorMeta | None:
        if name not in self._metas:
            meta = self.context.sizes.meta(self.types.values.get(name))
            if meta is not None and name in self.shapes and self.context.sizes.is_unranked(meta):
                meta = replace(meta, shape=self.shapes[name])
            self._metas[name] = meta
        return self._metas[name]

    # -- ops -------------------------------------------------------------------------------

    def _is_alias(self, node: NodeProto) -> bool:
        """Say whether a node of torchatlas only gives a value the name of an output."""
        if not self.context.own or node.op_type != "Identity" or node.domain:
            return False
        if len(node.input) != 1 or len(node.output) != 1 or node.input[0] not in self._env:
            return False
        (name,) = node.output
        return name in self._results and name in (node.name, facts(node).get("id", ""))

    def _op(self, call: Call) -> None:
        node, names = call.node, _outputs(call.node)
        is_own = self.context.own and node.domain == onnx_own.DOMAIN
        record = self._own(node) if is_own else self._foreign(node)
        record.key = f"op:{len(self.records)}"
        metas = tuple(self._meta(name) if name else None for name in names)
        record.outputs = onnx_own.told(metas, facts(node)) if is_own else metas
        record.storages = self._shared(record)
        record.stack = self.context.scopes.stack(self._paths[id(call)])
        record.subgraphs = self._bodies(call)
        record.source = clean(facts(node).get("source", "")) if self.context.own else ""
        self.records.append(record)
        for i, name in enumerate(names):
            self._env[name] = Value(record.key, i)
            self._by_value[Value(record.key, i)] = record.outputs[i]

    def _own(self, node: NodeProto) -> OpRecord:
        """Return the record of an op as torchatlas wrote it, under its own name."""
        told, sizes = facts(node), self.context.sizes
        op, overload = onnx_own.name_of(node)
        operands = [self._operand(node, "", name) for name in node.input]
        return OpRecord(
            key="",
            kind="op",
            op=op,
            overload=overload,
            args=onnx_own.arguments(node, told, operands, sizes),
            writes=onnx_own.texts(told.get("writes", "")),
            tags=onnx_own.texts(told.get("tags", "")),
            trips=onnx_own.trips(told, sizes),
        )

    def _foreign(self, node: NodeProto) -> OpRecord:
        """Return the record of an op of ONNX."""
        args, version = self._arguments(node), self._version("")
        name = short_name(node)
        return OpRecord(
            key="",
            kind="op",
            op=f"onnx.{clean(name)}",
            target=node.name,
            args=args,
            tags=("view",) if _hands_on(node, args, version) else tags_of(name),
            trips=trips(node, args, self._by_value.get, version),
        )

    def _version(self, domain: str) -> int:
        return self.context.versions.get(domain, 1)

    def _names(self, node: NodeProto) -> tuple[tuple[str, ...], bool]:
        space = domain(node.domain)
        return operands_of(node.op_type, space, self._version(space))

    def _operands(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """Yield the operands of a node: what the operator calls them, and their values' names."""
        names, is_list = self._names(node)
        for i, name in enumerate(node.input):
            if i < len(names):
                yield names[i], name
            else:
                yield (names[-1] if is_list else f"input_{i}"), name

    def _arguments(self, node: NodeProto) -> dict[str, RecordArg]:
        """Return the arguments of a node: operands, what its bodies read besides, attributes."""
        names, is_list = self._names(node)
        args: dict[str, RecordArg] = {names[-1]: ()} if is_list else {}
        for operand, name in self._operands(node):
            value = self._operand(node, operand, name)
            if is_list and operand == names[-1]:
                args[operand] = (*args[operand], value)  # type: ignore[misc]
            else:
                args[operand] = value
        if outside := [name for name in captured(node) if name in self._env]:
            args["captured"] = tuple(self._env[name] for name in outside)
        for attribute in node.attribute:
            name = clean(attribute.name) or "attribute"
            args[f"attribute_{name}" if name in args else name] = literal(attribute)
        return args

    def _operand(self, node: NodeProto, operand: str, name: str) -> RecordArg:
        if not name:
            return None
        found = self._constants.as_literal(short_name(node), operand, name)
        return self._env[name] if found is None else found

    def _shared(self, record: OpRecord) -> tuple[Hashable | None, ...]:
        """Return the memory behind the results: a view's is that of the operand it shows."""
        count = len(record.outputs)
        if not count or not (record.writes or "view" in record.tags):
            return ()
        bases: list[Value | None] = []
        if record.writes:
            for name in record.writes:
                bases += _values_in(record.args.get(name))
        else:
            shown = [value for arg in record.args.values() for value in _values_in(arg)]
            bases += shown[:1] * count
        bases = [*bases[:count], *[None] * (count - len(bases))]
        storages = tuple(None if base is None else self._memory(base) for base in bases)
        for i, storage in enumerate(storages):
            if storage is not None:
                self._storages[Value(record.key, i)] = storage
        return storages

    def _memory(self, value: Value) -> Hashable:
        return self._storages.get(value, value)

    # -- nested graphs ---------------------------------------------------------------------

    def _bodies(self, call: Call) -> dict[str, list[OpRecord]]:
        """Return the records of the graphs nested in a node, by the name of the attribute.

        What a body reads of the graphs around it are inputs of its own, before those that it
        declares.
        """
        node, found = call.node, {}
        around = [name for name in captured(node) if name in self._env]
        for attribute in node.attribute:
            for i, graph in enumerate(graphs(attribute)):
                types = self.types.bodies.get((tuple(node.output), attribute.name, i), Types())
                reads = set(free_names(graph))
                outer = {
                    name: (f"captured/{k}", self._meta(name))
                    for k, name in enumerate(around)
                    if name in reads
                }
                inside = [Call(inner, call.frames) for inner in graph.node]
                inside = in_order(inside, graph, reads)
                module = self._paths[id(call)]
                reader = Reader(graph, inside, types, self.context, outer, module=module)
                for position, info in enumerate(graph.input):
                    reader.stands_for[info.name] = body_argument(node, position) or info.name
                name = attribute.name if len(graphs(attribute)) == 1 else f"{attribute.name}_{i}"
                if node.domain == onnx_own.DOMAIN:
                    name = onnx_own.body_name(node, name)
                found[clean(name)] = reader.read()
        return found

    # -- outputs ---------------------------------------------------------------------------

    def _outputs(self) -> None:
        for i, info in enumerate(self.graph.output):
            target = facts(info).get("target", info.name) if self.context.own else info.name
            if info.name not in self._env:
                raise FormatError(
                    f"nothing makes the output {clean(info.name)!r}",
                    hint="the file is broken, or a part of a model",
                )
            args: dict[str, RecordArg] = {"value": self._env[info.name]}
            self.records.append(OpRecord(f"output:{i}", "output", target=target, args=args))


def _is_output(name: str) -> bool:
    return name == "output" or name.startswith("output/")


def _outputs(node: NodeProto) -> list[str]:
    """Return the names of a node's results, without those left out at the end."""
    names = list(node.output)
    while names and not names[-1]:
        names.pop()
    return names


def _values_in(arg: RecordArg) -> list[Value]:
    return [value for _, value in values(arg, "")]


def _hands_on(node: NodeProto, args: Mapping[str, RecordArg], version: int) -> bool:
    """Say whether a node's result is its operand: a view, or dropout outside training."""
    if domain(node.domain):
        return False
    if node.op_type == "Dropout":
        return bool(args.get("is_test")) if version < 7 else args.get("training_mode") in (None, 0)
    return node.op_type in VIEWS
