"""Re-runs a captured graph on real tensors, node by node, with a hook for what each one makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import fx

from ..errors import CaptureError
from . import torch_api
from .capture import Source
from .segments import Invoke, Segment, call_plainly

Hook = Callable[[str, list[Any]], None]
Make = Callable[[torch.Tensor], torch.Tensor]


def replay(source: Source, hook: Hook | None = None) -> dict[str, Any]:
    """Run the program of `source` on its example, and return what it computes by node id.

    That is the value of every output node, and what stands in parameters, buffers and inputs at
    the end. ``hook(node id, values)`` is called after each op with its outputs in the order of
    the node's ``outputs``. The program works on copies, so that the model and the example stay
    as they are. Random numbers come from torch's generators: after `torch.manual_seed` a model
    computes the same.

    A training step runs with an optimizer whose moments are zero and that has counted one step.

    Raises CaptureError where the state or the example has no values to run on.
    """
    program = Program(source)
    returned = program.run(hook)
    results = {source.ids[n]: value for n, value in program.inputs.items() if n in source.ids}
    for i, value in enumerate(returned):
        results[source.ids[f"output:{i}"]] = value
    return results


class Program:
    """The program of a source on tensors of its own, which runs time and again.

    Without `gradients` none of its tensors asks for one. `make` returns a tensor with values for
    one that has none.
    """

    def __init__(self, source: Source, *, gradients: bool = True, make: Make | None = None) -> None:
        """Copy the state and the example of `source`.

        Raises CaptureError for a tensor without values, where there is no `make`.
        """
        self._source, self.ids = source, source.ids
        self._module = getattr(source.program, "graph_module", source.program)
        self._below = source.frontend in ("training", "inference")  # below autograd
        self.copies = Copies(gradients and not self._below, make)
        self.inputs = {
            node.name: self.copies.copy(node.name, _in_place(node, source.placeholders[node.name]))
            if node.name in source.placeholders
            else _zeros(node)
            for node in self._module.graph.find_nodes(op="placeholder")
        }

    def run(self, hook: Hook | None = None, invoke: Invoke = call_plainly) -> Any:
        """Run the program, and return what it returns.

        Each op is called as ``invoke(key, operator, arguments, keyword arguments)``, the key
        being that of the source's `ids`, and `hook` is called after it, as in `replay`.
        """
        ids = self.ids

        def call(key: str, result: Any) -> None:
            if hook is not None and key in ids:
                hook(ids[key], torch_api.tree_leaves(result))

        trained = self._source.frontend == "training"
        with torch_api.without_autograd(trained) if self._below else nullcontext():
            run = _Replay(self._module, call, self.copies, invoke, modes=not self._below)
            return run.run(*self.inputs.values())


def _is_lazy(value: torch.Tensor) -> bool:
    return value.is_quantized or value.is_conj() or value.is_neg()


def _in_place(node: fx.Node, value: Any) -> Any:
    """Return `value`, unless it lies elsewhere than the graph has it."""
    captured = node.meta.get("val")
    if isinstance(value, torch.Tensor) and isinstance(captured, torch.Tensor):
        without_values = isinstance(value, torch_api.FakeTensor) or value.is_meta
        if not without_values and value.device != captured.device:
            raise CaptureError(
                f"{node.name!r} was placed on {captured.device}, and its values lie on "
                f"{value.device}",
                hint="capture the model where it lies, without `device`, to run it",
            )
    return value


def _zeros(node: fx.Node) -> torch.Tensor | None:
    """Return the state of an optimizer before its first gradient."""
    state = node.meta.get("val")
    if node.meta.get("phase") != "optimizer" or not isinstance(state, torch.Tensor):
        return None
    made = torch.empty_strided(state.size(), state.stride(), dtype=state.dtype, device=state.device)
    return made.zero_()


class Copies:
    """Makes copies of real tensors; what shares memory shares the copy's."""

    def __init__(self, requires_grad: bool, make: Make | None = None) -> None:
        """Begin; `make` returns a tensor with values for one that has none."""
        self.requires_grad, self._make = requires_grad, make
        self._memory: dict[int, torch.UntypedStorage] = {}
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def copy(self, name: str, value: Any) -> Any:
        """Return a copy of `value` where it is a tensor; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        requires_grad = self.requires_grad and value.requires_grad
        if isinstance(value, torch_api.FakeTensor) or value.is_meta:
            if self._make is None:
                raise CaptureError(
                    f"{name!r} has no values to run on",
                    hint="capture a model with real weights, on a real example",
                )
            if id(value) not in self._made:
                made = self._make(value).requires_grad_(requires_grad)
                self._made[id(value)] = value, made
            return self._made[id(value)][1]
        # Which kernel attention takes, and so its strides, depends on whether gradients are
        # asked for.
        return self._alike(value.detach()).requires_grad_(requires_grad)

    def _alike(self, value: torch.Tensor) -> torch.Tensor:
        key = torch_api.storage_of(value)
        if key is None or type(value) is not torch.Tensor or _is_lazy(value):
            return value.clone()
        if key not in self._memory:
            self._memory[key] = value.untyped_storage().clone()  # type: ignore[no-untyped-call]
        made = torch.empty(0, dtype=value.dtype, device=value.device)
        place = value.storage_offset(), value.size(), value.stride()
        return made.set_(self._memory[key], *place)


class _Replay(fx.Interpreter):
    def __init__(
        self,
        module: fx.GraphModule,
        call: Callable[[str, Any], None],
        copies: Copies,
        invoke: Invoke,
        *,
        modes: bool,
        prefix: str = "",
    ) -> None:
        super().__init__(module)
        self._call, self._copies, self._prefix = call, copies, prefix
        self._invoke, self._modes, self._key = invoke, modes, ""
        self._again = {n.meta.get("recomputes") for n in module.graph.nodes} - {None}
        self._states: dict[fx.Node, list[torch.Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            return self._copies.copy(str(n.target), super().run_node(n))
        if n.op != "call_function":
            return super().run_node(n)
        found = torch_api.region(n.target)
        if found is not None:
            position, context = found
            args, _ = self.fetch_args_kwargs_from_env(n)
            prefix = f"{self._prefix}{n.name}/"
            inner = _Replay(
                args[position], self._call, self._copies, self._invoke,
                modes=self._modes, prefix=prefix,
            )  # fmt: skip
            with context(*args[:position]):
                return inner.run(*args[position + 1 :])
        if isinstance(n.target, Segment):
            args, _ = self.fetch_args_kwargs_from_env(n)
            return n.target.run(args, self._call, f"{self._prefix}{n.name}/", self._invoke)
        # What was recorded below autograd was recorded after modes had done their work.
        modes = n.meta.get("modes") if self._modes else None
        self._key = self._prefix + n.name
        with self._random(n), torch_api.in_modes(modes):
            result = super().run_node(n)
        self._call(self._prefix + n.name, result)
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator."""
        return self._invoke(self._key, target, args, kwargs)

    @contextmanager
    def _random(self, n: fx.Node) -> Iterator[None]:
        """Let an op that a checkpoint runs again draw the numbers that it drew before."""
        if n in self._again and torch_api.is_random(n.target):
            self._states[n] = _random_state()
        now, before = None, self._states.get(n.meta.get("recomputes"))  # type: ignore[arg-type]
        if before is not None:
            now = _random_state()
            _set_random_state(before)
        yield
        if now is not None:
            _set_random_state(now)


def _random_state() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _set_random_state(state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1:])
