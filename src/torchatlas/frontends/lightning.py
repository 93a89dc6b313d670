"""Lightning modules: the example that they carry, and their training step as the loss.

They are known by the names of their classes, so Lightning need not be installed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError, InputError, UsageError
from .wrappers import with_forward

Args = tuple[tuple[Any, ...], dict[str, Any]]

_CLASSES = frozenset(
    {
        ("lightning.pytorch.core.module", "LightningModule"),
        ("pytorch_lightning.core.module", "LightningModule"),
    }
)


def is_lightning(model: Any) -> bool:
    """Say whether `model` is a LightningModule."""
    return any((kind.__module__, kind.__name__) in _CLASSES for kind in type(model).__mro__)


def own_example(model: nn.Module) -> Any:
    """Return the ``example_input_array`` of a LightningModule; None if there is none."""
    return getattr(model, "example_input_array", None) if is_lightning(model) else None


def training_step(module: nn.Module, batch: Any) -> tuple[nn.Module, Args]:
    """Return a module whose ``forward`` is one training step of `module`, and its arguments.

    What the module returns is the step's loss, in a dict. What the step logs is dropped, and its
    metrics stay as they are: of them there are no values. Raises CaptureError where the step needs
    a trainer, as it does to step optimizers itself.
    """
    name = type(module).__name__
    if batch is None:
        raise InputError(
            f"a training step of {name} needs a batch", hint="pass one, as the data loader has it"
        )
    if not getattr(module, "automatic_optimization", True):
        raise _needs_trainer(name)
    step, zero = _step(module), torch.zeros(())

    def forward(batch: Any) -> dict[str, Any]:
        with _metrics_at_rest(module, zero):
            try:
                found = step(batch)
            except RuntimeError as error:
                if "not attached to a `Trainer`" not in str(error):
                    raise
                raise _needs_trainer(name) from error
        outputs = dict(found) if isinstance(found, Mapping) else {"loss": found}
        if not isinstance(outputs.get("loss"), torch.Tensor):
            raise InputError(
                f"{name}.training_step returns no loss for this batch",
                hint="give a batch that it does not skip, or pass loss=function",
            )
        return outputs

    return with_forward(module, forward, hooks=False), ((batch,), {})


def _needs_trainer(name: str) -> CaptureError:
    return CaptureError(
        f"the training step of {name} needs a Lightning trainer",
        hint="pass loss=function, which takes what the module's forward returns",
    )


def _step(module: Any) -> Callable[[Any], Any]:
    """Return the training step as a function of the batch alone."""
    takes = list(inspect.signature(module.training_step).parameters)
    known: tuple[str, ...] = ("batch_idx", "dataloader_idx")
    given = {name: 0 for name in known if name in takes}
    if not given and len(takes) > 1:  # the second argument has a name of its own
        given = {takes[1]: 0}
    return functools.partial(module.training_step, **given)


@contextmanager
def _metrics_at_rest(module: nn.Module, zero: torch.Tensor) -> Iterator[None]:
    """Let the metrics of torchmetrics inside `module` return zeros, and remember nothing."""
    metrics = [part for part in module.modules() if _is_metric(part)]
    before = [{name: vars(metric).get(name) for name in _METHODS} for metric in metrics]
    try:
        for metric in metrics:
            vars(metric).update(dict.fromkeys(_METHODS, _Rests(metric, zero)))
        yield
    finally:
        for metric, methods in zip(metrics, before, strict=True):
            for name, method in methods.items():
                vars(metric).pop(name)
                if method is not None:
                    vars(metric)[name] = method


_METHODS = ("forward", "update", "compute")
_METRICS = frozenset(
    {("torchmetrics.metric", "Metric"), ("torchmetrics.collections", "MetricCollection")}
)


def _is_metric(module: nn.Module) -> bool:
    return any((kind.__module__, kind.__name__) in _METRICS for kind in type(module).__mro__)


class _Rests:
    """Stands for a method of a metric; a collection of metrics returns a number for each."""

    def __init__(self, metric: nn.Module, zero: torch.Tensor) -> None:
        names = [str(name) for name in metric] if isinstance(metric, nn.ModuleDict) else None
        self._result: Any = zero if names is None else dict.fromkeys(names, zero)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._result


def configured_optimizer(module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that ``configure_optimizers`` makes.

    Raises UsageError where `module` is no LightningModule, or makes none or several.
    """
    if not is_lightning(module):
        raise UsageError(
            f"a {type(module).__name__} does not configure an optimizer",
            hint='pass the optimizer: "configured" is for Lightning modules',
        )
    found = _optimizers(module.configure_optimizers())  # type: ignore[operator]
    if len(found) != 1:
        raise UsageError(
            f"{type(module).__name__} configures {len(found)} optimizers, not one",
            hint="pass the one that makes the step",
        )
    return found[0]


def _optimizers(configured: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers among all that ``configure_optimizers`` may return."""
    if isinstance(configured, torch.optim.Optimizer):
        return [configured]
    if isinstance(configured, Mapping):
        return _optimizers(configured.get("optimizer"))
    if isinstance(configured, list | tuple):
        return [found for item in configured for found in _optimizers(item)]
    return []
