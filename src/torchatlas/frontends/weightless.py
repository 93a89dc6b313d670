"""Makes models whose weights have shapes but no values, and so take no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .torch_api import FakeTensor, FakeTensorMode


class _FakeEmpty(TorchFunctionMode):
    """Makes what ``torch.empty`` returns fake: it is about to become a weight.

    Where an initialiser asks whether values without values are out of range, and so must be
    drawn again, the answer is no.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.__bool__ and isinstance(args[0], FakeTensor):
            return False
        with self._mode if func is torch.empty else nullcontext():
            return func(*args, **(kwargs or {}))


@contextmanager
def weightless() -> Iterator[FakeTensorMode]:
    """Give every parameter that is registered inside the block a fake tensor for its values.

    Other tensors stay real, so that constructors may compute with them (a drop path rate from
    ``linspace(...).item()``), which they could not on the meta device. Not safe for threads.

    >>> with weightless():
    ...     model = nn.Linear(10**6, 10**5)  # 400 GB in float32
    >>> model.weight.shape, model.weight.device
    (torch.Size([100000, 1000000]), device(type='cpu'))
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    register = nn.Module.register_parameter

    def register_fake(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not isinstance(param, FakeTensor):
            fake = mode.from_tensor(param.detach())
            self._parameters[name] = nn.Parameter(fake, requires_grad=param.requires_grad)

    nn.Module.register_parameter = register_fake  # type: ignore[method-assign]
    try:
        with _FakeEmpty(mode):
            yield mode
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def fake_buffers(model: nn.Module, mode: FakeTensorMode) -> None:
    """Make the buffers of `model` fake too, once it is made."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not isinstance(buffer, FakeTensor) and not isinstance(buffer, torch.nn.Parameter):
                module._buffers[name] = mode.from_tensor(buffer)
