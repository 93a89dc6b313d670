"""Why a model could not be captured: where it stood when it raised, and with which shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from . import metadata, torch_api
from .example import Args, fake, mode_for


class _LastCall(TorchFunctionMode):
    """Remembers the innermost torch function that raised, and its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: tuple[str, str] | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            if self.failed is None:
                leaves = torch_api.tree_leaves((args, kwargs))
                metas = [metadata.tensor_meta(x) for x in leaves if isinstance(x, torch.Tensor)]
                self.failed = func.__name__, ", ".join(map(str, metas))
            raise


@contextmanager
def _module_path(model: nn.Module) -> Iterator[list[str]]:
    """Keep the path of the module that is running; it stays where an exception left it."""
    names = {id(module): path for path, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, args: Any) -> None:
        running.append(names.get(id(module), type(module).__name__))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    hooks = torch.nn.modules.module
    with ExitStack() as stack:
        stack.callback(hooks.register_module_forward_pre_hook(enter).remove)
        stack.callback(hooks.register_module_forward_hook(leave).remove)
        yield running


def input_error(model: nn.Module, args: Args) -> InputError | None:
    """Run `model` on fake tensors; return an error if it raises by itself, and None if not.

    What only fake tensors cannot do, such as branching on a value, is no fault of the model.
    """
    mode = mode_for(model, args)
    last = _LastCall()
    with _module_path(model) as running:
        try:
            with torch.no_grad(), mode, last:
                positional, named = torch_api.tree_map(lambda leaf: fake(mode, leaf), args)
                model(*positional, **named)
        except Exception as error:
            if torch_api.is_fake_limitation(error):
                return None
            return _describe(model, error, running, last.failed)
    return None


def _describe(
    model: nn.Module, error: Exception, running: list[str], failed: tuple[str, str] | None
) -> InputError:
    path = running[-1] if running else ""
    module = type(model.get_submodule(path)).__name__ if path else type(model).__name__
    where = f"in module {path!r} ({module})" if path else f"in {module} itself"
    call = f", op {failed[0]}({failed[1]})" if failed is not None else ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    line = metadata.raising_line(error)
    at = f" (at {line})" if line else ""
    found = InputError(
        f"the model raises on this example {where}{call}\n  {type(error).__name__}: {reason}{at}",
        hint="check the example's shapes and data types against what that module expects"
        + (f": {_repr(model.get_submodule(path))}" if path else ""),
    )
    found.__cause__ = error
    return found


def _repr(module: nn.Module) -> str:
    text = repr(module)
    return text if len(text) < 120 and "\n" not in text else type(module).__name__
