"""The training front end: forward, loss, backward and optimizer step as one graph.

The step runs once on tensors without values, and every operator that runs below autograd is
written down: so operators in place stay what they are, the order is that of eager execution, and
any Python code may stand in the model, its loss and its optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from ..errors import InputError, UsageError
from . import torch_api
from .capture import Capture
from .example import Args, mode_for, pack
from .fx_graph import Recorder
from .recording import Recording

Loss = Callable[[Any], torch.Tensor]


def capture(
    model: nn.Module, args: Args, loss: Loss | None = None, optimizer: Any = None
) -> Capture:
    """Run one training step of `model` on fake tensors and turn what it calls into records.

    The model keeps its own training or evaluation mode, and its parameters as they are. `loss`
    takes what the model returns; by default it is the output's own ``loss``, or the sum of all
    that the model returns. `optimizer` is a `torch.optim.Optimizer` or makes one of a list of
    parameters; it has made a step before, so that its state exists.
    """
    mode = mode_for(model, args)
    step = _Step(model, mode)
    with mode:
        step.prepare(args)
        if optimizer is not None:
            step.prepare_optimizer(optimizer)
        try:
            step.run(loss)
        finally:
            for tensor, gradient in step.tracer.constants:
                if tensor.is_leaf:  # a tensor that the model holds, and no parameter of it
                    tensor.grad = gradient
    return step.read()


class _Step(Recording):
    """One training step, and what exists before it."""

    def __init__(self, model: nn.Module, mode: torch_api.FakeTensorMode) -> None:
        super().__init__(model, mode)
        self.states: dict[str, fx.Node] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def prepare_optimizer(self, given: Any) -> None:
        """Make an optimizer of the fake parameters that has made a step before."""
        trained = {n: f for n, f in self.fakes.items() if f.requires_grad}
        self.optimizer = made = _make_optimizer(given, self.parameters, trained)
        for tensor in trained.values():
            tensor.grad = torch.zeros_like(tensor)
        made.step()
        made.zero_grad(set_to_none=True)
        names = {id(tensor): self.groups[name][0] for name, tensor in trained.items()}
        for parameter, state in made.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    name = f"optimizer.{key}.{names.get(id(parameter), 'shared')}"
                    self.states[name] = self.placeholder(name, value)

    def run(self, loss: Loss | None) -> None:
        """Run the step under the tracer."""
        tracer = self.tracer
        with torch_api.below_autograd(tracer.call), tracer.modules(), torch.enable_grad():
            outputs = self.forward()
            error = (loss or default_loss)(outputs)
            _check_loss(error)
            self.return_outputs(outputs)
            if all(node is not tracer.node_of(error) for *_, node in self.returned):
                self.returned.append(("loss", (), tracer.node_of(error)))
            tracer.phase = "backward"
            with _multithreading_off():
                torch.autograd.backward(error)
            self._return_gradients()
            if self.optimizer is not None:
                tracer.phase = "optimizer"
                self.optimizer.step()

    def _return_gradients(self) -> None:
        for name in self.parameters:
            gradient = self.fakes[name].grad if self.groups[name][0] == name else None
            if gradient is not None:
                node = self.tracer.node_of(gradient)
                self.returned.append(("gradient", tuple(name.split(".")), node))

    def read_state(self, recorder: Recorder, types: dict[str, str]) -> None:
        """Record parameters and buffers, and the state of the optimizer."""
        super().read_state(recorder, types)
        for name, node in self.states.items():
            node.meta["phase"] = "optimizer"
            recorder.placeholder(node, "buffer", name)


def _check_loss(error: Any) -> None:
    if not isinstance(error, torch.Tensor) or error.numel() != 1:
        raise InputError(
            f"the loss is {_describe(error)}, not a tensor of one element",
            hint="pass loss=function, which takes what the model returns",
        )
    if not error.requires_grad:
        raise InputError(
            "the loss does not depend on a parameter that asks for a gradient",
            hint="set requires_grad, or capture without mode='training'",
        )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def default_loss(outputs: Any) -> torch.Tensor:
    """Return the loss that `outputs` names, or else the sum of all that asks for a gradient."""
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    leaves = torch_api.tree_leaves(pack(outputs)[0])
    found = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    if not found:
        raise InputError(
            "nothing that the model returns depends on a parameter that asks for a gradient",
            hint="set requires_grad, or capture without mode='training'",
        )
    total = found[0].abs().sum() if found[0].is_complex() else found[0].sum()
    for leaf in found[1:]:
        total = total + (leaf.abs().sum() if leaf.is_complex() else leaf.sum())
    return total


def _make_optimizer(
    given: Any, parameters: Mapping[str, torch.Tensor], fakes: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    if not callable(given) and not isinstance(given, torch.optim.Optimizer):
        return _checked(given)
    if isinstance(given, torch.optim.Optimizer):
        names = {id(tensor): name for name, tensor in parameters.items()}
        groups = []
        for group in given.param_groups:
            known = [names[id(p)] for p in group["params"] if id(p) in names]
            params = [fakes[name] for name in known if name in fakes]
            groups.append({**group, "params": params})
        remake: Any = type(given)
        return _checked(remake([group for group in groups if group["params"]]))
    return _checked(given(list({id(f): f for f in fakes.values()}.values())))


def _checked(made: Any) -> torch.optim.Optimizer:
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"a {type(made).__name__} is no optimizer",
            hint="pass a torch.optim.Optimizer, or a function such as "
            "lambda parameters: torch.optim.AdamW(parameters)",
        )
    return made


@contextmanager
def _multithreading_off() -> Iterator[None]:
    # On a GPU the backward pass runs in a thread of its own, where no mode of ours is active.
    with torch.autograd.set_multithreading_enabled(False):
        yield
