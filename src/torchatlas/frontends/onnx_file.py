"""Reads an ONNX file into records: nobody's weights, nobody's code, whoever wrote it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..names import clean
from ..records import OpRecord, with_bodies
from . import onnx_own
from .onnx_constants import hand_down
from .onnx_functions import in_order, inline
from .onnx_inference import versions_of
from .onnx_proto import facts, parse
from .onnx_records import Context, Reader
from .onnx_scopes import Scopes
from .onnx_shapes import find_types
from .onnx_sizes import Sizes, symbols_of

if TYPE_CHECKING:
    from onnx import ModelProto

_GENERIC = re.compile(r"|main_graph|torch[-_]jit.*|graph|tf2onnx|model|[0-9a-f-]{20,}", re.I)


def read(
    content: bytes, name: str, sizes: Mapping[str, int] | None = None
) -> tuple[list[OpRecord], dict[str, Any]]:
    """Return the records of the ONNX model in `content`, and what its graph says of itself.

    `name` is that of the file. `sizes` gives numbers to dimensions that have only a name, before
    shapes are inferred: where shapes are computed from shapes, that leaves fewer unknown.

    Ops are called ``onnx.Conv``, or ``onnx.com.microsoft.Gelu`` with their domain, and have the
    node's own name as their `target`; the ops of torch in a structural file of torchatlas come
    back as they were. Modules are read from names and metadata (`onnx_scopes.Scopes`). The
    bodies of the model's functions stand in place of the calls, which become modules. An
    initializer is a `parameter`, unless it is a `buffer` (a statistic, such as a running mean or
    the scale of a quantised tensor) or a `constant` (integers that are no weight, single numbers,
    states of a recurrent layer). Constants that tell how an op works, and single numbers, are
    literals among its arguments. Nothing but `content` is read, and no weight is looked at.

    Raises FormatError for anything but an ONNX model whose nodes can be put in order, and
    UsageError for `sizes` that the model does not have.
    """
    model = parse(content, name)
    _fix(model, sizes or {})
    _forget(model)
    calls = in_order(inline(model), model.graph)
    hand_down(model.graph, (call.node for call in calls))
    own = model.producer_name == onnx_own.PRODUCER
    found = find_types(model, [call.node for call in calls], trusted=own)
    context = Context(own, found.sizes, Scopes(own), versions_of(model))
    records = Reader(model.graph, calls, found.types, context, shapes=found.shapes).read()
    return records, _attrs(model, name, records, context)


def _fix(model: ModelProto, sizes: Mapping[str, int]) -> None:
    """Put numbers in the place of dimensions that have a name, wherever the file says them."""
    if not sizes:
        return
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{name!r} cannot be {size!r}", hint="a size is a positive integer")
    dims = [dim for dim in _declared_dims(model) if dim.dim_param]
    names = Sizes({dim.dim_param for dim in dims}, trusted=True)
    known: dict[str, None] = {}
    for dim in dims:
        said, found = dim.dim_param, names.named(dim.dim_param)
        if isinstance(found, int):
            continue
        free = {str(s): s for s in found.free_symbols}
        known |= dict.fromkeys([said] if len(free) == 1 and said in sizes else free)
        given = {free[name]: sizes[name] for name in free.keys() & sizes.keys()}
        number = sizes[said] if said in sizes else found.subs(given)
        if isinstance(number, int) or number.is_Integer:
            dim.dim_value = int(number)
        elif given:
            dim.dim_param = str(number)
    for name in sizes:
        if name not in known:
            raise UsageError(
                f"the model has no size called {name!r}",
                hint=f"it has {', '.join(sorted(map(clean, known))) or 'none that has a name'}",
            )


def _declared_dims(model: ModelProto) -> list[Any]:
    graph = model.graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    return [dim for info in infos for dim in info.type.tensor_type.shape.dim]


def _forget(model: ModelProto) -> None:
    """Let go of names that stand for one dimension of one output only.

    TorchScript's exporter gives them (``Gemm188_dim_0``) to what inference finds a better word for.
    """
    times = Counter(dim.dim_param for dim in _declared_dims(model))
    for info in model.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param.isidentifier() and times[dim.dim_param] == 1:
                dim.ClearField("dim_param")


def _attrs(
    model: ModelProto, name: str, records: Sequence[OpRecord], context: Context
) -> dict[str, Any]:
    told = facts(model) if context.own else {}
    types = context.scopes.types
    everything = list(with_bodies(records))
    paths = dict.fromkeys(module.path for record in everything for module in record.stack)
    attrs: dict[str, Any] = {
        "name": clean(told.get("name", "")) or _name(model, name, types.get("", "")),
        "frontend": "onnx",
        "modules": {path: types.get(path, "") for path in paths},
        "dropped": dict(sorted(context.dropped.items())),
    }
    if "torch" in told:
        attrs["torch"] = clean(told["torch"])
    if symbols := symbols_of(meta for record in everything for meta in record.outputs):
        attrs["symbols"] = symbols
    return attrs


def _name(model: ModelProto, file: str, root: str) -> str:
    """Return the class of the model, or else the name of the graph, or else that of the file."""
    if root:
        return root.rpartition(".")[2]
    if not _GENERIC.fullmatch(model.graph.name):
        return clean(model.graph.name)
    return clean(re.split(r"[\\/]", file)[-1].removesuffix(".onnx")) or "model"
