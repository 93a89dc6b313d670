"""Netron's own JSON: any graph with coloured ops, and facts to lay over a model that is open.

Netron calls the first format experimental, and neither is documented: what it reads was found in
its source (versions 8.0 and 8.3 on) and is checked in a browser by the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from ..errors import UsageError
from ..graph import ModelGraph, in_order, inputs_of
from ..names import op_leaf
from ..schema import NODE_FIELDS, VERSION, WEIGHTS, TensorMeta, is_dim
from .families import family
from .nesting import flat
from .onnx_metadata import graph_properties, properties, text, version
from .onnx_values import arguments, value_names
from .told import facts

_LARGEST = 2**53
"""The largest integer that JavaScript holds exactly; a larger one is written as text."""

_CATEGORIES = {
    "contraction": "Layer",
    "activation": "Activation",
    "norm": "Normalization",
    "pooling": "Pool",
    "pointwise": "Data",
    "reduction": "Transform",
    "shape": "Shape",
    "module": "Custom",
    "op": "Custom",
}
"""Family of ops to the category of Netron's that gives it a colour of its own."""

_BY_WORD = {"attention": "Attention", "dropout": "Dropout", "quantize": "Quantization"}

NAMES = ("id", "onnx")
"""How the nodes of a model that is open are called: by ids, or as `torch.onnx.export` does."""


def render(graph: ModelGraph, *, include_source: bool = False) -> bytes:
    """Return `graph` as a ``.netron`` file, in UTF-8.

    Every op is a node, called by its id, with its annotations and arguments as attributes and a
    colour for its family; weights have shapes and no values. Netron knows no nested graphs here:
    the bodies of control flow stand beside their op. `include_source` adds the lines of code.
    """
    encode = msgspec.json.Encoder().encode
    totals = graph_properties(graph)
    drawn = _Drawing(flat(graph), include_source)
    head = {
        "format": f"torchatlas v{VERSION}",
        "producer": f"torchatlas {version()}",
        "metadata": _listed({**totals, **drawn.plain}.items()),
    }
    parts = [b'"signature":"netron:torchatlas"']  # Netron looks for it in the first 64 bytes
    parts += [encode(key) + b":" + encode(value) for key, value in head.items()]
    module = (
        b'"inputs":' + encode(drawn.inputs),
        b'"outputs":' + encode(drawn.outputs),
        b'"values":' + _lines(map(encode, drawn.values)),
        b'"nodes":' + _lines(map(encode, drawn.nodes())),
    )
    parts.append(b'"modules":[{\n' + b",\n".join(module) + b"}]")
    return b"{\n" + b",\n".join(parts) + b"\n}\n"


def _lines(items: Iterable[bytes]) -> bytes:
    return b"[\n" + b",\n".join(items) + b"\n]"


def _listed(items: Iterable[tuple[str, Any]]) -> list[dict[str, str]]:
    return [{"name": key, "value": text(value)} for key, value in items]


