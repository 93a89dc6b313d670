"""Snapshots of Python state: what a call may read, in a form that tells whether it has changed."""

from __future__ import annotations

import dis
import enum
import functools
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

Frozen = Any
"""A value that equals another exactly if what was frozen had the same state."""

_DEEPEST = 6
_BY_VALUE = (torch.dtype, torch.device, torch.layout, torch.memory_format, re.Pattern, range)
_BY_IDENTITY = (
    types.BuiltinFunctionType,
    enum.Enum,
    torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
)
_OURS = (str(Path(torch.__file__).parent) + os.sep, str(Path(__file__).parents[1]) + os.sep)
_PYTHON = (str(Path(os.__file__).parent) + os.sep, "<frozen")


@functools.lru_cache(maxsize=65536)
def is_foreign(filename: str) -> bool:
    """Say whether code in this file belongs neither to torch, torchatlas nor Python itself."""
    if filename.startswith(_OURS):
        return False
    return "site-packages" in filename or not filename.startswith(_PYTHON)


@functools.lru_cache(maxsize=4096)
def _is_foreign_package(name: str) -> bool:
    root = name.partition(".")[0]
    return root not in ("torch", "torchatlas", "builtins") and root not in sys.stdlib_module_names


class Freezer:
    """Freezes values; of objects only the attributes in `names`, or all where that is None.

    `inside` numbers the modules that a snapshot is of: a reference to one of them is frozen as
    its number, so that two snapshots of like modules are equal. `opaque` becomes true at a value
    whose state cannot be seen, such as an iterator: it equals only itself.
    """

    def __init__(
        self, names: Collection[str] | None = None, inside: Mapping[int, int] | None = None
    ) -> None:
        self.opaque = False
        self._names, self._inside = names, inside or {}
        self._known: dict[int, Frozen] = {}
        self._alive: list[Any] = []  # what an id stands for must stay

    def __call__(self, value: Any, depth: int = 0) -> Frozen:
        """Return `value` frozen."""
        kind = type(value)
        if value is None or kind is int or kind is str:
            return value
        if kind is bool or kind is float or kind is complex or kind is bytes:
            return kind, repr(value)
        if kind is tuple or kind is list or kind is torch.Size:
            if depth > _DEEPEST:
                return self._opaque(value)
            return (kind, *(self(item, depth + 1) for item in value))
        return self._other(value, kind, depth)

    def _other(self, value: Any, kind: type, depth: int) -> Frozen:
        if isinstance(value, _BY_VALUE):
            return kind, value
        if kind.__module__ in ("typing", "logging"):
            return "is", self._id(value)
        if isinstance(value, torch.Tensor):
            return "tensor", self._id(value), tuple(value.shape)
        if depth > _DEEPEST:
            return self._opaque(value)
        if isinstance(value, nn.Module) and id(value) in self._inside:
            return "inside", self._inside[id(value)]
        for kinds, freeze in _FREEZE:
            if isinstance(value, kinds):
                return freeze(self, value, depth)
        return self._object(value, depth)

    def _id(self, value: Any) -> int:
        self._alive.append(value)
        return id(value)

    def _opaque(self, value: Any) -> Frozen:
        self.opaque = True
        return "opaque", self._id(value)

    def _items(self, value: Mapping[Any, Any], depth: int) -> Frozen:
        pairs = ((self(key, depth + 1), self(item, depth + 1)) for key, item in value.items())
        return (type(value), *pairs, *self._attributes(value, depth))

    def _elements(self, value: Collection[Any], depth: int) -> Frozen:
        elements = (self(item, depth + 1) for item in value)
        if isinstance(value, set | frozenset):
            return type(value), frozenset(elements)
        return (type(value), *elements, *self._attributes(value, depth))

    def _identity(self, value: Any, depth: int) -> Frozen:
        return ("is", self._id(value), *self._attributes(value, depth))

    def _method(self, value: Any, depth: int) -> Frozen:
        return "method", self._id(value.__func__), self(value.__self__, depth + 1)

    def _partial(self, value: Any, depth: int) -> Frozen:
        parts = (value.func, value.args, dict(value.keywords))
        return ("partial", *(self(part, depth + 1) for part in parts))

    def _namespace(self, value: Any, depth: int) -> Frozen:
        if not _is_foreign_package(getattr(value, "__module__", None) or value.__name__):
            return "is", self._id(value)
        if self._names is None:
            return "is", self._id(value)
        held = vars(value)
        names = sorted(self._names & held.keys()) if depth < 2 else ()
        found = ((name, self(held[name], depth + 1)) for name in names if _is_data(held[name]))
        return ("is", self._id(value), *found)

    def _attributes(self, value: Any, depth: int) -> Iterator[tuple[str, Frozen]]:
        try:  # not as the class may have it, which may take long
            held = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        names = held.keys() if self._names is None else sorted(self._names & held.keys())
        for name in names:
            if name not in _STANDARD and name in held:
                yield name, self(held[name], depth + 1)

    def _object(self, value: Any, depth: int) -> Frozen:
        known = self._known.get(id(value))
        if known is not None:
            return known
        kind = type(value)
        if not hasattr(value, "__dict__") or not kind.__flags__ & _HEAP_TYPE:
            return self._opaque(value)
        self._known[id(value)] = "again", self._id(kind)
        found = (kind, *self._attributes(value, depth))
        self._known[self._id(value)] = found
        return found


