"""What a measurement runs on: copies of what was captured, or made-up values where it has none."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import MeasurementError, UsageError
from ..frontends import Source, torch_api
from ..frontends.example import arguments
from ..frontends.opaque import map_leaves, pack
from ..frontends.replay import Copies, Make, moved_memory, random_state, set_random_state
from ..frontends.state import walk
from ..frontends.surroundings import attributes_kept

_DRAWN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give the generators of torch, Python and numpy back their state at the end."""
    state, plain = random_state(), random.getstate()
    numpy = sys.modules.get("numpy.random")
    drawn = None if numpy is None else numpy.get_state()
    try:
        yield
    finally:
        set_random_state(state)
        random.setstate(plain)
        if numpy is not None:
            numpy.set_state(drawn)


def replaced(source: Source, example: Any) -> Source:
    """Return `source` with another example; that of the capture where it is None.

    A symbolic graph comes of a program that was exported at sizes of its own.

    Raises UsageError where the example does not have the form of the one that was captured.
    """
    if source.model is None or source.args is None:
        if example is None:
            return source
        raise UsageError(
            "an exported program is run on the example that it came with",
            hint="leave the example out",
        )
    args = source.args if example is None else arguments(source.model, example)
    old, new = named_leaves(source.args), named_leaves(args)
    held = named_leaves(getattr(source.program, "example_inputs", source.args))
    alike = old.keys() == new.keys() and len(held) == len(new)
    if not alike or any(_differ(old[path], new[path]) for path in old):
        raise UsageError(
            "the example is not of the form of the one that was captured",
            hint="the same arguments, with the same values where they are no tensors",
        )
    if held.keys() != new.keys():  # a wrapper took them as arguments of its own
        new = dict(zip(held, new.values(), strict=True))
    waiting: dict[int, list[Any]] = {}
    for path, before in held.items():
        waiting.setdefault(id(before), []).append(new[path])
    placeholders = {
        name: waiting[id(value)].pop(0) if waiting.get(id(value)) else value
        for name, value in source.placeholders.items()
    }
    return dataclasses.replace(source, placeholders=placeholders, args=args)


def named_leaves(args: Any) -> dict[tuple[str, ...], Any]:
    """Return the tensors and numbers of arguments by the keys that lead to them."""
    return dict(torch_api.tree_flatten_with_names(pack(args)[0]))


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return not isinstance(other, torch.Tensor)
    return type(one) is not type(other) or one != other


def stand_ins() -> Make:
    """Return a function that makes a tensor with values for one that has none, on a device.

    Matrices and images get small numbers from a generator of their own, vectors of floats ones,
    which are harmless as a scale or a variance, and integers zeros, which are harmless as an
    index. Raises MeasurementError for a layout without strides.
    """
    generator = torch.Generator().manual_seed(0)

    def make(like: torch.Tensor, place: torch.device) -> torch.Tensor:
        if like.layout is not torch.strided:
            raise MeasurementError(
                f"there are no made-up values for a tensor of layout {like.layout}",
                hint="capture a model with weights, on an example with values",
            )
        reach = ((n - 1) * step for n, step in zip(like.size(), like.stride(), strict=True))
        size = 1 + sum(reach) if like.numel() else 0
        flat = torch.zeros(size, dtype=like.dtype, device="cpu")
        if like.dtype in _DRAWN and like.dim() > 1:
            flat.uniform_(-0.1, 0.1, generator=generator)
        elif like.dtype in _DRAWN:
            flat.fill_(1)
        return flat.to(place).as_strided(like.size(), like.stride())

    return make


@contextmanager
def ready(source: Source, copies: Copies) -> Iterator[Callable[[], Any]]:
    """Yield a function that calls the model on the example, both on the tensors of `copies`.

    Meanwhile the model holds copies of its parameters and buffers, which may lie on another
    device; at the end it has its own ones back, and what was in its attributes. Tensors in
    attributes that are no buffers stay where they are, as with `nn.Module.to`: a capture that
    places the model has them there too.
    """
    model = source.model if source.model is not None else source.program.module()
    given = source.args if source.model is not None else source.program.example_inputs
    args, kwargs = map_leaves(lambda leaf: copies.copy("an input", leaf), given)
    with on_copies(model, copies), attributes_kept(model), torch.no_grad():
        yield lambda: model(*args, **kwargs)


@contextmanager
def on_copies(model: nn.Module, copies: Copies) -> Iterator[None]:
    """Let the model hold copies of its parameters and buffers inside the block."""
    made: dict[int, Any] = {}

    def copied(name: str, tensor: Any) -> Any:
        if id(tensor) not in made:
            new = copies.copy(name, tensor)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        return made[id(tensor)]

    modules = {id(module): (path, module) for path, module in walk(model)}
    held = [
        (path, tensors, dict(tensors))
        for path, module in modules.values()
        for tensors in _state(module)
    ]
    try:
        for path, tensors, before in held:
            for name, tensor in before.items():
                tensors[name] = copied(f"{path}.{name}", tensor)
        yield
    finally:
        for _, tensors, before in held:
            tensors.clear()
            tensors.update(before)


def _state(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers


class Restorable(Protocol):
    """What a run changes, and can be set back before the next one."""

    def __bool__(self) -> bool:
        """Say whether there is anything."""

    def set_back(self) -> None:
        """Give everything the values that it had."""


class Changed:
    """The inputs and buffers that a run of the program has written to, to be set back."""

    def __init__(self, source: Source, inputs: dict[str, Any]) -> None:
        """Compare the `inputs` of a program that has run with what they are copies of."""
        changed = [
            (inputs[name].untyped_storage(), given.untyped_storage())
            for name, given in source.placeholders.items()
            if name in inputs and _was_changed(inputs[name], given)
        ]
        # From another device they would come slowly, and between samples.
        self._pairs = [
            (one, given if given.device == one.device else moved_memory(given, one.device))
            for one, given in changed
        ]

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def set_back(self) -> None:
        """Give each the values that it had."""
        for storage, given in self._pairs:
            storage.copy_(given)


def _was_changed(copy: Any, given: Any) -> bool:
    if not isinstance(given, torch.Tensor) or isinstance(given, nn.Parameter):
        return False
    if type(given) is not torch.Tensor or given.is_meta or given.layout is not torch.strided:
        return False  # made up, or of a kind whose memory nothing is known of
    return not torch.equal(copy, given.to(copy.device))
