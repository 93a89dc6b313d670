"""Memory over the order of execution: which storage is alive when, and what it is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from .graph import in_order
from .schema import Dim, TensorMeta

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


@dataclass(slots=True)
class Storage:
    """A piece of memory: the tensors that share it, and how long it is needed.

    `node` is the one that sets it aside and `nodes` are all that lie in it; `first` and `last`
    are the indices of the one that sets it aside and of the last one that needs it.
    """

    node: str
    purpose: Purpose
    nbytes: Dim
    first: int
    last: int
    nodes: list[str] = field(default_factory=list)


def storages(graph: _DiGraph) -> list[Storage]:
    """Return every storage of `graph` in the order in which they are set aside.

    A view lies in its base's storage and an op in place in its operand's. What the caller holds
    (parameters, buffers, inputs, optimizer state) and what the model returns stays to the end.
    Everything else goes when the last node that reads it, or a view of it, has run; but what a
    module is called with stays until the call returns, because in eager execution Python holds
    the arguments of a running call.
    """
    found: dict[Any, Storage] = {}
    owned: dict[str, tuple[Any, ...]] = {}
    nodes = in_order(graph)
    end = nodes[-1][1]["index"] if nodes else 0
    calls = _calls(nodes)
    for name, node in nodes:
        index = node["index"]
        owned[name] = numbers = _numbers(name, node)
        for number, meta in zip(numbers, node["outputs"], strict=True):
            size = 0 if meta is None else _extent(meta)
            if number not in found:
                held = node["kind"] != "op"
                found[number] = Storage(name, _purpose(node), size, index, end if held else index)
            elif isinstance(size, int) and isinstance(found[number].nbytes, int):
                found[number].nbytes = max(found[number].nbytes, size)
            found[number].nodes.append(name)
        for number in _read(graph, name, owned):
            storage = found[number]
            needed = _returns(calls.get(name, ()), calls.get(storage.node, ()), index)
            storage.last = max(storage.last, end if node["kind"] == "output" else needed)
            if storage.purpose == "activations" and _holds_gradient(node):
                storage.purpose = "gradients"
    return list(found.values())


@dataclass(slots=True, eq=False)
class _Call:
    """A module call: the forward nodes of one module that run without another in between."""

    path: str
    end: int = 0


def _calls(nodes: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, tuple[_Call, ...]]:
    """Return the module calls around every forward op, from the root inwards."""
    around: dict[str, tuple[_Call, ...]] = {}
    running: tuple[_Call, ...] = ()
    for name, node in nodes:
        if node["kind"] != "op" or node.get("phase", "forward") != "forward":
            continue
        paths = [module.path for module in node.get("module_stack", ())]
        same = 0
        while same < min(len(paths), len(running)) and running[same].path == paths[same]:
            same += 1
        running = around[name] = (*running[:same], *map(_Call, paths[same:]))
        for call in running:
            call.end = node["index"]
    return around


def _returns(reader: Sequence[_Call], maker: Sequence[_Call], index: int) -> int:
    """Return when the outermost call of a reader returns that its operand was passed into."""
    for inner, outer in zip_longest(reader, maker):
        if inner is None:
            break
        if inner is not outer:
            return max(index, inner.end)
    return index


def _numbers(name: str, node: Mapping[str, Any]) -> tuple[Any, ...]:
    # A graph that somebody made by hand may not say what shares memory: then nothing does.
    return tuple(node.get("storages") or ((name, i) for i in range(len(node["outputs"]))))


def _holds_gradient(node: Mapping[str, Any]) -> bool:
    return node["kind"] == "output" and str(node.get("target", "")).startswith(GRADIENT)


def _read(graph: _DiGraph, name: str, owned: Mapping[str, tuple[Any, ...]]) -> Iterable[Any]:
    for source, _, edge in graph.in_edges(name, data=True):
        for use in edge["uses"]:
            if use.output is not None:
                yield owned[source][use.output]


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


def _extent(meta: TensorMeta) -> Dim:
    """Return the bytes from the first element of a tensor to its last, gaps included.

    >>> _extent(TensorMeta((2, 3), stride=(8, 1))), _extent(TensorMeta((2, 3), stride=(0, 1)))
    (44, 12)
    """
    if meta.stride is None or 0 in meta.shape:
        return meta.nbytes
    reach = 1 + sum((n - 1) * step for n, step in zip(meta.shape, meta.stride, strict=True))
    return TensorMeta((reach,), meta.dtype).nbytes


def timeline(graph: _DiGraph, found: Sequence[Storage]) -> dict[str, Dim]:
    """Return, for every node, the bytes in use while it runs, in the order of execution."""
    nodes = in_order(graph)
    starting, ending = dict[int, list[Dim]](), dict[int, list[Dim]]()
    held: Dim = 0
    for storage in found:
        if graph.nodes[storage.node]["kind"] != "op":  # there before anything runs
            held += storage.nbytes
        else:
            starting.setdefault(storage.first, []).append(storage.nbytes)
            ending.setdefault(storage.last, []).append(storage.nbytes)
    live: dict[str, Dim] = {}
    for name, node in nodes:
        index = node["index"]
        for size in starting.get(index, ()):
            held += size
        live[name] = held
        for size in ending.get(index, ()):
            held -= size
    return live


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


def memory_at(graph: _DiGraph, node: str, found: Sequence[Storage] | None = None) -> Peak:
    """Say what is alive while `node` runs.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4, bias=False), torch.zeros(2, 8))
    >>> memory_at(graph, "linear").alive
    {'weight': 128, 'input': 64, 'linear': 32}
    """
    index = graph.nodes[node]["index"]
    split: dict[Purpose, Dim] = dict.fromkeys(PURPOSES, 0)
    alive: dict[str, Dim] = {}
    for storage in storages(graph) if found is None else found:
        from_start = graph.nodes[storage.node]["kind"] != "op"
        if (from_start or storage.first <= index) and index <= storage.last and storage.nbytes != 0:
            split[storage.purpose] += storage.nbytes
            alive[storage.node] = alive.get(storage.node, 0) + storage.nbytes
    if all(isinstance(size, int) for size in alive.values()):
        alive = dict(sorted(alive.items(), key=lambda item: -item[1]))
    return Peak(sum(split.values(), 0), node, split, alive)


def peak(graph: _DiGraph) -> Peak | None:
    """Return the most memory that is in use at once, None where `live_bytes` is not known.

    Symbolic sizes are compared for every value of their symbols. Where which node needs the most
    depends on them, `nbytes` is the largest of several expressions, and no node is named.
    """
    nodes = [(name, node["live_bytes"]) for name, node in in_order(graph) if "live_bytes" in node]
    if not nodes:
        return None
    largest = _largest({size: name for name, size in reversed(nodes)})
    if len(largest) > 1:
        import sympy

        return Peak(sympy.Max(*largest), "", {}, {})
    (node,) = largest.values()
    return memory_at(graph, node)


def _largest(sizes: Mapping[Dim, str]) -> dict[Dim, str]:
    """Return those of `sizes` that no other one is always at least as large as."""
    numbers = [size for size in sizes if isinstance(size, int)]
    best: dict[Dim, str] = {max(numbers): sizes[max(numbers)]} if numbers else {}
    for size, node in sizes.items():
        if isinstance(size, int) or any(_never_less(other, size) for other in best):
            continue
        best = {other: n for other, n in best.items() if not _never_less(size, other)}
        best[size] = node
    return best


def _never_less(one: Dim, other: Dim) -> bool:
    """Say whether every term of ``one - other`` is known not to be negative."""
    import sympy

    terms = sympy.Add.make_args(sympy.expand(one - other))
    return all(term.is_nonnegative for term in terms)
