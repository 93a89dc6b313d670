"""The example input in all its forms: what the arguments are, and what they are called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from . import lightning, torch_api
from .opaque import has_opaque, is_opaque, leaves, map_leaves, pack, unpack
from .state import tensors_of
from .wrappers import FunctionModule, as_module

__all__ = [
    "Args",
    "FunctionModule",
    "Packed",
    "arguments",
    "as_module",
    "fake",
    "fake_mode_of",
    "has_opaque",
    "input_name",
    "input_names",
    "mode_for",
    "pack",
    "positional_names",
    "to_fake",
    "to_meta",
    "unpack",
]

Args = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(model: nn.Module, example: Any) -> Args:
    """Return positional and keyword arguments from the forms that an example may take.

    A tuple holds positional arguments, a mapping keyword arguments, and a pair of a tuple and a
    mapping both; anything else is the one positional argument. A mapping whose keys are not
    argument names, as for ``forward(batch)``, is the one positional argument too, and so is a
    named tuple. Where there is none, a Lightning module has one of its own.

    Raises InputError where the arguments do not fit the model's ``forward``.
    """
    if example is None:
        example = lightning.own_example(model)
    if hasattr(example, "_fields") and positional_names(model) and _fits(model, (example,), {}):
        args: Args = (example,), {}
    elif isinstance(example, tuple):
        if len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], Mapping):
            args = example[0], dict(example[1])
        else:
            args = tuple(example), {}
    elif isinstance(example, Mapping):
        named = {str(key): value for key, value in example.items()}
        by_name = _fits(model, (), named) or named.keys() <= _names(model)
        args = ((), named) if by_name or not _fits(model, (example,), {}) else ((example,), {})
    else:
        args = (() if example is None else (example,)), {}
    _check(model, args)
    return args


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def positional_names(model: nn.Module) -> list[str]:
    """Return the names of the arguments that ``forward`` takes by position."""
    signature = _signature(model)
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature.parameters.values() if signature is not None else ()
    return [p.name for p in parameters if p.kind in by_position]


def input_name(placeholder: str, path: tuple[str, ...], positional: Sequence[str]) -> str:
    """Name an input by its argument, and by the keys that lead to it inside the argument.

    `path` begins with 0 and the position, or with 1 and the name. Where the names of positional
    arguments are not known, torch's name of the placeholder tells.

    >>> input_name("batch_ids", ("0", "0", "ids"), ["batch"])
    'batch/ids'
    >>> input_name("batch_ids", ("0", "0", "ids"), []), input_name("k", ("1", "k"), [])
    ('batch/ids', 'k')
    """
    nested = path[2:]
    if path[0] == "1":
        argument = path[1]
    elif int(path[1]) < len(positional):
        argument = positional[int(path[1])]
    else:
        argument = placeholder.removesuffix("_" + "_".join(nested)) if nested else placeholder
    return "/".join([argument, *(part.replace("/", "%2F") for part in nested)])


def input_names(model: nn.Module, paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the names of the inputs that `paths` into the example lead to."""
    signature = _signature(model)
    parameters = signature.parameters.values() if signature is not None else ()
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "args")
    positional = positional_names(model)
    names = []
    for path in paths:
        extra = int(path[1]) - len(positional) if path[0] == "0" else 0
        names.append(input_name("_".join((f"{rest}_{extra}", *path[2:])), path, positional))
    return names


def _names(model: nn.Module) -> set[str]:
    signature = _signature(model)
    return set(signature.parameters) if signature is not None else set()


def _fits(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    signature = _signature(model)
    try:
        return signature is None or bool(signature.bind(*args, **kwargs))
    except TypeError:
        return False


def _check(model: nn.Module, args: Args) -> None:
    for path, leaf in torch_api.tree_flatten_with_names(args):
        if isinstance(leaf, Iterator):
            raise InputError(
                f"the example holds a {type(leaf).__name__} ({'/'.join(path[1:])}), which can be "
                "read only once",
                hint="pass a list of what it yields",
            )
    signature = _signature(model)
    if signature is None:
        return
    try:
        signature.bind(*args[0], **args[1])
    except TypeError as error:
        raise InputError(
            f"the example does not fit the model: {error}",
            hint=f"it takes forward{_bare(signature)}; a tuple holds positional arguments, "
            "a mapping keyword ones",
        ) from error


def _bare(signature: inspect.Signature) -> inspect.Signature:
    empty = inspect.Parameter.empty
    bare = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=empty)


def to_meta(model: nn.Module, args: Args) -> Args:
    """Move the example to the meta device if all of the model's state lies there."""
    state = tensors_of(model)
    if not state or not all(tensor.is_meta for tensor in state):
        return args
    moved: Args = map_leaves(
        lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, args
    )
    return moved


def fake_mode_of(model: nn.Module, args: Args) -> torch_api.FakeTensorMode | None:
    """Return the mode of the first fake tensor among the model's state and the example."""
    tensors = (*tensors_of(model), *leaves(args))
    return next(
        (leaf.fake_mode for leaf in tensors if isinstance(leaf, torch_api.FakeTensor)), None
    )


def mode_for(model: nn.Module, args: Args) -> torch_api.FakeTensorMode:
    """Return the mode to run `model` in on fake tensors: their own, or a new one."""
    found = fake_mode_of(model, args)
    if found is not None:
        return found
    packed = any("quantized" in type(module).__module__ for module in model.modules())
    return torch_api.fake_mode(cached=not packed)


def fake(mode: torch_api.FakeTensorMode, leaf: Any) -> Any:
    """Return a tensor as one of `mode`, and a copy with such tensors of an opaque object.

    Anything else as it is.
    """
    if isinstance(leaf, torch_api.FakeTensor):
        return leaf if leaf.fake_mode is mode else torch_api.moved_to(mode, leaf)
    if isinstance(leaf, torch.Tensor):
        return mode.from_tensor(leaf)
    return map_leaves(lambda part: fake(mode, part), leaf) if is_opaque(leaf) else leaf


def to_fake(model: nn.Module, args: Args) -> Args:
    """Make the example fake if the model's state is."""
    mode = fake_mode_of(model, args)
    if mode is None:
        return args
    faked: Args = map_leaves(lambda leaf: fake(mode, leaf), args)
    return faked


class Packed(nn.Module):
    """Calls a model whose inputs or outputs are objects that torch cannot take apart.

    The model stands under the name ``model``, which the reader leaves out again; such objects
    become dicts on the way out and are rebuilt on the way in.
    """

    PREFIX = "model"

    def __init__(self, model: nn.Module, classes: Any) -> None:
        super().__init__()
        self.model = model
        self._classes = classes

    def forward(self, args: Any, kwargs: Any) -> Any:
        """Unpack the arguments, call the model and pack what it returns."""
        args, kwargs = unpack((args, kwargs), self._classes)
        return pack(self.model(*args, **kwargs))[0]
