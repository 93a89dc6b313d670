"""The types of values in an ONNX file as `TensorMeta`: named, computed and unknown sizes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..expressions import parse, symbol
from ..names import UniqueNames
from ..schema import Dim, Symbol, TensorMeta
from .onnx_proto import dtype

if TYPE_CHECKING:
    from onnx import TypeProto

MAX_RANK = 64
"""Dimensions that a tensor may have; with more its rank counts as unknown."""

_MAX_EXPRESSION = 200
_NOT_A_NAME = re.compile(r"[^0-9A-Za-z_]+")
_POWERS = re.compile(r"\*\*[2-4](?!\d)")
_OURS = re.compile(r"(unk|elements)\d+")


class Sizes:
    """Turns types into `TensorMeta`.

    A named dimension is a symbol of that name; where the name is none that a size can have
    (``batch size``), of one made from it. A name that reads as arithmetic over names which stand
    elsewhere on their own (``past + seq``) is that expression. A dimension without a name, or of
    a negative size, is a symbol of its own: ``unk0``. A tensor of which not even the rank is
    known counts as one dimension of as many elements as it has: ``elements0``.

    `known` has sizes for dimensions by name. `trusted` takes every name that reads as arithmetic
    for it, as torchatlas writes them.
    """

    def __init__(
        self,
        names: Iterable[str],
        known: Mapping[str, Dim] | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        self._trusted = trusted
        self._known = dict(known or {})
        self._unique = UniqueNames()
        self._plain = {name for name in names if _is_name(name)}
        for name in self._plain:
            self._unique.take(name)
        self._unknown = {"unk": 0, "elements": 0}

    def meta(self, type: TypeProto | None) -> TensorMeta | None:
        """Return what is known of a value; None for a sequence, an optional value or a map."""
        if type is None or type.WhichOneof("value") is None:
            return self.unranked("unknown")
        for kind in ("tensor_type", "sparse_tensor_type"):
            if type.HasField(kind):
                tensor = getattr(type, kind)
                name = dtype(tensor.elem_type)
                if not tensor.HasField("shape") or len(tensor.shape.dim) > MAX_RANK:
                    return self.unranked(name)
                return TensorMeta(tuple(map(self._dim, tensor.shape.dim)), name)
        return None

    def unranked(self, dtype: str) -> TensorMeta:
        """Return the metadata of a tensor of unknown rank."""
        return TensorMeta((self._fresh("elements"),), dtype)

    def is_unranked(self, meta: TensorMeta) -> bool:
        """Say whether not even the rank of a tensor is known."""
        return (
            len(meta.shape) == 1
            and str(meta.shape[0]).startswith("elements")
            and bool(_OURS.fullmatch(str(meta.shape[0])))
        )

    def of_numbers(self, dims: Iterable[int], dtype: str) -> TensorMeta:
        """Return the metadata of a tensor whose dimensions a file states as numbers."""
        shape = tuple(dims)
        if len(shape) > MAX_RANK:
            return self.unranked(dtype)
        return TensorMeta(tuple(n if n >= 0 else self._fresh("unk") for n in shape), dtype)

    def _dim(self, proto: Any) -> Dim:
        if proto.HasField("dim_value"):
            return int(proto.dim_value) if proto.dim_value >= 0 else self._fresh("unk")
        name = proto.dim_param
        if not name:
            return self._fresh("unk")
        if name not in self._known:
            self._known[name] = self.named(name)
        return self._known[name]

    def _fresh(self, kind: str) -> Dim:
        name = f"{kind}{self._unknown[kind]}"
        self._unknown[kind] += 1
        return symbol(name)

    def named(self, name: str) -> Dim:
        """Return the size that a dimension of that name has."""
        if name in self._plain:
            return symbol(name)
        found = self.expression(name, trusted=self._trusted)
        if found is not None:
            return found
        valid = _NOT_A_NAME.sub("_", name[:80]).strip("_")
        if not valid or valid[0].isdigit() or not _is_name(valid):
            valid = f"size_{valid}".rstrip("_")
        return symbol(self._unique.take(valid))

    def expression(self, text: str, *, trusted: bool = False) -> Dim | None:
        """Return the size that a text spells out over known names, or any where `trusted`."""
        powers = text.count("**")  # a high one, or one of another, would never be done expanding
        if len(text) > _MAX_EXPRESSION or powers > 2 or powers != len(_POWERS.findall(text)):
            return None
        try:
            found = parse(text)
        except FormatError:
            return None
        names = {str(free) for free in getattr(found, "free_symbols", ())}
        if isinstance(found, int):
            return found if found >= 0 else None
        if not names or not (trusted or names <= self._plain):
            return None
        return found if found.is_extended_real and not found.is_infinite else None


def _is_name(name: str) -> bool:
    """Say whether a size may be called that; the names of unknown sizes are taken.

    >>> [_is_name(name) for name in ("batch", "batch size", "lambda", "unk3", "unk__3", "größe")]
    [True, False, False, False, True, False]
    """
    fits = name.isascii() and name.isidentifier() and len(name) <= 80
    return fits and not keyword.iskeyword(name) and not _OURS.fullmatch(name)


def symbols_of(metas: Iterable[TensorMeta | None]) -> dict[str, Symbol]:
    """Return every symbol among sizes, in the order in which they come.

    >>> symbols_of([TensorMeta((symbol("batch"), 3)), None])
    {'batch': Symbol(min=1, max=None, multiple_of=1)}
    """
    found: dict[str, Symbol] = {}
    seen: set[Dim] = set()
    for meta in metas:
        for size in () if meta is None else meta.shape:
            if isinstance(size, int) or size in seen:
                continue
            seen.add(size)
            for name in sorted(map(str, size.free_symbols)):
                found.setdefault(name, Symbol())
    return found
