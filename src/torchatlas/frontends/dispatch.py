"""Writes down the operators that run, as an fx graph: what a front end of our own records with."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from operator import getitem
from typing import Any

import torch
from torch import fx, nn

from ..schema import Phase
from . import metadata, torch_api
from .state import stack_of

_IGNORED = frozenset({"prim", "profiler"})
"""Namespaces of operators that only ask or time."""

_RESHAPING = frozenset(
    f"{name}_"
    for name in (
        "as_strided",
        "detach",
        "resize",
        "resize_as",
        "set",
        "squeeze",
        "swapaxes",
        "swapdims",
        "t",
        "transpose",
        "unsqueeze",
    )
)
"""Operators in place that change a tensor's shape or memory rather than its elements."""

Stack = dict[str, tuple[str, type]]
"""Module calls as fx keeps them: path → path and class, from the root inwards."""


class Tracer:
    """Records each operator that is handed to `call` as a node of `graph`, in order.

    A node's metadata holds the value, the modules around the call, the line of code and the
    phase. An operator of the backward pass stands under the module whose forward operator it
    differentiates. Tensors that nobody announced become constants.

    With `hold` the metadata holds the tensors themselves, which takes less time than others on
    the same memory; a backward pass would then keep gradients apart that it could hand on.
    """

    def __init__(self, model: nn.Module, *, hold: bool = False) -> None:
        self._hold = hold
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.phase: Phase = "forward"
        self._types = {path: type(module) for path, module in model.named_modules()}
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._owners: dict[int, Stack] = {}
        self._running: list[str | None] = []
        self.constants: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        """Tensors that nobody announced, each with the gradient that it had."""
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], fx.Node]] = {}
        self._by_storage: dict[int, list[tuple[Any, fx.Node]]] = {}
        self._forward: dict[int, tuple[Stack, str]] = {}

    # -- what stands outside the run -------------------------------------------------------

    def placeholder(self, name: str, tensor: torch.Tensor, owner: str | None = None) -> fx.Node:
        """Announce a tensor that exists before the run; `owner` is the path of a parameter."""
        node: fx.Node = self.graph.placeholder(name)
        node.target = node.name  # unique, as the name of an argument has to be
        self._remember(node, tensor)
        if owner is not None:
            self._owners[id(tensor)] = self._stack(m.path for m in stack_of(owner, {}))
        return node

    def _stack(self, paths: Iterable[str | None]) -> Stack:
        return {path: (path, self._types[path]) for path in paths if path is not None}

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node that made `tensor`, or a new one for a constant."""
        entry = self._known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            known: fx.Node = entry[1]
            return known
        key = _place(tensor)
        same = (node for place, node in reversed(self._by_storage.get(key[0], [])) if place == key)
        found: fx.Node | None = next(same, None)
        return self._constant(tensor) if found is None else found

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        name = f"lifted_tensor_{len(self.constants)}"
        fake = isinstance(tensor, torch_api.FakeTensor)
        self.root.register_buffer(name, _alias(tensor) if fake else tensor)
        self.constants.append((tensor, tensor.grad if tensor.is_leaf else None))
        node: fx.Node = self.graph.get_attr(name)
        self._remember(node, tensor)
        return node

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which modules are running, also when a checkpoint runs them again."""

        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(self._paths.get(id(module)))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._running.pop()

        hooks = torch.nn.modules.module
        with ExitStack() as stack:
            stack.callback(hooks.register_module_forward_pre_hook(enter).remove)
            stack.callback(hooks.register_module_forward_hook(leave, always_call=True).remove)
            yield

    # -- the run ---------------------------------------------------------------------------

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and record it."""
        if func.namespace in _IGNORED:
            return func(*args, **kwargs)
        inputs, named = self._operand(args), self._operand(kwargs)
        if self._hold and func.__name__.partition(".")[0] in _RESHAPING:
            inputs[0].meta["val"] = _alias(args[0])  # as it was before
        result = func(*args, **kwargs)
        if isinstance(result, bool | int | float | torch.SymInt | torch.SymFloat | torch.SymBool):
            return result  # a number, which is written into the calls that use it
        node = self.graph.call_function(func, inputs, named)
        stack, line = self._where()
        node.meta.update(nn_module_stack=stack, phase=self.phase, stack_trace=line)
        self._results(node, result)
        return result

    def _operand(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if type(value) in (list, tuple):
            return type(value)(map(self._operand, value))
        if type(value) is dict:
            return {key: self._operand(item) for key, item in value.items()}
        return value

    def _results(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self._remember(node, result)
        elif isinstance(result, list | tuple):
            node.meta["val"] = tuple(map(self._value, result))
            for i, leaf in enumerate(result):
                if isinstance(leaf, torch.Tensor):
                    item = self.graph.call_function(getitem, (node, i))
                    self._remember(item, leaf)

    def _remember(self, node: fx.Node, tensor: torch.Tensor) -> None:
        node.meta["val"] = self._value(tensor)
        self._known[id(tensor)] = weakref.ref(tensor), node
        key = _place(tensor)
        self._by_storage.setdefault(key[0], []).append((key, node))

    def _value(self, leaf: Any) -> Any:
        return leaf if self._hold else _alias(leaf)

    def _where(self) -> tuple[Stack, str]:
        """Return the modules and the line that an operator belongs to."""
        step = torch_api.backward_step()
        if step is None or self._running:
            here = self._stack(self._running), metadata.calling_line()
            if step is None:
                # What needs no gradient makes no autograd node, so the first one counts.
                self._forward.setdefault(torch_api.forward_step(), here)
            return here
        number, variable = step
        if variable is not None:
            return self._owners.get(id(variable), {}), ""
        return self._forward.get(number, ({}, ""))


def _alias(value: Any) -> Any:
    # A tensor of its own on the same memory: holding on to the real one would change what
    # autograd does with gradients that nobody else holds.
    return value.detach() if isinstance(value, torch.Tensor) else value


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:
        return (id(tensor),)
    storage = torch_api.storage_of(tensor)
    return storage, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride())
