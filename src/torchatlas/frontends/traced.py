"""The `trace` front end: one run on tensors without values, each call written down as it is made.

It sees the operators that the model calls before autograd and autocast take them apart, so that
``aten.linear`` stays whole, as `torch.export` does; and it costs little more than the run.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError
from . import torch_api
from .capture import Capture
from .dispatch import Tracer
from .example import Args, mode_for
from .opaque import leaves
from .recording import Recording
from .repeats import Repeats
from .state import tensors_of


def capture(model: nn.Module, args: Args, *, replay: bool = True) -> Capture:
    """Run `model` on fake tensors and turn the operators that it calls into records.

    With `replay` a module that is called like an earlier one is not run: the records of the
    earlier call are repeated.
    """
    if not replay:
        return _capture(model, args, replay=False)
    try:
        return _capture(model, args, replay=True)
    except Exception:
        # Whatever it was: it must not be replay that keeps a model from being captured.
        return _capture(model, args, replay=False)


def capture_on_values(model: nn.Module, args: Args) -> Capture:
    """Run `model` on the example itself, and turn the operators that it calls into records.

    For a model that looks at the values of tensors. What it saw, and did thereupon, is kept in
    the capture's ``decisions``. Raises CaptureError where weights or example have no values.
    """
    if any(map(_has_no_values, (*tensors_of(model), *leaves(args)))):
        raise CaptureError(
            "the model looks at the values of tensors, and there are none",
            hint="capture it with weights and an example that have values",
        )
    return _run(model, args, None, replay=False)


def _has_no_values(leaf: Any) -> bool:
    fake = isinstance(leaf, torch_api.FakeTensor)
    return fake or (isinstance(leaf, torch.Tensor) and leaf.is_meta)


def _capture(model: nn.Module, args: Args, *, replay: bool) -> Capture:
    return _run(model, args, mode_for(model, args), replay=replay)


def _run(
    model: nn.Module, args: Args, mode: torch_api.FakeTensorMode | None, *, replay: bool
) -> Capture:
    run = Recording(model, mode, hold=True)
    with mode or nullcontext():
        run.prepare(args)
        repeats = Repeats(model, run.tracer).active() if replay else nullcontext()
        seen = _Reading(run.tracer) if mode is None else nullcontext()
        # As torch.export has it: which library computes is not part of the model.
        cudnn = torch.backends.cudnn.flags(enabled=False)
        with torch_api.before_dispatch(run.tracer.call), run.tracer.modules(), repeats, cudnn, seen:
            outputs = run.forward()
        run.return_outputs(outputs)
    return run.read()


class _Reading(TorchFunctionMode):
    """Notes where a tensor is turned into numbers without any operator."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__):
            self._tracer.read_values(func.__name__, args[0])
        return result
