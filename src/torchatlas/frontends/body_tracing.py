"""Traces the bodies of control flow operators, for the front ends that write down what runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx, nn

from ..errors import CaptureError
from . import bodies, control_flow, metadata, torch_api
from .control_flow import Input
from .dispatch import Stack, Tracer


def has_bodies(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether functions are among the arguments of an operator."""
    return any(map(_is_body, torch_api.tree_leaves((args, dict(kwargs)))))


def _is_body(value: Any) -> bool:
    return callable(value) and not isinstance(value, torch.Tensor | type | torch._ops.OperatorBase)


def call(tracer: Tracer, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a control flow operator, and record it with its bodies in the graph of `tracer`.

    A body runs on tensors like those that the operator hands it. What else it takes from around
    it becomes one more operand, as in torch's own graphs.
    """
    return _Call(tracer, op, args, kwargs).record()


class _Call:
    """A call of a control flow operator."""

    def __init__(
        self, tracer: Tracer, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.tracer, self.op, self.args, self.kwargs = tracer, op, args, kwargs
        self.info = metadata.op_info(op)
        named = metadata.named_arguments(self.info, args, kwargs)
        self.taken = control_flow.take_bodies(named, _is_body)
        self.lifted: dict[str, list[torch.Tensor]] = {}
        """By argument, what the bodies take from around them."""

    def record(self) -> Any:
        """Run the operator and record it; return its result."""
        traced = {name: self._trace(name, body) for name, body in self.taken.graphs.items()}
        nodes = {id(self.taken.graphs[name]): self._keep(name, b) for name, b in traced.items()}
        result = self._run()
        inputs, named = self._operands(nodes)
        node = self.tracer.graph.call_function(self.op, inputs, named)
        if not self.tracer._hold:
            _forget_probes(node)
        node.meta.update(phase=self.tracer.phase, modes=torch_api.modes())
        self.tracer._attribute(node, self.args)
        self.tracer._results(node, result)
        return result

    def _run(self) -> Any:
        if self.info.op == "higher_order.while_loop_stack_output":
            raise CaptureError(
                "a while_loop keeps as many tensors for its gradient as it has steps, of which the "
                "number is not known",
                hint="use a scan, or capture without mode='training'",
            )
        with torch.no_grad():  # or torch would trace the gradients too, now
            if self.info.op != "higher_order.while_loop" or self.tracer.real:
                return self.op(*self.args, **self.kwargs)
            # torch's own way needs symbolic sizes; what a loop returns is like what it carries.
            carried = self.taken.args["carried_inputs"]
            if any(not isinstance(value, torch.Tensor) for value in carried):
                raise CaptureError(
                    "a while_loop carries a Python number, of which only its start is known here",
                    hint="leave `frontend` out, or carry a tensor",
                )
            return tuple(map(_like, carried))

    # -- bodies --------------------------------------------------------------------------------

    def _trace(self, name: str, function: Callable[..., Any]) -> _Body:
        """Run a body on tensors of its own; return what recorded it."""
        body = _Body(self.tracer, self.lifted.setdefault(self._last(name), []))
        given = control_flow.body_inputs(self.info.op, name, self.taken.args)
        leaves = torch_api.tree_leaves((self.args, self.kwargs))
        like = next((leaf for leaf in leaves if isinstance(leaf, torch.Tensor)), torch.empty(()))
        examples = [body.enter(f"arg{i}", _example(item, like)) for i, item in enumerate(given)]
        with body.recording(), self._indexing():
            run = _Run(function, body).run if isinstance(function, fx.GraphModule) else function
            body.leave(run(*examples))
        return body

    def _indexing(self) -> AbstractContextManager[None]:
        flex = self.info.op.startswith("higher_order.flex_attention")
        return torch_api.indexing_by_numbers_that_flow() if flex else nullcontext()

    def _keep(self, name: str, body: _Body) -> fx.Node:
        """Make the graph of a body part of the tracer's; return the node that stands for it."""
        body.complete()
        root, stem = self.tracer.root, f"{self.info.op.rpartition('.')[2]}_{name}"
        number = sum(1 for child, _ in root.named_children() if child.startswith(f"{stem}_"))
        root.add_module(f"{stem}_{number}", fx.GraphModule(body.root, body.graph))
        return self.tracer.graph.get_attr(f"{stem}_{number}")

    def _last(self, name: str) -> str:
        return control_flow.last_argument(self.info.op, name)

    # -- arguments -----------------------------------------------------------------------------

    def _operands(self, nodes: Mapping[int, fx.Node]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with nodes for tensors and bodies, and for what was lifted."""
        inputs = [self._operand(value, nodes) for value in self.args]
        named = {key: self._operand(value, nodes) for key, value in self.kwargs.items()}
        names = self.info.arguments
        for name, tensors in self.lifted.items():
            more = tuple(map(self.tracer.node_of, tensors))
            place = names.index(name) if name in names else None
            if place is None:
                inputs += more
            elif place < len(inputs):
                inputs[place] = (*inputs[place], *more)
            elif more:
                named[name] = (*named.get(name, ()), *more)
        return tuple(inputs), named

    def _operand(self, value: Any, nodes: Mapping[int, fx.Node]) -> Any:
        if id(value) in nodes:
            return nodes[id(value)]
        if type(value) in (list, tuple):
            return type(value)(self._operand(item, nodes) for item in value)
        return self.tracer._operand(value)


_PROBES = frozenset(
    {
        torch.ops.aten.empty_strided.default,
        torch.ops.aten.select_copy.int,
        torch.ops.aten.zeros_like.default,
    }
)


def _forget_probes(call: fx.Node) -> None:
    """Take out what torch ran before `call` on one slice, to learn what its gradient is."""
    node = call.prev
    while node.users or node.op == "get_attr" or node.target in _PROBES:
        before = node.prev
        if not node.users:
            call.graph.erase_node(node)
        node = before


def _example(item: Input, like: torch.Tensor) -> Any:
    """Return a value like those that a body gets for one of its inputs."""
    if item.how == "element":
        score = item.name in ("score", "grad_score")
        return like.new_zeros((), dtype=like.dtype if score else torch.int32)
    given = item.given
    if not isinstance(given, torch.Tensor):
        return given
    if item.how == "slice":
        return torch.select_copy(given, 0, 0)
    if item.how == "carried":  # not the tensor itself, which the body may take from around it
        return _like(given)
    return given.detach()


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )


class _Body(Tracer):
    """Records what a body runs, into a graph of its own."""

    def __init__(self, outer: Tracer, lifted: list[torch.Tensor]) -> None:
        self.__dict__.update(outer.__dict__)  # the model, which of its modules run, the phase
        self.root, self.graph, self.constants = nn.Module(), fx.Graph(), []
        self._known, self._by_storage, self._objects = {}, {}, {}
        self._outer, self._lifted = outer, lifted
        self.running: Mapping[str, Any] | None = None
        """Where a graph is the body, metadata of the node of it that runs."""

    def recording(self) -> AbstractContextManager[None]:
        """Return a context in which operators are recorded."""
        watch = torch_api.before_dispatch if self._hold else torch_api.below_autograd
        return watch(self.call)

    def enter(self, name: str, value: Any) -> Any:
        """Announce an input; return it."""
        if isinstance(value, torch.Tensor):
            self.placeholder(name, value)
        else:
            self.graph.placeholder(name).meta["val"] = value
        return value

    def leave(self, result: Any) -> None:
        """Note what the body returns."""
        self.graph.output(torch_api.tree_map(self._returned, result))

    def _returned(self, leaf: Any) -> Any:
        return self.node_of(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def complete(self) -> None:
        """Give the body all that it, and the other bodies of its op, take from around them."""
        first = next(node for node in self.graph.nodes if node.op != "placeholder")
        for tensor in self._lifted:
            first.prepend(self.node_of(tensor))

    def _constant(self, tensor: torch.Tensor) -> fx.Node:
        if not _knows(self._outer, tensor):
            return super()._constant(tensor)
        if not any(tensor is lifted for lifted in self._lifted):
            self._lifted.append(tensor)
        first = next((node for node in self.graph.nodes if node.op != "placeholder"), None)
        with self.graph.inserting_before(first):
            return self.placeholder(f"lifted{len(self._lifted)}", tensor)

    def _attribute(self, node: fx.Node, operands: tuple[Any, ...]) -> None:
        stack, line = self._stack(self._running), metadata.calling_line()
        if self.running is not None:
            line = self.running.get("stack_trace") or ""
            stack = {**stack, **self._called(self.running)}
        node.meta.update(nn_module_stack=stack, stack_trace=line)

    def _called(self, meta: Mapping[str, Any]) -> Stack:
        """Return the modules of the model that torch's compiler saw around a node."""
        ids = {str(key): path for key, path in self._paths.items()}
        found = bodies.stack_inside(meta, (), ids)
        return self._stack(module.path for module in found if module.path in self._types)


def _knows(tracer: Tracer, tensor: torch.Tensor) -> bool:
    if tracer.find(tensor) is not None:
        return True
    return isinstance(tracer, _Body) and _knows(tracer._outer, tensor)


class _Run(fx.Interpreter):
    """Runs the graph that torch's compiler made of a body."""

    def __init__(self, graph: fx.GraphModule, body: _Body) -> None:
        super().__init__(graph)
        self._body = body

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and say of what it calls where the model called it."""
        self._body.running = n.meta
        return super().run_node(n)
