"""What the names of a compiled call stand for in its model: modules, parameters, inputs."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

from ..schema import Kind, Module
from . import metadata, torch_api
from .example import positional_names
from .state import stack_of, tied

_SOURCE = re.compile(r"""([LG])\[(['"])(.+?)\2\](.*)""", re.DOTALL)
"""torch's text for a value: a local or a global variable of the call, and the way from there."""

_STATE = re.compile(r"\._(?:modules|parameters|buffers)(?=\[)")
_KEY = re.compile(
    r"""\[(?P<index>(['"])(?:\\.|.)*?\2|[^\]]*)\]|\.(?P<attribute>[^.\[]+)""", re.DOTALL
)


class Name(NamedTuple):
    """What a placeholder of a compiled graph is called in the model."""

    kind: Kind
    target: str
    stack: tuple[Module, ...] = ()
    aliases: tuple[str, ...] = ()


class Scope:
    """Leads from the variables of a compiled call to the names that they have in the model.

    The model is the outermost module among the callers that holds the module of the call; a
    function that no module calls has none, and is then itself the root.
    """

    def __init__(self, frame: torch_api.CompiledFrame, function: str) -> None:
        self._locals, self._globals = frame.locals, frame.globals
        # What torch wraps in a function of its own has lost the names of its arguments.
        self._arguments = None if frame.module is None else positional_names(frame.module)
        callers = list(_callers())
        own = _method_of(frame) or next(iter(callers), None)
        holds = (m for m in reversed(callers) if own is None or _holds(m, own))
        self.model: nn.Module | None = next(holds, own)
        self.types: dict[str, str] = {"": function}
        self._paths: dict[int, str] = {}
        self._names: dict[int, Name] = {}
        if self.model is not None:
            self._read(self.model)
        path = "" if own is None else self._paths.get(id(own), "")
        self.around = stack_of(f"{path}.x" if path else "x", self.types)
        """The modules around the whole call, from the root inwards."""

    def _read(self, model: nn.Module) -> None:
        self.types = {}
        for path, module in model.named_modules(remove_duplicate=False):
            plain = _uncompiled(path)
            self.types.setdefault(plain, metadata.class_name(type(_inner(module))))
            self._paths.setdefault(id(_inner(module)), plain)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        state = [*parameters.items(), *model.named_buffers(remove_duplicate=False)]
        groups = tied(state)
        for name, tensor in state:
            first, *others = dict.fromkeys(map(_uncompiled, groups[name]))
            kind: Kind = "parameter" if name in parameters else "buffer"
            known = Name(kind, first, stack_of(first, self.types), tuple(others))
            self._names.setdefault(id(tensor), known)

    def name(self, source: str, tensor: Any, fallback: str) -> Name:
        """Return what the value at `source` is called; `tensor` is the value where it is known."""
        if (known := self._names.get(id(tensor))) is not None:
            return known
        holder, keys = self._walk(source)
        if holder is None:
            return Name("input", fallback)
        if isinstance(holder, nn.Module):
            path = ".".join((*filter(None, [self._paths.get(id(holder), "")]), *keys))
            kind: Kind = "parameter" if isinstance(tensor, nn.Parameter) else "constant"
            return Name(kind, path, stack_of(path, self.types))
        dotted = isinstance(tensor, nn.Parameter) or source.startswith("G[")
        if dotted:
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "constant"
            return Name(kind, ".".join(keys), stack_of("x", self.types))
        if self._arguments is not None and keys[0] == "args":
            keys = [*self._arguments[int(keys[1]) :][:1], *keys[2:]]
        elif self._arguments is not None and keys[0] == "kwargs":
            keys = keys[1:]
        return Name("input", "/".join(key.replace("/", "%2F") for key in keys) or fallback)

    def _walk(self, source: str) -> tuple[Any, list[str]]:
        """Return the innermost module on the way to a value, and the keys from there.

        Where there is none, the keys begin with the variable's own name.
        """
        found = _SOURCE.fullmatch(source)
        if found is None:
            return None, []
        space, _, variable, way = found.groups()
        keys = [variable.strip("_"), *map(_key, _KEY.finditer(_STATE.sub("", way)))]
        holder: Any = (self._locals if space == "L" else self._globals).get(variable)
        if not isinstance(holder, nn.Module):
            return space, keys
        holder, keys = _inner(holder), [key for key in keys[1:] if key != _WRAPPED]
        known = id(holder) in self._paths
        return (holder, keys) if known else (space, [variable, *keys])

    def _module(self, key: str, source: str) -> str:
        """Return the path of the module that torch finds at `source`; `key` begins with its id."""
        holder, keys = self._walk(source)
        known = isinstance(holder, nn.Module)
        path = ".".join((*filter(None, [self._paths[id(holder)] if known else ""]), *keys))
        number = key.partition("@")[0]
        if path not in self.types and number.isdigit():
            return self._paths.get(int(number), path)
        return path

    def stack(self, entries: Mapping[str, tuple[str, Any]] | None) -> dict[str, tuple[str, str]]:
        """Return the modules around an op, as fx keeps them, from torch's own entries."""
        found = {module.path: (module.path, module.type) for module in self.around}
        for key, (source, kind) in (entries or {}).items():
            path = self._module(key, source)
            name = metadata.class_name(kind) if isinstance(kind, type) else str(kind)
            found[path] = (path, self.types.setdefault(path, name))
        return found


def _key(found: re.Match[str]) -> str:
    """Return one step of the way to a value: an attribute, or an index without its quotes."""
    if found["attribute"] is not None:
        return found["attribute"]
    try:
        return str(ast.literal_eval(found["index"]))
    except (ValueError, SyntaxError):
        return found["index"]


_WRAPPED = "_orig_mod"
"""How the wrapper that `torch.compile` puts around a module calls the module."""


def _uncompiled(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != _WRAPPED)


def _inner(module: nn.Module) -> nn.Module:
    """Return the model behind wrappers that add nothing to it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _inner(module.module)
    inner = module._modules.get(_WRAPPED)
    return module if inner is None else _inner(inner)


def _holds(model: nn.Module, module: nn.Module) -> bool:
    return any(_inner(inner) is module for inner in model.modules())


def _callers() -> Iterator[nn.Module]:
    """Yield the modules whose methods are running, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            value = frame.f_locals.get("self")
            if isinstance(value, nn.Module) and not isinstance(value, torch.fx.GraphModule):
                yield _inner(value)
        frame = frame.f_back


def _method_of(frame: torch_api.CompiledFrame) -> nn.Module | None:
    """Return the module whose method is being compiled, if it is a module's."""
    if frame.module is not None:
        return _inner(frame.module)
    first = frame.locals.get("self")
    if isinstance(first, nn.Module):
        return _inner(first)
    names = frame.code.co_varnames[: frame.code.co_argcount]
    value = frame.locals.get(names[0]) if names else None
    own = getattr(type(value), frame.code.co_name, None)
    if isinstance(value, nn.Module) and getattr(own, "__code__", None) is frame.code:
        return _inner(value)
    return None
