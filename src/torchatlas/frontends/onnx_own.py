"""Ops as torchatlas itself writes them into ONNX: under their own names, with all arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..names import clean
from ..records import RecordArg
from ..schema import Arg, Dim, TensorMeta, is_dim
from .onnx_proto import facts, literal
from .onnx_sizes import Sizes

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

DOMAIN = "pkg.torch.ops"
PRODUCER = "torchatlas"

_WITHOUT_OVERLOADS = frozenset({"higher_order", "math", "onnx", "operator", "python", "triton"})
_MAX_TEXT = 100_000
_MAX_ITEMS = 10_000
_NUMBER = re.compile(r"-?(\d{1,400}(\.\d{1,400})?(e[+-]?\d{1,3})?|inf)|nan")
_FLAGS = frozenset(
    {
        "align_corners", "batch_first", "bidirectional", "ceil_mode", "copy", "cudnn_enabled",
        "enable_gqa", "half_to_float", "has_biases", "is_causal", "keepdim", "non_blocking",
        "sparse", "train", "training", "transposed", "use_input_stats",
    }
)  # fmt: skip
"""Arguments that are true or false, for which ONNX has only 1 and 0."""


def name_of(node: NodeProto) -> tuple[str, str]:
    """Return the op and the overload: ``aten.add.Tensor`` is the overload ``Tensor``.

    >>> from onnx import NodeProto
    >>> name_of(NodeProto(op_type="aten.add.Tensor")), name_of(NodeProto(op_type="operator.mul"))
    (('aten.add', 'Tensor'), ('operator.mul', ''))
    >>> name_of(NodeProto(op_type="aten.mm.default")), name_of(NodeProto(op_type="onnx.If.default"))
    (('aten.mm', 'default'), ('onnx.If', ''))
    """
    op, _, overload = node.op_type.rpartition(".")
    if "." not in op:
        return clean(node.op_type), ""
    plain = overload == "default" and op.partition(".")[0] in _WITHOUT_OVERLOADS
    return clean(op), "" if plain else clean(overload)


def arguments(
    node: NodeProto,
    found: Mapping[str, str],
    operands: Sequence[RecordArg],
    sizes: Sizes,
) -> dict[str, RecordArg]:
    """Return the arguments of an op: the tensors it reads by their paths, and the literals.

    `found` is the node's metadata, whose keys are annotations among the attributes too.
    """
    paths = _paths(found.get("input_names", ""))
    if len(paths) != len(operands):
        paths = [f"input_{i}" for i in range(len(operands))]
    literals: dict[str, RecordArg] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name in found or attribute.type == attribute.GRAPH:  # an annotation, or a body
            continue
        plain = name.removeprefix("arg_")
        key = plain if plain != name and plain in found else name
        literals[clean(key) or "attribute"] = _value(key, literal(attribute), attribute, sizes)
    args: dict[str, RecordArg] = {}
    for path, operand in zip(paths, operands, strict=True):
        key, *inner = path.split(".")
        key = clean(key) or "argument"
        args[key] = _put(args.get(key, literals.get(key)), inner, operand)
    return {**args, **{key: value for key, value in literals.items() if key not in args}}


def _paths(text: str) -> list[str]:
    """Return the paths in the list that torchatlas writes for Netron.

    >>> _paths("['input', 'tensors.1']"), _paths("[]"), _paths("nonsense")
    (['input', 'tensors.1'], [], [])
    """
    inner = text.removeprefix("['").removesuffix("']")
    return inner.split("', '") if len(inner) == len(text) - 4 else []


def _put(arg: RecordArg, path: Sequence[str], operand: RecordArg) -> RecordArg:
    """Return `arg` with `operand` at a path inside of it.

    >>> _put(("n", 4), ["0"], "new"), _put(None, ["2"], "new"), _put({"a": 1}, ["b"], 2)
    (('new', 4), (None, None, 'new'), {'a': 1, 'b': 2})
    """
    if not path:
        return operand
    first, *rest = path
    if first.isdecimal() and len(first) <= len(str(_MAX_ITEMS)) and not isinstance(arg, Mapping):
        items = list(arg) if isinstance(arg, tuple) else []
        items += [None] * (int(first) + 1 - len(items))
        items[int(first)] = _put(items[int(first)], rest, operand)
        return tuple(items)
    items_by_key = dict(arg) if isinstance(arg, Mapping) else {}
    items_by_key[clean(first)] = _put(items_by_key.get(clean(first)), rest, operand)
    return items_by_key


def _value(name: str, found: Arg, attribute: Any, sizes: Sizes) -> Arg:
    if name in _FLAGS and found in (0, 1):
        return bool(found)
    if attribute.type != attribute.STRING:
        return found
    return parsed(attribute.s[:_MAX_TEXT].decode("utf-8", "replace"), sizes)


def parsed(text: str, sizes: Sizes) -> Arg:
    """Return what a text stands for: a number, a list, a size, or itself.

    >>> sizes = Sizes(["batch"])
    >>> parsed("1e-05", sizes), parsed("[1, null, [2]]", sizes), parsed("relu", sizes)
    (1e-05, (1, None, (2,)), 'relu')
    >>> parsed("2*batch", sizes), parsed("-1", sizes)
    (2*batch, -1)
    """
    if _NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".einf") else int(text)
    if text[:1] in ("[", "{"):
        try:
            return _tree(json.loads(text))
        except (ValueError, RecursionError):
            return clean(text)
    size = sizes.expression(text)
    return clean(text) if size is None else size


def _tree(value: Any) -> Arg:
    if isinstance(value, list):
        return tuple(map(_tree, value))
    if isinstance(value, dict):
        return {clean(key): _tree(item) for key, item in value.items()}
    return clean(value) if isinstance(value, str) else value


def texts(text: str) -> tuple[str, ...]:
    """Return the texts in a list in JSON; nothing for anything else.

    >>> texts('["view"]'), texts("unknown")
    (('view',), ())
    """
    try:
        found = json.loads(text[:_MAX_TEXT])
    except (ValueError, RecursionError):
        return ()
    are_texts = isinstance(found, list) and all(isinstance(item, str) for item in found)
    return tuple(map(clean, found)) if are_texts else ()


def body_name(node: NodeProto, name: str) -> str:
    """Return what a body is called that the attribute `name` of an op holds."""
    own = name.removeprefix("body_")
    return own if own != name and any(a.name == own for a in node.attribute) else name


def trips(found: Mapping[str, str], sizes: Sizes) -> Dim | None:
    """Return how often an op runs its bodies: once, unless the metadata says otherwise."""
    told = parsed(found.get("trips", "1"), sizes)
    return told if is_dim(told) else None


def plain(graph: GraphProto) -> dict[str, Arg]:
    """Return the inputs and outputs of a graph that are no tensors, with their values."""
    try:
        found = json.loads(facts(graph).get("literals", "{}")[:_MAX_TEXT])
    except (ValueError, RecursionError):
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {
        clean(name): None if value == "unknown" else parsed(value, Sizes(()))
        for name, value in items
        if isinstance(value, str)
    }


def told(
    metas: Sequence[TensorMeta | None], found: Mapping[str, str]
) -> tuple[TensorMeta | None, ...]:
    """Return tensors with the data types and the device that the metadata gives them.

    ONNX has no word for some: a Python number is an ``int64`` there.

    >>> told((TensorMeta((), "int64"), None), {"dtype": "SymInt, none", "device": "cuda:0"})
    (TensorMeta(shape=(), dtype='SymInt', device='cuda:0', stride=None, nnz=None), None)
    """
    names = found.get("dtype", "").split(", ")
    if "dtype" not in found or len(names) != len(metas):
        return tuple(metas)
    device = clean(found.get("device", "cpu"))
    return tuple(
        None if meta is None or name == "none" else replace(meta, dtype=clean(name), device=device)
        for meta, name in zip(metas, names, strict=True)
    )
