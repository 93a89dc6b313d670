"""Records the bodies of control flow operators, which fx keeps as graphs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from ..records import OpRecord, Value
from ..schema import Module
from . import control_flow, metadata, torch_api
from .control_flow import Bodies
from .fx_graph import Recorder
from .metadata import OpInfo

_WRITTEN = "mutated_arg_indices"


def record(recorder: Recorder, node: fx.Node, info: OpInfo, taken: Bodies, prefix: str) -> None:
    """Record an operator with the `taken` bodies."""
    args = {name: recorder.argument(arg) for name, arg in taken.args.items()}
    if args.get(_WRITTEN) == "":  # torch may leave it out
        del args[_WRITTEN]
    bodies = {
        name: _body(recorder, node, graph, Scope(info.op, name, args))
        for name, graph in taken.graphs.items()
    }
    recorder.op(node, info, args, node.meta.get("val"), prefix)
    made = recorder.records[-1]
    made.subgraphs = bodies
    made.trips = control_flow.trips(info.op, args, recorder.meta)
    made.writes += control_flow.written(bodies)


def plain(info: OpInfo, named: Mapping[str, Any], literal: Any) -> tuple[OpInfo, dict[str, Any]]:
    """Return the operator, and its arguments, that a call of a Python function stands for.

    Where flex attention's functions index a tensor by numbers that they compute, torch writes
    down a call of a function of its own.
    """
    if info.op == "higher_order.flat_apply" and str(literal(named.get("2"))).endswith(".ModIndex"):
        indices = [arg for name, arg in named.items() if name.isdecimal() and int(name) > 3]
        found = metadata.op_info(torch.ops.aten.index.Tensor)
        return found, {"self": named["3"], "indices": indices}
    return info, dict(named)


class Scope:
    """What surrounds a body: its operator, and the arguments of that."""

    def __init__(self, op: str, body: str, args: dict[str, Any]) -> None:
        self.op, self.body, self.args = op, body, args

    def lift(self, value: Value) -> str:
        """Make `value`, which the body takes from around it, an argument; return its name."""
        name = control_flow.last_argument(self.op, self.body)
        given = self.args.get(name, ())
        if isinstance(given, Value) or not isinstance(given, tuple):
            given = (given,)
        if value not in given:
            given = self.args[name] = (*given, value)
        return f"{name}/{given.index(value)}"


def _body(recorder: Recorder, node: fx.Node, graph: fx.GraphModule, scope: Scope) -> list[OpRecord]:
    inner = _Body(recorder, recorder.stack(node), scope)
    placeholders = graph.graph.find_nodes(op="placeholder")
    inputs = control_flow.body_inputs(scope.op, scope.body, scope.args, len(placeholders))
    for placeholder, (name, given, how) in zip(placeholders, inputs, strict=True):
        if how == "whole" and not isinstance(given, Value):
            inner.bind(placeholder, given)  # a size, which is the same inside
        else:
            inner.placeholder(placeholder, "input", name)
    for inside in graph.graph.nodes:
        if inside.op == "output":
            returned = torch_api.tree_leaves(inside.args[0])
            for i, leaf in enumerate(returned):
                inner.output(f"output:{i}", (str(i),) if len(returned) > 1 else (), leaf)
        elif inside.op != "placeholder":
            inner.visit(inside, graph)
    for name in inner.noise:
        recorder.drop(name)
    return inner.records


class _Body(Recorder):
    """Collects the records of a body of an op that stands under `stack`."""

    def __init__(self, outer: Recorder, stack: tuple[Module, ...], scope: Scope) -> None:
        super().__init__(prefix=outer._prefix)
        self.model = outer.model
        self._outer, self._around, self._scope = outer, stack, scope

    def stack(self, node: fx.Node) -> tuple[Module, ...]:
        """Return the modules around `node`, from the root inwards."""
        return stack_inside(node.meta, self._around, self._modules)

    @cached_property
    def _modules(self) -> dict[str, str]:
        return module_ids(self.model)

    def find(self, tensor: Any) -> Value | None:
        """Return what is `tensor`: if it is from around the body, a new input of it."""
        own = super().find(tensor)
        found = self._outer.find(tensor) if own is None else None
        if found is None:
            return own
        name, meta = self._scope.lift(found), metadata.value_meta(tensor)
        storages = (self._storage(tensor),)
        self.add(OpRecord(name, "input", target=name, outputs=(meta,), storages=storages))
        return Value(name)

    def constant(self, node: fx.Node, value: Any, prefix: str) -> None:
        """Record a tensor that the body has, or takes from around it."""
        if not isinstance(value, torch.Tensor):
            self.bind(node, metadata.literal(value))  # how a function is called, and the like
        elif (found := self.find(value)) is not None:
            self.bind(node, found)
        else:
            super().constant(node, value, prefix)


# -- modules -------------------------------------------------------------------------------------

_ROOT = "_export_root"
"""What torch calls the model inside bodies."""


def module_ids(model: nn.Module | None) -> dict[str, str]:
    """Return the path of every module by its id, as torch's compiler calls modules in bodies."""
    return {} if model is None else {str(id(m)): path for path, m in model.named_modules()}


def stack_inside(
    meta: Mapping[str, Any], outer: tuple[Module, ...], paths: Mapping[str, str]
) -> tuple[Module, ...]:
    """Return the modules around a node of a body, from the root inwards.

    `outer` are those around the operator, and `paths` what `module_ids` says. A module that
    the compiler only knows as a variable, and `paths` does not know, is left out.

    >>> stack = {"7": ("L['f'].__closure__[0].cell_contents", nn.Linear)}
    >>> stack_inside({"nn_module_stack": stack}, (Module("", "Net"),), {"7": "fc"})
    (Module(path='', type='Net'), Module(path='fc', type='torch.nn.modules.linear.Linear'))
    """
    stack, seen = list(outer), {module.path for module in outer}
    for key, (path, kind) in (meta.get("nn_module_stack") or {}).items():
        found = paths.get(str(key).partition("@")[0])
        if found is None:
            if path.startswith("L[") and not path.startswith("L['self']"):
                continue
            found = metadata.module(path, kind).path.removeprefix(_ROOT).removeprefix(".")
        if found not in seen:
            seen.add(found)
            stack.append(Module(found, metadata.module(found, kind).type))
    return tuple(stack)
