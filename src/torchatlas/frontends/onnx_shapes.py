"""Solves for the sizes that ONNX's shape inference leaves open, from named sizes of the inputs.

Where a size is symbolic, ONNX's inference gives each new one a name of its own (``unk__7``) and
stops at shapes that are computed from shapes. Here such sizes become expressions over those of
the inputs: ``floor(height/2 - 1/2) + 1`` after a convolution of stride 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..schema import Dim, TensorMeta
from .onnx_arithmetic import Given, evaluate, small
from .onnx_functions import domain
from .onnx_inference import Types, dimensions, infer
from .onnx_proto import graphs, literal, values
from .onnx_shape_rules import Shape, shape_of
from .onnx_sizes import Sizes, symbols_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from .onnx_arithmetic import Small


_MAX_ROUNDS = 4
_MAX_OPERATIONS = 60
"""Operations that the expression of a size may have; with more it is a symbol of its own."""

_MAX_WORK = 10_000
"""Operations in all different expressions together, after which the rest stays open."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of the values of a graph: types, what dimensions are, and whole shapes."""

    types: Types
    sizes: Sizes
    shapes: Mapping[str, Shape]


def find_types(model: ModelProto, nodes: Sequence[NodeProto], *, trusted: bool) -> Found:
    """Infer the types of all values of `model`, whose nodes are `nodes`, and solve for sizes.

    `trusted` is that of `Sizes`. Shapes that only solving found go through inference again, as
    long as that finds more.
    """
    known: dict[str, Dim] = {}
    ranked: dict[str, Sequence[Dim | None]] = {}
    types, solution = Types(), dict[str, Dim]()
    for _ in range(_MAX_ROUNDS):
        types = infer(model, nodes, _declared(ranked, types, known))
        solver = _solver(model, types, Sizes(dimensions(types), known, trusted=trusted))
        if not solver.is_needed():
            break
        solver.walk(types.nodes)
        solution = solver.solution()
        new = {name: shape for name, shape in solver.lasting().items() if name not in ranked}
        ranked |= new
        if not new:
            break
    sizes = Sizes(dimensions(types), {**known, **solution}, trusted=trusted)
    whole = {name: tuple(n for n in shape if n is not None) for name, shape in ranked.items()}
    return Found(types, sizes, {n: s for n, s in whole.items() if len(s) == len(ranked[n])})


def _solver(model: ModelProto, types: Types, sizes: Sizes) -> Solver:
    metas = {name: sizes.meta(type) for name, type in types.values.items()}
    tensors = {tensor.name: small(values(tensor)) for tensor in model.graph.initializer}
    inputs = (metas.get(info.name) for info in model.graph.input)
    return Solver(
        given=frozenset(symbols_of(inputs)),
        metas=metas,
        values={name: found for name, found in tensors.items() if found is not None},
        is_unranked=sizes.is_unranked,
        body_shape=lambda node, name: _shape_inside(types, sizes, node, name),
    )


def _shape_inside(types: Types, sizes: Sizes, node: NodeProto, name: str) -> Shape | None:
    """Return the shape of a value in the only body of a node."""
    inside = types.bodies.get((tuple(node.output), "body", 0), Types())
    meta = sizes.meta(inside.values[name]) if name in inside.values else None
    return None if meta is None or sizes.is_unranked(meta) else meta.shape


def _declared(
    ranked: Mapping[str, Sequence[Dim | None]], types: Types, known: dict[str, Dim]
) -> list[ValueInfoProto]:
    """Return shapes for inference to go on with; an expression is a name of its own in `known`."""
    from onnx import ValueInfoProto

    names = {size: name for name, size in known.items()}
    infos = []
    for value, shape in ranked.items():
        info = ValueInfoProto(name=value, type=types.values[value])
        info.type.tensor_type.shape.SetInParent()
        for size in shape:
            dim = info.type.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size is not None:
                dim.dim_param = names.setdefault(size, f"solved::{len(names)}")
                known[dim.dim_param] = size
        infos.append(info)
    return infos


