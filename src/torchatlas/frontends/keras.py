"""Keras 3 models on torch: a tree of modules with the names of the layers, around the layers.

A Keras model is an `nn.Module`, but one that holds every weight in one flat dict, and whose
layers mostly stand in lists that torch does not look into. A module of ours stands for each
layer: it has the layer's name, its variables as parameters and buffers, and it is what is called
where the layer is. Keras itself is imported by the user, never from here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import nn

from ..errors import CaptureError
from ..names import UniqueNames


def is_keras(model: Any) -> bool:
    """Say whether `model` is a layer or a model of Keras."""
    kind: Any = type(model)
    return _is_layer(kind)


_LAYER = "keras.src.layers.layer"


@lru_cache(maxsize=4096)
def _is_layer(kind: type) -> bool:
    return any(base.__module__ == _LAYER and base.__name__ == "Layer" for base in kind.__mro__)


def as_torch(model: nn.Module) -> nn.Module:
    """Return a module around the Keras `model`, with its layers as parts; others as they are.

    Raises CaptureError for a model that has no weights yet.
    """
    if not is_keras(model):
        return model
    _check_built(model)
    made: dict[int, _Layer] = {}
    root = _module(model, made, ())
    call = _Call(made)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with call.running():
            return model(*args, **kwargs)

    # What `call` takes is what the model takes, and more: Keras adds `training` by itself.
    layer: Any = model
    signature = inspect.signature(layer.call)
    forward.__signature__ = signature  # type: ignore[attr-defined]
    root.__dict__["forward"] = forward
    return root


def _check_built(layer: Any) -> None:
    if not layer.built:
        raise CaptureError(
            f"the Keras layer {layer.name!r} has no weights yet",
            hint="run the model once on the example first, or call its `build`",
        )


class _Layer(nn.Module):
    """Stands for a Keras layer."""

    layer: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not a submodule, though it is an nn.Module too
        self.variables: dict[str, Any] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer as Keras would."""
        return _original()(self.layer, *args, **kwargs)


def _original() -> Any:
    call = sys.modules[_LAYER].Layer.__call__
    return getattr(call, "replaces", call)


@lru_cache(maxsize=1024)
def _class(kind: type) -> type[_Layer]:
    """Return a class of ours under the name of a Keras class."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (_Layer,), names)


def _module(layer: Any, made: dict[int, _Layer], outer: tuple[Any, ...]) -> _Layer:
    """Return the module for `layer`; a layer that stands in two places has one."""
    if id(layer) in made:
        return made[id(layer)]
    kind: Any = type(layer)
    module = made[id(layer)] = _class(kind)(layer)
    inner = [part for part in _parts(layer) if all(part is not other for other in outer)]
    names = UniqueNames()
    for part in inner:
        name = names.take(part.name.replace(".", "_"))
        module._modules[name] = _module(part, made, (*outer, layer))
    if isinstance(wrapped := getattr(layer, "module", None), nn.Module):
        module._modules["module"] = wrapped  # a torch module inside of a Keras model
    _add_variables(module, inner, wrapped)
    return module


def _parts(layer: Any) -> list[Any]:
    """Return the layers right inside of `layer`; the stand-ins for inputs are none."""
    found = layer._flatten_layers(include_self=False, recursive=False)
    return [part for part in found if type(part).__name__ != "InputLayer"]


def _add_variables(module: _Layer, inner: list[Any], wrapped: Any) -> None:
    theirs = {id(variable) for part in inner for variable in part.variables}
    held = wrapped.parameters() if isinstance(wrapped, nn.Module) else ()
    known = {id(parameter) for parameter in held}
    names = UniqueNames()
    for variable in module.layer.variables:
        value = variable.value
        if id(variable) in theirs or id(value) in known:
            continue
        name = names.take(variable.name.replace(".", "_"))
        module.variables[name] = variable
        if variable.trainable and isinstance(value, nn.Parameter):
            module._parameters[name] = value
        else:
            module._buffers[name] = value.detach()


class _Call:
    """A call of a Keras model in which modules of ours stand for its layers."""

    def __init__(self, modules: Mapping[int, _Layer]) -> None:
        self._modules = modules

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the modules' tensors be the values of the variables, and calls go through them."""
        kind = sys.modules[_LAYER].Layer
        before = kind.__call__
        values = [(v, v._value) for m in self._modules.values() for v in m.variables.values()]
        try:
            for module in self._modules.values():
                for name, variable in module.variables.items():
                    variable._value = getattr(module, name)
            kind.__call__ = self._replacement(before)
            yield
        finally:
            kind.__call__ = before
            for variable, value in values:
                variable._value = value

    def _replacement(self, before: Any) -> Any:
        root, *_ = self._modules.values()

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            module = self._modules.get(id(layer))
            if module is None or module is root:  # the root was called already
                return before(layer, *args, **kwargs)
            _check_built(layer)
            return module(*args, **kwargs)

        call.replaces = before  # type: ignore[attr-defined]
        return call
