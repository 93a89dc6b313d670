"""The example input in all its forms, and the model in all of its own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError, InputError
from . import torch_api

Args = tuple[tuple[Any, ...], dict[str, Any]]


class FunctionModule(nn.Module):
    """Holds a plain function, so that it can be captured as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = self.function = function
        try:
            inspect.signature(function)
        except ValueError:  # a builtin, such as torch.mm, which torch cannot look into
            self.forward = self.function = lambda *args, **kwargs: function(*args, **kwargs)


def as_module(model: Any) -> tuple[nn.Module, str]:
    """Return `model` as a module, and its name; wrappers that add nothing are taken off.

    Raises CaptureError for what is no model.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise CaptureError(
            "a TorchScript model has no Python code left to capture",
            hint="capture the nn.Module that was scripted",
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return as_module(model.module)
    if isinstance(model, nn.Module):
        inner = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
        return inner, type(inner).__name__
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise CaptureError(
            f"{model.__name__} is a class, not a model", hint=f"make one: {model.__name__}()"
        )
    if callable(model):
        return FunctionModule(model), getattr(model, "__name__", type(model).__name__)
    raise CaptureError(
        f"a {type(model).__name__} cannot be captured",
        hint="pass an nn.Module, a function, an ExportedProgram or an fx.GraphModule",
    )


def arguments(model: nn.Module, example: Any) -> Args:
    """Return positional and keyword arguments from the forms that an example may take.

    A tuple holds positional arguments, a mapping keyword arguments, and a pair of a tuple and a
    mapping both; anything else is the one positional argument. A mapping whose keys are not
    argument names, as for ``forward(batch)``, is the one positional argument too.

    Raises InputError where the arguments do not fit the model's ``forward``.
    """
    if isinstance(example, tuple):
        if len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], Mapping):
            args: Args = example[0], dict(example[1])
        else:
            args = example, {}
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
    state = [*model.parameters(), *model.buffers()]
    if not state or not all(tensor.is_meta for tensor in state):
        return args
    moved: Args = torch_api.tree_map(
        lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, args
    )
    return moved


def fake_mode_of(model: nn.Module, args: Args) -> torch_api.FakeTensorMode | None:
    """Return the mode of the first fake tensor among the model's state and the example."""
    leaves = [*model.parameters(), *model.buffers(), *torch_api.tree_leaves(args)]
    return next((leaf.fake_mode for leaf in leaves if isinstance(leaf, torch_api.FakeTensor)), None)


def mode_for(model: nn.Module, args: Args) -> torch_api.FakeTensorMode:
    """Return the mode to run `model` in on fake tensors: their own, or a new one."""
    return fake_mode_of(model, args) or torch_api.FakeTensorMode(allow_non_fake_inputs=True)


def fake(mode: torch_api.FakeTensorMode, leaf: Any) -> Any:
    """Return a fake copy of a real tensor; anything else as it is."""
    real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, torch_api.FakeTensor)
    return mode.from_tensor(leaf) if real else leaf


def to_fake(model: nn.Module, args: Args) -> Args:
    """Make the example fake if the model's state is."""
    mode = fake_mode_of(model, args)
    if mode is None:
        return args

    faked: Args = torch_api.tree_map(lambda leaf: fake(mode, leaf), args)
    return faked


class Packed(nn.Module):
    """Calls a model whose inputs or outputs are dataclasses that torch cannot take apart.

    The model stands under the name ``model``, which the reader leaves out again; dataclasses
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


def is_opaque(value: Any) -> bool:
    """Say whether `value` is a dataclass instance that torch cannot take apart."""
    return (
        dataclasses.is_dataclass(value)
        and not isinstance(value, type)
        and not torch_api.is_registered(type(value))
    )


def has_opaque(tree: Any) -> bool:
    """Say whether any leaf of `tree` is a dataclass that torch cannot take apart."""
    return any(map(is_opaque, torch_api.tree_leaves(tree)))


def pack(value: Any) -> tuple[Any, Any]:
    """Return `value` with dataclasses as dicts, and the classes to rebuild them from."""
    if is_opaque(value):
        fields = {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}
        plain = {name: inner for name, (inner, _) in fields.items()}
        return plain, (type(value), {name: classes for name, (_, classes) in fields.items()})
    if isinstance(value, Mapping) and type(value) is dict:
        items = {key: pack(item) for key, item in value.items()}
        return {k: v for k, (v, _) in items.items()}, {k: c for k, (_, c) in items.items()}
    if type(value) in (list, tuple):
        packed = [pack(item) for item in value]
        return type(value)(v for v, _ in packed), [c for _, c in packed]
    return value, None


def unpack(value: Any, classes: Any) -> Any:
    """Rebuild the dataclasses that `pack` took apart."""
    if isinstance(classes, tuple):
        kind, fields = classes
        return kind(**{name: unpack(value[name], inner) for name, inner in fields.items()})
    if isinstance(classes, dict):
        return {key: unpack(value[key], inner) for key, inner in classes.items()}
    if isinstance(classes, list):
        return type(value)(unpack(v, c) for v, c in zip(value, classes, strict=True))
    return value
