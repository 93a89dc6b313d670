"""Why a model could not be captured: where it stood when it raised, and with which shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import AtlasError, InputError
from ..names import clean
from . import metadata, mix_ups, torch_api
from .example import Args, FunctionModule, fake, input_names, mode_for
from .opaque import is_opaque, leaves, map_leaves
from .surroundings import surroundings


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
                apart = len({meta.device for meta in metas}) > 1
                told = [f"{meta} on {meta.device}" if apart else str(meta) for meta in metas]
                self.failed = func.__name__, ", ".join(told)
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
    with surroundings(model), _module_path(model) as running:
        try:
            with torch.no_grad(), mode, last:
                state = [*model.named_parameters(), *model.named_buffers()]
                fakes = {name: fake(mode, tensor) for name, tensor in state}
                positional, named = map_leaves(lambda leaf: fake(mode, leaf), args)
                torch.func.functional_call(model, fakes, positional, named)
        except AtlasError:
            raise
        except Exception as error:
            if torch_api.is_fake_limitation(error):
                return None
            return _describe(model, args, error, running, last.failed)
    return None


def blamed(model: nn.Module, args: Args, error: InputError) -> InputError:
    """Return what names an op, with another hint where the example lies away from the model."""
    advice = _two_devices(model, args) or error.hint
    found = InputError(error.problem, hint=advice, node=error.node)
    found.__cause__ = error.__cause__
    return found


def hint(args: Args, causes: Sequence[Exception]) -> str:
    """Say what to do about a model that no front end could capture, by what each of them met."""
    tensors = [leaf for leaf in leaves(args) if isinstance(leaf, torch.Tensor)]
    said = "\n".join(f"{type(error).__name__}: {error}" for error in causes)
    if any(tensor.is_nested for tensor in tensors):
        return _NESTED
    for words, advice in _ADVICE:
        if any(word in said for word in words):
            return advice
    return "branching on tensor values and unregistered input types are the usual reasons"


_NESTED = "nested tensors have no form without values: pass a padded tensor and a mask"

_ADVICE = (
    (
        ("NestedTensor", "nested_tensor", "NestedInt", "shape_env must not", "enable_thunkify"),
        _NESTED,
    ),
    (
        ("__obj_flatten__", "ScriptObject", "PackedParams"),
        "the packed weights of quantised layers cannot be exported: frontend='trace' takes them",
    ),
    (
        ("jit.script", "ScriptModule", "ScriptFunction"),
        "a part of the model is TorchScript: capture it with the nn.Module that was scripted",
    ),
    (
        ("DTensor",),
        "parameters or inputs are distributed: make all of them DTensors, or none",
    ),
    (
        (".numpy() is not supported", "numpy.ndarray"),
        "the model leaves torch for numpy: keep to torch's functions, or capture what is before",
    ),
    (
        ("DataDependent", "data-dependent", "DynamicOutputShape", "_local_scalar_dense"),
        "the model's way depends on the values of tensors, at the line above: `torch.where` and "
        "`torch.cond` do not",
    ),
)


def _describe(
    model: nn.Module,
    args: Args,
    error: Exception,
    running: list[str],
    failed: tuple[str, str] | None,
) -> InputError:
    path = running[-1] if running else ""
    try:
        inner = model.get_submodule(path)
    except AttributeError:  # a module that is none of the model's
        path, inner = "", model
    module = inner.name if isinstance(inner, FunctionModule) else type(inner).__name__
    where = f"in module {path!r} ({module})" if path else f"in {module} itself"
    call = f", op {failed[0]}({failed[1]})" if failed is not None else ""
    reason = _reason(error)
    line = metadata.raising_line(error)
    at = f" (at {line})" if line else ""
    found = InputError(
        f"the model raises on this example {where}{call}\n  {type(error).__name__}: {reason}{at}",
        hint=_no_tensor(model, args)
        or _two_devices(model, args)
        or (mix_ups.HINT if mix_ups.is_mix_up(error) else "")
        or (_NO_DRIVER if _asks_driver(error) else "")
        or "check the example's shapes and data types against what that module expects"
        + (f": {_repr(inner)}" if path else ""),
    )
    found.__cause__ = error
    return found


def _asks_driver(error: Exception) -> bool:
    return type(error).__name__ == "AcceleratorError" or any(
        words in str(error) for words in ("NVIDIA driver", "not compiled with CUDA")
    )


_NO_DRIVER = "that code asks the driver for a GPU: capture it with a GPU, or leave `device` out"


def _reason(error: Exception) -> str:
    """Return the line of a message that says what is wrong."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return clean((told or lines or [""])[0])


_COLOUR = re.compile(r"\x1b\[\d+m")
"""How Keras sets off what is wrong, after a line that says where."""


def _no_tensor(model: nn.Module, args: Args) -> str:
    """Return a hint where the example holds arrays, pictures or numbers in the place of tensors."""
    found = torch_api.tree_flatten_with_names(args)
    for name, (_, leaf) in zip(input_names(model, [path for path, _ in found]), found, strict=True):
        kind = f"{type(leaf).__module__.partition('.')[0]}.{type(leaf).__name__}"
        change = _TENSORS_OF.get(kind.partition(".")[0])
        if is_opaque(leaf) and change is not None:
            return f"the input {name!r} is a {kind}, no tensor: pass {change}"
    if found and not any(isinstance(leaf, torch.Tensor) for leaf in leaves(args)):
        return "the example holds no tensor: pass torch.tensor(...) of its numbers"
    return ""


_TENSORS_OF = {
    "numpy": "torch.from_numpy(array)",
    "PIL": "what the model's preprocessing makes of it, a float tensor of shape (1, 3, H, W)",
    "pandas": "torch.from_numpy(frame.to_numpy())",
    "jax": "torch.from_dlpack(array)",
    "tensorflow": "torch.from_numpy(tensor.numpy())",
}
"""How to make a tensor of what stands in an example instead of one, by package."""


def _two_devices(model: nn.Module, args: Args) -> str:
    given = {str(leaf.device) for leaf in leaves(args) if isinstance(leaf, torch.Tensor)}
    held = {str(tensor.device) for tensor in (*model.parameters(), *model.buffers())}
    if given and held and given.isdisjoint(held):
        return (
            f"the example lies on {', '.join(sorted(given))} and the model on "
            f"{', '.join(sorted(held))}: move one to the other"
        )
    return ""


def _repr(module: nn.Module) -> str:
    text = repr(module)
    return text if len(text) < 120 and "\n" not in text else type(module).__name__
