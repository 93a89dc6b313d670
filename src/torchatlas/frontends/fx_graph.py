"""Reads a `torch.fx` graph whose nodes carry `meta["val"]`, node by node, into records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from ..names import clean
from ..records import OpRecord, RecordArg, Value, values
from ..schema import Module, TensorMeta
from . import metadata, torch_api
from .control_flow import Bodies, take_bodies
from .metadata import OpInfo
from .noise import is_noise
from .segments import CannotRepeatError, Segment, expand

UNDECLARED_WRITES = {
    **dict.fromkeys(
        (
            "aten.batch_norm",
            "aten.cudnn_batch_norm",
            "aten.miopen_batch_norm",
            "aten.native_batch_norm",
        ),
        ("training", ("running_mean", "running_var")),
    ),
    "aten.instance_norm": ("use_input_stats", ("running_mean", "running_var")),
}
"""Ops that write statistics in place, although their schema does not say so."""


RESHAPES = frozenset(
    f"aten.{name}"
    for name in ("flatten", "reshape", "reshape_as", "unflatten", "view", "view_as", "_unsafe_view")
)
"""Views for which fake tensors may give a dimension of size 1 another stride than real ones."""


class Position(NamedTuple):
    """How many records, and things left out, there were."""

    records: int
    noise: int


class Recorder:
    """Collects the records of one graph, and what each fx node turned into."""

    def __init__(self, root: Module | None = None, prefix: str = "") -> None:
        """Begin without records.

        `root` is put before every module stack that lacks it; `prefix` is the path of a wrapper
        around the model, which is left out of every path.
        """
        self._root, self._prefix = root, prefix
        self.real: Mapping[str, Any] = {}
        """What placeholders stand for, by name, where that has values."""
        self.records: list[OpRecord] = []
        self.noise: list[str] = []
        """What was left out, in order."""
        self.model: nn.Module | None = None
        """What was captured, where that is at hand: it tells which modules run inside bodies."""
        self._spans: dict[fx.Node, tuple[Position, Position]] = {}
        self._by_key: dict[str, OpRecord] = {}
        self._env: dict[fx.Node, Any] = {}
        self._same_storage: dict[Hashable, Hashable] = {}
        self._restrided: set[Value] = set()
        self._stacks: dict[tuple[Module, ...], tuple[Module, ...]] = {}

    def add(self, record: OpRecord) -> None:
        """Append one record."""
        self.records.append(record)
        self._by_key[record.key] = record

    @property
    def dropped(self) -> Counter[str]:
        """What was left out, and how often."""
        return Counter(self.noise)

    def drop(self, name: str) -> None:
        """Note that something was left out."""
        self.noise.append(name)

    def bind(self, node: fx.Node, value: Any) -> None:
        """Let `node` stand for `value`: a `Value`, a literal, or a tree of them."""
        self._env[node] = value

    def argument(self, arg: Any) -> RecordArg:
        """Return an fx argument with `Value`s in place of nodes."""
        return metadata.literal(arg, self._lookup)

    def _lookup(self, node: fx.Node) -> Any:
        value = self._env[node]
        return f"<graph {node.target}>" if isinstance(value, fx.GraphModule) else value

    def _is_graph(self, arg: Any) -> bool:
        return isinstance(arg, fx.Node) and isinstance(self._env.get(arg), fx.GraphModule)

    def find(self, tensor: Any) -> Value | None:
        """Return the value recorded last that is `tensor`, or one like it on the same memory."""
        identity, meta = self._storage(tensor), metadata.value_meta(tensor)
        for record in reversed(self.records) if identity is not None else ():
            for i, storage in enumerate(record.storages):
                if storage == identity and record.outputs[i] == meta:
                    return Value(record.key, i)
        return None

    def share_memory(self, node: fx.Node, value: Value) -> None:
        """Take the memory behind `node` for that behind `value`."""
        self.share_storage(node.meta.get("val"), value)

    def share_storage(self, tensor: Any, value: Value) -> None:
        """Take the memory behind `tensor` for that behind `value`."""
        identity = metadata.storage(tensor)
        if identity is not None:
            self._same_storage[identity] = self.storage(value)

    def put_in(self, memory: Hashable, tensor: torch.Tensor) -> None:
        """Take the memory behind `tensor` for `memory`, whatever identifies that."""
        self._same_storage[metadata.storage(tensor)] = memory

    def value(self, node: fx.Node) -> Value:
        """Return the value that `node` stands for.

        Raises CannotRepeatError where it stands for something else, such as a number.
        """
        found = self._env[node]
        if not isinstance(found, Value):
            raise CannotRepeatError
        return found

    def alike(self, one: Value, other: Value) -> bool:
        """Say whether whatever reads `other` makes the same of it as of `one`."""
        same = (one in self._restrided) == (other in self._restrided)
        return same and self.meta(one) == self.meta(other)

    def span(self, nodes: Sequence[fx.Node]) -> tuple[Position, Position]:
        """Return where what was recorded of `nodes`, which follow each other, begins and ends."""
        if not nodes:
            return Position(0, 0), Position(0, 0)
        return self._spans[nodes[0]][0], self._spans[nodes[-1]][1]

    def meta(self, value: Value) -> TensorMeta | None:
        """Return the metadata of a value recorded before."""
        return self._by_key[value.key].outputs[value.output]

    def storage(self, value: Value) -> Hashable | None:
        """Return the identity of the memory behind a value recorded before."""
        storages = self._by_key[value.key].storages
        return storages[value.output] if storages else None

    # -- inputs ----------------------------------------------------------------------------

    def placeholder(
        self,
        node: fx.Node,
        kind: Any,
        target: str,
        stack: tuple[Module, ...] = (),
        aliases: tuple[str, ...] = (),
        prefix: str = "",
    ) -> None:
        """Record an input, parameter, buffer or constant from a placeholder or `get_attr`."""
        value = node.meta.get("val")
        meta = metadata.value_meta(value)
        nnz = metadata.stored_elements(self.real.get(node.name))
        if meta is not None and nnz is not None:
            meta = replace(meta, nnz=nnz)
        args: dict[str, RecordArg] = {}
        if not isinstance(value, torch.Tensor) and metadata.is_constant(value):
            args, meta = {"value": metadata.literal(value)}, None
        key = prefix + node.name
        self.add(
            OpRecord(
                key=key,
                kind=kind,
                target=target,
                args=args,
                stack=stack,
                aliases=aliases,
                outputs=() if meta is None else (meta,),
                storages=() if meta is None else (self._storage(value),),
                phase=node.meta.get("phase", "forward"),
            )
        )
        self.bind(node, Value(key) if meta is not None else metadata.literal(value))

    def unused(
        self, tensor: torch.Tensor, target: str, stack: tuple[Module, ...], aliases: tuple[str, ...]
    ) -> None:
        """Record a parameter of the model that the graph does not use."""
        outputs = (metadata.tensor_meta(tensor),)
        self.add(
            OpRecord(
                key=f"unused:{target}",
                kind="parameter",
                target=target,
                stack=stack,
                aliases=aliases,
                outputs=outputs,
            )
        )

    def output(self, key: str, path: tuple[str, ...], returned: Any, root: str = "output") -> None:
        """Record one leaf of what the model returns; `path` leads to it from `root`."""
        target = "/".join((root, *(part.replace("/", "%2F") for part in path)))
        args: dict[str, RecordArg] = {"value": self.argument(returned)}
        self.add(OpRecord(key=key, kind="output", target=target, args=args))

    # -- calls -----------------------------------------------------------------------------

    def call(self, node: fx.Node, prefix: str = "") -> None:
        """Record a `call_function` node; `getitem` and noise become what they hand on."""
        if self._is_projection(node):
            self.bind(node, self._env[node.args[0]][node.args[1]])  # type: ignore[index]
            return
        found = torch_api.region(node.target)
        if found is not None:
            self._inline(node, *found, prefix)
            return
        info = metadata.op_info(node.target)
        size = metadata.known_scalar(node.meta.get("val"))
        if size is not None:  # where sizes are numbers, no op computes them either
            self.drop(info.op)
            self.bind(node, size)
            return
        named = metadata.named_arguments(info, node.args, node.kwargs)
        if info.op.startswith("higher_order."):
            from . import bodies

            info, named = bodies.plain(info, named, self.argument)
            taken = take_bodies(named, self._is_graph)
            if taken.graphs:
                graphs = {name: self._env[graph] for name, graph in taken.graphs.items()}
                bodies.record(self, node, info, Bodies(graphs, taken.args), prefix)
                return
        launched = torch_api.triton_kernel(node.target, node.kwargs)
        if launched is not None:
            name, named = launched
            # Which of its tensors a kernel writes is not known, so it may be any.
            info = OpInfo(f"triton.{clean(name)}", writes=tuple(named))
        args = {name: self.argument(arg) for name, arg in named.items()}
        self.op(node, info, args, node.meta.get("val"), prefix)

    def op(
        self, node: fx.Node, info: OpInfo, args: dict[str, RecordArg], result: Any, prefix: str = ""
    ) -> None:
        """Record one op with its arguments and result."""
        leaves = (
            torch_api.tree_leaves(result) if isinstance(result, list | tuple | dict) else [result]
        )
        outputs = tuple(
            metadata.value_meta(leaf) for leaf in leaves if leaf is not None or len(leaves) > 1
        )
        storages = tuple(self._storage(leaf) for leaf in leaves)[: len(outputs)]
        if self._bind_noise(node, info, args, outputs, storages):
            return
        key = prefix + node.name
        tags, writes = info.tags, self._writes(info, args)
        if self._is_view(args, outputs, storages, writes):
            tags = (*tags, "view")
            outputs = self._exact_strides(node, key, info, args, outputs)
        self.add(
            OpRecord(
                key=key,
                kind="op",
                op=info.op,
                overload=info.overload,
                args=args,
                outputs=outputs,
                storages=storages,
                writes=writes,
                tags=tags,
                stack=self.stack(node),
                source=metadata.source_line(node.meta.get("stack_trace")),
                phase=node.meta.get("phase", "forward"),
            )
        )
        positions = iter(range(len(outputs)))
        self.bind(node, _values_like(result, key, positions))

    def _bind_noise(
        self,
        node: fx.Node,
        info: OpInfo,
        args: Mapping[str, RecordArg],
        outputs: Sequence[TensorMeta | None],
        storages: Sequence[Hashable | None],
    ) -> bool:
        first = next(iter(args.values()), None)
        operand = first if isinstance(first, Value) else None
        before = self.meta(operand) if operand is not None else None
        after = outputs[0] if outputs else None
        shared = bool(storages) and operand is not None and storages[0] == self.storage(operand)
        if not is_noise(info.op, before, after, shared):
            return False
        self.drop(info.op)
        self.bind(node, operand)
        return True

    def _is_projection(self, node: fx.Node) -> bool:
        """Say whether `node` picks one of several outputs, rather than indexing a tensor."""
        return (
            getattr(node.target, "__name__", "") == "getitem"
            and isinstance(node.args[0], fx.Node)
            and isinstance(self._env[node.args[0]], tuple | Mapping)
            and not isinstance(self._env[node.args[0]], Value)
        )

    def _is_view(
        self,
        args: Mapping[str, RecordArg],
        outputs: Sequence[TensorMeta | None],
        storages: Sequence[Hashable | None],
        writes: Sequence[str],
    ) -> bool:
        if writes or not outputs or None in storages:
            return False
        read = {self.storage(value) for arg in args.values() for _, value in values(arg, "")}
        return all(storage in read for storage in storages)

    def _exact_strides(
        self,
        node: fx.Node,
        key: str,
        info: OpInfo,
        args: Mapping[str, RecordArg],
        outputs: tuple[TensorMeta | None, ...],
    ) -> tuple[TensorMeta | None, ...]:
        """Return a view's outputs with the strides that the real operator gives them."""
        read = [self.meta(value) for arg in args.values() for _, value in values(arg, "")]
        metas = [*outputs, *read]
        stale = any(v in self._restrided for arg in args.values() for _, v in values(arg, ""))
        if not stale and (info.op not in RESHAPES or not any(m and 1 in m.shape for m in metas)):
            return outputs
        if not all(m and m.stride is not None and _is_static(m) for m in metas):
            return outputs
        try:
            result = node.target(*self._on_meta(node.args), **self._on_meta(node.kwargs))  # type: ignore[operator]
        except (RuntimeError, NotImplementedError, TypeError):
            return outputs  # what torch cannot view on meta tensors stays as the trace saw it
        strides = [leaf.stride() for leaf in torch_api.tree_leaves(result)]
        exact = tuple(replace(m, stride=s) for m, s in zip(outputs, strides, strict=True) if m)
        self._restrided.update(
            Value(key, i) for i, (a, b) in enumerate(zip(exact, outputs, strict=True)) if a != b
        )
        return exact

    def _on_meta(self, arguments: Any) -> Any:
        def tensor(node: fx.Node) -> Any:
            value = self._env[node]
            meta = self.meta(value) if isinstance(value, Value) else None
            if meta is None or meta.stride is None:
                return value
            dtype = getattr(torch, meta.dtype)
            return torch.empty_strided(meta.shape, meta.stride, dtype=dtype, device="meta")

        return fx.node.map_arg(arguments, tensor)

    def _writes(self, info: OpInfo, args: Mapping[str, RecordArg]) -> tuple[str, ...]:
        flag, names = UNDECLARED_WRITES.get(info.op, ("", ()))
        declared = info.writes + (names if flag and args.get(flag) is True else ())
        return tuple(name for name in declared if args.get(name) is not None)

    def stack(self, node: fx.Node) -> tuple[Module, ...]:
        """Return the modules around `node`, from the root inwards."""
        stack = metadata.module_stack(node.meta)
        if self._prefix:
            inside = f"{self._prefix}."
            stack = tuple(
                Module(m.path[len(inside) :], m.type)
                for m in stack
                if f"{m.path}.".startswith(inside)
            )
        if self._root is not None and not (stack and stack[0].path == ""):
            stack = (self._root, *stack)
        return self._stacks.setdefault(stack, stack)

    def _storage(self, value: Any) -> Hashable | None:
        identity = metadata.storage(value)
        return self._same_storage.get(identity, identity)

    # -- regions ---------------------------------------------------------------------------

    def _inline(self, node: fx.Node, position: int, context: Any, prefix: str) -> None:
        """Record the ops of a ``no_grad`` or ``autocast`` region as if they stood outside."""
        region = self._env[node.args[position]]  # type: ignore[index]
        operands = [self.argument(arg) for arg in node.args[position + 1 :]]
        inner = prefix + node.name + "/"
        placeholders = [n for n in region.graph.nodes if n.op == "placeholder"]
        for placeholder, operand in zip(placeholders, operands, strict=True):
            self.bind(placeholder, operand)
            if isinstance(operand, Value):
                self.share_memory(placeholder, operand)
        for inside in region.graph.nodes:
            if inside.op == "output":
                result = inside.args[0]
                self.bind(node, self.argument(result))
            else:
                self.visit(inside, region, inner)

    def visit(self, node: fx.Node, owner: nn.Module, prefix: str = "") -> None:
        """Record a node that is neither a top-level placeholder nor an output."""
        begin = Position(len(self.records), len(self.noise))
        self._visit(node, owner, prefix)
        self._spans[node] = begin, Position(len(self.records), len(self.noise))

    def _visit(self, node: fx.Node, owner: nn.Module, prefix: str) -> None:
        if isinstance(node.target, Segment):
            expand(self, node, node.target)
        elif node.op == "call_function":
            self.call(node, prefix)
        elif node.op == "get_attr":
            self._get_attr(node, owner, prefix)
        elif node.op == "call_module":
            self.drop(f"call_module:{node.target}")

    def _get_attr(self, node: fx.Node, owner: nn.Module, prefix: str) -> None:
        value: Any = owner
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if isinstance(value, fx.GraphModule):
            self.bind(node, value)
            return
        node.meta.setdefault("val", value)
        self.constant(node, value, prefix)

    def constant(self, node: fx.Node, value: Any, prefix: str) -> None:
        """Record what a `get_attr` node stands for."""
        stack = () if self._root is None else (self._root,)
        self.placeholder(node, "constant", str(node.target), stack, prefix=prefix)


def read_trace(program: fx.GraphModule, real: Mapping[str, Any] | None = None) -> list[OpRecord]:
    """Return the records of a traced function: its placeholders, as inputs, and its ops.

    `real` has what placeholders stand for, by name, where that has values.
    """
    recorder = Recorder()
    recorder.real = real or {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            recorder.placeholder(node, "input", node.name)
        elif node.op != "output":
            recorder.visit(node, program)
    return recorder.records


def _is_static(meta: TensorMeta) -> bool:
    return all(isinstance(n, int) for n in (*meta.shape, *(meta.stride or ())))


def _values_like(result: Any, key: str, positions: Any) -> Any:
    if isinstance(result, list | tuple):
        return tuple(_values_like(item, key, positions) for item in result)
    if isinstance(result, dict):
        return {name: _values_like(item, key, positions) for name, item in result.items()}
    position = next(positions, None)
    return None if result is None or position is None else Value(key, position)
