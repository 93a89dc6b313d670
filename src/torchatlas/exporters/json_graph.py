"""The graph as JSON: its own schema, one node a line, and back to an equal graph."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..errors import AtlasError, FormatError
from ..expressions import condition, parse
from ..graph import ModelGraph, in_order, inputs_of, validate
from ..schema import VERSION, Bound, Dim, Kind, Module, Phase, TensorMeta, Use, Way
from ..schema import Decision as DecisionAttrs
from ..schema import Measured as MeasuredAttrs
from ..schema import Symbol as SymbolAttrs
from ..schema import Timing as TimingAttrs
from ..sums import SUMMED, totals

FORMAT = "torchatlas"
_LARGEST = 2**63 - 1
Number = Annotated[int, Meta(ge=0, le=_LARGEST)]
Size = Annotated[
    Number | str, Meta(description="a number; as text if symbolic, or larger than 2**63 - 1")
]

Duration = Annotated[float, Meta(ge=0, description="microseconds")]


class Tensor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor without its values; strides count elements."""

    shape: list[Size]
    dtype: str
    device: str
    stride: list[Size] | None
    nnz: Size | None = None


class Node(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A node; what a key means stands in `torchatlas.schema.NodeAttrs`."""

    id: str
    kind: Kind
    index: Number
    op: str
    module: str
    outputs: list[Tensor | None]
    overload: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET
    module_type: str | UnsetType = UNSET
    module_stack: Annotated[
        list[str] | UnsetType, Meta(description="paths; the graph's `modules` has their classes")
    ] = UNSET
    source: str | UnsetType = UNSET
    phase: Phase | UnsetType = UNSET
    args: Annotated[
        dict[str, Any] | UnsetType,
        Meta(
            description="literals; {ref, output} for a tensor that an edge brings, {tensor} for "
            "one that none brings, {dict} for a mapping, {expr} for a symbolic number"
        ),
    ] = UNSET
    tags: list[str] | UnsetType = UNSET
    writes: list[str] | UnsetType = UNSET
    storages: list[Number] | UnsetType = UNSET
    subgraphs: Annotated[
        dict[str, Body] | UnsetType,
        Meta(description="bodies of a control flow op; references in them are to their own nodes"),
    ] = UNSET
    trips: Size | UnsetType = UNSET
    contains: dict[str, Number] | UnsetType = UNSET
    uncounted: dict[str, Number] | UnsetType = UNSET
    differentiates: str | UnsetType = UNSET
    recomputes: str | UnsetType = UNSET
    saved: list[Number] | UnsetType = UNSET
    frees: list[Number] | UnsetType = UNSET
    gradient: str | UnsetType = UNSET
    gradient_of: str | UnsetType = UNSET
    state_of: str | UnsetType = UNSET
    params: Size | UnsetType = UNSET
    param_bytes: Size | UnsetType = UNSET
    macs: Size | UnsetType | None = UNSET
    flops: Size | UnsetType | None = UNSET
    flops_other: Size | UnsetType | None = UNSET
    flops_effective: Size | UnsetType | None = UNSET
    int_ops: Size | UnsetType | None = UNSET
    comm_bytes: Size | UnsetType = UNSET
    cost_source: str | UnsetType = UNSET
    bytes_read: Size | UnsetType = UNSET
    bytes_written: Size | UnsetType = UNSET
    roofline_us: Duration | UnsetType | None = UNSET
    bound: Bound | UnsetType = UNSET
    first_use: Number | UnsetType = UNSET
    last_use: Number | UnsetType = UNSET
    live_bytes: Size | UnsetType = UNSET
    saved_bytes: Size | UnsetType = UNSET
    device: str | UnsetType = UNSET
    latency_us: Duration | UnsetType = UNSET
    latency_iqr_us: Duration | UnsetType = UNSET
    peak_bytes: Number | UnsetType = UNSET
    kernels: list[str] | UnsetType = UNSET
    launches: Number | UnsetType = UNSET


class Edge(Struct, forbid_unknown_fields=True):
    """An edge; each use is the index of an output (null: order only) and an argument's path."""

    source: str
    target: str
    uses: list[tuple[Number | None, str]]
    bytes: Size


class Body(Struct, forbid_unknown_fields=True):
    """A graph that a control flow op runs; its modules and symbols are those of the whole."""

    nodes: list[Node]
    edges: list[Edge]


class Symbol(Struct, forbid_unknown_fields=True):
    """What a symbolic size may stand for: the multiples of a number, within bounds."""

    min: Annotated[int, Meta(ge=1, le=_LARGEST)]
    max: Number | None
    multiple_of: Annotated[int, Meta(ge=1, le=_LARGEST)]


class Decision(Struct, forbid_unknown_fields=True):
    """What was read of the values of the example."""

    source: str
    op: str
    value: str


class Timing(Struct, forbid_unknown_fields=True):
    """How long the whole model takes when it is compiled, or a CUDA graph, in microseconds."""

    way: Way
    median_us: Duration | None
    iqr_us: Duration | None
    p90_us: Duration | None
    samples: Number
    error: str
    note: str = ""


class Measured(Struct, forbid_unknown_fields=True):
    """How long the whole model took on a device, in microseconds."""

    device: str
    device_name: str
    median_us: Duration
    iqr_us: Duration
    p90_us: Duration
    residual_us: float
    samples: Number
    steps: Number
    drift: float
    cache: Literal["warm", "cold"]
    mode: Literal["no_grad", "training"]
    threads: Number
    torch: str
    unstable: list[str]
    by: Literal["timers", "profiler"] = "timers"
    launches: Number | None = None
    peak_bytes: Number | None = None
    others: list[Timing] = []


class Header(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the graph says of itself."""

    name: str
    frontend: str | UnsetType = UNSET
    attempts: list[str] | UnsetType = UNSET
    modules: dict[str, str] | UnsetType = UNSET
    dropped: dict[str, Number] | UnsetType = UNSET
    specialised: bool | UnsetType = UNSET
    decisions: list[Decision] | UnsetType = UNSET
    torch: str | UnsetType = UNSET
    roofline_device: str | UnsetType = UNSET
    confirmed: Number | UnsetType = UNSET
    contradicted: list[str] | UnsetType = UNSET
    measured: Measured | UnsetType = UNSET
    symbols: dict[str, Symbol] | UnsetType = UNSET
    constraints: Annotated[
        list[str] | UnsetType, Meta(description="conditions on symbols: 'height != width'")
    ] = UNSET


class File(Struct, forbid_unknown_fields=True):
    """A graph file of torchatlas."""

    format: Literal["torchatlas"]
    schema: Number
    graph: Header
    totals: Annotated[dict[str, Any], Meta(description="sums over the nodes; not read back")]
    nodes: list[Node]
    edges: list[Edge]


_SIZES = frozenset({*SUMMED, "live_bytes", "saved_bytes", "trips"})
_TUPLES = frozenset({"aliases", "tags", "writes", "storages", "frees", "saved", "kernels"})
MAX_DEPTH = 32
"""How deep control flow may be nested in a file."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the format."""
    found = msgspec.json.schema(File)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


# -- writing -------------------------------------------------------------------------------


def render(graph: ModelGraph) -> bytes:
    """Return the graph as JSON in UTF-8."""
    encode = msgspec.json.Encoder().encode  # keeps the order of keys, which is that of arguments
    head = {key: graph.graph[key] for key in Header.__struct_fields__ if key in graph.graph}
    parts = (
        f'"format":"{FORMAT}"'.encode(),
        f'"schema":{VERSION}'.encode(),
        b'"graph":' + encode(head),
        b'"totals":' + encode(_totals(graph)),
        b'"nodes":' + _lines(map(encode, _nodes(graph))),
        b'"edges":' + _lines(map(encode, _edges(graph))),
    )
    return b"{\n" + b",\n".join(parts) + b"\n}\n"


def _nodes(graph: ModelGraph) -> Iterator[dict[str, Any]]:
    return (_node(graph, name, node) for name, node in in_order(graph))


def _edges(graph: ModelGraph) -> Iterator[dict[str, Any]]:
    order = {name: node["index"] for name, node in graph.nodes(data=True)}
    edges = sorted(graph.edges(data=True), key=lambda e: (order[e[1]], order[e[0]]))
    return (_edge(*edge) for edge in edges)


def _lines(items: Iterable[bytes]) -> bytes:
    return b"[\n" + b",\n".join(items) + b"\n]"


def _totals(graph: ModelGraph) -> dict[str, Any]:
    found = totals(graph)
    sums = {key: _size(getattr(found, key)) for key in sorted(SUMMED)}
    sums["peak_bytes"] = _size(found.peak_bytes)
    return {**sums, "ops": found.ops, "coverage": found.coverage, "unknown": found.unknown}


def _size(value: Dim | None) -> int | str | None:
    if value is None or (isinstance(value, int) and value <= _LARGEST):
        return value
    return str(value)


def _tensor(meta: TensorMeta | None) -> Tensor | None:
    if meta is None:
        return None
    stride = None if meta.stride is None else [_size(step) for step in meta.stride]
    shape = [_size(n) for n in meta.shape]
    return Tensor(shape, meta.dtype, meta.device, stride, _size(meta.nnz))  # type: ignore[arg-type]


def _node(graph: ModelGraph, name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    refs = inputs_of(graph, name)
    written: dict[str, Any] = {"id": name}
    for key in Node.__struct_fields__:
        if key not in node:
            continue
        value = node[key]
        if key == "args":
            value = {arg: _arg(inner, arg, refs) for arg, inner in value.items()}
        elif key == "outputs":
            value = [_tensor(meta) for meta in value]
        elif key == "module_stack":
            value = [module.path for module in value]
        elif key == "subgraphs":
            value = {
                body: {"nodes": list(_nodes(inner)), "edges": list(_edges(inner))}
                for body, inner in value.items()
            }
        elif key in _SIZES:
            value = _size(value)
        written[key] = value
    return written


def _arg(arg: Any, path: str, refs: Mapping[str, tuple[str, int]]) -> Any:
    if isinstance(arg, TensorMeta):
        if path in refs:
            source, output = refs[path]
            return {"ref": source, "output": output}
        return {"tensor": _tensor(arg)}
    if isinstance(arg, tuple):
        return [_arg(item, f"{path}.{i}", refs) for i, item in enumerate(arg)]
    if isinstance(arg, Mapping):
        return {"dict": {key: _arg(item, f"{path}.{key}", refs) for key, item in arg.items()}}
    if arg is None or isinstance(arg, bool | float | str):
        return arg
    if isinstance(arg, int) and -_LARGEST <= arg <= _LARGEST:
        return arg
    return {"expr": str(arg)}


def _edge(source: str, target: str, edge: Mapping[str, Any]) -> dict[str, Any]:
    uses = [(use.output, use.argument) for use in edge["uses"]]
    return {"source": source, "target": target, "uses": uses, "bytes": _size(edge["bytes"])}


# -- reading -------------------------------------------------------------------------------


def parse_graph(content: bytes, name: str = "the file") -> ModelGraph:
    """Return the graph that `render` wrote; nothing in the file is executed.

    Raises FormatError, which names the field, for anything but a graph of this schema.
    """
    try:
        file = msgspec.json.decode(content, type=File)
        json.loads(content, object_pairs_hook=_refuse_duplicates)
        if file.schema > VERSION:
            raise ValueError(f"its schema is {file.schema}, newer than {VERSION}")
        graph = _graph(file)
        validate(graph)
    except (msgspec.MsgspecError, ValueError, RecursionError, KeyError, AtlasError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FormatError(
            f"{name} is not a graph of torchatlas: {reason[:300]}",
            hint="torchatlas capture … writes such files; torchatlas schema prints what they hold",
        ) from error
    return graph


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")


def _graph(file: File) -> ModelGraph:
    header = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in msgspec.structs.asdict(file.graph).items()
        if value is not UNSET
    }
    if file.graph.symbols is not UNSET:
        header["symbols"] = {
            name: SymbolAttrs(s.min, s.max, s.multiple_of) for name, s in file.graph.symbols.items()
        }
    if file.graph.decisions is not UNSET:
        header["decisions"] = tuple(
            DecisionAttrs(d.source, d.op, d.value) for d in file.graph.decisions
        )
    if file.graph.measured is not UNSET:
        told = msgspec.structs.asdict(file.graph.measured)
        told["unstable"] = tuple(told["unstable"])
        told["others"] = tuple(TimingAttrs(**msgspec.structs.asdict(t)) for t in told["others"])
        header["measured"] = MeasuredAttrs(**told)
    for text in header.get("constraints", ()):
        condition(text)
    graph = ModelGraph(schema=file.schema, **header)
    _fill(graph, file, depth=0)
    return graph


def _fill(graph: ModelGraph, body: File | Body, depth: int) -> None:
    """Add the nodes and edges of `body` to `graph`, and the graphs that are nested in it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"its control flow is nested more than {MAX_DEPTH} deep")
    outputs = {node.id: tuple(map(_read_tensor, node.outputs)) for node in body.nodes}
    if len(outputs) < len(body.nodes):
        raise ValueError("two nodes have the same id")
    modules: Mapping[str, str] = graph.graph.get("modules", {})
    for node in body.nodes:
        graph.add_node(node.id, **_read_node(node, modules, outputs))
        if node.subgraphs is not UNSET:
            graph.nodes[node.id]["subgraphs"] = {
                name: _nested(graph, name, inner, depth) for name, inner in node.subgraphs.items()
            }
    for edge in body.edges:
        if edge.source not in outputs or edge.target not in outputs:
            raise ValueError(f"the edge from {edge.source!r} to {edge.target!r} lacks a node")
        uses = tuple(Use(output, argument) for output, argument in edge.uses)
        graph.add_edge(edge.source, edge.target, uses=uses, bytes=_read_size(edge.bytes))


def _nested(outer: ModelGraph, name: str, body: Body, depth: int) -> ModelGraph:
    shared = {key: outer.graph[key] for key in ("schema", "modules") if key in outer.graph}
    graph = ModelGraph(**shared, name=name)
    _fill(graph, body, depth + 1)
    return graph


def _read_size(value: int | str | None) -> Dim | None:
    return parse(value) if isinstance(value, str) else value


def _read_tensor(tensor: Tensor | None) -> TensorMeta | None:
    if tensor is None:
        return None
    shape, stride = (
        None if sizes is None else tuple(map(_read_size, sizes))
        for sizes in (tensor.shape, tensor.stride)
    )
    nnz = _read_size(tensor.nnz)
    return TensorMeta(shape, tensor.dtype, tensor.device, stride, nnz)  # type: ignore[arg-type]


def _read_node(
    node: Node,
    modules: Mapping[str, str],
    outputs: Mapping[str, tuple[TensorMeta | None, ...]],
) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    for key in Node.__struct_fields__:
        value = getattr(node, key)
        if value is UNSET or key in ("id", "subgraphs"):
            continue
        if key == "args":
            value = {name: _read_arg(arg, outputs) for name, arg in value.items()}
        elif key == "outputs":
            value = outputs[node.id]
        elif key == "module_stack":
            value = tuple(Module(path, modules.get(path, "")) for path in value)
        elif key in _SIZES:
            value = _read_size(value)
        elif key in _TUPLES:
            value = tuple(value)
        attrs[key] = value
    return attrs


def _read_arg(arg: Any, outputs: Mapping[str, tuple[TensorMeta | None, ...]]) -> Any:
    match arg:
        case list():
            return tuple(_read_arg(item, outputs) for item in arg)
        case {"ref": str(source), "output": int(index), **rest} if not rest:
            if not 0 <= index < len(outputs.get(source, ())):
                raise ValueError(f"there is no output {index} of {source!r}")
            return outputs[source][index]
        case {"tensor": tensor, **rest} if not rest:
            return _read_tensor(msgspec.convert(tensor, Tensor | None))
        case {"dict": dict(items), **rest} if not rest:
            return {key: _read_arg(item, outputs) for key, item in items.items()}
        case {"expr": str(text), **rest} if not rest:
            return parse(text)
        case dict():
            raise ValueError(f"an argument has the unknown form {str(sorted(arg))[:80]}")
        case int() if not isinstance(arg, bool) and not -_LARGEST <= arg <= _LARGEST:
            raise ValueError("an argument is larger than 2**63 - 1; write it as text")
    return arg
