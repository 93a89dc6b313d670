"""Executable ONNX: torch's own translation, with every node annotated from the graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import AtlasError, FormatError, UsageError
from ..graph import ModelGraph, clean_path
from . import onnx_weights
from .onnx_annotate import Annotator, facts_of
from .onnx_attribution import ID, Origins, Part, attribute_nodes, tag
from .onnx_functions import Calls, modules_to_functions
from .onnx_metadata import Places, places
from .onnx_regions import Prepared, prepare
from .onnx_translate import STRUCTURAL, quietly, translate

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

WEIGHTS = ("include", "external", "none")
"""Where the weights go: into the file, into one beside it, or nowhere."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file's content, and by name that of the files which must stand beside it."""

    content: bytes
    sidecars: Mapping[str, bytes | bytearray] = field(default_factory=dict)


def render(
    graph: ModelGraph,
    *,
    weights: str = "include",
    location: str = "model.onnx.data",
    functions: bool = False,
    include_source: bool = False,
) -> Rendered:
    """Return the model that `graph` was captured from as an executable ONNX file.

    The metadata of every ONNX node names the node of the graph that it came from (`id`) and has
    its annotations. Several ops that became one node are its `ids`, with their costs added up.
    One op that became several gives each its `part` (``2/3``) and its costs, so sums take the
    nodes without a `part` and those whose part begins with 1. `folded` in the model's metadata
    lists ops that left no node, `opaque` those that no runtime knows. The costs of a control flow
    op include those of its bodies, whose nodes have their own.

    With `functions` every module of two nodes or more is one node that calls a function of the
    model, which Netron opens with ƒ; results, ids and metadata stay the same.
    `weights` is ``"include"``, ``"external"`` for a file called `location` beside the model, or
    ``"none"``, where they become inputs. More than a file can hold goes to `location` anyhow.
    `include_source` adds the lines of code and torch's stack traces. Raises FormatError where
    the graph has no exported program behind it, or torch cannot translate it, and warns where
    it can be translated but for ops that no runtime knows.
    """
    _check_options(weights, location)
    graph, program = _executable(graph)
    if weights != "none":
        onnx_weights.check_values(program)
    made = _translate(graph, program, weights)
    annotator = Annotator(graph, made.model, made.parts, include_source)
    sidecars: dict[str, bytes | bytearray] = {}
    if weights == "external" or onnx_weights.size(made.model) > onnx_weights.LIMIT:
        sidecars[location] = onnx_weights.move_out(made.model, location)
    if made.opaque:
        warnings.warn(
            f"torch.onnx cannot translate {', '.join(made.opaque)}: the file has opaque nodes in "
            "their place, and can be looked at but not be run",
            stacklevel=2,
        )
    file = annotator.file(made.opaque)
    if functions:
        modules_to_functions(file, graph, calls_of(graph, made.prepared))
    return Rendered(file.SerializeToString(deterministic=True), sidecars)


def _check_options(weights: str, location: str) -> None:
    if weights not in WEIGHTS:
        raise UsageError(
            f"there is no way {weights!r} to write weights", hint=f"choose {', '.join(WEIGHTS)}"
        )
    if not location or set(location) & set("/\\\0"):
        raise UsageError(
            f"{location!r} is not the name of a file beside the model", hint="give a plain name"
        )


def calls_of(graph: ModelGraph, prepared: Prepared) -> Calls:
    """Return which call of each module around it an op is part of: torch gives each a key."""
    ids, calls = graph.source.ids, dict[str, dict[str, str]]()
    for node in prepared.program.graph.nodes:
        name = ids.get(prepared.keys.get(node.name))
        if name is not None:
            stack = node.meta.get("nn_module_stack", {})
            calls[name] = {clean_path(path): key for key, (path, _) in stack.items()}
    return calls


