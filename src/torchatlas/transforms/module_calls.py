"""Which ops of a graph belong to one call of a module, and which weights to that call alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError
from ..graph import ModelGraph, bodies, op_nodes
from ..schema import WEIGHTS, Module

Node = Mapping[str, Any]
Choice = Callable[[Node], tuple[Module, ...]]
"""What says into which module a node goes: its stack down to that one, empty where it stays."""

OPTIMIZER = "optimizer"

_PATIENCE = 300
"""Nodes to look at before two parts of a call are left apart, so that time stays linear."""


@dataclass(slots=True, eq=False)
class Call:
    """What becomes one node; `of` is the forward call that a part of the backward pass is for.

    `results` are the output nodes with the gradients of `weights`.
    """

    role: str
    stack: tuple[Module, ...]
    of: Call | None = None
    ops: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Path of the module that is called."""
        return self.stack[-1].path

    @property
    def members(self) -> list[str]:
        """All nodes that it takes in."""
        return [*self.weights, *self.ops, *self.results]


def at_depth(graph: ModelGraph, depth: int) -> Choice:
    """Choose the modules at `depth`, and those above it that call no others."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise UsageError(f"{depth!r} is no depth", hint="0 is the model, 1 the modules in it, …")
    outer = {module.path for stack in _stacks(graph) for module in stack[:-1]} | {""}

    def choose(node: Node) -> tuple[Module, ...]:
        stack = _stack(node)
        if len(stack) > depth:
            return stack[: depth + 1]
        return () if stack[-1].path in outer else stack

    return choose


def _stacks(graph: ModelGraph) -> Iterator[tuple[Module, ...]]:
    for part in (graph, *(body for _, body in bodies(graph))):
        yield from {_stack(node) for _, node in op_nodes(part)}


def named(graph: ModelGraph, modules: Collection[str]) -> Choice:
    """Choose the modules with these paths; of one inside another, the outer one."""
    chosen = {modules} if isinstance(modules, str) else set(modules)
    known = {module.path for stack in _stacks(graph) for module in stack}
    if unknown := sorted(chosen - known):
        raise UsageError(
            f"no op runs in a module {unknown[0]!r}",
            hint="name it by its path, such as 'layer1.0'",
        )

    def choose(node: Node) -> tuple[Module, ...]:
        stack = _stack(node)
        place = next((i for i, module in enumerate(stack) if module.path in chosen), None)
        return () if place is None else stack[: place + 1]

    return choose


def _stack(node: Node) -> tuple[Module, ...]:
    """Return the modules around a node from the root, which ops outside of any module have too."""
    stack = tuple(node.get("module_stack", ()))
    return stack if stack and not stack[0].path else (Module("", ""), *stack)


def find_calls(graph: ModelGraph, nodes: Mapping[str, Node], choice: Choice) -> list[Call]:
    """Return the calls of the chosen modules in the order in which they begin, without weights.

    The ops of each run one after the other, with no other op in between.
    """
    found: list[Call] = []
    owner: dict[str, Call] = {}
    for run in _runs(nodes, choice):
        if run.role == "forward":
            parts = list(_repeats(graph, nodes, run))
        else:
            parts = list(_by_forward_call(nodes, run, owner))
        for part in parts:
            owner.update(dict.fromkeys(part.ops, part))
        found += parts
    return found


def _runs(nodes: Mapping[str, Node], choice: Choice) -> Iterator[Call]:
    """Yield the longest runs of ops in one module and one part of a training step."""
    run: Call | None = None
    for name, node in nodes.items():
        if node["kind"] != "op":
            continue
        role = _role(node)
        stack = _stack(node)[:1] if role == OPTIMIZER else choice(node)
        if run is not None and (run.role, run.path) != (role, stack[-1].path if stack else None):
            yield run
            run = None
        if stack:
            run = run or Call(role, stack)
            run.ops.append(name)
    if run is not None:
        yield run


def _role(node: Node) -> str:
    return "recompute" if "recomputes" in node else str(node.get("phase", "forward"))


def _repeats(graph: ModelGraph, nodes: Mapping[str, Node], run: Call) -> Iterator[Call]:
    """Yield the calls that a run consists of: one, unless it is the same ops over and over.

    They have to read the same weights each time. A module that itself loops over others mostly
    does something before or after, and its run is left whole.
    """
    if len(run.ops) < 2 or not run.path:
        yield run
        return
    steps = [
        (nodes[name]["op"], tuple(s for s in graph.pred[name] if nodes[s]["kind"] in WEIGHTS))
        for name in run.ops
    ]
    period = _period(steps)
    if not any(weights for _, weights in steps[:period]):
        period = len(steps)
    for start in range(0, len(steps), period):
        yield replace(run, ops=run.ops[start : start + period], weights=[], results=[])


def _period(items: Sequence[Any]) -> int:
    """Return the length of the shortest part that `items` is a repetition of.

    >>> _period("ababab"), _period("aba"), _period("aaaa")
    (2, 3, 1)
    """
    # The failure function of Knuth, Morris and Pratt: the longest end that is also a beginning.
    borders = [0] * len(items)
    for i in range(1, len(items)):
        k = borders[i - 1]
        while k and items[i] != items[k]:
            k = borders[k - 1]
        borders[i] = k + (items[i] == items[k])
    period = len(items) - borders[-1]
    return period if len(items) % period == 0 else len(items)


def _by_forward_call(
    nodes: Mapping[str, Node], run: Call, owner: Mapping[str, Call]
) -> Iterator[Call]:
    """Yield the parts of a run of the backward pass that are for one forward call each."""
    part = Call(run.role, run.stack)
    for name in run.ops:
        node = nodes[name]
        of = owner.get(node.get("recomputes") or node.get("differentiates") or "")
        if part.of is not None and of is not None and of is not part.of:
            yield part
            part = Call(run.role, run.stack)
        part.of = part.of or of
        part.ops.append(name)
    yield part


# -- parts of one call -------------------------------------------------------------------------


def gather(graph: ModelGraph, calls: Sequence[Call]) -> list[Call]:
    """Return `calls` with the parts joined that are for one forward call and make no cycle.

    Autograd runs a node as soon as it can, so the gradients of a module come in several runs.
    """
    home: dict[str, Call] = {name: call for call in calls for name in call.ops}
    kept: list[Call] = []
    open_parts: dict[tuple[str, int], Call] = {}
    for call in calls:
        key = (call.role, id(call.of))
        first = open_parts.get(key) if call.of is not None else None
        if first is not None and not _linked(graph, home, first, call):
            first.ops += call.ops
            home.update(dict.fromkeys(call.ops, first))
            continue
        # A copy: the caller's calls stay as they ran.
        copied = replace(call, ops=list(call.ops), weights=[], results=[])
        home.update(dict.fromkeys(copied.ops, copied))
        open_parts[key] = copied
        kept.append(copied)
    return kept


def _linked(graph: ModelGraph, home: Mapping[str, Call], one: Call, other: Call) -> bool:
    """Say whether a way from one call to the other leads through a third node, or may do so."""
    return _leads(graph, home, one, other) or _leads(graph, home, other, one)


def _leads(graph: ModelGraph, home: Mapping[str, Call], start: Call, end: Call) -> bool:
    seen: set[Any] = {start}
    waiting: list[str] = []

    def step(names: Iterable[str]) -> bool:
        for name in names:
            for target in graph.succ[name]:
                unit = home.get(target, target)
                if unit is end:
                    if names is not start.ops:
                        return True
                elif unit not in seen:
                    seen.add(unit)
                    waiting.append(target)
        return False

    if step(start.ops):
        return True
    while waiting:
        if len(seen) > _PATIENCE:
            return True
        name = waiting.pop()
        unit = home.get(name)
        if step([name] if unit is None else unit.ops):
            return True
    return False


# -- weights -----------------------------------------------------------------------------------


def take_in_weights(
    graph: ModelGraph, nodes: Mapping[str, Node], choice: Choice, calls: Sequence[Call]
) -> None:
    """Add to each call the weights of its module that no other call reads before it is over.

    The backward pass and the optimizer may read them later. Weights that nothing reads go to the
    first call of their module, and gradients to where they are computed.
    """
    home = {name: call for call in calls for name in call.ops}
    first: dict[str, Call] = {}
    for call in calls:
        if call.role == "forward":
            first.setdefault(call.path, call)
    ends = {id(call): max(nodes[name]["index"] for name in call.ops) for call in calls}
    taken = set[str]()
    for name, node in nodes.items():
        if node["kind"] in WEIGHTS:
            readers = list(graph.succ[name])
            stack = choice(node)
            path = stack[-1].path if stack else None
            owner = _owner(nodes, home, ends, readers) if readers else first.get(path or "")
            if owner is not None and _belongs(node, path, owner):
                owner.weights.append(name)
                taken.add(name)
    for name, node in nodes.items():
        if node["kind"] == "output" and node.get("gradient_of") in taken:
            makers = {id(home.get(source)): home.get(source) for source in graph.pred[name]}
            maker = makers.popitem()[1] if len(makers) == 1 else None
            if maker is not None:
                maker.results.append(name)


def _belongs(node: Node, path: str | None, call: Call) -> bool:
    if call.role == OPTIMIZER or node.get("phase") == OPTIMIZER:
        return call.role == node.get("phase")
    return path == call.path


def _owner(
    nodes: Mapping[str, Node],
    home: Mapping[str, Call],
    ends: Mapping[int, int],
    readers: Sequence[str],
) -> Call | None:
    """Return the call that all forward readers are in, or all readers where none is forward."""
    early = [name for name in readers if _role(nodes[name]) == "forward"] or readers
    found = {id(home.get(name)): home.get(name) for name in early}
    call = found.popitem()[1] if len(found) == 1 else None
    if call is None:
        return None
    others = (nodes[name]["index"] for name in readers if home.get(name) is not call)
    return call if all(index > ends[id(call)] for index in others) else None
