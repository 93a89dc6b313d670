"""A model's state and structure: parameters and buffers, which are tied, and what a module is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from ..schema import Module
from . import metadata, torch_api


def identity(tensor: torch.Tensor) -> Any:
    """Return what two names of one tensor have in common: the same elements of one storage."""
    storage = torch_api.storage_of(tensor)
    if storage is None or tensor.numel() == 0 or tensor.is_meta:
        return id(tensor)
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def tied(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, list[str]]:
    """Return, for each name, all names of the same tensor, in the order in which they come.

    >>> weight = torch.zeros(2)
    >>> tied([("embed.weight", weight), ("head.weight", weight), ("bias", torch.zeros(2))])
    {'embed.weight': ['embed.weight', 'head.weight'], 'head.weight': ['embed.weight', \
'head.weight'], 'bias': ['bias']}
    """
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors:
        groups.setdefault(identity(tensor), []).append(name)
    return {name: group for group in groups.values() for name in group}


def walk(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every module with its path, a shared one under each of its paths.

    In the order of `nn.Module.named_modules`, whose nested generators take many times longer.

    >>> [path for path, _ in walk(nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU()))]
    ['', '0', '0.0', '1']
    """
    found: list[tuple[str, nn.Module]] = []
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        found.append((path, module))
        prefix = f"{path}." if path else ""
        inner = [(prefix + n, child) for n, child in module._modules.items() if child is not None]
        waiting += reversed(inner)
    return found


def named_state(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return parameters and buffers by name, a tied one under each of its names."""
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    for path, module in walk(model):
        prefix = f"{path}." if path else ""
        for found, held in ((parameters, module._parameters), (buffers, module._buffers)):
            found.update((prefix + name, x) for name, x in held.items() if x is not None)
    return parameters, buffers


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers without their names, which takes less time."""
    found: list[torch.Tensor] = []
    waiting, seen = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        for held in (module._parameters, module._buffers):
            found += [tensor for tensor in held.values() if tensor is not None]
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
    return found


def module_types(model: nn.Module) -> dict[str, str]:
    """Return the class of every module by its path; a shared module under each of its paths."""
    return {path: metadata.class_name(type(inner)) for path, inner in walk(model)}


def stack_of(target: str, types: Mapping[str, str]) -> tuple[Module, ...]:
    """Return the modules around the parameter `target`, from the root inwards."""
    parts = target.split(".")[:-1]
    paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
    return tuple(Module(path, types.get(path, "")) for path in paths)


def check_structure(model: nn.Module) -> None:
    """Raise CaptureError for a module that contains itself, or that has no shapes yet."""
    active: list[nn.Module] = []

    def visit(module: nn.Module, path: str) -> None:
        if any(module is outer for outer in active):
            raise CaptureError(
                f"the module {path!r} contains itself",
                hint="keep a back reference in a list or a weakref, so that it is no submodule",
            )
        active.append(module)
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)
        active.pop()

    visit(model, "")
    if not any(map(nn.parameter.is_lazy, tensors_of(model))):
        return
    parameters, buffers = named_state(model)
    for name, tensor in {**parameters, **buffers}.items():
        if nn.parameter.is_lazy(tensor):
            raise CaptureError(
                f"{name!r} has no shape yet, because its module is lazy",
                hint="run the model once on the example first",
            )
