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
from ..schema import Kind
from . import torch_api
from .capture import Capture
from .dispatch import Tracer
from .example import Args, fake, fake_mode_of, input_names, pack
from .fx_graph import Recorder
from .state import module_types, stack_of, tied

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
    mode = fake_mode_of(model, args) or torch_api.FakeTensorMode(allow_non_fake_inputs=True)
    step = _Step(model, mode, Tracer(model))
    with mode:
        step.prepare(args, optimizer)
        try:
            step.run(loss)
        finally:
            for tensor, gradient in step.tracer.constants:
                if tensor.is_leaf:  # a tensor that the model holds, and no parameter of it
                    tensor.grad = gradient
    return _Reader(step).read()


class _Step:
    """One training step, and what exists before it."""

    def __init__(self, model: nn.Module, mode: torch_api.FakeTensorMode, tracer: Tracer) -> None:
        self.model, self.mode, self.tracer = model, mode, tracer
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.buffers = dict(model.named_buffers(remove_duplicate=False))
        self.groups = tied([*self.parameters.items(), *self.buffers.items()])
        self.fakes: dict[str, torch.Tensor] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.inputs: dict[str, fx.Node] = {}
        self.states: dict[str, fx.Node] = {}
        self.given: dict[str, Any] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.args: Args = ((), {})
        self.returned: list[tuple[tuple[str, ...], fx.Node]] = []

    def prepare(self, args: Args, optimizer: Any) -> None:
        """Make the fake model, example and optimizer, and a placeholder for each tensor."""
        for name, tensor in {**self.parameters, **self.buffers}.items():
            first = self.groups[name][0]
            if first == name:
                self.fakes[name] = self._copy(tensor)
                owner = name.rpartition(".")[0] if name in self.parameters else None
                node = self.tracer.placeholder(_identifier(name), self.fakes[name], owner)
                self.nodes[name], self.given[node.name] = node, tensor
            self.fakes[name], self.nodes[name] = self.fakes[first], self.nodes[first]
        self._inputs(args)
        if optimizer is not None:
            self._optimizer(optimizer)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        # Of a model without weights too the gradients are not to be left behind.
        made: torch.Tensor = fake(self.mode, tensor)
        return made.detach().requires_grad_(tensor.requires_grad) if made is tensor else made

    def _inputs(self, args: Args) -> None:
        found = torch_api.tree_flatten_with_names(args)
        names = input_names(self.model, [path for path, _ in found])
        fakes = []
        for name, (_, leaf) in zip(names, found, strict=True):
            made = fake(self.mode, leaf)
            fakes.append(made)
            if isinstance(made, torch.Tensor):
                self.inputs[name] = node = self.tracer.placeholder(_identifier(name), made)
                self.given[node.name] = leaf
        leaves = iter(fakes)
        self.args = torch_api.tree_map(lambda _: next(leaves), args)

    def _optimizer(self, given: Any) -> None:
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
                    node = self.tracer.placeholder(_identifier(name), value)
                    self.states[name] = node

    def run(self, loss: Loss | None) -> None:
        """Run the step under the tracer."""
        tracer = self.tracer
        with tracer, tracer.modules(), torch.enable_grad():
            positional, named = self.args
            outputs = torch.func.functional_call(self.model, self.fakes, positional, named)
            error = (loss or default_loss)(outputs)
            self._return_outputs(outputs, error)
            tracer.phase = "backward"
            with _multithreading_off():
                torch.autograd.backward(error)
            self._return_gradients()
            if self.optimizer is not None:
                tracer.phase = "optimizer"
                self.optimizer.step()

    def _return_outputs(self, outputs: Any, error: torch.Tensor) -> None:
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
        for path, leaf in torch_api.tree_flatten_with_names(pack(outputs)[0]):
            if isinstance(leaf, torch.Tensor):
                self.returned.append((("output", *path), self.tracer.node_of(leaf)))
        if all(node is not self.tracer.node_of(error) for _, node in self.returned):
            self.returned.append((("loss",), self.tracer.node_of(error)))

    def _return_gradients(self) -> None:
        for name in self.parameters:
            gradient = self.fakes[name].grad if self.groups[name][0] == name else None
            if gradient is not None:
                node = self.tracer.node_of(gradient)
                self.returned.append((("gradient", *name.split(".")), node))


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name) or "_"


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


class _Reader:
    """Turns what a step recorded into records."""

    def __init__(self, step: _Step) -> None:
        self.step = step
        self.types = module_types(step.model)
        self.recorder = Recorder()

    def read(self) -> Capture:
        step, tracer, recorder = self.step, self.step.tracer, self.recorder
        tracer.graph.output(tuple(node for _, node in step.returned))
        program = fx.GraphModule(tracer.root, tracer.graph)
        recorder.real = step.given
        for name, node in step.inputs.items():
            recorder.placeholder(node, "input", name)
        self._state()
        for name, node in step.states.items():
            node.meta["phase"] = "optimizer"
            recorder.placeholder(node, "buffer", name)
        for node in tracer.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                recorder.visit(node, program)
        for i, (path, node) in enumerate(step.returned):
            root, rest = ("output", path[1:]) if path[0] == "output" else (path[0], path[1:])
            recorder.output(f"output:{i}", rest, node, root)
        attrs = {
            "name": type(step.model).__name__,
            "modules": self.types,
            "dropped": dict(sorted(recorder.dropped.items())),
        }
        return Capture(recorder.records, attrs, program, step.given)

    def _state(self) -> None:
        step = self.step
        for name, node in step.nodes.items():
            first, *others = step.groups[name]
            kind: Kind = "parameter" if first in step.parameters else "buffer"
            if name != first:
                continue
            if kind == "buffer" and not node.users:
                self.recorder.dropped["unused buffer"] += 1
                continue
            self.recorder.placeholder(node, kind, name, stack_of(name, self.types), tuple(others))