class _Drawing:
    """A flat graph in Netron's terms: values by number, then what makes and reads them."""

    def __init__(self, graph: ModelGraph, include_source: bool) -> None:
        self._graph, self._include_source = graph, include_source
        self.values: list[dict[str, Any]] = []
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []
        self.plain: dict[str, Any] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        for source, name in value_names(graph).items():
            self._value(name, source)
        for name, node in in_order(graph):
            if node["kind"] in ("input", "output"):
                self._interface(name, node)

    def _value(self, name: str, source: tuple[str, int]) -> None:
        node = self._graph.nodes[source[0]]
        meta, found = node["outputs"][source[1]], dict[str, Any](name=name)
        if meta is not None:
            is_weight = node["kind"] in WEIGHTS
            found |= {"initializer": {"type": _type(meta)}} if is_weight else {"type": _type(meta)}
        self._numbers[source] = len(self.values)
        self.values.append(found)

    def _interface(self, name: str, node: Mapping[str, Any]) -> None:
        is_input = node["kind"] == "input"
        refs = inputs_of(self._graph, name).values() if not is_input else [(name, 0)]
        numbers = [self._numbers[ref] for ref in refs if ref in self._numbers]
        if numbers:
            (self.inputs if is_input else self.outputs).append({"name": name, "value": numbers})
        else:
            self.plain[name] = node.get("args", {}).get("value")

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield the ops in the order of execution."""
        for name, node in in_order(self._graph):
            if node["kind"] != "op":
                continue
            inputs = arguments(self._graph, name).items()
            yield {
                "name": name,
                "type": {"name": _title(node), "category": category(node)},
                "inputs": [{"name": p, "value": [self._numbers[ref]]} for p, ref in inputs],
                "outputs": [
                    {"name": str(i), "value": [self._numbers[name, i]]}
                    for i in range(len(node["outputs"]))
                ],
                "attributes": [*map(_attribute, *zip(*self._facts(name, node), strict=True))],
            }

    def _facts(self, name: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        yield from facts(self._graph, name, include_source=self._include_source).items()
        if node.get("overload", "default") != "default":
            yield "overload", node["overload"]


def _type(meta: TensorMeta) -> dict[str, Any]:
    dimensions = [n if isinstance(n, int) and n <= _LARGEST else str(n) for n in meta.shape]
    return {"dataType": meta.dtype, "shape": {"dimensions": dimensions}}


def _title(node: Mapping[str, Any]) -> str:
    """Return the name of an op, of which Netron shows what stands after the last dot."""
    return str(node["op"]) if op_leaf(node["op"]) else "op"


def _attribute(key: str, value: Any) -> dict[str, Any]:
    # Netron takes a 0 for nothing at all.
    if isinstance(value, int) and not isinstance(value, bool) and 0 < abs(value) <= _LARGEST:
        return {"name": key, "value": value, "type": "int64"}
    return {"name": key, "value": text(value), "type": "string"}


def category(node: Mapping[str, Any]) -> str:
    """Return the category of Netron's to which an op belongs.

    >>> category({"kind": "op", "op": "aten.conv2d"}), category({"kind": "op", "op": "aten.svd"})
    ('Layer', 'Custom')
    >>> category({"kind": "op", "op": "aten.scaled_dot_product_attention"})
    'Attention'
    """
    if "trips" in node or node["op"].startswith("higher_order."):
        return "Control"
    leaf = op_leaf(node["op"])
    by_word = (known for word, known in _BY_WORD.items() if word in leaf)
    return next(by_word, _CATEGORIES[family(node)])


# -- attachments -------------------------------------------------------------------------------


def attachment(graph: ModelGraph, *, names: str = "id", include_source: bool = False) -> bytes:
    """Return what is known of `graph` as a file to drop onto a model that is open in Netron.

    Its nodes then have the annotations in their side bar: the counts are metrics, all else is
    metadata; the totals are metrics of the model. `names` tells how the nodes of that model are
    called: with ``"id"`` by their ids, as torchatlas writes them (.onnx, .netron), and with
    ``"onnx"`` as ``torch.onnx.export`` does, for which the graph must come from a live model.
    Netron 8.3 and later read such files. `include_source` adds the lines of code.

    Raises UsageError for other `names`, and FormatError where the model cannot be translated.
    """
    if names not in NAMES:
        raise UsageError(f"nodes are not called by {names!r}", hint=f"choose {' or '.join(NAMES)}")
    known = _by_id(graph, include_source) if names == "id" else _by_onnx(graph, include_source)
    metadata, metrics = list[dict[str, Any]](), list[dict[str, Any]]()
    for key, value in graph_properties(graph).items():
        is_count = value.isdecimal() and key not in ("schema",)
        (metrics if is_count else metadata).append(_entry("model", "", key, value, is_count))
    for name, found in known:
        for key, value in found.items():
            is_count = key in NODE_FIELDS and is_dim(value) and bool(NODE_FIELDS[key].unit)
            is_count = is_count or key == "params"
            (metrics if is_count else metadata).append(_entry("node", name, key, value, is_count))
    encode = msgspec.json.Encoder().encode
    return (
        b'{\n"signature":"netron:attachment",\n"metadata":'
        + _lines(map(encode, metadata))
        + b',\n"metrics":'
        + _lines(map(encode, metrics))
        + b"\n}\n"
    )


def _by_id(graph: ModelGraph, include_source: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    nodes = flat(graph)
    for name, node in in_order(nodes):
        if node["kind"] == "op":
            yield name, {"id": name, **properties(nodes, name, include_source=include_source)}


def _by_onnx(graph: ModelGraph, include_source: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from .onnx_model import facts_by_node

    return facts_by_node(graph, include_source=include_source)


def _entry(kind: str, target: str, key: str, value: Any, is_count: bool) -> dict[str, Any]:
    number = int(value) if is_count and str(value).isdecimal() else None
    if number is not None and number <= _LARGEST:
        return {"kind": kind, "target": target, "name": key, "value": number, "type": "int64"}
    return {"kind": kind, "target": target, "name": key, "value": text(value), "type": "string"}