_HEAP_TYPE = 1 << 9
"""The flag of classes that are written in Python (`Py_TPFLAGS_HEAPTYPE`)."""

_FREEZE: tuple[tuple[Any, Callable[[Freezer, Any, int], Frozen]], ...] = (
    (Mapping, Freezer._items),
    ((list, tuple, set, frozenset), Freezer._elements),
    ((types.ModuleType, type), Freezer._namespace),
    (types.FunctionType, Freezer._identity),
    (types.MethodType, Freezer._method),
    (functools.partial, Freezer._partial),
    (_BY_IDENTITY, Freezer._identity),
)

_STANDARD = frozenset(nn.Module().__dict__) - {"training"}
"""What every module holds: parameters, buffers, modules and hooks, which are compared apart."""

_HOOKS = tuple(
    name for name in sorted(_STANDARD) if name.endswith("hooks") and "state_dict" not in name
)


def _is_data(value: Any) -> bool:
    return not (isinstance(value, types.ModuleType | type) or hasattr(type(value), "__get__"))


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that are its own, and not every module's."""
    return ((name, value) for name, value in module.__dict__.items() if name not in _STANDARD)


def has_hooks(module: nn.Module) -> bool:
    """Say whether calling `module` runs more than its ``forward``."""
    held = module.__dict__
    return any(held.get(name) for name in _HOOKS) or held.get("_compiled_call_impl") is not None


# -- what code reads ---------------------------------------------------------------------------


