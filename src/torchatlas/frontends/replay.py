"""Re-runs a captured graph on real tensors, node by node, with a hook for what each one makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import fx

from ..errors import CaptureError
from . import torch_api
from .capture import Source
from .segments import Invoke, Segment, call_plainly

Hook = Callable[[str, list[Any]], None]
Make = Callable[[torch.Tensor, torch.device], torch.Tensor]
"""Makes a tensor with values like one that has none, on a device."""


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

    Without `gradients` none of its tensors asks for one. With `make`, they lie where the graph
    has them, wherever the model's own ones do; it makes a tensor with values for one without.
    """

    def __init__(self, source: Source, *, gradients: bool = True, make: Make | None = None) -> None:
        """Copy the state and the example of `source`.

        Raises CaptureError for a tensor that has no values or lies elsewhere than the graph has
        it, where there is no `make`.
        """
        self._source, self.ids = source, source.ids
        self._module = getattr(source.program, "graph_module", source.program)
        self._below = source.frontend in ("training", "inference")  # below autograd
        nodes = list(self._module.graph.find_nodes(op="placeholder"))
        given = {
            n.name: source.placeholders[n.name] for n in nodes if n.name in source.placeholders
        }
        places = {node.name: _place(node) for node in nodes}
        if make is None:
            for name, value in given.items():
                _check_place(name, value, places[name])
        self.copies = Copies(gradients and not self._below, make)
        self.copies.place((value, places[name]) for name, value in given.items())
        self.inputs = {
            node.name: self.copies.copy(node.name, given[node.name])
            if node.name in given
            else _zeros(node)
            for node in nodes
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

    def run_body(self, body: fx.GraphModule, args: Any, prefix: str, invoke: Invoke) -> Any:
        """Run a graph that an op of the program is called with, as `run` runs the program.

        `prefix` stands before the keys of its ops.
        """
        modes, hook = not self._below, lambda key, result: None
        inner = _Replay(body, hook, self.copies, invoke, modes=modes, prefix=prefix)
        return inner.run(*args)


def _is_plain(value: torch.Tensor) -> bool:
    """Say whether `value` is a view of memory and nothing else."""
    if torch_api.storage_of(value) is None or type(value.detach()) is not torch.Tensor:
        return False
    return not (value.is_quantized or value.is_conj() or value.is_neg())


def _place(node: fx.Node) -> torch.device | None:
    """Return the device that the graph has what `node` makes on, None where it is no tensor."""
    captured = node.meta.get("val")
    return captured.device if isinstance(captured, torch.Tensor) else None


def _has_values(value: torch.Tensor) -> bool:
    return not (isinstance(value, torch_api.FakeTensor) or value.is_meta)


def _check_place(name: str, value: Any, place: torch.device | None) -> None:
    """Raise CaptureError where `value` lies elsewhere than at `place`."""
    if place is None or not isinstance(value, torch.Tensor) or not _has_values(value):
        return
    if value.device != place:
        raise CaptureError(
            f"{name!r} was placed on {place}, and its values lie on {value.device}",
            hint="capture the model where it lies, without `device`, to run it",
        )


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
        """Begin; `make` makes a tensor with values for one that has none."""
        self.requires_grad, self._make = requires_grad, make
        self._memory: dict[tuple[int, torch.device], torch.UntypedStorage] = {}
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """Originals without values, or without memory to share, each with its copy."""
        self._places: dict[int, torch.device] = {}
        self._elsewhere: torch.device | None = None

    def place(self, given: Iterable[tuple[Any, torch.device | None]]) -> None:
        """Say where the copies of values are to lie; of anything else, where its original does.

        Where all that is to be moved goes to one device, anything else goes there too.
        """
        moved: set[torch.device] = set()
        for value, place in given:
            if isinstance(value, torch.Tensor) and place is not None:
                self._places[_identity(value)] = place
                moved |= {place} - {value.device}
        self._elsewhere = moved.pop() if len(moved) == 1 else None

    def nbytes(self, device: torch.device) -> int:
        """Return the bytes of all copies on `device`, shared memory once."""
        own = [made for _, made in self._own.values()]
        found = {n: x.untyped_storage() for x in own if (n := torch_api.storage_of(x)) is not None}
        storages = [*self._memory.values(), *found.values()]
        return sum(storage.nbytes() for storage in storages if storage.device == device)

    def copy(self, name: str, value: Any, place: torch.device | None = None) -> Any:
        """Return a copy of `value` where it is a tensor; anything else as it is.

        It lies at `place`, or else where that was said, or with its original.
        """
        if not isinstance(value, torch.Tensor):
            return value
        place = place or self._places.get(_identity(value)) or self._elsewhere or value.device
        # Which kernel attention takes, and so its strides, depends on whether gradients are
        # asked for.
        requires_grad = self.requires_grad and value.requires_grad
        if _has_values(value) and _is_plain(value):
            return self._alike(value.detach(), place).requires_grad_(requires_grad)
        if id(value) not in self._own:
            made = self._apart(name, value, place)
            self._own[id(value)] = value, made.requires_grad_(requires_grad)
        return self._own[id(value)][1]

    def _apart(self, name: str, value: torch.Tensor, place: torch.device) -> torch.Tensor:
        if _has_values(value):
            value = value.detach()
            return value.clone() if place == value.device else value.to(place)
        if self._make is None:
            raise CaptureError(
                f"{name!r} has no values to run on",
                hint="capture a model with real weights, on a real example",
            )
        return self._make(value, place)

    def _alike(self, value: torch.Tensor, place: torch.device) -> torch.Tensor:
        key = _identity(value), place
        if key not in self._memory:
            self._memory[key] = moved_memory(value.untyped_storage(), place)
        made = torch.empty(0, dtype=value.dtype, device=place)
        where = value.storage_offset(), value.size(), value.stride()
        return made.set_(self._memory[key], *where)


def moved_memory(storage: torch.UntypedStorage, place: torch.device) -> torch.UntypedStorage:
    """Return a copy of `storage` on the device `place`."""
    made = torch.empty(storage.nbytes(), dtype=torch.uint8, device=place).untyped_storage()
    return made.copy_(storage)


def _identity(value: torch.Tensor) -> int:
    """Return what a tensor and its views have in common, and a parameter with what is in it."""
    storage = torch_api.storage_of(value)
    return id(value) if storage is None else storage


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
            return self._copies.copy(str(n.target), super().run_node(n), _place(n))
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
            self._states[n] = random_state()
        now, before = None, self._states.get(n.meta.get("recomputes"))  # type: ignore[arg-type]
        if before is not None:
            now = random_state()
            set_random_state(before)
        yield
        if now is not None:
            set_random_state(now)


def random_state() -> list[torch.Tensor]:
    """Return the state of torch's generators: that of the CPU, then those of GPUs in use."""
    # Asking for the latter would begin to use every GPU, also where all runs on the CPU.
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if used else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Give torch's generators the state that `random_state` returned."""
    torch.set_rng_state(state[0])
    torch.cuda.set_rng_state_all(state[1:])
