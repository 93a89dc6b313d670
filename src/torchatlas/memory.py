"""Memory over the order of execution: which storage is alive when, and what it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from .graph import in_order
from .schema import Dim

if TYPE_CHECKING:
    import networkx as nx

    _DiGraph = nx.DiGraph[str]

Purpose = Literal["parameters", "buffers", "inputs", "optimizer", "gradients", "activations"]
PURPOSES: tuple[Purpose, ...] = (
    "parameters",
    "buffers",
    "inputs",
    "optimizer",
    "gradients",
    "activations",
)
GRADIENT = "gradient/"
"""How the target of an output node begins that holds a parameter's gradient."""


LOOPS = frozenset(
    {
        "higher_order.associative_scan",
        "higher_order.map_impl",
        "higher_order.scan",
        "higher_order.while_loop",
        "higher_order.while_loop_stack_output",
        "onnx.Loop",
        "onnx.Scan",
        "onnx.SequenceMap",
    }
)
"""Ops that run their body `trips` times, one result after the other."""


@dataclass(slots=True)
class Storage:
    """A piece of memory: the tensors that share it, and how long it is needed.

    `node` is the one that sets it aside; `first` and `last` are the indices of that node and of
    the last one that needs it.
    """

    node: str
    purpose: Purpose
    nbytes: Dim
    first: int
    last: int
    held: bool
    """Whether it is there before anything runs: the caller's."""


@dataclass(slots=True)
class Lifetimes:
    """The storages of a graph, in the order in which they are set aside.

    `nodes` are all nodes in the order of execution, `behind` has the storage of each of a node's
    outputs, and `first_use` the index of a node's first reader.
    """

    nodes: list[tuple[str, dict[str, Any]]]
    storages: list[Storage]
    behind: dict[str, tuple[Storage, ...]]
    first_use: dict[str, int]


def lifetimes(graph: _DiGraph) -> Lifetimes:
    """Say how long every storage of `graph` is needed.

    A view lies in its base's storage and an op in place in its operand's. What the caller holds
    (parameters, buffers, inputs, optimizer state) and what the model returns stays to the end.
    Everything else goes when the last node that reads it, or a view of it, has run; but what a
    module is called with stays until the call returns, because in eager execution Python holds
    the arguments of a running call. Where the graph was recorded from a run, as a training step
    is, its key ``frees`` says when everything went.
    """
    found: dict[Any, Storage] = {}
    sizes: dict[int, Dim] = {}
    behind: dict[str, tuple[Storage, ...]] = {}
    nodes = in_order(graph)
    end = nodes[-1][1]["index"] if nodes else 0
    calls = _calls(nodes)
    first_use: dict[str, int] = {}
    into: Any = graph._pred  # type: ignore[attr-defined]  # `pred` makes a view at each look
    for name, node in nodes:
        index, kind = node["index"], node["kind"]
        if node["outputs"]:
            behind[name] = _storages(name, node, found, sizes, end)
        around = calls.get(name, ())
        for source, edge in into[name].items():
            for use in edge["uses"]:
                if use.output is None:
                    continue
                first_use.setdefault(source, index)
                storage = behind[source][use.output]
                if kind == "output":
                    storage.last = end
                    if storage.purpose == "activations" and _holds_gradient(node):
                        storage.purpose = "gradients"
                elif storage.last < end:
                    needed = _returns(around, calls.get(storage.node, ()), index)
                    storage.last = max(storage.last, needed)
    freed = {number: node["index"] for _, node in nodes for number in node.get("frees", ())}
    if freed:
        for number, storage in found.items():
            storage.last = end if storage.held else freed.get(number, end)
    return Lifetimes(nodes, list(found.values()), behind, first_use)


def _storages(
    name: str,
    node: Mapping[str, Any],
    found: dict[Any, Storage],
    sizes: dict[int, Dim],
    end: int,
) -> tuple[Storage, ...]:
    """Return the storage behind each output of a node; add to `found` those that it sets aside.

    `sizes` has the bytes of a tensor's metadata by identity: nodes that are alike share it.
    """
    index, op = node["index"], node["kind"] == "op"
    # A graph that somebody made by hand may not say what shares memory: then nothing does.
    numbers = node.get("storages") or [(name, i) for i in range(len(node["outputs"]))]
    behind = []
    for number, meta in zip(numbers, node["outputs"], strict=True):
        size = sizes.get(id(meta))
        if size is None:
            size = sizes[id(meta)] = 0 if meta is None else meta.extent_bytes
        storage = found.get(number)
        if storage is None:
            last = index if op else end
            found[number] = storage = Storage(name, _purpose(node), size, index, last, not op)
        elif type(size) is int and type(storage.nbytes) is int and size > storage.nbytes:
            storage.nbytes = size
        behind.append(storage)
    return tuple(behind)


