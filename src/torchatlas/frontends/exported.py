"""The reference front end: `torch.export`, before dispatch, so that ``aten.linear`` stays whole."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind

from ..schema import Kind
from . import torch_api
from .capture import Capture
from .example import Args, Packed, has_opaque, input_name, pack, positional_names
from .fx_graph import Recorder
from .state import module_types, stack_of, tied

_KINDS: dict[InputKind, Kind] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.CUSTOM_OBJ: "constant",
    InputKind.TOKEN: "constant",
    InputKind.USER_INPUT: "input",
}


def capture(
    model: nn.Module, args: Args, *, strict: bool, dynamic: Sequence[Any] | None = None
) -> Capture:
    """Export `model` without decomposing it, and read the program.

    Dataclasses that torch cannot take apart go in and out as dicts. `dynamic` has, for every
    leaf of the arguments, the dimensions that are symbolic.
    """
    if has_opaque(args):
        return _capture_packed(model, args, strict, dynamic)
    try:
        shapes = None if dynamic is None else _arguments(model, _like(args, dynamic))
        return read(_export(model, args, strict, shapes), model)
    except Exception as error:
        if not torch_api.is_output_type_error(error):
            raise
        return _capture_packed(model, args, strict, dynamic)


def _capture_packed(
    model: nn.Module, args: Args, strict: bool, dynamic: Sequence[Any] | None
) -> Capture:
    plain, classes = pack(args)
    shapes = None
    if dynamic is not None:
        shapes = dict(zip(("args", "kwargs"), _like(plain, dynamic), strict=True))
    program = _export(Packed(model, classes), (plain, {}), strict, shapes)
    return read(program, model, prefix=Packed.PREFIX)


def _like(tree: Any, leaves: Sequence[Any]) -> Any:
    items = iter(leaves)
    return torch_api.tree_map(lambda _: next(items), tree)


def _arguments(model: nn.Module, shapes: Any) -> dict[str, Any]:
    """Return what belongs to each argument by its name, as `torch.export` takes dynamic shapes."""
    return dict(inspect.signature(model.forward).bind(*shapes[0], **shapes[1]).arguments)


def _export(
    model: nn.Module, args: Args, strict: bool, shapes: dict[str, Any] | None = None
) -> ExportedProgram:
    # On the meta device literals must be made there too, or they would meet meta tensors.
    tensors = [leaf for leaf in torch_api.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    on_meta = bool(tensors) and all(tensor.is_meta for tensor in tensors)
    with torch.device("meta") if on_meta else nullcontext(), torch_api.keeping_body_stacks():
        return torch.export.export(
            model, args[0], args[1] or None, dynamic_shapes=shapes, strict=strict
        )


def read(program: ExportedProgram, model: nn.Module | None = None, *, prefix: str = "") -> Capture:
    """Turn an exported program into records; `model` adds what the program does not keep.

    `prefix` is the path of a wrapper around the model, which is left out of every name.
    """
    return _Reader(program, model, prefix).read()


class _Reader:
    def __init__(self, program: ExportedProgram, model: nn.Module | None, prefix: str) -> None:
        self.program = program
        self.model, self.prefix = model, prefix
        self.recorder = Recorder(prefix=prefix)
        self.recorder.model = model
        self.modules = self._module_types()
        self.signature = program.graph_signature
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.by_target = {
            self._name(spec.target): self.nodes[spec.arg.name]
            for spec in self.signature.input_specs
            if spec.target is not None
        }

    def read(self) -> Capture:
        recorder = self.recorder
        recorder.real = placeholders = self._placeholders()
        self._inputs()
        for node in self.program.graph.nodes:
            if node.op not in ("placeholder", "output"):
                recorder.visit(node, self.program.graph_module)
        self._outputs()
        name = self.modules.get("", type(self.program).__name__).rpartition(".")[2]
        attrs = {
            "name": name,
            "modules": self.modules,
            "dropped": dict(sorted(recorder.dropped.items())),
        }
        return Capture(recorder.records, attrs, self.program, placeholders)

    # -- inputs ----------------------------------------------------------------------------

    def _inputs(self) -> None:
        names = self._user_input_names()
        groups = self._tied()
        first: dict[str, Any] = {}
        for spec in sorted(self.signature.input_specs, key=_inputs_first):
            node = self.nodes[spec.arg.name]
            kind = _KINDS[spec.kind]
            if kind == "input":
                if isinstance(spec.arg, ConstantArgument):
                    node.meta.setdefault("val", spec.arg.value)
                self._input(node, names.get(spec.arg.name, spec.arg.name))
            else:
                self._state(spec, node, kind, groups, first)

    def _input(self, node: torch.fx.Node, name: str) -> None:
        if node.meta.get("val") is None and not node.users:
            self.recorder.bind(node, None)  # an optional argument that was not given
        else:
            self.recorder.placeholder(node, "input", name)

    def _state(
        self,
        spec: InputSpec,
        node: torch.fx.Node,
        kind: Kind,
        groups: Mapping[str, Sequence[str]],
        first: dict[str, Any],
    ) -> None:
        target = self._name(spec.target or spec.arg.name)
        group = groups.get(target, (target,))
        if group[0] in first:
            self.recorder.bind(node, first[group[0]])
            self.recorder.share_memory(node, first[group[0]])
            return
        if kind != "parameter" and not any(self.by_target[name].users for name in group):
            self.recorder.drop(f"unused {kind}")
            return
        stack = stack_of(group[0], self.modules)
        self.recorder.placeholder(node, kind, group[0], stack, tuple(group[1:]))
        first[group[0]] = self.recorder.argument(node)

    def _name(self, target: str) -> str:
        return target.removeprefix(f"{self.prefix}.") if self.prefix else target

    def _tied(self) -> dict[str, list[str]]:
        state = {**self.program.state_dict, **self.program.constants}
        targets = [spec.target for spec in self.signature.input_specs if spec.target is not None]
        found = ((self._name(name), state.get(name)) for name in targets)
        return tied((name, value) for name, value in found if isinstance(value, torch.Tensor))

    def _module_types(self) -> dict[str, str]:
        types = module_types(self.model) if self.model is not None else {}
        for node in self.program.graph.nodes:
            for module in self.recorder.stack(node):
                types.setdefault(module.path, module.type)
        return types

    def _user_input_names(self) -> dict[str, str]:
        names = [s.arg.name for s in self.signature.input_specs if s.kind == InputKind.USER_INPUT]
        spec = self.program.call_spec.in_spec
        paths = torch_api.key_names(spec) if spec is not None else []
        if len(paths) != len(names):
            return {}
        if self.prefix:  # the wrapper takes the model's (args, kwargs) as its own arguments
            paths = [path[1:] for path in paths]
        positional = positional_names(self.model) if self.model is not None else []
        return {
            name: input_name(name, path, positional)
            for name, path in zip(names, paths, strict=True)
        }

    def _placeholders(self) -> dict[str, Any]:
        state = {**self.program.state_dict, **self.program.constants}
        example = iter(torch_api.tree_leaves(self.program.example_inputs or ()))
        return {
            spec.arg.name: next(example, None)
            if spec.kind == InputKind.USER_INPUT
            else state.get(spec.target or "")
            for spec in self.signature.input_specs
        }

    # -- outputs ---------------------------------------------------------------------------

    def _outputs(self) -> None:
        specs = self.signature.output_specs
        user = [s for s in specs if s.kind == OutputKind.USER_OUTPUT]
        spec = self.program.call_spec.out_spec
        paths = torch_api.key_names(spec) if spec is not None else []
        if len(paths) != len(user):
            paths = [()] if len(user) == 1 else [(str(i),) for i in range(len(user))]
        names = iter(paths)
        node = next(n for n in self.program.graph.nodes if n.op == "output")
        for position, (output, returned) in enumerate(zip(specs, node.args[0], strict=True)):
            is_user = output.kind == OutputKind.USER_OUTPUT
            path = next(names) if is_user else ("mutated", str(output.target))
            self.recorder.output(f"output:{position}", path, returned)


def _inputs_first(spec: InputSpec) -> bool:
    return spec.kind != InputKind.USER_INPUT
