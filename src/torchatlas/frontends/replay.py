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
from .segments import Segment

Hook = Callable[[str, list[Any]], None]


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
    module = getattr(source.program, "graph_module", source.program)
    below = source.frontend in ("training", "inference")  # below autograd
    copies = _Copies(requires_grad=not below)
    inputs = {
        node.name: copies.copy(node.name, source.placeholders[node.name])
        if node.name in source.placeholders
        else _zeros(node)
        for node in module.graph.find_nodes(op="placeholder")
    }

    def call(key: str, result: Any) -> None:
        if hook is not None and key in source.ids:
            hook(source.ids[key], torch_api.tree_leaves(result))

    trained = source.frontend == "training"
    with torch_api.without_autograd(trained) if below else nullcontext():
        returned = _Replay(module, call, copies).run(*inputs.values())
    results = {source.ids[name]: value for name, value in inputs.items() if name in source.ids}
    for i, value in enumerate(returned):
        results[source.ids[f"output:{i}"]] = value
    return results


def _is_lazy(value: torch.Tensor) -> bool:
    return value.is_quantized or value.is_conj() or value.is_neg()


def _zeros(node: fx.Node) -> torch.Tensor | None:
    """Return the state of an optimizer before its first gradient."""
    state = node.meta.get("val")
    if node.meta.get("phase") != "optimizer" or not isinstance(state, torch.Tensor):
        return None
    made = torch.empty_strided(state.size(), state.stride(), dtype=state.dtype, device=state.device)
    return made.zero_()


class _Copies:
    """Makes copies of real tensors; what shares memory shares the copy's."""

    def __init__(self, requires_grad: bool) -> None:
        self.requires_grad = requires_grad
        self._memory: dict[int, torch.UntypedStorage] = {}

    def copy(self, name: str, value: Any) -> Any:
        """Return a copy of `value` where it is a tensor; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        if isinstance(value, torch_api.FakeTensor) or value.is_meta:
            raise CaptureError(
                f"{name!r} has no values to run on",
                hint="capture a model with real weights, on a real example",
            )
        # Which kernel attention takes, and so its strides, depends on whether gradients are
        # asked for.
        requires_grad = self.requires_grad and value.requires_grad
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
        copies: _Copies,
        prefix: str = "",
    ) -> None:
        super().__init__(module)
        self._call, self._copies, self._prefix = call, copies, prefix
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
            inner = _Replay(args[position], self._call, self._copies, f"{self._prefix}{n.name}/")
            with context(*args[:position]):
                return inner.run(*args[position + 1 :])
        if isinstance(n.target, Segment):
            args, _ = self.fetch_args_kwargs_from_env(n)
            return n.target.run(args, self._call, f"{self._prefix}{n.name}/")
        # A training step was recorded below autograd, where modes have done their work.
        modes = n.meta.get("modes") if self._copies.requires_grad else None
        with self._random(n), torch_api.in_modes(modes):
            result = super().run_node(n)
        self._call(self._prefix + n.name, result)
        return result

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
