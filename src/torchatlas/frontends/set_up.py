"""How a model is set up before it is captured: its device, its data type, torch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .opaque import map_leaves
from .placing import parse_device


def existing_device(text: str) -> str:
    """Return the device that `text` names, as nodes name it; raises UsageError if there is none.

    >>> existing_device("cpu")
    'cpu'
    """
    place = parse_device(text)
    try:
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"there is no device {text!r} here: {reason}", hint="choose cpu, cuda or cuda:1"
        ) from error
    return str(place)


def parse_dtype(text: str) -> torch.dtype:
    """Return the floating-point data type that `text` names; raises UsageError for others.

    >>> parse_dtype("bfloat16")
    torch.bfloat16
    """
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(
            f"{text!r} is no data type of weights",
            hint="choose float32, bfloat16, float16 or float64",
        )
    return found


def converted(model: nn.Module, example: Any, to: str) -> tuple[nn.Module, Any]:
    """Return a model, changed in place, and its example on a device or in a data type.

    A data type is that of the floating-point tensors; the others keep theirs.
    """
    dtype = getattr(torch, to, None)
    place: Any = dtype if isinstance(dtype, torch.dtype) else parse_device(to)

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or (place is dtype and not leaf.is_floating_point()):
            return leaf
        return leaf.to(place)

    return model.to(place), map_leaves(convert, example)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads on the CPU meanwhile; None leaves it as it is.

    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