class Reads:
    """The Python functions that ran, outside torch and the standard library."""

    def __init__(self) -> None:
        self.code: dict[int, tuple[types.CodeType, dict[str, Any]]] = {}
        self.unseen = False
        """Whether functions ran that were not seen, or that changed what is outside of them."""
        self._seen: dict[int, types.CodeType] = {}
        self._freeze = Freezer()
        self._before_it: dict[tuple[int, str], tuple[Mapping[str, Any], str, Frozen]] = {}
        self._captured: list[types.CodeType] = []

    def add(self, other: Reads) -> None:
        """Take over what another call ran."""
        self.code.update(other.code)
        self._before_it = {**other._before_it, **self._before_it}
        self.unseen |= other.unseen
        self._captured += other._captured

    def __enter__(self) -> Reads:
        self._before = sys.gettrace()
        sys.settrace(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        # A debugger or a coverage tool may have put itself back in place.
        self.unseen |= sys.gettrace() != self._note
        sys.settrace(self._before)

    def _note(self, frame: types.FrameType, event: Any, arg: Any) -> Any:
        code = frame.f_code
        if id(code) not in self._seen:
            self._seen[id(code)] = code
            if is_foreign(code.co_filename) and not _is_generated(code):
                self.code[id(code)] = code, frame.f_globals
                self.keep((frame.f_globals, name) for name in code.co_names)
                captured = code.co_freevars
                if captured and not all(_is_fixed(frame.f_locals.get(n)) for n in captured):
                    self._captured.append(code)
        return self._before(frame, event, arg) if self._before is not None else None

    def keep(self, places: Iterable[tuple[Mapping[str, Any], str]]) -> None:
        """Note what stands in these places now, before any of it can have been changed."""
        for held, name in places:
            key = id(held), name
            if name in held and key not in self._before_it and _is_data(held[name]):
                self._before_it[key] = held, name, self._freeze(held[name])

    def is_pure(self) -> bool:
        """Say whether all that was kept is as it was."""
        freeze = Freezer()
        return all(
            name in held and freeze(held[name]) == before
            for held, name, before in self._before_it.values()
        )

    def names(self) -> frozenset[str]:
        """Return every name that the functions mention, as an attribute or as text."""
        return frozenset().union(*(_names(code) for code, _ in self.code.values()))

    def is_bounded(self) -> bool:
        """Say whether `globals` are all that the functions read, and whether they assign none.

        A variable of a function that has ended cannot be compared later, unless what it holds
        is code, as in a decorator.
        """
        running = {code.co_qualname for code, _ in self.code.values()}
        captured = {code.co_qualname.rpartition(".<locals>.")[0] for code in self._captured}
        return (
            not self.unseen
            and captured <= running
            and not any(_assigns(code) for code, _ in self.code.values())
        )

    def globals(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """Yield where each global stands that a function mentions, and its name."""
        found = set()
        for code, namespace in self.code.values():
            for name in code.co_names:
                if name in namespace and (id(namespace), name) not in found:
                    found.add((id(namespace), name))
                    yield namespace, name


@functools.lru_cache(maxsize=16384)
def _names(code: types.CodeType) -> frozenset[str]:
    texts = (text for text in code.co_consts if isinstance(text, str) and text.isidentifier())
    return frozenset((*code.co_names, *texts))


@functools.lru_cache(maxsize=16384)
def _assigns(code: types.CodeType) -> bool:
    used = set(code.co_code[::2])
    opcodes = [dis.opmap["STORE_GLOBAL"], dis.opmap["DELETE_GLOBAL"]]
    return bool(used.intersection(opcodes))


def _is_generated(code: types.CodeType) -> bool:
    return code.co_qualname.startswith("__create_fn__.")  # by dataclasses


def _is_fixed(value: Any) -> bool:
    return isinstance(
        value, types.FunctionType | types.BuiltinFunctionType | types.ModuleType | type
    )


class Environment:
    """What the functions of a call read outside of its arguments, as it was at one time."""

    def __init__(self, reads: Reads, modules: Collection[nn.Module]) -> None:
        self.names = reads.names()
        places = [*reads.globals(), *class_attributes(modules, self.names)]
        freeze = Freezer(self.names)
        self._entries = [(held, name, freeze(held[name])) for held, name in places]
        self.opaque = freeze.opaque
        self._alive = freeze

    def unchanged(self) -> bool:
        """Say whether all of it is as it was."""
        freeze = Freezer(self.names)
        return all(
            name in held and freeze(held[name]) == before for held, name, before in self._entries
        )


def class_attributes(
    modules: Iterable[nn.Module], names: Collection[str] | None = None
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield where the attributes stand that the classes of `modules` hold, and their names."""
    classes = {kind for module in modules for kind in type(module).__mro__}
    for kind in classes:
        if _is_foreign_package(kind.__module__):
            held = vars(kind)
            chosen = held.keys() if names is None else names & held.keys()
            yield from ((held, name) for name in chosen if _is_data(held[name]))
