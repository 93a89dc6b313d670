"""Turns the nodes in a `.pt2` archive into records, as `fx_graph.Recorder` turns fx nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import FormatError
from ..names import clean
from ..records import OpRecord, RecordArg, Value
from ..schema import Kind, Module, TensorMeta
from . import archive_format as form
from . import control_flow
from .archive_memory import Memory
from .archive_ops import Operator, operator, written
from .archive_structure import stack_inside, stack_of_text
from .archive_values import Scope, produced
from .noise import is_noise

_REGIONS = {
    "torch.ops.higher_order.wrap_with_set_grad_enabled": 1,
    "torch.ops.higher_order.wrap_with_autocast": 4,
}
"""Regions that are recorded as if their ops stood outside, and the position of their graph."""

MAX_DEPTH = 32
"""How deep control flow and regions may be nested."""


class Calls:
    """Collects the records of a program, and which memory lies behind what they produce."""

    def __init__(
        self, hints: Mapping[str, int], outside: tuple[Module, ...] | None = None, depth: int = 0
    ) -> None:
        """Begin without records; `hints` has the value of each symbol in the example.

        For the body of a control flow operator, `outside` are the modules around that, and
        `depth` is how many bodies and regions surround it.
        """
        self.records: list[OpRecord] = []
        self.dropped: Counter[str] = Counter()
        self._hints, self._outside, self._depth = hints, outside, depth
        self._memory = Memory(hints)
        self._keys: set[str] = set()

    def add(self, record: OpRecord) -> None:
        """Append one record. Raises FormatError where another has its key."""
        if record.key in self._keys:
            raise FormatError(
                f"two nodes are called {record.key[:80]!r}", hint="the file is damaged or forged"
            )
        self._keys.add(record.key)
        self.records.append(record)
        self._memory.add(record.key, record.outputs, record.storages)

    # -- inputs ----------------------------------------------------------------------------

    def placeholder(
        self,
        scope: Scope,
        name: str,
        kind: Kind,
        target: str,
        meta: TensorMeta | None,
        stack: tuple[Module, ...] = (),
        aliases: tuple[str, ...] = (),
        storage: Hashable | None = None,
    ) -> None:
        """Record an input, parameter, buffer or constant; `storage` is where its values lie."""
        value = Value(name)
        outputs = () if meta is None else (meta,)
        behind = None if meta is None or not meta.device else storage or value
        self.add(
            OpRecord(
                key=name,
                kind=kind,
                target=target,
                stack=stack,
                aliases=aliases,
                outputs=outputs,
                storages=() if meta is None else (behind,),
            )
        )
        scope.bind(name, "<CustomObjArgument>" if meta is None else value)

    def constant(self, scope: Scope, name: str, target: str, literal: RecordArg) -> None:
        """Record an input of the model that is no tensor."""
        self.add(OpRecord(key=name, kind="input", target=target, args={"value": literal}))
        scope.bind(name, literal)

    # -- calls -----------------------------------------------------------------------------

    def visit(self, node: form.Node, scope: Scope) -> None:
        """Record a node; noise and numbers computed from sizes become what they hand on."""
        if node.target in _REGIONS:
            self._inline(node, _REGIONS[node.target], scope)
            return
        op = operator(node.target)
        results = [part for arg in node.outputs for part in produced(arg, _where(node))]
        if self._bind_number(op, results, scope):
            return
        taken = control_flow.take_bodies(_named(node, op), _is_graph)
        args = {
            clean(name): self._literal(arg, node, name, scope) for name, arg in taken.args.items()
        }
        if args.get("mutated_arg_indices") == "":  # torch may leave it out
            del args["mutated_arg_indices"]
        bodies = {
            name: self._body(node, graph.as_graph.graph, op, name, args)
            for name, graph in taken.graphs.items()
        }
        made = self._op(node, op, args, results, scope)
        if bodies and made is not None:
            made.subgraphs = bodies
            made.trips = control_flow.trips(op.op, args, self._memory.meta)
            made.writes += control_flow.written(bodies)

    def _bind_number(
        self, op: Operator, results: Sequence[tuple[str, str | None]], scope: Scope
    ) -> bool:
        """Bind the result of a call that computes a number from sizes; say whether it did."""
        if len(results) != 1 or results[0][0] != "number":
            return False
        name = str(results[0][1])
        number = scope.computed(name)
        if number is None:
            return False
        self.dropped[op.op] += 1  # where sizes are numbers, no op computes them either
        scope.bind(name, number)
        return True

    def _literal(self, arg: Any, node: form.Node, name: str, scope: Scope) -> RecordArg:
        if isinstance(arg, tuple):  # operands that have no names of their own
            return tuple(self._literal(item, node, name, scope) for item in arg)
        return scope.argument(arg, f"{_where(node)}, argument {name[:80]!r},")

    def _op(
        self,
        node: form.Node,
        op: Operator,
        args: dict[str, RecordArg],
        results: Sequence[tuple[str, str | None]],
        scope: Scope,
    ) -> OpRecord | None:
        """Record a call and return its record; None where it is noise."""
        outputs = tuple(
            _described(kind, name, scope)
            for kind, name in results
            if kind != "none" or len(results) > 1
        )
        key = scope.prefix + self._name(node)
        storages = self._memory.storages(key, op, args, outputs)
        if self._is_noise(op, args, outputs, storages):
            self.dropped[op.op] += 1
            for _, name in results:
                if name is not None:
                    scope.bind(name, next(iter(args.values()), None))
            return None
        writes = written(op, args)
        view = not writes and self._memory.is_view(args, storages)
        if view:
            outputs = self._memory.exact_strides(key, op.op, args, outputs)
        made = OpRecord(
            key=key,
            kind="op",
            op=op.op,
            overload=op.overload,
            args=args,
            outputs=outputs,
            storages=storages,
            writes=writes,
            tags=(*op.tags, "view") if view else op.tags,
            stack=self._stack(node),
            source=source_line(node.metadata.get("stack_trace", "")),
        )
        self.add(made)
        for i, (_, name) in enumerate(results):
            if name is not None:
                scope.bind(name, Value(key, i))
        return made

    def _is_noise(
        self,
        op: Operator,
        args: Mapping[str, RecordArg],
        outputs: Sequence[TensorMeta | None],
        storages: Sequence[Hashable | None],
    ) -> bool:
        first = next(iter(args.values()), None)
        operand = first if isinstance(first, Value) else None
        before = self._memory.meta(operand) if operand is not None else None
        after = outputs[0] if outputs else None
        shared = (
            bool(storages) and operand is not None and storages[0] == self._memory.behind(operand)
        )
        return is_noise(op.op, before, after, shared)

    def _name(self, node: form.Node) -> str:
        """Return the name of a node; files of older versions only name what it produces."""
        if node.name:
            return node.name
        parts = [name for arg in node.outputs for _, name in produced(arg, node.target)]
        return next((name for name in parts if name), f"{node.target}:{len(self.records)}")

    def _stack(self, node: form.Node) -> tuple[Module, ...]:
        text = node.metadata.get("nn_module_stack", "")
        return stack_of_text(text) if self._outside is None else stack_inside(text, self._outside)

    # -- bodies and regions ----------------------------------------------------------------

    def _body(
        self,
        node: form.Node,
        graph: form.Graph,
        op: Operator,
        name: str,
        args: Mapping[str, RecordArg],
    ) -> list[OpRecord]:
        """Return the records of a body of a control flow operator, as `bodies.record` has them."""
        inner = Calls(self._hints, self._stack(node), self._deeper(node))
        scope = Scope(graph)
        inputs = [part for arg in graph.inputs for part in produced(arg, _where(node))]
        meaning = control_flow.body_inputs(op.op, name, args, len(inputs))
        for (kind, key), (target, given, how) in zip(inputs, meaning, strict=True):
            if key is None:
                continue
            if how == "whole" and not isinstance(given, Value):
                scope.bind(key, given)  # a size, which is the same inside
            else:
                inner.placeholder(scope, key, "input", target, _described(kind, key, scope))
        for inside in graph.nodes:
            inner.visit(inside, scope)
        for i, output in enumerate(graph.outputs):
            target = f"output/{i}" if len(graph.outputs) > 1 else "output"
            value = scope.argument(output, f"an output of {_where(node)}")
            inner.add(OpRecord(f"output:{i}", "output", target=target, args={"value": value}))
        self.dropped.update(inner.dropped)
        return inner.records

    def _deeper(self, node: form.Node) -> int:
        if self._depth >= MAX_DEPTH:
            raise FormatError(
                f"{_where(node)} is nested more than {MAX_DEPTH} graphs deep",
                hint="no model of torch is",
            )
        return self._depth + 1

    def _inline(self, node: form.Node, position: int, scope: Scope) -> None:
        """Record the ops of a ``no_grad`` or ``autocast`` region as if they stood outside."""
        where = _where(node)
        region = node.inputs[position].arg.as_graph if len(node.inputs) > position else None
        if not isinstance(region, form.Subgraph):
            raise FormatError(f"{where} has no graph", hint="the file is damaged or forged")
        operands = [scope.argument(given.arg, where) for given in node.inputs[position + 1 :]]
        graph = region.graph
        inner = Scope(graph, f"{scope.prefix}{self._name(node)}/")
        names = [name for arg in graph.inputs for _, name in produced(arg, where)]
        results = [name for arg in node.outputs for _, name in produced(arg, where)]
        if len(names) != len(operands) or len(results) != len(graph.outputs):
            raise FormatError(
                f"{where} does not fit its graph", hint="the file is damaged or forged"
            )
        for name, operand in zip(names, operands, strict=True):
            if name is not None:
                inner.bind(name, operand)
        before, self._depth = self._depth, self._deeper(node)
        for inside in graph.nodes:
            self.visit(inside, inner)
        self._depth = before
        for name, output in zip(results, graph.outputs, strict=True):
            if name is not None:
                scope.bind(name, inner.argument(output, where))


def _named(node: form.Node, op: Operator) -> dict[str, form.Argument]:
    """Return the arguments by the names of the operator's schema, or else by position."""
    by_schema = node.target.startswith("torch.ops.") and ".higher_order." not in node.target
    named: dict[str, form.Argument] = {}
    for i, given in enumerate(node.inputs):
        name = given.name
        if not name or (not by_schema and given.kind == form.POSITIONAL):
            name = op.arguments[i] if i < len(op.arguments) else str(i)
        if name in named:
            raise FormatError(
                f"{_where(node)} has the argument {name[:80]!r} twice",
                hint="the file is damaged or forged",
            )
        named[name] = given.arg
    return named


def _is_graph(arg: Any) -> bool:
    return isinstance(arg, form.Argument) and isinstance(arg.as_graph, form.Subgraph)


def _where(node: form.Node) -> str:
    return f"the node {(node.name or node.target)[:80]!r}"


def _described(kind: str, name: str | None, scope: Scope) -> TensorMeta | None:
    if name is None:
        return None
    return scope.tensor(name) if kind == "tensor" else scope.scalar(name)


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]")
_PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")


@lru_cache(maxsize=4096)
def source_line(trace: str) -> str:
    """Return ``file:line`` of the innermost frame outside torch, without the folders around it.

    Inside an installed package its own folders stay.

    >>> source_line('File "/a/site-packages/timm/layers/mlp.py", line 3, in forward')
    'timm/layers/mlp.py:3'
    >>> source_line('File "/home/me/net.py", line 7, in forward')
    'net.py:7'
    """
    for path, line in reversed(_FRAME.findall(trace)):
        if not _TORCH.search(path) and not path.startswith("<"):
            inside = _PACKAGES.sub("", path)
            kept = inside if inside != path else re.split(r"[/\\]", path)[-1]
            return f"{clean(kept.replace(chr(92), '/'))}:{line}"
    return ""
