"""A module around a function, and a capture of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas.graph import op_nodes
from torchatlas.sums import Totals, totals


class Function(nn.Module):
    """Calls a function, so that a test needs no module of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class Sample:
    """A captured function: its totals, and the nodes of its ops."""

    def __init__(self, model: Any, shapes: Any) -> None:
        module = model if isinstance(model, nn.Module) else Function(model)
        example = tuple(_tensor(shape) for shape in shapes)
        self.graph = ta.capture(module, example)
        self.nodes = dict(op_nodes(self.graph))

    @property
    def totals(self) -> Totals:
        return totals(self.graph)

    def node(self, op: str) -> dict[str, Any]:
        """Return the only node of an op."""
        (found,) = (node for node in self.nodes.values() if node["op"] == op)
        return found


def _tensor(shape: Any) -> Any:
    return torch.zeros(shape) if isinstance(shape, tuple) else shape


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """Capture a module or function for tensors, or shapes of float32 tensors."""
    return lambda model, *shapes: Sample(model, shapes)
