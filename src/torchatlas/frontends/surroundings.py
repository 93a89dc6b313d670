"""What a capture holds still around a model: compiled code, fused kernels, Python attributes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import torch_api
from .state import walk


@contextmanager
def surroundings(model: nn.Module) -> Iterator[None]:
    """Run `model` as it is written, and leave it as it was.

    Code under `torch.compile` runs without being compiled, which tensors without values cannot
    be; layers of `nn.Transformer` call the operators that they call in training, for which kernel
    serves is not part of the model; and an attribute in which the run leaves something, such as a
    table that is made at the first call, gets back what was in it. Not safe for threads.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with attributes_kept(model), _not_compiling():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Give the attributes of all modules back what was in them, at the end."""
    modules = {id(module): module for _, module in walk(model)}
    before = [(module, _attributes(module)) for module in modules.values()]
    try:
        yield
    finally:
        for module, attributes in before:
            _restore(module, attributes)


@contextmanager
def _not_compiling() -> Iterator[None]:
    """Let what is compiled run as it was written, and what would be compiled in here too."""
    compile = torch.compile
    torch.compile = torch_api.only_bodies(compile)
    try:
        if "torch._dynamo" in sys.modules:  # takes a second to import, and compiles nothing before
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        torch.compile = compile


_STANDARD = vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}
"""What every module has, and a call does not change."""

_CONTAINERS = frozenset({dict, list, set})

_Attributes = dict[str, tuple[Any, Any]]
"""The attributes of a module: what each is and, of a container, a copy."""


def _attributes(module: nn.Module) -> _Attributes:
    held = vars(module)
    found: _Attributes = {}
    for name in held.keys() - _STANDARD:
        value = held[name]
        found[name] = value, value.copy() if type(value) in _CONTAINERS else None
    return found


def _restore(module: nn.Module, before: _Attributes) -> None:
    held = vars(module)
    for name in held.keys() - _STANDARD - before.keys():
        del held[name]
    for name, (value, content) in before.items():
        if held.get(name, before) is not value:
            held[name] = value
        if content is not None and not _same(value, content):
            value.clear()
            (value.extend if type(value) is list else value.update)(content)


def _same(one: Any, other: Any) -> bool:
    """Say whether two containers hold the same objects."""
    if len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    if type(one) is dict:
        return all(a is b and one[a] is other[b] for a, b in pairs)
    return type(one) is set or all(a is b for a, b in pairs)