def _holds_gradient(node: Mapping[str, Any]) -> bool:
    return str(node.get("target", "")).startswith(GRADIENT)


@dataclass(slots=True, eq=False)
class _Call:
    """A module call: the forward nodes of one module that run without another in between."""

    path: str
    end: int = 0


def _calls(nodes: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, tuple[_Call, ...]]:
    """Return the module calls around every forward op, from the root inwards."""
    around: dict[str, tuple[_Call, ...]] = {}
    running: tuple[_Call, ...] = ()
    before: Any = None
    for name, node in nodes:
        if node["kind"] != "op" or node.get("phase", "forward") != "forward":
            continue
        stack = node.get("module_stack", ())
        if stack is not before:
            before = stack
            same = 0
            for module, call in zip(stack, running, strict=False):
                if module.path != call.path:
                    break
                same += 1
            running = (*running[:same], *(_Call(module.path) for module in stack[same:]))
        around[name] = running
        for call in running:
            call.end = node["index"]
    return around


def _returns(reader: Sequence[_Call], maker: Sequence[_Call], index: int) -> int:
    """Return when the outermost call of a reader returns that its operand was passed into."""
    if reader is maker or not reader:
        return index
    for depth, call in enumerate(reader):
        if depth >= len(maker) or call is not maker[depth]:
            return max(index, call.end)
    return index


def _purpose(node: Mapping[str, Any]) -> Purpose:
    if node.get("phase") == "optimizer" and node["kind"] != "op":
        return "optimizer"
    return _PURPOSES.get(node["kind"], "activations")


_PURPOSES: dict[str, Purpose] = {
    "parameter": "parameters",
    "buffer": "buffers",
    "constant": "buffers",
    "input": "inputs",
}


def timeline(found: Lifetimes) -> Iterator[tuple[str, Dim]]:
    """Yield every node in the order of execution with the bytes in use while it runs."""
    change: dict[int, Dim] = {}
    held: Dim = 0
    for storage in found.storages:
        if storage.held:
            held += storage.nbytes
        else:
            change[storage.first] = change.get(storage.first, 0) + storage.nbytes
            change[storage.last + 1] = change.get(storage.last + 1, 0) - storage.nbytes
    times = sorted(change, reverse=True)
    for name, node in found.nodes:
        while times and times[-1] <= node["index"]:
            held += change[times.pop()]
        yield name, held + inside(node) if "subgraphs" in node else held


def inside(node: Mapping[str, Any]) -> Dim:
    """Return the most memory that the bodies of a control flow op need besides its operands.

    The results of a body that runs once are those of the op, which count already. What flex
    attention does to a score stays inside its kernel.
    """
    if node["op"].startswith("higher_order.flex_attention"):
        return 0
    looped = node["op"] in LOOPS
    extra: Dim = 0
    for body in node["subgraphs"].values():
        found = lifetimes(body)
        needed = [live for _, live in timeline(found)]
        given = sum((s.nbytes for s in found.storages if _is_input(body, s)), 0)
        made = 0 if looped else sum((m.nbytes for m in node["outputs"] if m is not None), 0)
        extra = maximum([extra, *(_plain(live - given - made) for live in needed)])
    return extra


def _plain(size: Dim) -> Dim:
    return int(size) if getattr(size, "is_Integer", False) else size


def _is_input(graph: _DiGraph, storage: Storage) -> bool:
    return bool(graph.nodes[storage.node]["kind"] == "input")


