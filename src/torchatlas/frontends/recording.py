"""One run of a model on tensors without values, written down operator by operator."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from ..schema import Kind, Module
from . import torch_api
from .capture import Capture
from .dispatch import Tracer
from .example import Args, fake, input_names, pack, unpack
from .fx_graph import Recorder
from .state import module_types, named_state, stack_of, tied


class Program:
    """What was recorded: an fx graph, and a module that holds its constants."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.root, self.graph = root, graph

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The graph as a module, for which torch writes and compiles code."""
        return fx.GraphModule(self.root, self.graph)


class Recording:
    """A run of `model`: what exists before it, what it calls, and what it returns.

    The model keeps its parameters and buffers: the run has tensors of its own in their place.
    """

    def __init__(
        self, model: nn.Module, mode: torch_api.FakeTensorMode | None, *, hold: bool = False
    ) -> None:
        """Begin one; without a `mode` the tensors have the values of the model and the example."""
        self.model, self.mode, self.tracer = model, mode, Tracer(model, hold=hold)
        self.tracer.real = mode is None
        self.parameters, self.buffers = named_state(model)
        self.groups = tied([*self.parameters.items(), *self.buffers.items()])
        distinct = {id(t): t for t in (*self.parameters.values(), *self.buffers.values())}
        self._shared = Counter(map(_memory, distinct.values()))
        self.fakes: dict[str, torch.Tensor] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.inner: dict[str, list[tuple[str, fx.Node]]] = {}
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
                self._announce_inner(name, self.fakes[name], tensor)
            self.fakes[name], self.nodes[name] = self.fakes[first], self.nodes[first]
        plain, classes = pack(args)
        found = torch_api.tree_flatten_with_names(plain)
        fakes = []
        for name, (_, leaf) in zip(
            input_names(self.model, [path for path, _ in found]), found, strict=True
        ):
            made = _real_copy(leaf) if self.mode is None else fake(self.mode, leaf)
            fakes.append(made)
            if isinstance(made, torch.Tensor):
                self.inputs[name] = node = self.placeholder(name, made)
                self.given[node.name] = leaf
        leaves = iter(fakes)
        self.args = unpack(torch_api.tree_map(lambda _: next(leaves), plain), classes)

    def _announce_inner(self, name: str, made: torch.Tensor, given: torch.Tensor) -> None:
        """Announce what a tensor around others holds: a quantised weight and its scales."""
        for part in torch_api.inner_tensors(made):
            inner, path = getattr(made, part), f"{name}.{part}"
            node = self.placeholder(path, inner)
            self.given[node.name] = getattr(given, part)
            self.inner.setdefault(name, []).append((path, node))

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.mode is None:
            return tensor if isinstance(tensor, nn.Parameter) else _real_copy(tensor)
        if self._shared[_memory(tensor)] > 1:
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
        program = Program(tracer.root, tracer.graph)
        recorder.real = self.given
        self.begin(recorder)
        for name, node in self.inputs.items():
            recorder.placeholder(node, "input", name)
        self.read_state(recorder, types)
        for node in sorted(tracer.graph.nodes, key=lambda node: node.op != "get_attr"):
            if node.op in ("get_attr", "call_function"):
                recorder.visit(node, tracer.root)
        for i, (root, path, node) in enumerate(self.returned):
            recorder.output(f"output:{i}", path, node, root)
        attrs: dict[str, Any] = {
            "name": type(self.model).__name__,
            "modules": types,
            "dropped": dict(sorted(recorder.dropped.items())),
        }
        if tracer.decisions:
            attrs |= {"specialised": True, "decisions": tuple(tracer.decisions)}
        return Capture(recorder.records, attrs, program, self.given)

    def begin(self, recorder: Recorder) -> None:
        """Tell `recorder` what it has to know before the first record."""

    def read_state(self, recorder: Recorder, types: dict[str, str]) -> None:
        """Record parameters, and the buffers that the run used."""
        stacks: dict[str, tuple[Module, ...]] = {}
        for name, node in self.nodes.items():
            first, *others = self.groups[name]
            kind: Kind = "parameter" if first in self.parameters else "buffer"
            if name != first:
                continue
            if kind == "buffer" and not node.users:
                recorder.drop("unused buffer")
                continue
            owner = name.rpartition(".")[0]
            stack = stacks.get(owner) or stacks.setdefault(owner, stack_of(name, types))
            inner = [(path, part) for path, part in self.inner.get(name, []) if part.users]
            if node.users or not inner:
                recorder.placeholder(node, kind, name, stack, tuple(others))
            for i, (path, part) in enumerate(inner):
                main = i == 0 and not node.users
                recorder.placeholder(part, kind if main else "buffer", path, stack)


def _real_copy(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def _memory(tensor: torch.Tensor) -> Any:
    return torch_api.storage_of(tensor) or id(tensor)


def _identifier(name: str) -> str:
    return _NO_IDENTIFIER.sub("_", name) or "_"


_NO_IDENTIFIER = re.compile(r"[^a-zA-Z0-9]")
