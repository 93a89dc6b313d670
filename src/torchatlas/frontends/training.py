"""The training front end: forward, loss, backward and optimizer step as one graph.

The step runs once on tensors without values, and every operator that runs below autograd is
written down: so operators in place stay what they are, the order is that of eager execution, and
any Python code may stand in the model, its loss and its optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from ..errors import InputError, UsageError
from . import torch_api
from .capture import Capture
from .example import Args, mode_for, pack
from .fx_graph import Recorder
from .links import link_gradients
from .watched import WatchedRecording

Loss = Callable[[Any], torch.Tensor]


def capture(
    model: nn.Module,
    args: Args,
    loss: Loss | None = None,
    optimizer: Any = None,
    *,
    on_values: bool = False,
) -> Capture:
    """Run one training step of `model` on fake tensors and turn what it calls into records.

    The model keeps its own training or evaluation mode, and its parameters as they are. `loss`
    takes what the model returns; by default it is the output's own ``loss``, or the sum of all
    that the model returns. `optimizer` is a `torch.optim.Optimizer` or makes one of a list of
    parameters; it has made a step before, so that its state exists.

    With `on_values` the step runs on copies of the parameters and the example, for a model that
    looks at the values of tensors; what it saw is kept in the capture's ``decisions``.
    """
    step = _Step(model, None if on_values else mode_for(model, args))
    with step.tensors():
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


class _Step(WatchedRecording):
    """One training step, and what exists before it."""

    def __init__(self, model: nn.Module, mode: torch_api.FakeTensorMode | None) -> None:
        super().__init__(model, mode)
        self.states: dict[str, fx.Node] = {}
        self._state_of: dict[str, str] = {}
        self._counts: dict[str, tuple[Any, torch.Size, torch.dtype]] = {}
        self._gradient_of: dict[str, str] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def prepare(self, args: Args) -> None:
        """Make the tensors of the run; the hooks on gradients are those of the parameters."""
        super().prepare(args)
        for name, parameter in self.parameters.items():
            if self.groups[name][0] == name:
                for hook in torch_api.gradient_hooks(parameter):
                    self.fakes[name].register_hook(hook)  # type: ignore[no-untyped-call]

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.mode is not None:
            return super()._copy(tensor)
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)

    def prepare_optimizer(self, given: Any) -> None:
        """Make an optimizer of the fake parameters that has made a step before."""
        trained = {n: f for n, f in self.fakes.items() if f.requires_grad}
        self.optimizer = made = make_optimizer(given, self.parameters, trained)
        for tensor in trained.values():
            tensor.grad = torch.zeros_like(tensor)
        before = {name: tensor.detach().clone() for name, tensor in trained.items()}
        made.step()
        made.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(before[name])
        names = {id(tensor): self.groups[name][0] for name, tensor in trained.items()}
        for parameter, state in made.state.items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    name = f"optimizer.{key}.{names.get(id(parameter), 'shared')}"
                    self.states[name] = node = self.placeholder(name, value)
                    # Moments are zeros, also those of a parameter of one element.
                    if value.numel() == 1 and (key == "step" or value.shape != parameter.shape):
                        self._counts[node.name] = _number(value), value.shape, value.dtype
                    if id(parameter) in names:
                        self._state_of[node.name] = self.nodes[names[id(parameter)]].name

    def run(self, loss: Loss | None) -> None:
        """Run the step under the tracer.

        The model has the fake tensors all the while: a checkpoint runs parts of it again in the
        backward pass, and a loss may use its parameters.
        """
        whole = _Within(self.model, lambda: self._run(loss))
        torch.func.functional_call(whole, {f"model.{n}": f for n, f in self.fakes.items()}, ())

    def _run(self, loss: Loss | None) -> None:
        tracer = self.tracer
        with torch_api.below_autograd(tracer.call), tracer.modules(), torch.enable_grad():
            outputs = self.forward()
            error = (loss or default_loss)(outputs)
            _check_loss(error)
            self.return_outputs(outputs)
            if all(node is not tracer.node_of(error) for *_, node in self.returned):
                self.returned.append(("loss", (), tracer.node_of(error)))
            self._note_saved(outputs, error)
            tracer.phase = "backward"
            _backward(error)
            self._return_gradients()
            if self.optimizer is not None:
                tracer.phase, seen = "optimizer", len(tracer.decisions)
                self.optimizer.step()
                del tracer.decisions[seen:]  # it counts its steps, whatever the example
        tracer.stop()

    def _note_saved(self, outputs: Any, error: torch.Tensor) -> None:
        leaves = [x for x in torch_api.tree_leaves(pack(outputs)[0]) if isinstance(x, torch.Tensor)]
        with self.tracer.paused():
            kept = list(map(self.tracer.find, torch_api.saved_tensors([error, *leaves])))
        for node in kept:
            if node is not None:
                node.meta["saved"] = True

    def _return_gradients(self) -> None:
        for name in self.parameters:
            gradient = self.fakes[name].grad if self.groups[name][0] == name else None
            if gradient is not None:
                node = self.tracer.node_of(gradient)
                self._gradient_of[f"output:{len(self.returned)}"] = self.nodes[name].name
                self.returned.append(("gradient", tuple(name.split(".")), node))

    def read_state(self, recorder: Recorder, types: dict[str, str]) -> None:
        """Record parameters and buffers, and the state of the optimizer."""
        super().read_state(recorder, types)
        for name, node in self.states.items():
            node.meta["phase"] = "optimizer"
            recorder.placeholder(node, "buffer", name)

    def read(self) -> Capture:
        """Turn what was recorded into records, and link them."""
        found = super().read()  # also what ops have to do with each other
        for name, (number, shape, dtype) in self._counts.items():
            self.given[name] = torch.full(shape, number, dtype=dtype)
        link_gradients(found.records, self._gradient_of, self._state_of)
        return found


class _Within(nn.Module):
    """Calls a function as if it were a part of `model`."""

    def __init__(self, model: nn.Module, function: Callable[[], None]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> None:
        self.function()


def _number(value: torch.Tensor) -> Any:
    """Return the number in a fake tensor; that of the first step where it is not known."""
    try:
        return value.item()
    except Exception:
        return 1


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


def make_optimizer(
    given: Any, parameters: Mapping[str, torch.Tensor], fakes: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    """Return an optimizer like `given`, or that it makes, of other tensors of the same names.

    Raises UsageError where it is none and makes none.
    """
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


def _backward(error: torch.Tensor) -> None:
    try:
        # On a GPU the backward pass runs in a thread of its own, where no mode of ours is active.
        with torch.autograd.set_multithreading_enabled(False):
            torch.autograd.backward(error)
    except RuntimeError as fault:
        if "modified by an inplace operation" not in str(fault):
            raise
        raise InputError(
            f"the backward pass raises: {str(fault).splitlines()[0][:300]}",
            hint="it needs a value that an op in place wrote over: leave out one `inplace=True`",
        ) from fault
