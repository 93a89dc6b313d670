"""The reference front end: `torch.export`, before dispatch, so that ``aten.linear`` stays whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind

from ..records import OpRecord, RecordArg
from ..schema import Kind, Module
from . import metadata, torch_api
from .fx_graph import Recorder

_KINDS: dict[InputKind, Kind] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.CUSTOM_OBJ: "constant",
    InputKind.TOKEN: "constant",
    InputKind.USER_INPUT: "input",
}


@dataclass(slots=True)
class Capture:
    """What a front end hands over: records, what the graph should say of itself, and the source."""

    records: list[OpRecord]
    attrs: dict[str, Any]
    program: Any
    """The ExportedProgram or GraphModule whose node names the records' keys are."""
    notes: list[str] = field(default_factory=list)


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, strict: bool) -> ExportedProgram:
    """Export `model` without decomposing it."""
    return torch.export.export(model, args, dict(kwargs) or None, strict=strict)


def read(program: ExportedProgram, model: nn.Module | None = None) -> Capture:
    """Turn an exported program into records; `model` adds what the program does not keep."""
    return _Reader(program, model).read()


class _Reader:
    def __init__(self, program: ExportedProgram, model: nn.Module | None) -> None:
        self.program = program
        self.modules = _module_types(program, model)
        self.recorder = Recorder()
        self.signature = program.graph_signature
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.by_target = {
            spec.target: self.nodes[spec.arg.name]
            for spec in self.signature.input_specs
            if spec.target is not None
        }

    def read(self) -> Capture:
        recorder = self.recorder
        self._inputs()
        for node in self.program.graph.nodes:
            if node.op not in ("placeholder", "output"):
                recorder.visit(node, self.program.graph_module)
        self._outputs()
        name = self.modules.get("", type(self.program).__name__).rpartition(".")[2]
        attrs = {"name": name, "modules": self.modules, "dropped": dict(sorted(recorder.dropped.items()))}
        return Capture(recorder.records, attrs, self.program)

    # -- inputs ----------------------------------------------------------------------------

    def _inputs(self) -> None:
        names = self._user_input_names()
        tied = self._tied()
        first: dict[str, Any] = {}
        for spec in sorted(self.signature.input_specs, key=_inputs_first):
            node = self.nodes[spec.arg.name]
            kind = _KINDS[spec.kind]
            if kind == "input":
                if isinstance(spec.arg, ConstantArgument):
                    node.meta.setdefault("val", spec.arg.value)
                if node.users or node.meta.get("val") is not None:
                    self.recorder.placeholder(node, kind, names.get(spec.arg.name, spec.arg.name))
                else:
                    self.recorder.bind(node, None)
                continue
            self._state(spec, node, kind, tied, first)

    def _state(
        self, spec: InputSpec, node: torch.fx.Node, kind: Kind,
        tied: Mapping[str, Sequence[str]], first: dict[str, Any],
    ) -> None:
        target = spec.target or spec.arg.name
        group = tied.get(target, (target,))
        if group[0] in first:
            self.recorder.bind(node, first[group[0]])
            self.recorder.share_memory(node, first[group[0]])
            return
        if kind != "parameter" and not any(self.by_target[name].users for name in group):
            self.recorder.dropped[f"unused {kind}"] += 1
            return
        stack = self._stack(group[0].rpartition(".")[0])
        self.recorder.placeholder(node, kind, group[0], stack, tuple(group[1:]))
        first[group[0]] = self.recorder.argument(node)

    def _tied(self) -> dict[str, list[str]]:
        """Group the names of parameters and buffers that are one tensor."""
        state = {**self.program.state_dict, **self.program.constants}
        groups: dict[Any, list[str]] = {}
        for spec in self.signature.input_specs:
            tensor = state.get(spec.target or "")
            if isinstance(tensor, torch.Tensor):
                groups.setdefault(_identity(tensor), []).append(spec.target or "")
        return {name: group for group in groups.values() if len(group) > 1 for name in group}

    def _stack(self, path: str) -> tuple[Module, ...]:
        parts = path.split(".") if path else []
        prefixes = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
        return tuple(Module(p, self.modules.get(p, "")) for p in prefixes)

    def _user_input_names(self) -> dict[str, str]:
        names = [s.arg.name for s in self.signature.input_specs if s.kind == InputKind.USER_INPUT]
        paths = torch_api.key_names(self.program.call_spec.in_spec) if self.program.call_spec.in_spec else []
        if len(paths) != len(names):
            return {}
        return {name: _input_name(name, path) for name, path in zip(names, paths, strict=True)}

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
            self._output(f"output:{position}", path, returned)

    def _output(self, key: str, path: tuple[str, ...], returned: Any) -> None:
        target = "/".join(("output", *(part.replace("/", "%2F") for part in path)))
        args: dict[str, RecordArg] = {"value": self.recorder.argument(returned)}
        self.recorder.add(OpRecord(key=key, kind="output", target=target, args=args))


def _inputs_first(spec: InputSpec) -> bool:
    return spec.kind != InputKind.USER_INPUT


def _input_name(placeholder: str, path: tuple[str, ...]) -> str:
    """Name an input by its argument, and by the keys that lead to it inside the argument.

    >>> _input_name("batch_ids", ("0", "0", "ids")), _input_name("x", ("0", "0"))
    ('batch/ids', 'x')
    """
    nested = [part.replace("/", "%2F") for part in path[2:]]
    if path[:1] == ("1",):
        return "/".join([path[1], *nested])
    suffix = "_" + "_".join(path[2:])
    argument = placeholder.removesuffix(suffix) if nested else placeholder
    return "/".join([argument, *nested])


def _identity(tensor: torch.Tensor) -> Any:
    storage = torch_api.storage_of(tensor)
    if storage is None or tensor.numel() == 0:
        return id(tensor)
    return storage, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _module_types(program: ExportedProgram, model: nn.Module | None) -> dict[str, str]:
    types: dict[str, str] = {}
    if model is not None:
        for path, inner in model.named_modules(remove_duplicate=False):
            types[path] = metadata.module(path, type(inner)).type
    for node in program.graph.nodes:
        for module in metadata.module_stack(node.meta):
            types.setdefault(module.path, module.type)
    return types