@dataclass(slots=True)
class Solver:
    """Walks a graph in order, and finds what unknown dimensions are.

    `given` are the names of symbols that the inputs have: only others are solved for. `metas`
    has what inference found by the names of values, and `values` the small tensors; `body_shape`
    tells the shape of a value in the body of a node. `ranked` are the shapes of tensors of which
    inference did not know the rank.
    """

    given: frozenset[str]
    metas: Mapping[str, TensorMeta | None]
    values: dict[str, Small]
    is_unranked: Callable[[TensorMeta], bool]
    body_shape: Callable[[NodeProto, str], Shape | None]
    ranked: dict[str, Shape] = field(default_factory=dict)
    _solved: dict[Any, Dim] = field(default_factory=dict)
    _mentioned: dict[Any, set[Any]] = field(default_factory=dict)
    _seen: set[Any] = field(default_factory=set)
    _work: int = 0

    def is_needed(self) -> bool:
        """Say whether inference left anything open."""
        return bool(symbols_of(self.metas.values()).keys() - self.given)

    def walk(self, nodes: Sequence[NodeProto]) -> None:
        """Solve for the sizes of all results of `nodes`."""
        for node in nodes:
            if self._work > _MAX_WORK:
                return
            if domain(node.domain) or not node.output:
                continue
            if node.op_type == "Loop":
                self._loop(node)
                continue
            given = self._given(node)
            self._result(node, given)
            value = evaluate(node.op_type, given)
            if value is not None:
                self.values[node.output[0]] = value

    def solution(self) -> dict[str, Dim]:
        """Return what the solved symbols are, by name."""
        return {str(unknown): found for unknown, found in self._solved.items()}

    def lasting(self) -> dict[str, list[Dim | None]]:
        """Return the shapes found, without sizes that the next inference calls something else."""
        return {
            name: [size if self._is_lasting(size) else None for size in map(self._now, shape)]
            for name, shape in self.ranked.items()
        }

    def _is_lasting(self, size: Dim) -> bool:
        return isinstance(size, int) or {str(s) for s in size.free_symbols} <= self.given

    def _shape(self, name: str) -> Shape | None:
        """Return what is known of a tensor's shape, None where that is not even its rank."""
        if name in self.ranked:
            return self.ranked[name]
        meta = self.metas.get(name)
        if meta is None or self.is_unranked(meta):
            return None
        return tuple(map(self._now, meta.shape))

    def _now(self, size: Dim) -> Dim:
        """Return a size with what was solved for in place."""
        if isinstance(size, int) or not (mentioned := size.free_symbols & self._solved.keys()):
            return size
        found = size.xreplace({s: sympify(self._solved[s]) for s in mentioned})
        return int(found) if found.is_Integer else found

    def _given(self, node: NodeProto) -> Given:
        meta = self.metas.get(node.output[0])
        return Given(
            values=tuple(self.values.get(name) for name in node.input),
            shapes=tuple(self._shape(name) if name else None for name in node.input),
            attributes={attribute.name: literal(attribute) for attribute in node.attribute},
            is_integer=meta is None or meta.dtype.startswith(("int", "uint", "bool")),
        )

    def _loop(self, node: NodeProto) -> None:
        """Give what a Loop carries from run to run its shape, where the body keeps it."""
        bodies = [graph for attribute in node.attribute for graph in graphs(attribute)]
        carried = zip(node.output, node.input[2:], strict=False)
        for i, (result, start) in enumerate(carried):
            if len(bodies) != 1 or self._shape(result) is not None or result not in self.metas:
                continue
            inside = (*bodies[0].input[2 + i : 3 + i], *bodies[0].output[1 + i : 2 + i])
            shapes = [self.body_shape(node, info.name) for info in inside]
            first = self._shape(start)
            if first is not None and shapes == [first, first]:
                self.ranked[result] = first

    def _result(self, node: NodeProto, given: Given) -> None:
        """Compare what a rule says of the shape of a node's result with what is known of it."""
        name = node.output[0]
        known = self._shape(name)
        if known is not None and all(isinstance(n, int) for n in known):
            return
        found = shape_of(node.op_type, given)
        if found is None or not all(map(_is_size, found)):
            return
        new = {size for size in found if hasattr(size, "count_ops")} - self._seen
        self._seen |= new
        self._work += sum(size.count_ops() for size in new)
        if known is None:
            if None not in found and name in self.metas:
                self.ranked[name] = tuple(found)
        elif len(known) == len(found):
            for before, after in zip(known, found, strict=True):
                if after is not None:
                    self._solve(before, after)
                    self._solve(after, before)

    def _solve(self, unknown: Dim, found: Dim) -> None:
        """Note what a size is, where it is a symbol that no input has."""
        if isinstance(unknown, int) or not unknown.is_Symbol or str(unknown) in self.given:
            return
        free = set() if isinstance(found, int) else found.free_symbols
        if unknown in free or unknown in self._solved:
            return
        self._solved[unknown] = found
        for earlier in self._mentioned.pop(unknown, ()):
            self._solved[earlier] = self._now(self._solved[earlier])
            for inner in getattr(self._solved[earlier], "free_symbols", ()):
                self._mentioned.setdefault(inner, set()).add(earlier)
        for inner in free:
            self._mentioned.setdefault(inner, set()).add(unknown)


def _is_size(found: Any) -> bool:
    if found is None:
        return True
    if isinstance(found, int):
        return found >= 0
    return _is_plain(found)


@lru_cache(maxsize=4096)
def _is_plain(size: Any) -> bool:
    return bool(size.is_integer) and size.count_ops() <= _MAX_OPERATIONS


def sympify(size: Dim) -> Any:
    """Return a size as an expression."""
    import sympy

    return sympy.sympify(size)
