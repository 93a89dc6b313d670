"""Which forward operator an operator of the backward pass differentiates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from . import metadata, torch_api

_CLONE = torch.ops.aten.clone.default


class Differentiated:
    """The operators of the forward pass, by the numbers of the autograd nodes they belong to.

    Autograd numbers its nodes in the order in which it makes them: one before the operator runs
    below it. An operator in place on a view gets a second node right after its own, and a
    `torch.autograd.Function` one for all operators in it. Operators that are seen `whole`, above
    autograd, have made one or several nodes when they return.
    """

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole
        self._makers: dict[int, fx.Node] = {}
        self._numbers: list[int] = []
        self._inside: dict[int, fx.Node] = {}

    def note(self, node: fx.Node, operands: Iterable[Any]) -> None:
        """Take down that `node` runs now, on `operands`."""
        number = torch_api.forward_step()
        if torch.is_grad_enabled() and any(map(_requires_grad, operands)):
            before = self._makers.setdefault(number, node)
            if before is node:
                self._numbers.append(number)
            elif before.target is _CLONE and metadata.op_info(node.target).writes:
                # What an operator in place has to remember of its operand it copies first.
                self._makers[number - 1] = self._makers[number] = node
        else:
            self._inside.setdefault(number, node)

    def origin(self, step: torch_api.BackwardStep) -> fx.Node | None:
        """Return the operator that a step of the backward pass differentiates."""
        if step.number in self._makers:
            return self._makers[step.number]
        if step.custom and step.number in self._inside:
            return self._inside[step.number]
        place = bisect_right(self._numbers, step.number) - (not self._whole)
        known = 0 <= place < len(self._numbers)
        return self._makers[self._numbers[place]] if known else None


def _requires_grad(operand: Any) -> bool:
    if isinstance(operand, torch.Tensor):
        return operand.requires_grad
    return isinstance(operand, list | tuple) and any(map(_requires_grad, operand))