def facts_by_node(
    graph: ModelGraph, *, include_source: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is known of the nodes of the file that `torch.onnx.export` makes of the model.

    They come with the names that they have there. Raises FormatError as `render` does.
    """
    graph, program = _executable(graph)
    known = places(graph)
    for part in _translate(graph, program, "include").parts:
        if part.node.name:
            yield part.node.name, facts_of(part, known, include_source=include_source)


def _executable(graph: ModelGraph) -> tuple[ModelGraph, ExportedProgram]:
    """Return a graph like `graph` with the exported program that it was read from."""
    program: Any = getattr(graph.source, "program", None)
    if hasattr(program, "graph_signature") and hasattr(program, "state_dict"):
        return graph, program
    again = getattr(graph.source, "export", None)
    if again is None:
        raise FormatError(
            "only a graph of a model's forward pass, captured in this process, can be executable",
            hint=STRUCTURAL,
        )
    try:
        exported: ModelGraph = again()
    except AtlasError as error:
        raise FormatError(
            f"torch.export cannot capture this model: {error.problem}", hint=STRUCTURAL
        ) from error
    for name, node in exported.nodes(data=True):
        known = graph.nodes[name] if name in graph else {}
        if known.get("op") == node["op"] and known.get("outputs") == node["outputs"]:
            node.update((key, value) for key, value in known.items() if key not in node)
    return exported, exported.source.program


@dataclass(frozen=True, slots=True)
class _Translated:
    """A model, the ops in it that no runtime knows, what its nodes came from, and from where."""

    model: ir.Model
    opaque: tuple[str, ...]
    parts: list[Part]
    prepared: Prepared


def _translate(graph: ModelGraph, program: ExportedProgram, weights: str) -> _Translated:
    prepared = prepare(program)
    translated, opaque = translate(prepared.program)
    if not translated.model.graph.outputs:
        raise FormatError("the model returns no tensor", hint=STRUCTURAL)
    known = places(graph)
    ids = {key: name for key, name in graph.source.ids.items() if name in known}
    bodies = {name: [*body.nodes[own].get("subgraphs", ())] for name, (body, own) in known.items()}
    by_value = tag(translated.model, Origins(prepared.program, prepared.keys, ids, bodies))
    inputs = _inputs(program, ids)
    if axes := _axes(graph, translated.model, inputs):
        translated.rename_axes(axes)
    if weights == "none":
        onnx_weights.to_inputs(translated.model, prepared.program)
    with quietly():
        translated.optimize()
        _infer_shapes(translated.model)
    _mark(translated.model.graph.inputs, inputs)
    _mark(translated.model.graph.outputs, _outputs(program, ids))
    _mark_weights(translated.model, prepared, ids)
    parts = attribute_nodes(translated.model, by_value, _rank(known))
    return _Translated(translated.model, opaque, parts, prepared)


def _mark(values: Iterable[ir.Value], ids: Iterable[str | None]) -> None:
    for value, name in zip(values, ids, strict=False):
        if name is not None:
            value.meta[ID] = name


def _infer_shapes(model: ir.Model) -> None:
    from onnx_ir.passes.common import ShapeInferencePass

    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def _rank(known: Places) -> dict[str, tuple[int, int]]:
    """Return what orders ids: the most multiply-adds first, then the order of execution."""
    order = {}
    for name, (graph, own) in known.items():
        node = graph.nodes[own]
        macs = node.get("macs") or 0
        order[name] = (-macs if isinstance(macs, int) else -1, node["index"])
    return order


# -- interface ---------------------------------------------------------------------------------


def _inputs(program: ExportedProgram, ids: Mapping[str, str]) -> list[str | None]:
    """Return the ids of the tensors that the ONNX model takes, in their order."""
    specs = program.graph_signature.input_specs
    return [
        ids.get(spec.arg.name)
        for spec in specs
        if spec.kind.name == "USER_INPUT" and type(spec.arg).__name__ != "ConstantArgument"
    ]


def _outputs(program: ExportedProgram, ids: Mapping[str, str]) -> list[str | None]:
    """Return the ids of the tensors that the ONNX model returns, in their order."""
    return [
        ids.get(f"output:{position}")
        for position, spec in enumerate(program.graph_signature.output_specs)
        if spec.kind.name == "USER_OUTPUT" and type(spec.arg).__name__ != "ConstantArgument"
    ]


def _axes(graph: ModelGraph, model: ir.Model, inputs: list[str | None]) -> dict[Any, str]:
    """Return the graph's names for the symbolic sizes of the model, where they differ."""
    axes = {}
    for value, name in zip(model.graph.inputs, inputs, strict=False):
        if name is None or value.shape is None:
            continue
        for dim, size in zip(value.shape, graph.nodes[name]["outputs"][0].shape, strict=False):
            known = getattr(dim, "value", None)
            if isinstance(known, str) and str(size).isidentifier() and known != str(size):
                axes[known] = str(size)
    return axes


def _mark_weights(model: ir.Model, prepared: Prepared, ids: Mapping[str, str]) -> None:
    """Give the weights that survived their ids, and those that were renamed their names."""
    specs = prepared.program.graph_signature.input_specs
    by_target = {spec.target: ids.get(spec.arg.name) for spec in specs}
    for value in [*model.graph.initializers.values(), *model.graph.inputs]:
        if value.name in by_target:
            _mark([value], [by_target[value.name]])
            value.name = clean_path(prepared.targets.get(value.name, value.name))
