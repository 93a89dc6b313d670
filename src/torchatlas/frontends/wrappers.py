"""What stands around a model: wrappers that add nothing, functions and methods that call it."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from . import keras, torch_api


class FunctionModule(nn.Module):
    """Holds a plain function, so that it can be captured as a module.

    The modules that the function refers to, as a closure or by the name of a global variable,
    stand in it under that name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = self.function = function
        self.name = str(getattr(function, "__name__", type(function).__name__))
        for name, module in _modules_of(function):
            if name not in self._modules:
                self._modules[name] = without_wrappers(module)
        try:
            inspect.signature(function)
        except ValueError:  # a builtin, such as torch.mm, which torch cannot look into
            self.forward = self.function = lambda *args, **kwargs: function(*args, **kwargs)


def _modules_of(function: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that `function` refers to, by the names that it has for them."""
    code = getattr(function, "__code__", None)
    if code is None:  # an object with a method `__call__`, or something built in
        held: Mapping[str, Any] = getattr(function, "__dict__", {})
    else:
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        held = {name: _content(cell) for name, cell in cells}
        for instruction in dis.get_instructions(code):
            if instruction.opname == "LOAD_GLOBAL":
                held[instruction.argval] = function.__globals__.get(instruction.argval)
    yield from ((name, value) for name, value in held.items() if isinstance(value, nn.Module))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def as_module(model: Any) -> tuple[nn.Module, str]:
    """Return `model` as a module, and its name; wrappers that add nothing are taken off.

    A method of a module, or a `functools.partial` of either, is the module with that in the
    place of its ``forward``, so that what stands inside keeps its path.

    Raises CaptureError for what is no model.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise CaptureError(
            "a TorchScript model has no Python code left to capture",
            hint="capture the nn.Module that was scripted",
        )
    if isinstance(model, nn.Module):
        inner = without_wrappers(model)
        return inner, type(inner).__name__
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise CaptureError(
            f"{model.__name__} is a class, not a model", hint=f"make one: {model.__name__}()"
        )
    if not callable(model):
        raise CaptureError(
            f"a {type(model).__name__} cannot be captured",
            hint="pass an nn.Module, a function, an ExportedProgram or an fx.GraphModule",
        )
    model = torch_api.uncompiled(model)
    if isinstance(model, functools.partial):
        inner, name = as_module(model.func)
        forward = functools.partial(inner.forward, *model.args, **model.keywords)
        return with_forward(inner, forward), name
    if inspect.ismethod(model) and isinstance(model.__self__, nn.Module):
        inner = without_wrappers(model.__self__)
        method = getattr(inner, model.__name__, model)
        made = with_forward(inner, torch_api.uncompiled(method), hooks=False)
        return made, f"{type(inner).__name__}.{model.__name__}"
    made = FunctionModule(model)
    return made, made.name


def with_forward(
    module: nn.Module, forward: Callable[..., Any], *, hooks: bool = True
) -> nn.Module:
    """Return a module with the state and the parts of `module`, and another ``forward``."""
    made = _shallow(module)
    made.__dict__["forward"] = forward
    made.__dict__["_compiled_call_impl"] = None
    if not hooks:
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            made.__dict__[name] = type(made.__dict__[name])()
    return made


def _shallow(module: nn.Module) -> nn.Module:
    made: nn.Module = object.__new__(type(module))
    made.__dict__.update(module.__dict__)
    return made


def without_wrappers(model: nn.Module) -> nn.Module:
    """Take off the wrappers that add nothing, around `model` and around what stands in it.

    Whatever holds a wrapper is a copy, on the same parameters; `model` keeps it.
    """
    model = _bare(model)
    if all(_bare(part) is part for part in model.modules()):
        return model
    return _rebuilt(model, {})


def _rebuilt(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:  # shared, or its own descendant
        return done[id(module)]
    bare = done[id(module)] = _bare(module)
    parts = {
        name: None if part is None else _rebuilt(part, done) for name, part in bare._modules.items()
    }
    if any(parts[name] is not part for name, part in bare._modules.items()):
        bare = done[id(module)] = _shallow(bare)
        bare.__dict__["_modules"] = parts
    return bare


def _bare(module: nn.Module) -> nn.Module:
    """Return `module` without the wrappers right around it."""
    kind: Any = type(module)
    while name := _inside(kind):
        if name in _SHARDED:
            raise CaptureError(
                f"{type(module).__name__} holds shards of parameters, not the model's own",
                hint="capture the module before it is wrapped",
            )
        module = getattr(module, name)
        kind = type(module)
    return keras.as_torch(module)


@lru_cache(maxsize=4096)
def _inside(kind: type) -> str:
    """Return where a wrapper of class `kind` has its module; empty for what is no wrapper."""
    kinds = [f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__]
    sharded = next((name for name in kinds if name in _SHARDED), "")
    return sharded or next((_WRAPPERS[name] for name in kinds if name in _WRAPPERS), "")


_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "lightning.fabric.wrappers._FabricModule": "module",
    "lightning_fabric.wrappers._FabricModule": "module",
}
"""Classes of wrappers, by name so that nothing is imported, and where the module stands."""

_SHARDED = frozenset(
    {
        "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
        "torch.distributed.fsdp.FSDPModule",
        "torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule",
        "deepspeed.runtime.engine.DeepSpeedEngine",
    }
)
