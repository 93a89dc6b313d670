"""Which tensors of a `.pt2` archive's graph lie in the same memory, which the file does not say."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..records import RecordArg, Value, values
from ..schema import SCALARS, Dim, TensorMeta
from .archive_ops import Operator
from .archive_strides import RESHAPES, dense_strides, strides_of, view_strides


class Memory:
    """Follows which memory lies behind each value, by what operators are known to do."""

    def __init__(self, hints: Mapping[str, int]) -> None:
        """Begin; `hints` has a value for each symbol, at which symbolic sizes are compared."""
        self._hints = hints
        self._behind: dict[Value, Hashable | None] = {}
        self._metas: dict[Value, TensorMeta | None] = {}
        self._restrided: set[Value] = set()

    def add(
        self, key: str, metas: Sequence[TensorMeta | None], storages: Sequence[Hashable | None]
    ) -> None:
        """Remember the outputs of the record `key`."""
        for i, (meta, storage) in enumerate(zip(metas, storages, strict=True)):
            self._behind[Value(key, i)] = storage
            self._metas[Value(key, i)] = meta

    def behind(self, value: Value) -> Hashable | None:
        """Return the identity of the memory behind a value."""
        return self._behind[value]

    def meta(self, value: Value) -> TensorMeta | None:
        """Return the metadata of a value."""
        return self._metas[value]

    def is_view(self, args: Mapping[str, RecordArg], storages: Sequence[Hashable | None]) -> bool:
        """Say whether every result lies in the memory of an argument."""
        if not storages or None in storages:
            return False
        read = {self._behind[value] for arg in args.values() for _, value in values(arg, "")}
        return all(storage in read for storage in storages)

    # -- sharing -----------------------------------------------------------------------------

    def storages(
        self,
        key: str,
        op: Operator,
        args: Mapping[str, RecordArg],
        outputs: Sequence[TensorMeta | None],
    ) -> tuple[Hashable | None, ...]:
        """Return the memory behind each output of a call: an argument's, or its own."""
        found: list[Hashable | None] = []
        for i, meta in enumerate(outputs):
            if meta is None or meta.dtype in SCALARS:
                found.append(None)
                continue
            base = self._base(op, i, args, meta)
            found.append(Value(key, i) if base is None else self._behind[base])
        return tuple(found)

    def _base(
        self, op: Operator, position: int, args: Mapping[str, RecordArg], meta: TensorMeta
    ) -> Value | None:
        """Return the value whose memory the output at `position` shares, if there is one."""
        name = op.returns[min(position, len(op.returns) - 1)] if op.returns else None
        if name is None and _hands_on(op.op, args):
            name = next(iter(args), None)
        arg = args.get(name) if name is not None else None
        if isinstance(arg, tuple) and not isinstance(arg, Value):  # a result for each tensor
            arg = arg[position] if position < len(arg) else None
        if not isinstance(arg, Value) or self._behind[arg] is None:
            return None
        before = self._metas[arg]
        if name in op.writes:
            return arg
        return arg if before is not None and self._is_shared(op.op, before, meta) else None

    def _is_shared(self, op: str, before: TensorMeta, after: TensorMeta) -> bool:
        if before.device != after.device:
            return False
        if op in _IF_EQUAL:
            return before == after
        if op == "aten.contiguous":
            return before.stride == after.stride
        if op == "aten.conj_physical":
            return not before.dtype.startswith("complex")
        return op not in _MAY_COPY or self._can_view(before, after)

    def _can_view(self, before: TensorMeta, after: TensorMeta) -> bool:
        """Say whether a view of `before` can be what `after` is, strides included."""
        if before.stride is None or after.stride is None:
            return False
        try:
            old, stride, new, made = (
                [self._number(n) for n in sizes]
                for sizes in (before.shape, before.stride, after.shape, after.stride)
            )
        except TypeError:  # a size without a hint: only what has no gaps is surely viewed
            return before.stride == dense_strides(before.shape)
        found = view_strides(old, stride, new)
        return found is not None and all(
            a == b or n == 1 for a, b, n in zip(found, made, new, strict=True)
        )

    def _number(self, size: Dim) -> int:
        if isinstance(size, int):
            return size
        return int(size.subs({s: self._hints.get(s.name, s) for s in size.free_symbols}))

    # -- strides -----------------------------------------------------------------------------

    def exact_strides(
        self,
        key: str,
        op: str,
        args: Mapping[str, RecordArg],
        outputs: tuple[TensorMeta | None, ...],
    ) -> tuple[TensorMeta | None, ...]:
        """Return a view's outputs with the strides that the real operator gives them.

        Tensors without values, on which torch exports, get others along dimensions of size 1.
        """
        operand = next(iter(args.values()), None)
        before = self._metas[operand] if isinstance(operand, Value) else None
        if before is None or not all(m is not None and _is_static(m) for m in (before, *outputs)):
            return outputs
        ones = any(1 in m.shape for m in (before, *outputs) if m is not None)
        if operand not in self._restrided and not (op in RESHAPES and ones):
            return outputs
        exact = tuple(_restrided(op, args, before, meta) for meta in outputs)
        self._restrided.update(
            Value(key, i) for i, (a, b) in enumerate(zip(exact, outputs, strict=True)) if a != b
        )
        return exact


def _restrided(
    op: str, args: Mapping[str, Any], before: TensorMeta, after: TensorMeta | None
) -> TensorMeta | None:
    assert after is not None and before.stride is not None
    stride: Any = strides_of(op, args, before.shape, before.stride, after.shape)
    return after if stride is None else replace(after, stride=stride)


def _is_static(meta: TensorMeta) -> bool:
    return meta.stride is not None and all(isinstance(n, int) for n in (*meta.shape, *meta.stride))


def _hands_on(op: str, args: Mapping[str, RecordArg]) -> bool:
    """Say whether `op` gives back its operand, although its schema does not say so."""
    if op in _DROPOUTS:
        return args.get("train") is False or args.get("p") == 0
    return op in _SAME


_DROPOUTS = frozenset(
    f"aten.{name}"
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
)
_IF_EQUAL = frozenset(
    f"aten.{name}"
    for name in (
        "_autocast_to_full_precision",
        "_autocast_to_reduced_precision",
        "sum_to_size",
        "to",
        "type_as",
    )
)
"""Ops that give back their operand where the result is like it."""

_SAME = frozenset(
    f"aten.{name}"
    for name in (
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "broadcast_tensors",
        "conj_physical",
        "meshgrid",
        "sum_to_size",
        "type_as",
        "unsafe_chunk",
        "unsafe_split",
        "unsafe_split_with_sizes",
    )
)
"""Ops whose results share their operand's memory although their schema does not say so."""

_MAY_COPY = frozenset({"aten.flatten", "aten.ravel", "aten.reshape", "aten.reshape_as"})
