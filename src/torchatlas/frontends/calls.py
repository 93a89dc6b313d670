"""A module call as something to compare: its arguments, its state, and torch's modes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import fx, nn

from . import torch_api
from .state import walk


class Incomparable(Exception):  # noqa: N818  # not an error: the call is traced as it is
    """A call that cannot be told to be like another one."""


# -- arguments and results ---------------------------------------------------------------------

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_PLAIN_TYPES = frozenset((*_PLAIN, torch.layout, torch.memory_format, torch.Size))


def describe(value: Any, tensors: dict[int, torch.Tensor]) -> Any:
    """Return `value` as something hashable, with tensors by number; add those to `tensors`."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        if kind is not torch_api.FakeTensor:
            raise Incomparable
        tensors.setdefault(id(value), value)
        return kind, list(tensors).index(id(value))
    if kind in _PLAIN_TYPES:
        return kind, repr(value) if kind is float or kind is complex else value
    if kind is tuple or kind is list:
        return (kind, *(describe(item, tensors) for item in value))
    if kind is dict:
        return (kind, *((str(key), describe(item, tensors)) for key, item in value.items()))
    raise Incomparable


def rebuild(described: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """Return the value that was described, with these tensors in it."""
    kind, *items = described
    if kind is torch_api.FakeTensor:
        return tensors[items[0]]
    if kind is tuple or kind is list:
        return kind(rebuild(item, tensors) for item in items)
    if kind is dict:
        return {key: rebuild(item, tensors) for key, item in items}
    return kind(items[0]) if kind is float or kind is complex else items[0]


def meta_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what two tensors must have in common to be taken for one another.

    Raises Incomparable for one that is not strided, or a lazy conjugate or negative.
    """
    if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
        raise Incomparable
    where = tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device
    return (*where, tensor.requires_grad, tensor.is_leaf)


def pattern(items: Sequence[Any]) -> tuple[int, ...]:
    """Return, for every item, the position of the first one that equals it."""
    first: dict[Any, int] = {}
    return tuple(first.setdefault(item, i) for i, item in enumerate(items))


def _modes() -> tuple[Any, ...]:
    """Return what torch itself is set to, as far as it changes which operators run."""
    return (
        torch_api.modes(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch_api.function_modes(),
    )


def drawn() -> tuple[Any, ...]:
    """Return the state of the generators that Python code may draw from."""
    numpy = sys.modules.get("numpy.random")
    drawn = () if numpy is None else numpy.get_state()
    return random.getstate(), *(x.tobytes() if hasattr(x, "tobytes") else x for x in drawn)


# -- calls -------------------------------------------------------------------------------------


def distinct(module: nn.Module) -> list[nn.Module]:
    """Return a module and all inside of it, each once."""
    return list({id(inner): inner for _, inner in walk(module)}.values())


class Call:
    """A module call, with all that it is given: arguments, parameters and buffers."""

    def __init__(
        self, module: nn.Module, subtree: Sequence[nn.Module], args: Any, kwargs: Any
    ) -> None:
        self.module, self.subtree, self.args, self.kwargs = module, subtree, args, kwargs
        given: dict[int, torch.Tensor] = {}
        described = describe(args, given), describe(kwargs, given)
        state = [
            tensor
            for inner in subtree
            for tensor in (*inner._parameters.values(), *inner._buffers.values())
            if tensor is not None
        ]
        tensors = [*given.values(), *state]
        if any(type(tensor) is not torch_api.FakeTensor for tensor in state):
            raise Incomparable
        self.tensors = tensors
        self.key = (
            described,
            tuple(map(meta_of, tensors)),
            pattern([id(tensor) for tensor in tensors]),
            pattern([torch_api.storage_of(tensor) for tensor in tensors]),
            _modes(),
        )


def known(nodes: Iterable[fx.Node | None]) -> list[fx.Node]:
    """Return `nodes`; raises Incomparable where one is missing."""
    found = list(nodes)
    if None in found:
        raise Incomparable
    return cast(list[fx.Node], found)
