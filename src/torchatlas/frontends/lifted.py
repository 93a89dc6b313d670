"""Takes down a graph of `torch.compile`, whose parameters are inputs, for a later look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..schema import Module
from . import torch_api
from .scope import Name, Scope


@dataclass(frozen=True, slots=True)
class Input:
    """A placeholder of a compiled graph: its name in the model, and what the call gave."""

    node: str
    name: Name
    value: Any
    """A fake tensor, a symbolic size, or another value that is no tensor."""
    differentiable: bool
    leaf: bool
    number: Any = None
    """The symbolic number that a tensor holds: torch hands over a Python float as a tensor."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a compiled call found switched on, which its graph does not say."""

    autocast: tuple[tuple[str, torch.dtype, bool], ...]
    device: torch.device

    @classmethod
    def now(cls, devices: Iterable[str]) -> Around:
        """Return what is switched on now."""
        known = ((d, torch.get_autocast_dtype(d), torch.is_autocast_enabled(d)) for d in devices)
        return cls(tuple(known), torch.get_default_device())

    @contextmanager
    def again(self) -> Iterator[None]:
        """Switch the same on inside the block, whatever is on around it."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))  # to put it back
            for device, dtype, enabled in self.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
            if self.device != torch.get_default_device():
                stack.enter_context(self.device)
            yield


@dataclass(frozen=True, slots=True)
class Lifted:
    """A compiled graph, and what its placeholders and modules are called in the model."""

    program: fx.GraphModule
    inputs: tuple[Input, ...]
    held: Mapping[str, Name]
    """The names of the tensors that the graph itself holds."""
    name: str
    types: Mapping[str, str]
    root: Module
    environment: Any
    """What knows the symbolic sizes; None where all sizes are numbers."""
    around: Around

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let the block run the graph as it was called, without a trace of that outside."""
        guards = torch_api.without_guards(self.environment)
        with torch_api.quiet(), guards, self.around.again():
            yield


def lift(program: fx.GraphModule, frame: torch_api.CompiledFrame, function: str) -> Lifted:
    """Take down what torch hands to a backend, before the backend changes it.

    `function` is the name of what is compiled.
    """
    scope = Scope(frame, function)
    inputs = tuple(_input(node, scope) for node in program.graph.find_nodes(op="placeholder"))
    copied = _copy(program)
    for part in copied.modules():  # with the bodies of conditions, loops and checkpoints
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            node.meta["nn_module_stack"] = scope.stack(node.meta.get("nn_module_stack"))
    values = [torch_api.example_value(node) for node in copied.graph.nodes]
    found = map(torch_api.shape_environment, filter(_is_symbolic, values))
    name = scope.around[-1].type.rpartition(".")[2]
    tensors = [*program.named_parameters(), *program.named_buffers()]
    held = {path: scope.name("", tensor, path) for path, tensor in tensors}
    return Lifted(
        copied,
        inputs,
        {path: n._replace(kind="constant") if n.kind == "input" else n for path, n in held.items()},
        name,
        scope.types,
        scope.around[0],
        next(found, None),
        Around.now(_devices(inputs)),
    )


def _devices(inputs: Iterable[Input]) -> set[str]:
    tensors = (given.value for given in inputs if isinstance(given.value, torch.Tensor))
    return {"cpu", *(tensor.device.type for tensor in tensors)} - {"meta"}


def _input(node: fx.Node, scope: Scope) -> Input:
    source, real = torch_api.lifted_from(node)
    value = torch_api.example_value(node)
    tensor = real if isinstance(real, torch.Tensor) else value
    asks = isinstance(tensor, torch.Tensor) and tensor.requires_grad and torch.is_grad_enabled()
    leaf = not isinstance(tensor, torch.Tensor) or tensor.is_leaf
    name = scope.name(source, tensor, node.name)
    return Input(node.name, name, value, asks, leaf, torch_api.number_in(value))


def _copy(program: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    copied = fx.GraphModule(program, graph)
    for name, child in copied.named_children():
        if isinstance(child, fx.GraphModule):
            setattr(copied, name, _copy(child))
    for node in copied.graph.nodes:
        node.meta.pop("grapharg", None)  # it holds tensors of the call
    return copied


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not all(isinstance(n, int) for n in (*value.shape, *value.stride()))
    return isinstance(value, torch.SymInt | torch.SymFloat)
