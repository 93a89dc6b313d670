"""Rewrites an exported program so that its translation to ONNX works and every op keeps its name.

What comes out of a ``no_grad`` or ``autocast`` region during decomposition is named after the
region, and no longer after the op inside. So the ops of a ``no_grad`` region move out of it,
which changes nothing they compute, and every op under ``autocast`` gets a region of its own.
Numbers that a program returns, for which ONNX has no place, are left out, and weights whose names
torch cannot write into its own generated code get others.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

_INNER = "in_region_"
_GRAPH_ARGUMENT = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program to translate, and what its names stand for.

    `keys` has, for each node, its name in the program that this was made from; inside a region,
    after the region's own and a slash, as in ``wrap/mul``. `targets` has the names of those
    weights that were renamed.
    """

    program: ExportedProgram
    keys: Mapping[str, str]
    targets: Mapping[str, str]


def prepare(program: ExportedProgram) -> Prepared:
    """Return a program that computes the same tensors; `program` stays as it is.

    It is the same one where there is nothing to do.
    """
    nodes = program.graph.nodes
    safe = _safe_names(program)
    if not safe and not any(_region(node) or _literals(node) for node in nodes):
        return Prepared(program, {node.name: node.name for node in nodes}, {})
    from torch.export import ExportedProgram

    flat = _Flattener(program.graph_module)
    flat.run()
    rewritten = ExportedProgram(
        root=flat.modules,
        graph=flat.graph,
        graph_signature=_signature(program, safe),
        state_dict={safe.get(name, name): value for name, value in program.state_dict.items()},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants={safe.get(name, name): value for name, value in program.constants.items()},
        verifiers=program.verifiers,
    )
    return Prepared(rewritten, flat.keys, {new: name for name, new in safe.items()})


def _safe_names(program: ExportedProgram) -> dict[str, str]:
    """Return names for the weights whose own would not survive in the source that torch writes."""
    names = [*program.state_dict, *program.constants]
    hostile = [name for name in names if not re.fullmatch(r"[\w.]{1,500}", name)]
    return {name: f"renamed_weight_{i}" for i, name in enumerate(hostile)}


def _signature(program: ExportedProgram, safe: Mapping[str, str]) -> Any:
    """Return the signature with new names, and None for every literal that is returned."""
    from torch.export.graph_signature import ConstantArgument

    def renamed(spec: Any) -> Any:
        return replace(spec, target=safe.get(spec.target, spec.target))

    found = program.graph_signature
    outputs = [
        replace(spec, arg=replace(spec.arg, value=None))
        if isinstance(spec.arg, ConstantArgument)
        else renamed(spec)
        for spec in found.output_specs
    ]
    return replace(found, input_specs=[*map(renamed, found.input_specs)], output_specs=outputs)


def _literals(node: fx.Node) -> bool:
    """Say whether `node` returns a number, which ONNX cannot."""
    returned: Any = node.args[0] if node.op == "output" else ()
    return any(isinstance(out, int | float | str) for out in returned)


def _region(node: fx.Node) -> str | None:
    name = getattr(node.target, "__name__", "")
    return name if node.op == "call_function" and name in _GRAPH_ARGUMENT else None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node stands: its graph's owner, what its key begins with, and the autocast around."""

    owner: Any
    prefix: str = ""
    path: str = ""
    autocast: tuple[Any, ...] | None = None
    """The region's operator and what it is called with before its graph."""


