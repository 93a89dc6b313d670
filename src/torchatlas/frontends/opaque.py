"""Objects that torch cannot take apart: caches, dataclasses and mappings with tensors inside.

`pack` puts the tensors of such an object, under the names of its attributes, in its place;
`unpack` puts others back, into a copy: what the user gave is never changed by a run of the model,
though a cache, say, is made to be.
"""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from . import torch_api

Tree = dict[str, Any]
"""Tensors by name, nested as they are in the object."""

_PLAIN = (bool, int, float, complex, str, torch.SymInt, torch.SymFloat, torch.SymBool)
_WHOLE = (
    *(bytes, bytearray, type, nn.Module, torch.Generator, torch.ScriptObject),
    *(types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
)
"""What is not looked into."""


def is_opaque(value: Any) -> bool:
    """Say whether `value` is neither a tensor nor a number nor anything torch can take apart.

    >>> is_opaque(object()), is_opaque(torch.float32), is_opaque([object()]), is_opaque("a")
    (True, True, False, False)
    """
    if value is None or isinstance(value, torch.Tensor | torch.Generator | torch.ScriptObject):
        return False
    return type(value) not in _PLAIN and not torch_api.is_registered(value)


def has_opaque(tree: Any) -> bool:
    """Say whether any leaf of `tree` is something that torch cannot take apart."""
    return any(map(is_opaque, torch_api.tree_leaves(tree)))


@dataclass(frozen=True, slots=True)
class _Opaque:
    """An object that was taken apart, the tensors that were found in it, and what is shared."""

    value: Any
    tensors: Tree
    shared: list[Any]

    def rebuild(self, tensors: Tree) -> Any:
        """Return a copy of the object with other tensors."""
        found = zip(_leaves(self.tensors), _leaves(tensors), strict=True)
        copied = {id(kept): kept for kept in self.shared}
        copied.update((id(old), new) for old, new in found)
        try:
            return copy.deepcopy(self.value, copied)
        except Exception as error:
            if not self.tensors:
                return self.value
            raise InputError(
                f"a {type(self.value).__name__} with tensors inside cannot be copied, and the "
                f"model may change it\n  {type(error).__name__}: {error}",
                hint="give the model the tensors themselves",
            ) from error


@dataclass(frozen=True, slots=True)
class _Node:
    """A container with something opaque inside, and how torch puts it together again."""

    inner: list[Any]
    make: Callable[[list[Any]], Any]

    def rebuild(self, value: Any) -> Any:
        """Return the container with the opaque objects put together."""
        items = value.values() if isinstance(value, Mapping) else value
        return self.make([unpack(v, inner) for v, inner in zip(items, self.inner, strict=True)])


def pack(value: Any) -> tuple[Any, Any]:
    """Return `value` with the tensors of opaque objects in their place, and the way back.

    Such an object becomes a dict, and a container around it a list, a tuple or a dict; all else
    stays as it is. Numbers and text inside the object stay with it, and are no leaves.
    """
    if is_opaque(value):
        shared: list[Any] = []
        tensors = _tensors(value, set(), shared)
        return tensors, _Opaque(value, tensors, shared)
    parts = torch_api.take_apart(value)
    if parts is None:
        return value, None
    names, children, make = parts
    packed = [pack(child) for child in children]
    if all(inner is None for _, inner in packed):
        return value, None
    plain: Any = [item for item, _ in packed]
    if type(value) is tuple:
        plain = tuple(plain)
    elif type(value) is not list:
        plain = dict(zip(names, plain, strict=True))
    return plain, _Node([inner for _, inner in packed], make)


def unpack(value: Any, way: Any) -> Any:
    """Put together what `pack` took apart, in copies of the opaque objects."""
    return value if way is None else way.rebuild(value)


def map_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """Return `tree` with every tensor and number changed, those in opaque objects too."""
    plain, way = pack(tree)
    return unpack(torch_api.tree_map(change, plain), way)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of `tree`, those in opaque objects too."""
    return torch_api.tree_leaves(pack(tree)[0])


def _tensors(value: Any, seen: set[int], shared: list[Any]) -> Tree:
    """Return the tensors inside `value` by name; each stands where it is met first.

    What is not looked into, and no copy is to be made of, is added to `shared`.
    """
    found: Tree = {}
    if id(value) in seen or type(value) in _PLAIN:
        return found
    seen.add(id(value))
    if isinstance(value, _WHOLE):
        shared.append(value)
        return found
    for name, part in _parts(value):
        if not isinstance(part, torch.Tensor):
            inner = _tensors(part, seen, shared)
            if inner:
                found[name] = inner
        elif isinstance(value, set | frozenset):
            raise InputError(
                "the tensors of a set have no order", hint="give the model a list of them"
            )
        elif id(part) not in seen:
            seen.add(id(part))
            found[name] = part
    return found


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Return what an object holds, with names."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, list | tuple | deque | set | frozenset):
        fields = getattr(value, "_fields", None) or map(str, range(len(value)))
        return list(zip(fields, value, strict=False))
    return list(_attributes(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                yield name, getattr(value, name)
    yield from list(getattr(value, "__dict__", {}).items())


def _leaves(tree: Tree) -> Iterator[torch.Tensor]:
    for part in tree.values():
        if isinstance(part, dict):
            yield from _leaves(part)
        else:
            yield part