def maximum(sizes: Sequence[Dim]) -> Dim:
    """Return the largest of `sizes`; of symbolic ones, an expression for it."""
    largest = list(_largest(dict.fromkeys(sizes, "")))
    if len(largest) == 1:
        return largest[0]
    import sympy

    # Comparing them once more, as evaluating would, takes long and finds nothing.
    found: Dim = sympy.Max(*largest, evaluate=False)
    return found


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a graph needs at once.

    `split` has the bytes for each of `PURPOSES`; `alive` the nodes whose storages are in use,
    largest first, with their bytes.
    """

    nbytes: Dim
    node: str
    split: Mapping[Purpose, Dim]
    alive: Mapping[str, Dim]


def memory_at(graph: _DiGraph, node: str) -> Peak:
    """Say what is alive while `node` runs.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4, bias=False), torch.zeros(2, 8))
    >>> memory_at(graph, "linear").alive
    {'weight': 128, 'input': 64, 'linear': 32}
    """
    index = graph.nodes[node]["index"]
    split: dict[Purpose, Dim] = dict.fromkeys(PURPOSES, 0)
    alive: dict[str, Dim] = {}
    for storage in lifetimes(graph).storages:
        begun = storage.held or storage.first <= index
        if begun and index <= storage.last and storage.nbytes != 0:
            split[storage.purpose] += storage.nbytes
            alive[storage.node] = alive.get(storage.node, 0) + storage.nbytes
    if "subgraphs" in graph.nodes[node] and (extra := inside(graph.nodes[node])) != 0:
        split["activations"] += extra
        alive[node] = alive.get(node, 0) + extra
    if all(isinstance(size, int) for size in alive.values()):
        alive = dict(sorted(alive.items(), key=lambda item: -item[1]))
    return Peak(sum(split.values(), 0), node, split, alive)


def peak(graph: _DiGraph) -> Peak | None:
    """Return the most memory that is in use at once, None where `live_bytes` is not known.

    Symbolic sizes are compared for every value of their symbols. Where which node needs the most
    depends on them, `nbytes` is the largest of several expressions, and no node is named. Of a
    collapsed graph the module is known in which it is, and not what is alive.
    """
    nodes = [(name, node["live_bytes"]) for name, node in in_order(graph) if "live_bytes" in node]
    if not nodes:
        return None
    largest = _largest({size: name for name, size in reversed(nodes)})
    if len(largest) > 1:
        return Peak(maximum(list(largest)), "", {}, {})
    ((size, node),) = largest.items()
    if any("contains" in found for _, found in graph.nodes(data=True)):
        return Peak(size, node, {}, {})  # what was alive at the time went when it collapsed
    return memory_at(graph, node)


def _largest(sizes: Mapping[Dim, str]) -> dict[Dim, str]:
    """Return those of `sizes` that no other one is always at least as large as."""
    numbers = [size for size in sizes if isinstance(size, int)]
    best: dict[Dim, str] = {max(numbers): sizes[max(numbers)]} if numbers else {}
    for size, node in sizes.items():
        if isinstance(size, int) or any(never_less(other, size) for other in best):
            continue
        best = {other: n for other, n in best.items() if not never_less(size, other)}
        best[size] = node
    return best


def never_less(one: Dim, other: Dim) -> bool:
    """Say whether every term of ``one - other`` is known not to be negative."""
    more, less = _terms(one), _terms(other)
    return all(
        more.get(term, 0) == less.get(term, 0)
        or (more.get(term, 0) > less.get(term, 0) and term.is_nonnegative)
        for term in {**more, **less}
    )


@lru_cache(maxsize=4096)
def _terms(size: Dim) -> Mapping[Any, Any]:
    """Return the factor of every product of symbols in `size`."""
    import sympy

    found: Mapping[Any, Any] = sympy.expand(sympy.sympify(size)).as_coefficients_dict()
    return found


def saved_for_backward(graph: _DiGraph) -> dict[str, Dim]:
    """Return what a training step keeps from its forward pass for its backward pass.

    The nodes that set the memory aside, with their bytes: activations only, not what the caller
    holds anyway. Where no node says what autograd keeps, it is what the backward pass reads.

    >>> import torch, torchatlas as ta
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Sigmoid())
    >>> saved_for_backward(ta.capture(model, torch.zeros(2, 8), mode="training"))
    {'1/sigmoid': 32}
    """
    told = {n: node["saved_bytes"] for n, node in graph.nodes(data=True) if "saved_bytes" in node}
    if told:
        return told
    found = lifetimes(graph)
    kept = {
        id(found.behind[name][i]) for name, node in found.nodes for i in node.get("saved", ())
    } or _read_backward(graph, found)
    saved: dict[str, Dim] = {}
    for storage in found.storages:
        forward = graph.nodes[storage.node].get("phase") == "forward"
        if forward and not storage.held and id(storage) in kept:
            saved[storage.node] = saved.get(storage.node, 0) + storage.nbytes
    return saved


def _read_backward(graph: _DiGraph, found: Lifetimes) -> set[int]:
    """Return the identities of the storages that a node of the backward pass reads."""
    return {
        id(found.behind[source][use.output])
        for source, target, edge in graph.edges(data=True)
        if graph.nodes[target]["kind"] == "op" and graph.nodes[target].get("phase") == "backward"
        # The gradient of the loss is a one of its shape: the loss itself is not read.
        if graph.nodes[target]["op"] != "aten.ones_like"
        for use in edge["uses"]
        if use.output is not None
    }
