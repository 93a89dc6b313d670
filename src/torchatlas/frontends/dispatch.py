"""Writes down the operators that run, as an fx graph: what a front end of our own records with."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from operator import getitem
from typing import Any

import torch
from torch import fx, nn

from ..errors import InputError
from ..schema import Decision, Phase
from . import metadata, mix_ups, torch_api
from .differentiation import Differentiated
from .frozen import Reads
from .segments import RESHAPING, Segment
from .state import stack_of, walk

_IGNORED = frozenset({"prim", "profiler"})
"""Namespaces of operators that only ask or time."""

_FEW = 4
"""How many values of a tensor are shown."""

_NUMBERS = bool | int | float | complex | torch.SymInt | torch.SymFloat | torch.SymBool

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
        self._hold, self._paused = hold, False
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.phase: Phase = "forward"
        self.real = False
        """Whether the tensors have values, and what is done may depend on them."""
        self.decisions: list[Decision] = []
        modules = walk(model)
        self._types = {path: type(module) for path, module in modules}
        self._paths = {id(module): path for path, module in reversed(modules)}
        places: dict[int, list[str]] = {}
        for path, module in modules:
            places.setdefault(id(module), []).append(path)
        self._shared = {key: paths for key, paths in places.items() if len(paths) > 1}
        """The paths of modules that stand under several."""
        self._named: dict[int, list[str]] = {}
        """The paths under which such a module was looked up, and is yet to be called."""
        self._owners: dict[int, str] = {}
        """The names of parameters."""
        self._running: list[str | None] = []
        self._mix_up: InputError | None = None
        """What to say of an operator that raised because of the devices of its arguments."""
        self.constants: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        """Tensors that nobody announced, each with the gradient that it had."""
        self._objects: dict[int, tuple[Any, fx.Node]] = {}
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], fx.Node]] = {}
        self._by_storage: dict[int, list[tuple[Any, fx.Node]]] = {}
        self._forward = Differentiated(whole=hold)

    # -- what stands outside the run -------------------------------------------------------

    def placeholder(self, name: str, tensor: torch.Tensor, owner: str | None = None) -> fx.Node:
        """Announce a tensor that exists before the run; `owner` is the name of a parameter."""
        node: fx.Node = self.graph.placeholder(name)
        node.target = node.name  # unique, as the name of an argument has to be
        self._remember(node, tensor)
        if owner is not None:
            self._owners[id(tensor)] = owner
        return node

    def _stack(self, paths: Iterable[str | None]) -> Stack:
        return {path: (path, self._types[path]) for path in paths if path is not None}

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node that made `tensor`, or a new one for a constant."""
        found = self.find(tensor)
        return self._constant(tensor) if found is None else found

    def find(self, tensor: torch.Tensor) -> fx.Node | None:
        """Return the node that made `tensor`, None where nobody announced it."""
        entry = self._known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            known: fx.Node = entry[1]
            return known
        key = self._place(tensor)
        same = (node for place, node in reversed(self._by_storage.get(key[0], [])) if place == key)
        return next(same, None)

    def path_of(self, module: nn.Module) -> str:
        """Return the path of a module of the model."""
        return self._paths[id(module)]

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        name = f"lifted_tensor_{len(self.constants)}"
        fake = isinstance(tensor, torch_api.FakeTensor)
        self.root.register_buffer(name, _alias(tensor) if fake else tensor)
        self.constants.append((tensor, tensor.grad if tensor.is_leaf else None))
        node: fx.Node = self.graph.get_attr(name)
        self._remember(node, tensor)
        return node

    def _object(self, value: Any) -> fx.Node:
        """Return a node for what is neither a tensor nor a literal, such as packed weights."""
        entry = self._objects.get(id(value))
        if entry is None:
            name = f"lifted_object_{len(self._objects)}"
            setattr(self.root, name, value)
            node: fx.Node = self.graph.get_attr(name)
            node.meta["val"] = value
            entry = self._objects[id(value)] = value, node
        return entry[1]

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which modules are running, also when a checkpoint runs them again.

        A module's own hooks count as part of it.
        """
        original: Any = nn.Module.__call__
        running, named = self._running, self._named
        paths: dict[int, str | None] = dict(self._paths)

        def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            looked_up = named.get(id(module))
            running.append(looked_up.pop() if looked_up else paths.get(id(module)))
            try:
                return original(module, *args, **kwargs)
            finally:
                running.pop()

        try:
            with calls_replaced(call), self._following() if self._shared else nullcontext():
                yield
        except RuntimeError as error:
            if self._mix_up is None or not mix_ups.is_mix_up(error):
                raise
            raise self._mix_up from error

    def _innermost(self) -> tuple[str, str]:
        """Return the path and the class of the innermost module that is running."""
        path = next((path for path in reversed(self._running) if path is not None), "")
        return path, self._types[path].__name__

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Note under which of its paths a shared module is looked up.

        In ``self.a(self.b(x))``, two names of one module, `b` is looked up last and called first.
        """
        original: Any = nn.Module.__getattr__
        shared, named, running = self._shared, self._named, self._running

        def look_up(module: nn.Module, name: str) -> Any:
            found = original(module, name)
            if id(found) in shared and isinstance(found, nn.Module):
                outer = running[-1] if running else None
                if outer is None or id(module) not in shared:
                    outer = self._paths.get(id(module))
                path = f"{outer}.{name}" if outer else name
                if path in shared[id(found)]:
                    named.setdefault(id(found), []).append(path)
            return found

        nn.Module.__getattr__ = look_up  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__getattr__ = original  # type: ignore[method-assign]

    # -- the run ---------------------------------------------------------------------------

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and record it."""
        if self._paused or func.namespace in _IGNORED:
            return func(*args, **kwargs)
        if func.namespace == "higher_order":
            from .body_tracing import call, has_bodies

            if has_bodies(args, kwargs):
                return call(self, func, args, kwargs)
        seen = sys.gettrace()
        if not isinstance(getattr(seen, "__self__", None), Reads):
            return self._call(func, args, kwargs)
        sys.settrace(None)  # what an operator runs is torch's own code, and much of it
        try:
            return self._call(func, args, kwargs)
        finally:
            sys.settrace(seen)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs, named = self._operand(args), self._operand(kwargs)
        if self._hold and func.__name__.partition(".")[0] in RESHAPING:
            inputs[0].meta["val"] = _alias(args[0])  # as it was before
        try:
            result = func(*args, **kwargs)
        except RuntimeError as error:
            if mix_ups.is_mix_up(error):
                operands = inputs, named
                self._mix_up = mix_ups.describe(self.graph, func, operands, self._innermost())
            raise
        if isinstance(result, _NUMBERS):
            if torch_api.is_data_dependent(func, args):
                self.decide(metadata.op_info(func).op, repr(result))
            return result  # which is written into the calls that use it
        if self.real and torch_api.is_data_dependent(func, args):
            self.decide(metadata.op_info(func).op, _shapes(result))
        node = self.graph.call_function(func, inputs, named)
        node.meta.update(phase=self.phase, modes=torch_api.modes())
        self._attribute(node, args)
        self._results(node, result)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run operators without recording them."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def repeat(
        self,
        segment: Segment,
        operands: Sequence[fx.Node],
        results: Sequence[torch.Tensor],
        paths: Sequence[str],
        line: str,
    ) -> None:
        """Record that a module call repeats `segment`; `paths` are those of its modules."""
        node = self.graph.call_function(segment, tuple(operands))
        stack = self._stack(self._running)
        node.meta.update(nn_module_stack=stack, stack_trace=line, phase=self.phase, paths=paths)
        self._results(node, tuple(results))

    def decide(self, op: str, value: str) -> None:
        """Note that what happens next depends on `value`, which `op` took from a tensor."""
        line = metadata.source_line(metadata.calling_line())
        self.decisions.append(Decision(line, op, value))

    def read_values(self, how: str, tensor: torch.Tensor) -> None:
        """Note that Python got the values of `tensor`."""
        text = repr(tensor.tolist()) if tensor.numel() <= _FEW else _shapes(tensor)
        self.decide(f"Tensor.{how}", text)

    def _operand(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, torch.Generator | torch.ScriptObject):
            return self._object(value)
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
        key = self._place(tensor)
        self._by_storage.setdefault(key[0], []).append((key, node))

    def _value(self, leaf: Any) -> Any:
        return leaf if self._hold else _alias(leaf)

    def _place(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        if tensor.layout is not torch.strided:
            return (id(tensor),)
        storage = torch_api.storage_of(tensor)
        if storage is None and (whole := torch_api.unbatched(tensor)) is not tensor:
            return self._place(whole)  # `vmap` wraps tensors without an operator
        return storage, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride())

    def _attribute(self, node: fx.Node, operands: tuple[Any, ...]) -> None:
        """Write down the modules and the line of code that an operator belongs to."""
        step, meta = torch_api.backward_step(), node.meta
        again = step is not None and self.phase == "backward" and torch.is_grad_enabled()
        if step is None or again:
            meta["nn_module_stack"] = self._stack(self._running)
            meta["stack_trace"] = metadata.calling_line()
            meta["again"] = again  # by a checkpoint
        elif step.parameter is not None:
            owner = self._owners.get(id(step.parameter))
            around = () if owner is None else stack_of(owner, {})
            meta["nn_module_stack"] = self._stack(module.path for module in around)
            meta["gradient_of"] = self._known.get(id(step.parameter), (None, None))[1]
        else:
            origin = meta["differentiates"] = self._forward.origin(step)
            meta["nn_module_stack"] = {} if origin is None else origin.meta["nn_module_stack"]
            meta["stack_trace"] = "" if origin is None else origin.meta["stack_trace"]
        if step is None or torch.is_grad_enabled():
            self._forward.note(node, operands)


@contextmanager
def calls_replaced(call: Callable[..., Any]) -> Iterator[None]:
    """Let `call` run where a module is called, as torch.fx does it. Not safe for threads."""
    original: Any = nn.Module.__call__
    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def _shapes(result: Any) -> str:
    leaves = torch_api.tree_leaves(result)
    shapes = (str(tuple(leaf.shape)) for leaf in leaves if isinstance(leaf, torch.Tensor))
    return f"shape {', '.join(shapes)}"


def _alias(value: Any) -> Any:
    # A tensor of its own on the same memory: holding on to the real one would change what
    # autograd does with gradients that nobody else holds.
    return value.detach() if isinstance(value, torch.Tensor) else value
