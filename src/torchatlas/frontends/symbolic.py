"""The `torch.fx` front end: `symbolic_trace`, then one run on fake tensors for the shapes.

Every call in the traced graph is recorded as the operators that it makes, so ops, ids and costs
are those of the other front ends; a `call_module` is the innermost module of its nodes' stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback

from ..errors import CaptureError
from ..schema import Kind, Module
from . import metadata, torch_api
from .capture import Capture
from .example import Args, FunctionModule, fake, fake_mode_of
from .fx_graph import Recorder
from .state import module_types, stack_of, tied


class _Runner(nn.Module):
    """Runs a traced graph node by node, so that what it calls is known to stand under the node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *args: Any) -> Any:
        """Run the graph on the values of its placeholders."""
        with traceback.preserve_node_meta():
            return fx.Interpreter(self.graph).run(*args)


def trace(model: nn.Module) -> fx.GraphModule:
    """Trace `model` symbolically, unless it is a traced graph already."""
    if isinstance(model, fx.GraphModule) and "forward" not in vars(model):
        return model
    if "forward" in vars(model) and not isinstance(model, FunctionModule):
        raise CaptureError(
            f"torch.fx would trace the forward of {type(model).__name__}'s class, not its own",
            hint="choose another front end",
        )
    return fx.symbolic_trace(model.function if isinstance(model, FunctionModule) else model)


def read(traced: fx.GraphModule, args: Args, model: nn.Module | None = None) -> Capture:
    """Run `traced` on fake copies of `args` and turn what it calls into records."""
    names, inputs = _bind(traced, args)
    mode = fake_mode_of(traced, args) or torch_api.FakeTensorMode()
    runner = _Runner(traced)
    state = {
        name: mode.from_tensor(tensor)
        for name, tensor in [*runner.named_parameters(), *runner.named_buffers()]
    }
    leaves = torch_api.tree_map(lambda leaf: fake(mode, leaf), inputs)
    tensors = [leaf for leaf in torch_api.tree_leaves(leaves) if isinstance(leaf, torch.Tensor)]

    def run(state: Mapping[str, torch.Tensor], tensors: list[torch.Tensor]) -> Any:
        replaced = iter(tensors)
        call = torch_api.tree_map(
            lambda leaf: next(replaced) if isinstance(leaf, torch.Tensor) else leaf, leaves
        )
        return torch.func.functional_call(runner, dict(state), tuple(call))

    structure: list[Any] = []

    def flat(state: Mapping[str, torch.Tensor], tensors: list[torch.Tensor]) -> Any:
        found = torch_api.tree_flatten_with_names(run(state, tensors))
        structure[:] = [path for path, _ in found]
        return [leaf for _, leaf in found]

    with mode:
        program = torch_api.trace_before_dispatch(flat, state, tensors)
    input_names = _leaf_names(names, leaves)
    real = [leaf for leaf in torch_api.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    actual = [*dict([*runner.named_parameters(), *runner.named_buffers()]).values(), *real]
    reader = _Reader(program, traced, model or traced, list(state), input_names, structure)
    return reader.read(actual)


class _Reader:
    def __init__(
        self,
        program: fx.GraphModule,
        traced: fx.GraphModule,
        model: nn.Module,
        state: list[str],
        inputs: list[str],
        outputs: list[tuple[str, ...]],
    ) -> None:
        self.program, self.traced, self.model = program, traced, model
        self.state, self.inputs, self.outputs = state, inputs, outputs
        self.types = {**module_types(traced), **module_types(model)}
        self.types[""] = metadata.class_name(type(model))
        self.recorder = Recorder(root=Module("", self.types[""]))

    def read(self, values: list[torch.Tensor]) -> Capture:
        """Read the program; `values` are what its placeholders stand for."""
        placeholders = self.program.graph.find_nodes(op="placeholder")
        state = [name.removeprefix("graph.") for name in self.state]
        nodes = dict(zip(state, placeholders, strict=False))
        given = dict(zip((node.name for node in placeholders), values, strict=True))
        self.recorder.real = given
        for name, node in zip(self.inputs, placeholders[len(state) :], strict=True):
            self.recorder.placeholder(node, "input", name)
        self._state(nodes)
        for node in self.program.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                self.recorder.visit(node, self.program)
        self._outputs()
        dropped = dict(sorted(self.recorder.dropped.items()))
        name = type(self.model).__name__
        attrs = {"name": name, "modules": self.types, "dropped": dropped}
        return Capture(self.recorder.records, attrs, self.program, given)

    def _state(self, nodes: Mapping[str, fx.Node]) -> None:
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        buffers = dict(self.model.named_buffers(remove_duplicate=False))
        extra = dict(self.traced.named_buffers(remove_duplicate=False))  # literals of the trace
        groups = tied([*parameters.items(), *{**buffers, **extra}.items()])
        for name in [*dict.fromkeys([*parameters, *nodes])]:
            kind: Kind = "parameter" if name in parameters else "buffer"
            first, *others = groups.get(name, [name])
            node = nodes.get(name)
            if first != name or (kind == "buffer" and node is not None and not node.users):
                if kind == "buffer":
                    self.recorder.drop("unused buffer")
                continue
            stack = stack_of(name, self.types)
            if node is not None:
                self.recorder.placeholder(node, kind, name, stack, tuple(others))
            else:  # a parameter that the traced graph does not use
                self.recorder.unused(parameters[name], name, stack, tuple(others))

    def _outputs(self) -> None:
        (node,) = self.program.graph.find_nodes(op="output")
        for i, (path, returned) in enumerate(zip(self.outputs, node.args[0], strict=True)):
            self.recorder.output(f"output:{i}", path, returned)


def _bind(traced: fx.GraphModule, args: Args) -> tuple[list[str], list[Any]]:
    """Return the names of the graph's placeholders and what the example gives them."""
    placeholders = traced.graph.find_nodes(op="placeholder")
    given = dict(zip((str(node.target) for node in placeholders), args[0], strict=False))
    given.update(args[1])
    for node in placeholders:
        if str(node.target) not in given and node.args:
            given[str(node.target)] = node.args[0]
    names = [str(node.target) for node in placeholders]
    return [name.lstrip("*") for name in names], [given.get(name) for name in names]


def _leaf_names(names: list[str], inputs: list[Any]) -> list[str]:
    found = []
    for name, value in zip(names, inputs, strict=True):
        for path, leaf in torch_api.tree_flatten_with_names(value):
            if isinstance(leaf, torch.Tensor):
                found.append("/".join([name, *(part.replace("/", "%2F") for part in path)]))
    return found
