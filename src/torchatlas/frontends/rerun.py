"""Runs a graph of `torch.compile` again, on tensors without values, and reads what it calls.

Such a graph calls Python functions of torch. What they run are the operators that `torch.export`
sees; the modules and the line of each are those of the call that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback

from ..names import clean
from ..records import OpRecord
from . import metadata, torch_api
from .capture import Capture
from .fx_graph import Recorder
from .lifted import Lifted
from .metadata import OpInfo


class _Runner(nn.Module):
    """Runs a graph node by node, so that what it calls stands under the node."""

    def __init__(self, program: fx.GraphModule, interpreter: type[fx.Interpreter]) -> None:
        super().__init__()
        self.program, self._interpreter = program, interpreter

    def forward(self, *args: Any) -> Any:
        """Run the graph on the values of its placeholders."""
        with traceback.preserve_node_meta():
            return self._interpreter(self.program).run(*args)


class _Interpreter(fx.Interpreter):
    """Switches autocast and gradients in fact: a tracer would only write the call down."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self._entered: list[Any] = []

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, and leave what it entered, also where it raises half way."""
        try:
            return super().run(*args, **kwargs)
        finally:
            for mode in reversed(self._entered):
                torch_api.leave_autocast(mode)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a function."""
        switch = torch_api.switch_of(target)
        if switch == "enter":
            self._entered.append(torch_api.enter_autocast(*args))
            return self._entered[-1]
        if switch == "leave":
            self._entered.remove(args[0])
            return torch_api.leave_autocast(args[0])
        if switch == "gradients":
            return torch_api.switch_gradients(*args)
        return super().call_function(target, args, kwargs)


class _Through(_Interpreter):
    """Runs what stands in a checkpoint as if it stood outside: the forward pass is the same."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a function, or run the graph that it would run."""
        if torch_api.is_checkpoint(target):
            return type(self)(args[0]).run(*args[1:])
        return super().call_function(target, args, kwargs)


class Run:
    """A run of a compiled graph on new tensors without values."""

    interpreter: type[fx.Interpreter] = _Interpreter

    def __init__(self, lifted: Lifted) -> None:
        self.lifted = lifted
        self.mode = torch_api.FakeTensorMode(shape_env=lifted.environment)
        self.runner = _Runner(lifted.program, self.interpreter)
        self.held = {
            f"program.{path}": self.mode.from_tensor(_held(lifted.program, path)).detach()
            for path in lifted.held
        }
        self.recorder = Recorder(root=lifted.root)

    def values(self, *, differentiable: bool) -> list[Any]:
        """Return new values for the placeholders, which ask for gradients or do not."""
        made = []
        for given in self.lifted.inputs:
            value = given.value
            if isinstance(value, torch.Tensor):
                value = self.empty(value)
                value.requires_grad_(differentiable and given.differentiable)
                torch_api.put_number(value, given.number)
            made.append(value)
        return made

    def empty(self, like: torch.Tensor) -> torch.Tensor:
        """Return a new tensor without values."""
        if like.layout is not torch.strided or like.is_nested or like.is_quantized:
            raise NotImplementedError(f"a tensor of layout {like.layout}")
        with self.mode:
            return torch.empty_strided(
                like.shape, like.stride(), dtype=like.dtype, device=like.device
            )

    def call(self, held: Mapping[str, torch.Tensor], args: Any) -> Any:
        """Run the graph; it returns a list or tuple."""
        return torch.func.functional_call(self.runner, dict(held), tuple(args))

    def placeholders(self, program: fx.GraphModule) -> list[fx.Node]:
        """Record what the graph holds and is given; return what is left of the placeholders."""
        nodes: list[fx.Node] = program.graph.find_nodes(op="placeholder")
        names = [*self.lifted.held.values(), *(given.name for given in self.lifted.inputs)]
        for name, node in zip(names, nodes, strict=False):
            size = metadata.known_scalar(node.meta.get("val"))
            if size is not None:  # which the shapes of the inputs say as well
                self.recorder.bind(node, size)
            else:
                self.recorder.placeholder(node, *name)
        return nodes[len(names) :]

    def capture(self, program: fx.GraphModule, records: list[OpRecord]) -> Capture:
        """Return the records with the program that they were read from."""
        return Capture(records, {"dropped": self.recorder.dropped}, program, {})


def operators(lifted: Lifted) -> Capture:
    """Return the operators that a graph calls, before autograd and autocast take them apart."""
    return _Forward(lifted).read()


class _Forward(Run):
    interpreter = _Through

    def read(self) -> Capture:
        def run(held: Mapping[str, torch.Tensor], args: list[Any]) -> list[Any]:
            return list(self.call(held, args))

        with self.mode:
            program = torch_api.trace_before_dispatch(
                run, self.held, self.values(differentiable=False)
            )
        self.placeholders(program)
        for node in program.graph.nodes:
            if torch_api.switch_of(node.target):  # of a body that another op runs
                self.recorder.drop(metadata.op_info(node.target).op)
            elif node.op in ("call_function", "get_attr"):
                self.recorder.visit(node, program)
        (output,) = program.graph.find_nodes(op="output")
        record_outputs(self.recorder, output.args[0])
        return self.capture(program, self.recorder.records)


def record_outputs(recorder: Recorder, returned: Any) -> None:
    """Record what a graph returns, the tensors and sizes of it."""
    leaves = [leaf for leaf in returned if isinstance(leaf, fx.Node)]
    for i, leaf in enumerate(leaves):
        recorder.output(f"output:{i}", (str(i),) if len(leaves) > 1 else (), leaf)


def functions(lifted: Lifted) -> Capture:
    """Return the functions that the graph calls, as `torch.compile` has them."""
    recorder = Recorder(root=lifted.root)
    program = lifted.program
    for part in program.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            node.meta["val"] = torch_api.example_value(node)
    for given, node in zip(lifted.inputs, program.graph.find_nodes(op="placeholder"), strict=True):
        recorder.placeholder(node, *given.name)
    for node in program.graph.nodes:
        if node.op == "call_method":
            named = dict(zip(map(str, range(len(node.args))), node.args, strict=True))
            args = {k: recorder.argument(v) for k, v in {**named, **node.kwargs}.items()}
            recorder.op(node, OpInfo(f"tensor.{clean(str(node.target))}"), args, node.meta["val"])
        elif node.op not in ("placeholder", "output"):
            recorder.visit(node, program)
    (output,) = program.graph.find_nodes(op="output")
    record_outputs(recorder, output.args[0])
    return Capture(recorder.records, {"dropped": recorder.dropped}, program, {})


def _held(program: fx.GraphModule, path: str) -> torch.Tensor:
    value: Any = program
    for part in path.split("."):
        value = getattr(value, part)
    tensor: torch.Tensor = value
    return tensor
