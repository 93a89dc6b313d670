"""From ops to modules: every call of a module becomes one node."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ..collection import without_collection
from ..errors import UsageError
from ..graph import ModelGraph, in_order
from ..memory import maximum, saved_for_backward
from ..modules import TIMES
from ..names import UniqueNames, path_to_id
from ..schema import Dim, TensorMeta, Use
from ..sums import SUMMED, add_up, ops_of
from .module_calls import (
    OPTIMIZER,
    Call,
    Choice,
    at_depth,
    find_calls,
    gather,
    named,
    take_in_weights,
)

Node = Mapping[str, Any]
Source = tuple[str, int]
"""A node and the index of one of its outputs."""

_LINKS = ("differentiates", "recomputes", "gradient", "gradient_of", "state_of")


def collapse(
    graph: ModelGraph, depth: int | None = None, *, modules: Collection[str] = ()
) -> ModelGraph:
    """Return `graph` with one node for every call of a module at `depth`, or one of `modules`.

    The modules that the model holds itself are at depth 1, and 0 makes the model one node. A
    module above `depth` that calls no others is one node too; other ops stay as they are. A node
    is called after the module's path (``layer1/0``, a second call ``layer1/0_1``, its gradients
    ``layer1/0/backward``), its `op` is ``module.`` and the class, and its `contains` says which
    ops it stands for. It takes in the weights that only this call reads. Its costs are sums, so
    that `totals` are those of `graph`, and `uncounted` says which ops they leave out. Its
    `outputs` are the tensors that other nodes read, the one computed last first. `graph` itself
    stays as it is; the result has no `source`.

    A call is what runs in a module without an op of another one in between, so that there are
    never cycles; calls that follow each other at once are told apart where they run the same ops
    on the same weights. The ops of a backward pass are gathered by the call that they
    differentiate, and those of an optimizer in one node.

    >>> import torch, torchatlas as ta
    >>> block = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    >>> whole = ta.capture(torch.nn.Sequential(block), torch.zeros(2, 8))
    >>> small = ta.collapse(whole, depth=1)
    >>> list(small), small.nodes["0"]["contains"]
    (['input', '0', 'output'], {'aten.linear': 1, 'aten.relu': 1})
    >>> ta.totals(small).flops == ta.totals(whole).flops == 2 * 2 * 8 * 8
    True

    Raises UsageError for a depth below 0, and for a module that no op runs in.
    """
    if (depth is None) == (not modules):
        raise UsageError("what to collapse is not said", hint="give a depth, or modules")
    choice = at_depth(graph, depth) if depth is not None else named(graph, modules)
    trained = any("saved" in node or "saved_bytes" in node for _, node in graph.nodes(data=True))
    with without_collection():
        return _collapsed(graph, choice, saved_for_backward(graph) if trained else {})


def _collapsed(graph: ModelGraph, choice: Choice, saved: Mapping[str, Dim]) -> ModelGraph:
    nodes = dict(in_order(graph))
    plan = _plan(graph, nodes, choice)
    return _Contraction(graph, nodes, plan, saved).make(choice)


class _Plan(NamedTuple):
    """The calls by their new names, the new name of every old node, and the new order."""

    calls: Mapping[str, Call]
    home: Mapping[str, str]
    order: Sequence[str]


def _plan(graph: ModelGraph, nodes: Mapping[str, Node], choice: Choice) -> _Plan:
    as_run = find_calls(graph, nodes, choice)
    # Parts of a call can be joined, and weights taken in that others read later, where that
    # leaves an order to run in. Calls as they ran always do.
    for calls in (gather(graph, as_run), as_run):
        take_in_weights(graph, nodes, choice, calls)
        made = dict(zip(_names(graph, nodes, calls), calls, strict=True))
        home = {name: name for name in nodes}
        for new, call in made.items():
            home.update(dict.fromkeys(call.members, new))
        if order := _order(graph, nodes, home, calls):
            break
    return _Plan(made, home, order)


def _names(graph: ModelGraph, nodes: Mapping[str, Node], calls: Sequence[Call]) -> list[str]:
    inside = {member for call in calls for member in call.members}
    unique = UniqueNames()
    for name in nodes:
        if name not in inside:
            unique.take(name)
    return [unique.take(_wanted_name(graph, call)) for call in calls]


def _wanted_name(graph: ModelGraph, call: Call) -> str:
    if call.role == OPTIMIZER:
        return OPTIMIZER
    path = path_to_id(call.path) or str(graph.graph["name"])
    return path if call.role == "forward" else f"{path}/{call.role}"


def _order(
    graph: ModelGraph, nodes: Mapping[str, Node], home: Mapping[str, str], calls: Sequence[Call]
) -> list[str]:
    """Return the new nodes in an order in which they can run; none where there is a cycle.

    Of those that can run next, the one whose first op came first is taken.
    """
    after: dict[str, set[str]] = {new: set() for new in home.values()}
    waits = dict.fromkeys(after, 0)
    for source, target in graph.edges:
        one, other = home[source], home[target]
        if one != other and other not in after[one]:
            after[one].add(other)
            waits[other] += 1
    began = {home[old]: nodes[old]["index"] for old in nodes}
    began.update((home[call.ops[0]], nodes[call.ops[0]]["index"]) for call in calls)
    ready = [(began[new], new) for new, count in waits.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, new = heapq.heappop(ready)
        order.append(new)
        for other in after[new]:
            waits[other] -= 1
            if not waits[other]:
                heapq.heappush(ready, (began[other], other))
    return order if len(order) == len(after) else []


class _Contraction:
    """Makes the graph in which each call is one node."""

    def __init__(
        self,
        graph: ModelGraph,
        nodes: Mapping[str, Node],
        plan: _Plan,
        saved: Mapping[str, Dim],
    ) -> None:
        self._old, self._nodes, self._saved = graph, nodes, saved
        self._calls, self._home, self._order = plan
        self._outputs = self._find_outputs()
        self._moved = {
            old: (new, i) for new, found in self._outputs.items() for i, old in enumerate(found)
        }

    def make(self, choice: Choice) -> ModelGraph:
        """Return the new graph; `choice` collapses the bodies of control flow too."""
        place = {new: index for index, new in enumerate(self._order)}
        at = {node["index"]: place[self._home[old]] for old, node in self._nodes.items()}
        made = ModelGraph(**self._old.graph)
        for new in self._order:
            uses = self._uses(new)
            is_call = new in self._calls
            attrs = self._summed(new, uses, made) if is_call else self._kept(new, choice)
            attrs["index"] = place[new]
            attrs.update(self._moments(new, at))
            made.add_node(new, **attrs)
            for source, found in uses.items():
                flowing = {use.output for use in found if use.output is not None}
                metas = (made.nodes[source]["outputs"][output] for output in flowing)
                size = add_up([meta.nbytes for meta in metas if meta is not None])
                made.add_edge(source, new, uses=tuple(found), bytes=size)
        return made

    def _members(self, new: str) -> list[str]:
        return self._calls[new].members if new in self._calls else [new]

    # -- tensors that flow ---------------------------------------------------------------------

    def _find_outputs(self) -> dict[str, list[Source]]:
        """Return what others read of each call, the tensor that was computed last first."""
        read: dict[str, set[Source]] = {new: set() for new in self._calls}
        for source, target, edge in self._old.edges(data=True):
            new = self._home[source]
            if new in read and self._home[target] != new:
                read[new].update((source, u.output) for u in edge["uses"] if u.output is not None)
        return {
            new: sorted(found, key=lambda source: (-self._nodes[source[0]]["index"], source[1]))
            for new, found in read.items()
        }

    def _uses(self, new: str) -> dict[str, list[Use]]:
        """Return, by its source, what a new node reads; a call names it in the order made."""
        edges = [
            (self._nodes[source]["index"], source, use)
            for member in self._members(new)
            for source, edge in self._old.pred[member].items()
            if self._home[source] != new
            for use in edge["uses"]
        ]
        edges.sort(key=lambda edge: edge[0])
        found: dict[str, dict[Use, None]] = {}
        names: dict[Source, str] = {}
        for _, old, use in edges:
            uses = found.setdefault(self._home[old], {})
            if use.output is not None:
                source = self._now(old, use.output)
                name = use.argument
                if new in self._calls:
                    name = names.setdefault(source, f"inputs.{len(names)}")
                uses[Use(source[1], name)] = None
        return {source: list(uses) or [Use(None, "after")] for source, uses in found.items()}

    def _now(self, old: str, output: int) -> Source:
        return self._moved.get((old, output), (self._home[old], output))

    # -- keys ----------------------------------------------------------------------------------

    def _kept(self, name: str, choice: Choice) -> dict[str, Any]:
        """Return the keys of a node that stays; the bodies of its control flow collapse too."""
        attrs = {**self._nodes[name], **self._links(name), **self._saved_bytes(name)}
        if "subgraphs" in attrs:
            bodies = attrs["subgraphs"].items()
            attrs["subgraphs"] = {key: _collapsed(body, choice, {}) for key, body in bodies}
        return attrs

    def _summed(
        self, new: str, uses: Mapping[str, Sequence[Use]], made: ModelGraph
    ) -> dict[str, Any]:
        """Return the keys of a call."""
        call = self._calls[new]
        module = call.stack[-1]
        kind = module.type or self._old.graph.get("modules", {}).get(call.path, "")
        kind = kind or ("" if call.path else str(self._old.graph["name"]))
        leaf = kind.rpartition(".")[2] or "Module"
        return {
            "kind": "op",
            "op": "optimizer.step" if call.role == OPTIMIZER else f"module.{leaf}",
            "target": call.path,
            "module": call.path,
            "module_type": kind,
            "module_stack": call.stack,
            "phase": self._nodes[call.ops[0]].get("phase", "forward"),
            **self._arguments(new, uses, made),
            **self._produced(new),
            **self._contents(call),
            **self._costs(call),
            **self._measured(call),
            **self._links(new),
            **self._saved_bytes(new),
        }

    def _arguments(
        self, new: str, uses: Mapping[str, Sequence[Use]], made: ModelGraph
    ) -> dict[str, Any]:
        metas: dict[int, TensorMeta | None] = {}
        names: dict[Source, str] = {}
        for source, found in uses.items():
            for use in found:
                if use.output is not None:
                    names[source, use.output] = use.argument
                    place = int(use.argument.partition(".")[2])
                    metas[place] = made.nodes[source]["outputs"][use.output]
        written = {
            names[self._now(source, use.output)]
            for member in self._calls[new].ops
            if "writes" in self._nodes[member]
            for source, edge in self._old.pred[member].items()
            if self._home[source] != new
            for use in edge["uses"]
            if use.output is not None and _is_written(use.argument, self._nodes[member]["writes"])
        }
        args = {"inputs": tuple(metas[i] for i in range(len(metas)))} if metas else {}
        return {"args": args, **({"writes": tuple(sorted(written))} if written else {})}

    def _produced(self, new: str) -> dict[str, Any]:
        """Return what is known of the tensors that leave a call, and of the memory behind them."""
        outputs = self._outputs[new]
        nodes = [self._nodes[source] for source, _ in outputs]
        made: dict[str, Any] = {
            "outputs": tuple(
                node["outputs"][i] for node, (_, i) in zip(nodes, outputs, strict=True)
            )
        }
        if outputs and all("storages" in node for node in nodes):
            made["storages"] = tuple(
                node["storages"][i] for node, (_, i) in zip(nodes, outputs, strict=True)
            )
        kept = [k for k, (s, i) in enumerate(outputs) if i in self._nodes[s].get("saved", ())]
        freed = [number for m in self._members(new) for number in self._nodes[m].get("frees", ())]
        devices = {
            self._nodes[m]["device"] for m in self._members(new) if "device" in self._nodes[m]
        }
        optional = {
            "saved": tuple(kept),
            "frees": tuple(freed),
            "device": devices.pop() if len(devices) == 1 else "",
        }
        return {**made, **{key: value for key, value in optional.items() if value}}

    def _contents(self, call: Call) -> dict[str, Any]:
        contains, uncounted = Counter[str](), Counter[str]()
        for name in call.ops:
            inside, unknown = ops_of(self._nodes[name])
            contains.update(inside)
            uncounted.update(unknown)
        found = {"contains": dict(contains)}
        return {**found, "uncounted": dict(uncounted)} if uncounted else found

    def _costs(self, call: Call) -> dict[str, Any]:
        costs: dict[str, Any] = {}
        nodes = [self._nodes[name] for name in call.members]
        for key in SUMMED:
            told = [node[key] for node in nodes if key in node]
            known = [value for value in told if value is not None]
            if told:
                costs[key] = add_up(known) if known else None
        if "flops" in costs:
            costs["cost_source"] = "sum"
        for key in TIMES:
            times = [node[key] for node in nodes if key in node]
            if times:
                costs[key] = None if None in times else sum(times)
        live = [node["live_bytes"] for node in nodes if "live_bytes" in node]
        return {**costs, "live_bytes": maximum(live)} if live else costs

    def _measured(self, call: Call) -> dict[str, Any]:
        nodes = [self._nodes[name] for name in call.members]
        peaks = [node["peak_bytes"] for node in nodes if "peak_bytes" in node]
        found: dict[str, Any] = {"peak_bytes": max(peaks)} if peaks else {}
        if any("launches" in node for node in nodes):
            kernels = (kernel for node in nodes for kernel in node.get("kernels", ()))
            found["kernels"] = tuple(dict.fromkeys(kernels))
            found["launches"] = sum(node.get("launches", 0) for node in nodes)
        return found

    def _links(self, new: str) -> dict[str, str]:
        """Return the nodes that a new one names: those that now stand for the ones it named."""
        found: dict[str, str] = {}
        for key in _LINKS:
            named = {self._nodes[m][key] for m in self._members(new) if key in self._nodes[m]}
            homes = {self._home.get(old, old) for old in named} - {new}
            if len(homes) == 1 and (new not in self._calls or key in _LINKS[:2]):
                found[key] = homes.pop()
        return found

    def _saved_bytes(self, new: str) -> dict[str, Dim]:
        kept = [self._saved[name] for name in self._members(new) if name in self._saved]
        return {"saved_bytes": add_up(kept)} if kept else {}

    def _moments(self, new: str, at: Mapping[int, int]) -> dict[str, int]:
        """Return when the result of a new node is read first, and its memory needed last."""
        found: dict[str, int] = {}
        nodes = [self._nodes[member] for member in self._members(new)]
        for key, choose in (("first_use", min), ("last_use", max)):
            times = [at[node[key]] for node in nodes if node.get(key) in at]
            own = at[nodes[0]["index"]] if key == "first_use" else -1
            if later := [time for time in times if time > own]:
                found[key] = choose(later)
        return found


def _is_written(argument: str, writes: Sequence[str]) -> bool:
    return argument in writes or argument.partition(".")[0] in writes
