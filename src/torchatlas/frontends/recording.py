"""One run of a model on tensors without values, written down operator by operator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from ..schema import Kind, Module
from . import torch_api
from .capture import Capture
from .dispatch import Tracer
from .example import Args, fake, input_names, pack, unpack
from .fx_graph import Recorder
from .state import module_types, stack_of, tied


class Recording:
    """A run of `model`: what exists before it, what it calls, and what it returns.

    The model keeps its parameters and buffers: the run has tensors of its own in their place.
    """

    def __init__(
        self, model: nn.Module, mode: torch_api.FakeTensorMode, *, hold: bool = False
    ) -> None:
        self.model, self.mode, self.tracer = model, mode, Tracer(model, hold=hold)
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.buffers = dict(model.named_buffers(remove_duplicate=False))
        self.groups = tied([*self.parameters.items(), *self.buffers.items()])
        distinct = {id(t): t for t in (*self.parameters.values(), *self.buffers.values())}
        self._shared = Counter(map(_memory, distinct.values()))
        self.fakes: dict[str, torch.Tensor] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.inputs: dict[str, fx.Node] = {}
        self.given: dict[str, Any] = {}
        self.args: Args = ((), {})
        self.returned: list[tuple[str, tuple[str, ...], fx.Node]] = []

    def prepare(self, args: Args) -> None:
        """Make the fake model and example, and a placeholder for each tensor."""
        for name, tensor in {**self.parameters, **self.buffers}.items():
            first = self.groups[name][0]
            if first == name:
                self.fakes[name] = self._copy(tensor)
                owner = name if name in self.parameters else None
                node = self.tracer.placeholder(_identifier(name), self.fakes[name], owner)
                self.nodes[name], self.given[node.name] = node, tensor
            self.fakes[name], self.nodes[name] = self.fakes[first], self.nodes[first]
        plain, classes = pack(args)
        found = torch_api.tree_flatten_with_names(plain)
        fakes = []
        for name, (_, leaf) in zip(
            input_names(self.model, [path for path, _ in found]), found, strict=True
        ):
            made = fake(self.mode, leaf)
            fakes.append(made)
            if isinstance(made, torch.Tensor):
                self.inputs[name] = node = self.placeholder(name, made)
                self.given[node.name] = leaf
        leaves = iter(fakes)
        self.args = unpack(torch_api.tree_map(lambda _: next(leaves), plain), classes)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, torch_api.FakeTensor) or self._shared[_memory(tensor)] > 1:
            made: torch.Tensor = fake(self.mode, tensor)
        else:
            made = torch_api.fake_like(self.mode, tensor)
        # Of a model without weights too the gradients are not to be left behind.
        return made.detach().requires_grad_(tensor.requires_grad) if made is tensor else made

    def placeholder(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Announce a tensor that exists before the run."""
        return self.tracer.placeholder(_identifier(name), tensor)

    def forward(self) -> Any:
        """Call the model, and return what it returns."""
        positional, named = self.args
        return torch.func.functional_call(self.model, self.fakes, positional, named)

    def return_outputs(self, outputs: Any) -> None:
        """Note the tensors that the model returned."""
        for path, leaf in torch_api.tree_flatten_with_names(pack(outputs)[0]):
            if isinstance(leaf, torch.Tensor):
                self.returned.append(("output", path, self.tracer.node_of(leaf)))

    def read(self) -> Capture:
        """Turn what was recorded into records."""
        tracer, types = self.tracer, module_types(self.model)
        recorder = Recorder(root=Module("", types[""]))
        tracer.graph.output(tuple(node for *_, node in self.returned))
        program = fx.GraphModule(tracer.root, tracer.graph)
        recorder.real = self.given
        for name, node in self.inputs.items():
            recorder.placeholder(node, "input", name)
        self.read_state(recorder, types)
        for node in sorted(tracer.graph.nodes, key=lambda node: node.op != "get_attr"):
            if node.op in ("get_attr", "call_function"):
                recorder.visit(node, program)
        for i, (root, path, node) in enumerate(self.returned):
            recorder.output(f"output:{i}", path, node, root)
        attrs = {
            "name": type(self.model).__name__,
            "modules": types,
            "dropped": dict(sorted(recorder.dropped.items())),
        }
        return Capture(recorder.records, attrs, program, self.given)

    def read_state(self, recorder: Recorder, types: dict[str, str]) -> None:
        """Record parameters, and the buffers that the run used."""
        for name, node in self.nodes.items():
            first, *others = self.groups[name]
            kind: Kind = "parameter" if first in self.parameters else "buffer"
            if name != first:
                continue
            if kind == "buffer" and not node.users:
                recorder.dropped["unused buffer"] += 1
                continue
            recorder.placeholder(node, kind, name, stack_of(name, types), tuple(others))


def _memory(tensor: torch.Tensor) -> Any:
    return torch_api.storage_of(tensor) or id(tensor)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name) or "_"
