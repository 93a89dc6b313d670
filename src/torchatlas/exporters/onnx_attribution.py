"""Which nodes of the graph an ONNX node came from, through decomposition and optimisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import fx
    from torch.export import ExportedProgram

ID = "torchatlas.id"
"""Key under which a value's `meta` has the id of the graph's node that it is."""

_TAG = "torchatlas:"
_WORK = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "Einsum", "LSTM", "GRU", "RNN",
     "Attention", "BatchNormalization", "LayerNormalization", "GroupNormalization"}
)  # fmt: skip
"""ONNX ops that do the work of an op that became several."""

_CONTROL = frozenset({"If", "Loop", "Scan"})


class Origins:
    """Leads from the nodes of a decomposed program to those of the graph.

    `keys` has the key in `ids` of each of the program's nodes, and `bodies` the names of the
    bodies of control flow ops, by the ops' ids. An op without an id, which the graph left out as
    noise, stands for what produced its operand.
    """

    def __init__(
        self,
        program: ExportedProgram,
        keys: Mapping[str, str],
        ids: Mapping[str, str],
        bodies: Mapping[str, Sequence[str]],
    ) -> None:
        self._nodes: dict[tuple[str, int], fx.Node] = {}
        self._ids: dict[fx.Node, str] = {}
        self._known, self._bodies = ids, bodies
        self._add(program.graph_module, keys)

    def _add(self, module: fx.GraphModule, keys: Mapping[str, str]) -> None:
        for node in module.graph.nodes:
            self._nodes[node.name, id(module.graph)] = node
            key = keys.get(node.name, "")
            if key not in self._known:
                continue
            self._ids[node] = self._known[key]
            names = self._bodies.get(self._known[key], ())
            inner = [*_graph_arguments(module, node)] if names else []
            for name, body in zip(names, inner, strict=False) if len(names) == len(inner) else ():
                self._add(body, {n.name: f"{key}/{name}/{n.name}" for n in body.graph.nodes})

    def of(self, node: fx.Node | None) -> str | None:
        """Return the id of the graph's node that `node` was decomposed from."""
        if node is None:
            return None
        for place in _history(node.meta.get("from_node", ())):
            if place in self._nodes:
                return self._producer(self._nodes[place])
        return None

    def _producer(self, node: fx.Node) -> str | None:
        while node not in self._ids:
            if not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]
        return self._ids[node]


def _graph_arguments(module: fx.GraphModule, node: fx.Node) -> Iterator[fx.GraphModule]:
    """Yield the graphs among the arguments of a node, in their order."""
    for argument in node.all_input_nodes:
        found: Any = module if argument.op == "get_attr" else None
        for part in str(argument.target).split(".") if found is not None else ():
            found = getattr(found, part, None)
        if hasattr(found, "graph"):
            yield found


def _history(sources: Sequence[Any]) -> Iterator[tuple[str, int]]:
    for source in sources:
        yield source.name, source.graph_id
        yield from _history(source.from_node)


def tag(model: ir.Model, origins: Origins) -> dict[str, str]:
    """Mark every node with what it came from; return the same by the names of values.

    A mark is a metadata key of its own, because optimisation joins the keys of nodes that it
    fuses, and keeps one value of each.
    """
    by_value: dict[str, str] = {}
    for node in all_nodes(model):
        found = origins.of(node.meta.get("node"))
        if found is None:
            continue
        node.metadata_props[_TAG + found] = "1"
        for output in node.outputs:
            if output.name:
                by_value[output.name] = found
    return by_value


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node, also of subgraphs and functions."""
    import onnx_ir as ir

    for graph in (model.graph, *model.functions.values()):
        yield from ir.traversal.RecursiveGraphIterator(graph)


@dataclass(frozen=True, slots=True)
class Part:
    """One ONNX node as a part of the graph's nodes.

    `ids` are all that it came from, the telling one first. `owned` are those whose costs it
    stands for: among the nodes that one op became, one owns it. `position` and `count` say
    which of them this is.
    """

    node: ir.Node
    ids: tuple[str, ...]
    owned: tuple[str, ...]
    position: int
    count: int


def attribute_nodes(
    model: ir.Model, by_value: Mapping[str, str], weight: Mapping[str, Any]
) -> list[Part]:
    """Return every node of an optimised model that could be attributed, in order.

    `weight` orders the ids that were fused into one node: the heaviest gives it its name.
    """
    found = _ids(model, by_value)
    parts: dict[str, list[ir.Node]] = {}
    for node, ids in found.items():
        for name in ids:
            parts.setdefault(name, []).append(node)
    owners = {name: _main(nodes) for name, nodes in parts.items()}
    result = []
    for node, ids in found.items():
        ranked = tuple(sorted(ids, key=lambda name: weight[name]))
        owned = tuple(name for name in ranked if owners[name] is node)
        ordered = (*owned, *(name for name in ranked if name not in owned))
        if not ordered:
            continue
        peers = max((parts[name] for name in owned or ordered[:1]), key=len)
        first = owners[ordered[0]]
        siblings = [first, *(peer for peer in peers if peer is not first)]
        result.append(Part(node, ordered, owned, siblings.index(node) + 1, len(siblings)))
    return result


def _main(nodes: Sequence[ir.Node]) -> ir.Node:
    """Return the node that does the work of an op.

    That is the one that holds its bodies, else its last contraction, or else the last one.
    """
    holder = next((node for node in nodes if node.op_type in _CONTROL), None)
    return holder or next((node for node in reversed(nodes) if node.op_type in _WORK), nodes[-1])


def _ids(model: ir.Model, by_value: Mapping[str, str]) -> dict[ir.Node, tuple[str, ...]]:
    """Return what each node came from: by its marks, its values' names, or its neighbours."""
    found: dict[ir.Node, tuple[str, ...]] = {}
    for node in all_nodes(model):
        marks = [key.removeprefix(_TAG) for key in node.metadata_props if key.startswith(_TAG)]
        named = [by_value[out.name] for out in node.outputs if out.name in by_value]
        found[node] = tuple(dict.fromkeys(marks or named))
    around = {
        inside: node for node in found for graph in _subgraphs(node) for inside in graph.all_nodes()
    }
    for node in found:
        # A node that copies an input or another output to an output stands for that output.
        named = [str(out.meta[ID]) for out in node.outputs if ID in out.meta]
        found[node] = found[node] or tuple(named)
    nearby: tuple[Callable[[ir.Node], Iterable[ir.Node | None]], ...] = (
        lambda node: (consumer for out in node.outputs for consumer in out.consumers()),
        lambda node: (value.producer() for value in node.inputs if value is not None),
        lambda node: (around.get(node),),
    )
    for neighbours in nearby:
        for node in [node for node, ids in found.items() if not ids]:
            candidates = (found.get(n, ()) for n in neighbours(node) if n is not None)
            found[node] = next(filter(None, candidates), ())
    return found


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
