"""The graph of a `.pt2` archive of `torch.export.save`, read without running anything of it.

The archive holds the program as JSON, beside weights, pickled sample inputs and code that checks
sizes. Only JSON is read, its sizes by a grammar of our own; torch is not needed, but where it is
installed, its schemas say what operators do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..names import clean
from ..records import OpRecord
from ..schema import Kind, TensorMeta
from . import archive_format as form
from .archive_calls import Calls
from .archive_file import read_texts
from .archive_structure import input_names, output_paths, stack_of, stack_of_text
from .archive_symbols import describe, hints
from .archive_values import Scope, names_in, tensor_meta

_STATE: dict[str, Kind] = {
    "parameter": "parameter",
    "buffer": "buffer",
    "tensor_constant": "constant",
    "custom_obj": "constant",
    "token": "constant",
}


def read(path: Path) -> tuple[list[OpRecord], dict[str, Any]]:
    """Return the records of the program in an archive, and what the graph should say of itself.

    Raises FormatError, which names the node or field, for anything but such an archive.
    """
    texts = read_texts(path)
    program, weights, constants = form.decode(texts, repr(str(path)))
    try:
        return _Reader(program, _identities(weights, constants, texts.empty), path.stem).read()
    except FormatError as error:
        raise FormatError(f"{str(path)!r}: {error.problem}", hint=error.hint) from error
    except RecursionError as error:
        raise FormatError(
            f"{str(path)!r} nests graphs or arguments too deeply", hint="no model of torch does"
        ) from error


def load_program(path: Path) -> Any:
    """Return the `ExportedProgram` in an archive as torch loads it, which can run any code.

    Raises FormatError where torch cannot load it.
    """
    import torch

    from .torch_api import quiet

    try:
        with quiet():
            return torch.export.load(path)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise FormatError(
            f"torch {torch.__version__} cannot load {str(path)!r}: "
            f"{type(error).__name__}: {lines[0][:300] if lines else ''}",
            hint="custom operators and classes must be imported before; leave trust out to read "
            "the graph alone",
        ) from error


def _identities(
    weights: Mapping[str, form.Payload],
    constants: Mapping[str, form.Payload],
    empty: frozenset[str],
) -> dict[str, tuple[str, TensorMeta | None, Any]]:
    """Return, by the path of a tensor, what those that share its memory or are it have in common.

    That is where its values are stored. Tensors without values, of a model that was exported on
    fake tensors, are all stored as the same nothing, so nothing is known of them.
    """
    found: dict[str, tuple[str, TensorMeta | None, Any]] = {}
    for section, payloads in (("weights", weights), ("constants", constants)):
        for name, payload in payloads.items():
            place = f"{section}/{payload.path_name}"
            if place not in empty and payload.tensor_meta is not None:
                meta = tensor_meta(payload.tensor_meta, name)
                found[name] = place, meta, payload.tensor_meta.storage_offset.as_int
    return found


class _Reader:
    """Reads one program, as `exported._Reader` reads one in memory."""

    def __init__(self, program: form.Program, identities: Mapping[str, Any], name: str) -> None:
        self.program, self.name = program, name
        self.graph = program.graph_module.graph
        self.signature = program.graph_module.signature
        self.identities = identities
        self.scope = Scope(self.graph)
        self.calls = Calls(hints(self.graph))
        self.modules = dict(self._module_types(self.graph))

    def read(self) -> tuple[list[OpRecord], dict[str, Any]]:
        self._inputs()
        for node in self.graph.nodes:
            self.calls.visit(node, self.scope)
        self._outputs()
        attrs: dict[str, Any] = {
            "name": clean(self.modules.get("", self.name).rpartition(".")[2]),
            "frontend": "pt2",
            "attempts": (),
            "modules": self.modules,
            "dropped": {op: n for op, n in sorted(self.calls.dropped.items()) if n},
            "torch": clean(self.program.torch_version.partition("+")[0]),
        }
        describe(self.calls.records, attrs, self.program)
        return self.calls.records, attrs

    def _module_types(self, graph: form.Graph) -> Iterator[tuple[str, str]]:
        known: dict[str, str] = {}
        for node in graph.nodes:
            for module in stack_of_text(node.metadata.get("nn_module_stack", "")):
                known.setdefault(module.path, module.type)
        return iter(known.items())

    # -- inputs ----------------------------------------------------------------------------

    def _inputs(self) -> None:
        specs = self.signature.input_specs
        if len(specs) != len(self.graph.inputs):
            raise FormatError(
                f"the graph has {len(self.graph.inputs)} inputs, but {len(specs)} are described",
                hint="the file is damaged or forged",
            )
        found = [form.only(spec, f"input {i}") for i, spec in enumerate(specs)]
        self._check_inputs(found)
        names = self._names(found)
        used = set(names_in(self.graph))
        groups = self._tied(found)
        for kind, spec in found:
            if kind == "user_input":
                self._input(*form.only(spec.arg, "an input"), names)
            elif kind == "constant_input":
                self._constant_input(spec, names)
        for kind, spec in found:
            if kind in _STATE:
                self._state(kind, spec, groups, used)

    def _check_inputs(self, found: Sequence[tuple[str, Any]]) -> None:
        for i, ((kind, spec), arg) in enumerate(zip(found, self.graph.inputs, strict=True)):
            if kind != "constant_input" and _placeholder(spec.arg) != _placeholder(arg):
                raise FormatError(
                    f"input {i} of the graph is {_placeholder(arg)[:80]!r}, and described as "
                    f"{_placeholder(spec.arg)[:80]!r}",
                    hint="the file is damaged or forged",
                )

    def _names(self, found: Sequence[tuple[str, Any]]) -> dict[str, str]:
        """Return the name of each input of the model by that of its placeholder."""
        placeholders = [
            spec.name if kind == "constant_input" else _placeholder(spec.arg)
            for kind, spec in found
            if kind in ("user_input", "constant_input")
        ]
        root = next((c for c in self.program.graph_module.module_call_graph if not c.fqn), None)
        signature = root.signature if root is not None else None
        return input_names(placeholders, signature, self.program.graph_module)

    def _input(self, kind: str, value: Any, names: Mapping[str, str]) -> None:
        if kind == "as_tensor":
            key, meta = value.name, self.scope.tensor(value.name)
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and value.as_name:
            key, meta = value.as_name, self.scope.scalar(value.as_name)
        else:
            raise FormatError(f"an input of the model is {kind}", hint="it can be no such thing")
        self.calls.placeholder(self.scope, key, "input", names.get(key, key), meta)

    def _constant_input(self, spec: form.ConstantInput, names: Mapping[str, str]) -> None:
        literal = self.scope.argument(spec.value, f"input {spec.name}")
        if literal is not None:  # an optional argument that was not given gets no node
            target = names.get(spec.name, spec.name)
            self.calls.constant(self.scope, spec.name, target, literal)

    def _state(
        self,
        kind: str,
        spec: Any,
        groups: Mapping[str, list[tuple[str, str]]],
        used: set[str],
    ) -> None:
        key, target = spec.arg.name, _target(kind, spec)
        group = groups.get(target, [(key, target)])
        if group[0][0] != key:
            self.scope.bind(key, self.scope.lookup(group[0][0], "a tied tensor"))
            return
        if kind != "parameter" and not any(name in used for name, _ in group):
            self.calls.dropped[f"unused {_STATE[kind]}"] += 1
            return
        tensor = kind in ("parameter", "buffer", "tensor_constant")
        self.calls.placeholder(
            self.scope,
            key,
            _STATE[kind],
            target,
            self.scope.tensor(key) if tensor else None,
            stack=stack_of(target, self.modules),
            aliases=tuple(alias for _, alias in group[1:]),
            storage=self.identities[target][0] if target in self.identities else None,
        )

    def _tied(self, found: Sequence[tuple[str, Any]]) -> dict[str, list[tuple[str, str]]]:
        """Return, by the path of a tensor, the names and paths of all that are the same one."""
        groups: dict[Any, list[tuple[str, str]]] = {}
        for kind, spec in found:
            if kind in ("parameter", "buffer", "tensor_constant"):
                target = _target(kind, spec)
                identity = self.identities.get(target, target)
                groups.setdefault(identity, []).append((spec.arg.name, target))
        return {target: group for group in groups.values() for _, target in group}

    # -- outputs ---------------------------------------------------------------------------

    def _outputs(self) -> None:
        specs, returned = self.signature.output_specs, self.graph.outputs
        if len(specs) != len(returned):
            raise FormatError(
                f"the graph has {len(returned)} outputs, but {len(specs)} are described",
                hint="the file is damaged or forged",
            )
        found = [form.only(spec, f"output {i}") for i, spec in enumerate(specs)]
        root = next((c for c in self.program.graph_module.module_call_graph if not c.fqn), None)
        count = sum(kind == "user_output" for kind, _ in found)
        paths = iter(
            output_paths(count, root.signature if root else None, self.program.graph_module)
        )
        for position, ((kind, spec), value) in enumerate(zip(found, returned, strict=True)):
            path = next(paths) if kind == "user_output" else ("mutated", _mutated(spec))
            literal = self.scope.argument(value, f"output {position}")
            target = "/".join(("output", *(part.replace("/", "%2F") for part in path)))
            self.calls.add(
                OpRecord(f"output:{position}", "output", target=target, args={"value": literal})
            )


def _placeholder(arg: form.Argument | form.Name) -> str:
    """Return the name that an input has in the graph."""
    kind, value = ("", arg) if isinstance(arg, form.Name) else form.only(arg, "an input")
    return str(getattr(value, "as_name", None) or getattr(value, "name", kind))


def _target(kind: str, spec: Any) -> str:
    names = ("parameter_name", "buffer_name", "tensor_constant_name", "custom_obj_name")
    return str(next((getattr(spec, name) for name in names if hasattr(spec, name)), spec.arg.name))


def _mutated(spec: form.Mutation) -> str:
    return spec.parameter_name or spec.buffer_name or spec.user_input_name or "None"
