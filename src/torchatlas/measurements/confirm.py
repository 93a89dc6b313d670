"""The shape-propagation run: what ops make on a real device, beside what the graph says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import sympy
import torch

from ..errors import AtlasError, MeasurementError
from ..frontends import Source
from ..frontends.metadata import value_meta
from ..frontends.replay import Program
from ..graph import ModelGraph, in_order
from ..schema import Dim, TensorMeta
from ..transforms.bind import bind
from .values import stand_ins

Outputs = tuple[TensorMeta | None, ...]

_WORKSPACES = {"aten.mkldnn_rnn_layer": 3, "aten._cudnn_rnn": 3, "aten.miopen_rnn": 3}
"""The output of an op that is memory for its own backward pass: only the library knows its size."""


def bound_to_inputs(graph: ModelGraph, source: Source) -> ModelGraph:
    """Return a copy of `graph`, with the sizes of the example where it is symbolic.

    Raises MeasurementError where an input is not what the graph says.
    """
    sizes = _Sizes()
    for key, value in source.placeholders.items():
        name, meta = source.ids.get(key, ""), value_meta(value)
        if meta is not None and name in graph and graph.nodes[name]["kind"] == "input":
            expected = graph.nodes[name]["outputs"]
            if expected and expected[0] is not None:  # where its copy is going to lie
                meta = dataclasses.replace(meta, device=expected[0].device)
            _compare(name, expected, (meta,), sizes)
    declared = graph.graph.get("symbols", {})
    known = {str(name): n for name, n in sizes.known.items() if str(name) in declared}
    return bind(graph, **known) if known else graph.copy()


class Comparison(NamedTuple):
    """How many ops made what the graph says, and what is to be said of each that did not."""

    confirmed: int
    differences: dict[str, MeasurementError]


def confirm(graph: ModelGraph, source: Source) -> Comparison:
    """Run the program of `source` once and compare what ops make with the graph's `outputs`.

    Ops in the bodies of control flow are not compared, nor those of which a size stays unknown.
    Raises MeasurementError, which names the op, where one cannot be run; where all can, nothing.
    """
    made: dict[str, Outputs] = {}
    calls: list[str] = []

    def invoke(key: str, target: Any, args: Any, kwargs: Any) -> Any:
        calls.append(key)
        return target(*args, **kwargs)

    def note(name: str, values: Sequence[Any]) -> None:
        made[name] = tuple(map(value_meta, values))

    failed: Exception | None = None
    with torch.enable_grad():  # as the front ends have it
        try:
            Program(source, make=stand_ins()).run(note, invoke)
        except AtlasError:
            raise
        except Exception as error:
            failed = error
    found = _compared(graph, made)
    if failed is not None:
        if found.differences:  # what an earlier op made is the reason, rather
            raise next(iter(found.differences.values())) from failed
        name = source.ids.get(calls[-1]) if calls else None
        lines = str(failed).strip().splitlines()
        short = isinstance(failed, torch.OutOfMemoryError)
        raise MeasurementError(
            f"{'the op' if name else 'the graph'} cannot be run: "
            f"{type(failed).__name__}: {lines[0] if lines else ''}",
            node=name,
            hint=_HINT_MEMORY if short else _HINT_VALUES,
        ) from failed
    return found


def _compared(graph: ModelGraph, made: dict[str, Outputs]) -> Comparison:
    sizes, confirmed = _Sizes(), 0
    differences: dict[str, MeasurementError] = {}
    for name, node in in_order(graph):
        if node["kind"] != "op" or name not in made:
            continue
        expected, real = node["outputs"], made[name]
        workspace = _WORKSPACES.get(node["op"])
        if workspace is not None:
            expected, real = (_without(workspace, outputs) for outputs in (expected, real))
        try:
            confirmed += _compare(name, expected, real, sizes)
        except MeasurementError as difference:
            differences[name] = difference
    return Comparison(confirmed, differences)


def _without(index: int, outputs: Outputs) -> Outputs:
    return (*outputs[:index], *outputs[index + 1 :])


class _Sizes:
    """What symbols stand for in a run: those of inputs, and of sizes that values decide."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}
        self.open = False
        """Whether a size was met that an unknown symbol is part of, and nothing can be said of."""

    def fit(self, expected: Sequence[Dim], real: Sequence[Any]) -> bool:
        """Say whether sizes are as expected, as far as the symbols in them are known.

        A size that is a symbol which was not met before says what that stands for.
        """
        return len(expected) == len(real) and all(map(self._fits, expected, real))

    def _fits(self, expected: Dim, real: Any) -> bool:
        if not isinstance(expected, int):
            sizes = {symbol: sympy.Integer(size) for symbol, size in self.known.items()}
            expected = expected.xreplace(sizes)
            if expected.is_Symbol:
                self.known[expected] = real
                return True
            if not expected.is_number:
                self.open = True
                return True
        return bool(expected == real)


def _compare(name: str, expected: Outputs, real: Outputs, sizes: _Sizes) -> bool:
    """Raise MeasurementError where tensors differ; return whether all could be compared."""
    if len(expected) != len(real):
        raise MeasurementError(
            f"the graph says that it makes {len(expected)} values, and it made {len(real)}",
            node=name,
            hint=_HINT,
        )
    sizes.open = False
    for i, (one, other) in enumerate(zip(expected, real, strict=True)):
        found = _difference(one, other, sizes)
        if found:
            which = f"output {i} has" if len(real) > 1 else "its output has"
            what, said, came = found
            raise MeasurementError(
                f"{which} another {what} than the graph says: {came} in place of {said}",
                node=name,
                hint=_HINT,
            )
    return not sizes.open


_HINT_VALUES = "values may be needed that this one was captured without: pass an example"
_HINT_MEMORY = (
    "the check keeps what a backward pass would need, next to a copy of the weights: "
    "capture a smaller example"
)
_HINT = "capture the model anew, on this example; if it is that one already, please report it"


def _difference(
    one: TensorMeta | None, other: TensorMeta | None, sizes: _Sizes
) -> tuple[str, Any, Any] | None:
    """Return what differs, as expected and as it is; None where nothing does.

    The stride of a dimension of one element, and any of a
    tensor of none, says nothing of where elements lie: kernels leave there what they like.
    """
    if one is None or other is None:
        return None if one is other else ("kind", one, other)
    if one.dtype != other.dtype:
        return "data type", one.dtype, other.dtype
    if one.device != other.device:
        return "device", one.device, other.device
    if not sizes.fit(one.shape, other.shape):
        return "shape", _list(one.shape), _list(other.shape)
    if (one.stride is None) != (other.stride is None):
        return "layout", one.stride, other.stride
    if one.stride is not None and other.stride is not None and 0 not in other.shape:
        told = [i for i, n in enumerate(other.shape) if n != 1]
        if not sizes.fit([one.stride[i] for i in told], [other.stride[i] for i in told]):
            return "stride", _list(one.stride), _list(other.stride)
    return None


def _list(sizes: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, sizes))}]"
