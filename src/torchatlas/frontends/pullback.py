"""The backward pass of a graph of `torch.compile`: what autograd runs to differentiate it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx import traceback

from ..graph import build
from ..records import OpRecord, Value, map_values, values
from . import torch_api
from .capture import Capture
from .lifted import Lifted
from .rerun import Run
from .scope import Name


def gradients(lifted: Lifted) -> Capture | None:
    """Return the records of the backward pass, None where nothing asks for a gradient.

    Its inputs are the gradients of the graph's results, called ``tangent``, and what the
    forward pass saved. Raises whatever keeps the graph from being differentiated.
    """
    if not any(given.differentiable for given in lifted.inputs):
        return None
    return _Backward(lifted).read()


class _Backward(Run):
    """Forward and backward below autograd, of which the backward pass is kept."""

    def __init__(self, lifted: Lifted) -> None:
        super().__init__(lifted)
        self._phase = "forward"
        self._steps: dict[int, dict[str, Any]] = {}
        self._mark = fx.Graph().placeholder("mark")
        self._wanted: list[tuple[Name, int]] = []

    def read(self) -> Capture | None:
        with self.mode, torch.enable_grad():
            tried = self.call(self.held, self._inputs(self.values(differentiable=True)))
            results = [i for i, leaf in enumerate(tried) if _is_differentiable(leaf)]
            tangents = [self.empty(tried[i]) for i in results]
            if not results:
                return None

            def run(held: Any, args: list[Any], tangents: list[Any]) -> list[Any]:
                return self._step(held, args, tangents, results)

            program = torch_api.trace_below_autograd(
                run,
                self.held,
                self.values(differentiable=True),
                tangents,
                symbolic=self.lifted.environment is not None,
            )
        return self.capture(program, self._records(program, results, len(tried)))

    def _inputs(self, args: list[Any]) -> list[Any]:
        """Return what the graph runs on: an input that was computed is no leaf, and may change."""
        return [
            arg.clone() if given.differentiable and not given.leaf else arg
            for given, arg in zip(self.lifted.inputs, args, strict=True)
        ]

    def _step(
        self, held: Any, args: list[Any], tangents: list[Any], results: list[int]
    ) -> list[Any]:
        self._phase = "input"
        with traceback.preserve_node_meta(), torch_api.below_autograd_whole(self._handle):
            inputs = self._inputs(args)
            self._phase = "forward"
            outputs = self.call(held, inputs)
            self._phase = "backward"
            wanted = [i for i, given in enumerate(self.lifted.inputs) if given.differentiable]
            found = torch.autograd.grad(
                [outputs[i] for i in results],
                [args[i] for i in wanted],
                tangents,
                allow_unused=True,
            )
        kept = [(i, gradient) for i, gradient in zip(wanted, found, strict=True)]
        self._wanted = [(self.lifted.inputs[i].name, i) for i, g in kept if g is not None]
        return [gradient for _, gradient in kept if gradient is not None]

    def _handle(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator under the phase and the modules that it belongs to."""
        if self._phase == "forward":
            here = traceback.get_current_meta()
            self._steps.setdefault(torch_api.forward_step(), here)
            return func(*args, **kwargs)
        step = torch_api.backward_step()
        known = self._steps.get(step[0], {}) if step is not None else {}
        stack = known.get("nn_module_stack")
        self._mark.meta = {"custom": {_PHASE: self._phase}}
        if stack is not None:
            self._mark.meta["nn_module_stack"] = stack
        with traceback.set_current_meta(self._mark):
            return func(*args, **kwargs)

    def _records(self, program: fx.GraphModule, results: list[int], count: int) -> list[OpRecord]:
        recorder = self.recorder
        for i, node in zip(results, self.placeholders(program), strict=True):
            node.meta["phase"] = "backward"
            target = f"tangent/output/{i}" if count > 1 else "tangent/output"
            recorder.placeholder(node, "input", target)
        for node in program.graph.nodes:
            if node.op not in ("call_function", "get_attr"):
                continue
            phase = node.meta.get("custom", {}).get(_PHASE, "forward")
            if phase == "input":
                recorder.bind(node, recorder.argument(node.args[0]))
            else:
                node.meta["phase"] = phase
                recorder.visit(node, program)
        (output,) = program.graph.find_nodes(op="output")
        for (name, i), gradient in zip(self._wanted, output.args[0], strict=True):
            separator = "/" if name.kind == "input" else "."
            recorder.output(
                f"gradient:{i}", tuple(name.target.split(separator)), gradient, "gradient"
            )
        return _only_backward(recorder.records)


_PHASE = "torchatlas.phase"


def _is_differentiable(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _only_backward(records: list[OpRecord]) -> list[OpRecord]:
    """Return the backward pass of a step; what it reads of the forward pass becomes an input.

    Views that the forward pass took of its own inputs stay ops: so a weight is seen to be read.
    """
    _, ids = build(records, name="")
    kept = {r.key: r for r in records if r.kind == "output" or r.phase == "backward"}
    views = _views_of_inputs(records)
    made = {r.key: r for r in records if r.kind == "op" and r.key not in kept.keys() | views}
    saved: dict[Value, OpRecord] = {}

    def change(value: Value) -> Value:
        if value.key not in made:
            return value
        if value not in saved:
            saved[value] = _saved(made[value.key], value, ids[value.key])
        return Value(saved[value].key)

    for record in kept.values():
        record.args = {name: map_values(arg, change) for name, arg in record.args.items()}
    used: set[str] = set()
    for record in reversed(records):
        if record.key in kept or record.key in used:
            used.update(v.key for arg in record.args.values() for _, v in values(arg, ""))
    given = [r for r in records if r.key in used and r.key not in kept]
    return sorted([*kept.values(), *saved.values(), *given], key=_rank)


def _rank(record: OpRecord) -> int:
    """Return what comes first: what there is, the forward pass, the backward pass, results."""
    if record.kind not in ("op", "output"):
        return 0
    return ("forward", "backward").index(record.phase) + 1 if record.kind == "op" else 3


def _views_of_inputs(records: list[OpRecord]) -> set[str]:
    found: set[str] = set()
    given = {r.key for r in records if r.kind not in ("op", "output")}
    for record in records:
        read = {v.key for arg in record.args.values() for _, v in values(arg, "")}
        if "view" in record.tags and record.phase == "forward" and read <= given | found:
            found.add(record.key)
    return found


def _saved(record: OpRecord, value: Value, name: str) -> OpRecord:
    several = f"/{value.output}" if len(record.outputs) > 1 else ""
    return OpRecord(
        key=f"saved:{value.key}:{value.output}",
        kind="input",
        target=f"saved/{name}{several}",
        outputs=(record.outputs[value.output],),
        storages=(record.storages[value.output],) if record.storages else (),
        stack=record.stack,
    )
