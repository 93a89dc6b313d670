"""Stretches of a traced graph that a later module call repeats under its own path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import fx

from ..records import OpRecord, RecordArg, Value, copy, map_values
from ..schema import Module
from . import metadata, torch_api
from .calls import pattern

if TYPE_CHECKING:
    from .dispatch import Tracer
    from .fx_graph import Recorder

RESHAPING = frozenset(
    f"{name}_"
    for name in (
        "as_strided",
        "detach",
        "resize",
        "resize_as",
        "set",
        "squeeze",
        "swapaxes",
        "swapdims",
        "t",
        "transpose",
        "unsqueeze",
    )
)
"""Operators in place that change a tensor's shape or memory rather than its elements."""


Invoke = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Calls an operator, given its node's name, on arguments and keyword arguments."""


def call_plainly(name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operator."""
    return target(*args, **kwargs)


class Segment:
    """The nodes that one module call added to a graph, as the target of the calls like it.

    Called with what stands for its operands, it runs the nodes and returns its results.
    """

    __name__ = "segment"

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        operands: Sequence[fx.Node],
        results: Sequence[fx.Node],
        paths: Sequence[str],
        line: str,
    ) -> None:
        self.nodes, self.results = nodes, results
        self.paths, self.line = paths, line
        self.pattern = pattern(operands)
        inside = set(nodes)
        used = {arg for node in nodes for arg in node.all_input_nodes if arg not in inside}
        used |= {node for node in results if node not in inside}
        self.read = [i for i, n in enumerate(operands) if self.pattern[i] == i and n in used]
        """Which of the nodes that the call was given it reads."""
        self.operands = [operands[i] for i in self.read]
        self.foreign = used - set(self.operands)

    @classmethod
    def after(
        cls,
        last: fx.Node | None,
        tracer: Tracer,
        *,
        operands: Sequence[fx.Node],
        results: Sequence[fx.Node],
        paths: Sequence[str],
        line: str,
    ) -> Segment | None:
        """Make one of all nodes after `last`; None where they use more than the call was given."""
        nodes = list(_after(tracer.graph, last))
        found = cls(nodes, operands, results, paths, line)
        if found.foreign or any(node.op != "call_function" for node in nodes):
            return None
        known = set(paths)
        for node in nodes:
            stack = list(node.meta.get("nn_module_stack", ()))
            inside = stack.index(paths[0]) if paths[0] in stack else None
            if node.meta.get("nn_module_stack") is not None and (
                inside is None or not known.issuperset(stack[inside:])
            ):
                return None
            name = getattr(node.target, "__name__", "").partition(".")[0]
            if name in RESHAPING and node.args[0] in found.operands:
                return None
        return found

    def __call__(self, *values: Any) -> list[Any]:
        """Run the nodes on `values` for the operands; return the results."""
        return self.run(values, lambda node, result: None)

    def run(
        self,
        values: Sequence[Any],
        hook: Callable[[str, Any], None],
        prefix: str = "",
        invoke: Invoke = call_plainly,
    ) -> list[Any]:
        """Run the nodes; call ``hook(name, result)`` after each, the name behind `prefix`.

        ``invoke(name, operator, arguments, keyword arguments)`` calls the operators.
        """
        made = dict(zip(self.operands, values, strict=True))
        for node in self.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), made.__getitem__)
            target: Any = node.target
            name = prefix + node.name
            if isinstance(target, Segment):
                made[node] = target.run(args, hook, f"{name}/", invoke)
            else:
                with torch_api.in_modes(node.meta.get("modes")):
                    made[node] = invoke(name, target, args, kwargs)
                hook(name, made[node])
            del args, kwargs
            for done in self._last_uses.get(node, ()):
                del made[done]  # as a run of the model drops what nobody holds any more
        return [made[node] for node in self.results]

    @cached_property
    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """What each node is the last one to use."""
        last = {arg: node for node in self.nodes for arg in node.all_input_nodes}
        last = {node: node for node in self.nodes} | last
        found: dict[fx.Node, list[fx.Node]] = {}
        for arg, node in last.items():
            if arg not in self.results:
                found.setdefault(node, []).append(arg)
        return found


def _after(graph: fx.Graph, last: fx.Node | None) -> Iterator[fx.Node]:
    yield from reversed(list(_backwards(graph, last)))


def _backwards(graph: fx.Graph, last: fx.Node | None) -> Iterator[fx.Node]:
    for node in reversed(graph.nodes):
        if node is last:
            return
        yield node


class CannotRepeatError(Exception):
    """A stretch that was repeated stands in surroundings where its records would be others."""


def expand(recorder: Recorder, node: fx.Node, segment: Segment) -> None:
    """Record what `segment` recorded once more, for the call `node` that repeats it.

    Raises CannotRepeatError where that would not be what tracing the call had recorded.
    """
    copy = _Copy(recorder, node, segment)
    start, stop = recorder.span(segment.nodes)
    for record in recorder.records[start.records : stop.records]:
        recorder.add(copy.record(record))
    for name in recorder.noise[start.noise : stop.noise]:
        recorder.drop(name)
    results = [copy.value(recorder.value(result)) for result in segment.results]
    recorder.bind(node, tuple(results))
    for tensor, value in zip(node.meta["val"], results, strict=True):
        recorder.share_storage(tensor, value)


_LITERALS = (int, float, bool, str, type(None))


class _Copy:
    """Makes records of one module call into those of another one."""

    def __init__(self, recorder: Recorder, node: fx.Node, segment: Segment) -> None:
        self._recorder, self._prefix = recorder, f"{node.name}/"
        self._outside: dict[Value, Value] = {}
        self._storages: dict[Any, Any] = {}
        for old, new in zip(segment.operands, node.all_input_nodes, strict=True):
            self._map(recorder.value(old), recorder.value(new))
        paths = zip(segment.paths, node.meta["paths"], strict=True)
        self._paths = {metadata.plain_path(old): metadata.plain_path(new) for old, new in paths}
        self._block = metadata.plain_path(segment.paths[0])
        self._outer = recorder.stack(node)
        self._stacks: dict[int, tuple[Module, ...]] = {}  # by identity, which costs no hashing
        self._lines = {
            metadata.source_line(segment.line): metadata.source_line(node.meta["stack_trace"])
        }
        self._phase = node.meta["phase"]

    def _map(self, old: Value, new: Value) -> None:
        recorder = self._recorder
        if self._outside.setdefault(old, new) != new or not recorder.alike(old, new):
            raise CannotRepeatError
        before, after = recorder.storage(old), recorder.storage(new)
        if self._storages.setdefault(before, after) != after:
            raise CannotRepeatError

    def value(self, value: Value) -> Value:
        """Return what stands for `value` in the copy."""
        found = self._outside.get(value)
        return Value(self._prefix + value.key, value.output) if found is None else found

    def record(self, record: OpRecord) -> OpRecord:
        """Return a copy of `record`."""
        made = copy(record)
        made.key, made.like = self._prefix + record.key, record.like or record.key
        made.args = {name: self._argument(arg) for name, arg in record.args.items()}
        made.storages = tuple(map(self._storage, record.storages))
        made.stack = self._stack(record.stack)
        made.source = self._lines.get(record.source, record.source)
        made.phase = self._phase
        return made

    def _argument(self, arg: RecordArg) -> Any:
        if type(arg) is Value:
            return self.value(arg)
        return arg if type(arg) in _LITERALS else map_values(arg, self.value)

    def _storage(self, storage: Any) -> Any:
        if storage is None:
            return None
        return self._storages.setdefault(storage, (self._prefix, storage))

    def _stack(self, stack: tuple[Module, ...]) -> tuple[Module, ...]:
        found = self._stacks.get(id(stack))
        if found is None:
            depth = next(i for i, module in enumerate(stack) if module.path == self._block)
            inner = (Module(self._paths[m.path], m.type) for m in stack[depth:])
            found = self._stacks[id(stack)] = (*self._outer, *inner)
        return found
