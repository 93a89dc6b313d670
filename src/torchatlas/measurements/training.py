"""A training step as a user runs it, on copies, for timing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import MeasurementError
from ..frontends import Source, torch_api
from ..frontends.opaque import map_leaves
from ..frontends.replay import Copies, Program
from ..frontends.state import named_state, walk
from ..frontends.surroundings import attributes_kept
from ..frontends.training import Loss, default_loss, make_optimizer
from .values import on_copies


class Started:
    """What a training step changes, its parameters too, to be set back."""

    def __init__(self, tensors: Iterable[Any]) -> None:
        """Keep the values of all memory behind `tensors`; of what is no tensor, nothing."""
        found = {torch_api.storage_of(x): x for x in tensors if isinstance(x, torch.Tensor)}
        found.pop(None, None)
        memory = [x.untyped_storage() for x in found.values()]
        self._pairs = [(storage, storage.clone()) for storage in memory]  # type: ignore[no-untyped-call]
        self._states: list[tuple[dict[Any, Any], Any, Any, Any]] = []

    def forget_unchanged(self) -> None:
        """Keep only what has other values by now."""
        self._pairs = [pair for pair in self._pairs if not torch.equal(*map(_bytes, pair))]

    def keep_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the state of an optimizer too."""
        self._states = [
            (state, key, value, value.clone() if isinstance(value, torch.Tensor) else None)
            for state in optimizer.state.values()
            for key, value in state.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._pairs or self._states)

    def set_back(self) -> None:
        """Give each the values that it had."""
        for storage, kept in self._pairs:
            storage.copy_(kept)
        for state, key, value, kept in self._states:
            state[key] = value
            if kept is not None:
                value.copy_(kept)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


@contextmanager
def ready_step(source: Source, program: Program) -> Iterator[tuple[Callable[[], Any], Started]]:
    """Yield a function that runs the training step of `source`, and what it changes.

    That is the forward pass, the loss, the backward pass and, where the capture has one, the
    step of an optimizer, as PyTorch runs them, on the tensors of `program`, which runs once
    before. Gradients begin as None, and the optimizer has made a step with gradients of zero
    before, as in the capture. At the end the model has its own tensors, gradients and attributes
    back.

    Raises MeasurementError where the optimizer cannot be made of the copies.
    """
    model, step = source.model, source.step
    if model is None or step is None:
        raise MeasurementError("this is no training step", hint="capture with mode='training'")
    started = Started(program.inputs.values())
    program.run()
    if step.optimizer is None:  # or else a run may by chance leave a parameter alone
        started.forget_unchanged()
    started.set_back()
    own, _ = named_state(model)
    args, kwargs = map_leaves(lambda leaf: _input(program.copies, leaf), step.args)
    with (
        _gradients_kept([*own.values(), *_constants(source)]) as strays,
        on_copies(model, program.copies),
        attributes_kept(model),
    ):
        _renew_lists(model)
        copies, _ = named_state(model)
        for name, tensor in own.items():
            for hook in torch_api.gradient_hooks(tensor):
                copies[name].register_hook(hook)  # type: ignore[no-untyped-call]
        optimizer = None
        if step.optimizer is not None:
            optimizer = _optimizer(step.optimizer, own, copies)
            started.set_back()
            started.keep_state(optimizer)
        loss: Loss = step.loss or default_loss
        leaves = [x for x in {id(x): x for x in copies.values()}.values() if x.requires_grad]
        leaves += strays

        def call() -> torch.Tensor:
            for tensor in leaves:
                tensor.grad = None
            with torch.enable_grad():
                error = loss(model(*args, **kwargs))
                torch.autograd.backward(error)
            if optimizer is not None:
                optimizer.step()
            return error.detach()

        yield call, started


def _input(copies: Copies, leaf: Any) -> Any:
    made = copies.copy("an input", leaf)
    if not isinstance(leaf, torch.Tensor) or not leaf.requires_grad:
        return made
    return made.detach().requires_grad_()


def _constants(source: Source) -> list[torch.Tensor]:
    """Return the tensors outside the model that the step differentiates, such as a loss's own."""
    held = source.program.root.buffers()
    return [tensor for tensor in held if tensor.is_leaf and tensor.requires_grad]


@contextmanager
def _gradients_kept(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Take the gradients of `tensors` away, and give them back; yields the tensors."""
    before = [(tensor, tensor.grad) for tensor in {id(x): x for x in tensors}.values()]
    try:
        for tensor, _ in before:
            tensor.grad = None
        yield [tensor for tensor, _ in before if tensor.requires_grad]
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient


def _renew_lists(model: nn.Module) -> None:
    """Let recurrent layers, which keep their parameters in a list too, take those they hold."""
    for _, module in walk(model):
        if isinstance(module, nn.RNNBase):
            for name, tensor in list(module._parameters.items()):
                setattr(module, name, tensor)


def _optimizer(
    given: Any, own: Mapping[str, torch.Tensor], copies: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    """Return an optimizer of the copies that has made a step with gradients of zero."""
    trained = {name: tensor for name, tensor in copies.items() if tensor.requires_grad}
    try:
        made = make_optimizer(given, own, trained)
        for tensor in trained.values():
            tensor.grad = torch.zeros_like(tensor)
        made.step()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise MeasurementError(
            f"the optimizer cannot make a step: {type(error).__name__}: {reason}",
            hint="capture the step without the optimizer",
        ) from error
    for tensor in trained.values():
        tensor.grad = None
    return made