@dataclass(slots=True)
class _Flattener:
    root: Any
    graph: Any = None
    modules: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    env: dict[Any, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Copy the root's graph without its regions."""
        from torch import fx

        self.graph = fx.Graph()
        for node in self.root.graph.nodes:
            if node.op == "output":
                self._output(node)
            else:
                self._visit(node, _Place(self.root))

    def _visit(self, node: fx.Node, place: _Place) -> None:
        if node.op == "get_attr":
            self._get_attr(node, place)
        elif (name := _region(node)) is not None:
            self._enter(node, name, place)
        elif node.target is operator.getitem and isinstance(self.env.get(node.args[0]), tuple):
            self.env[node] = self.env[node.args[0]][node.args[1]]
        elif place.autocast is not None and node.op == "call_function":
            self._autocast(node, place)
        elif place.prefix:
            args, kwargs = self._map(node.args), self._map(node.kwargs)
            # Another name, lest it takes that of a node outside which the signature names.
            new = self.graph.create_node(node.op, node.target, args, kwargs, f"{_INNER}{node.name}")
            new.meta = dict(node.meta)
            self._keep(new, node, place)
        else:
            new = self.graph.node_copy(node, self._new)
            # A copy avoids the names of builtins, such as `input`, but torch.export does not.
            new.name = node.name
            self._keep(new, node, place)

    def _new(self, node: fx.Node) -> Any:
        return self.env[node]

    def _keep(self, new: fx.Node, node: fx.Node, place: _Place) -> None:
        self.env[node] = new
        self.keys[new.name] = place.prefix + node.name

    def _get_attr(self, node: fx.Node, place: _Place) -> None:
        if all(_region(user) for user in node.users):
            return
        value = place.owner
        for part in str(node.target).split("."):
            value = getattr(value, part)
        target = f"{place.path}{node.target}".replace(".", "_")
        self.modules[target] = value
        new = self.graph.get_attr(target)
        new.meta = dict(node.meta)
        self._keep(new, node, place)

    def _enter(self, node: fx.Node, name: str, place: _Place) -> None:
        position = _GRAPH_ARGUMENT[name]
        graph_node: Any = node.args[position]
        region = getattr(place.owner, str(graph_node.target))
        autocast = place.autocast
        if name == "wrap_with_autocast":
            # Switching autocast off where none is on changes nothing.
            is_on = node.args[2] or autocast is not None
            autocast = (node.target, *node.args[:position]) if is_on else None
        inner = _Place(
            region, f"{place.prefix}{node.name}/", f"{place.path}{graph_node.target}.", autocast
        )
        operands = [
            self.env[arg] if hasattr(arg, "op") else arg for arg in node.args[position + 1 :]
        ]
        placeholders = [n for n in region.graph.nodes if n.op == "placeholder"]
        self.env.update(zip(placeholders, operands, strict=True))
        for inside in region.graph.nodes:
            if inside.op == "output":
                self.env[node] = tuple(self._map(inside.args[0]))
            elif inside.op != "placeholder":
                self._visit(inside, inner)

    def _map(self, arg: Any) -> Any:
        from torch import fx

        return fx.map_arg(arg, self._new)

    # -- one region for one op -----------------------------------------------------------------

    def _autocast(self, node: fx.Node, place: _Place) -> None:
        from torch import fx

        inner, env = fx.Graph(), {}
        for operand in node.all_input_nodes:
            env[operand] = inner.placeholder(operand.name)
            env[operand].meta = dict(operand.meta)
        call = inner.node_copy(node, env.__getitem__)
        value = node.meta["val"]
        results = _results(inner, call, value)
        inner.output(tuple(results))
        name = f"one_op_region_{len(self.modules)}"
        self.modules[name] = fx.GraphModule({}, inner)
        operator_, *arguments = place.autocast or ()
        operands = [self.env[operand] for operand in node.all_input_nodes]
        region = self.graph.get_attr(name)
        whole = self.graph.create_node(
            "call_function", operator_, (*arguments, region, *operands), name=f"{_INNER}{node.name}"
        )
        whole.meta = {**node.meta, "val": tuple(result.meta["val"] for result in results)}
        items = _results(self.graph, whole, whole.meta["val"])
        for new in (whole, *items):
            self._keep(new, node, place)
        self.env[node] = tuple(items) if isinstance(value, list | tuple) else items[0]

    # -- outputs -------------------------------------------------------------------------------

    def _output(self, node: fx.Node) -> None:
        """Return what the program returns, under the names that its signature knows."""
        import torch
        from torch import fx

        def named(old: fx.Node) -> fx.Node:
            new: fx.Node = self.env[old]
            if new.name == old.name:
                return new
            alias: fx.Node = self.graph.create_node(
                "call_function", torch.ops.aten.alias.default, (new,), name=old.name
            )
            alias.name = old.name
            alias.meta = dict(new.meta)
            self._keep(alias, old, _Place(self.root))
            return alias

        returned: Any = node.args[0]
        kept = (named(out) if isinstance(out, fx.Node) else None for out in returned)
        new = self.graph.output(tuple(kept))
        new.meta = dict(node.meta)


def _results(graph: fx.Graph, call: fx.Node, value: Any) -> list[fx.Node]:
    """Return the tensors that `call` produces, each as a node of its own."""
    if not isinstance(value, list | tuple):
        return [call]
    items = []
    for i, part in enumerate(value):
        item = graph.create_node(
            "call_function", operator.getitem, (call, i), name=f"{_INNER}getitem"
        )
        item.meta = {**call.meta, "val": part}
        items.append(item)
    return items
