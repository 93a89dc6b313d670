"""A recording that keeps no tensor alive, and so sees when memory is given back."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx, nn

from . import torch_api
from .capture import Capture
from .dispatch import Tracer
from .fx_graph import Recorder
from .links import link
from .recording import Recording


class WatchedTracer(Tracer):
    """Records operators, and on the node that ran last the memory that is given back then.

    Python holds on to results in local variables, in arguments of running calls and in what
    autograd saves. No graph shows that, but a run does: the metadata of a node has ``frees``,
    the numbers of the pieces of memory that nobody held any more before the next node ran.
    """

    def __init__(self, model: nn.Module, mode: torch_api.FakeTensorMode | None) -> None:
        """Begin one for a run in `mode`, or on tensors with values."""
        super().__init__(model)
        self.real = mode is None
        self._mode = mode or torch_api.FakeTensorMode()
        self.memory: list[tuple[torch.Tensor, int]] = []
        """Tensors in the metadata, each with the number of the memory it stands for."""
        self._numbers: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._last: fx.Node | None = None
        self._watching = True

    def stop(self) -> None:
        """Take what is in use now for what is in use to the end."""
        self._watching = False

    def number(self, tensor: torch.Tensor) -> int | None:
        """Return the number of the memory behind `tensor`, which no other one gets later."""
        address = torch_api.storage_of(tensor)
        if address is None:
            return None
        found = self._numbers.get(address)
        if found is None:
            found = self._numbers[address] = len(self._watches)
            memory = tensor.untyped_storage()
            self._watches[found] = weakref.ref(memory, lambda _: self._freed(address, found))
        return found

    def _freed(self, address: int, number: int) -> None:
        self._numbers.pop(address, None)
        if self._watching and self._last is not None:
            self._last.meta.setdefault("frees", []).append(number)

    def _place(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        number, place = self.number(tensor), super()._place(tensor)
        return place if number is None else (number, *place[1:])

    def _remember(self, node: fx.Node, tensor: torch.Tensor) -> None:
        super()._remember(node, tensor)
        self._last = node

    def _value(self, leaf: Any) -> Any:
        number = self.number(leaf) if torch_api.is_plain(leaf) else None
        if number is None:
            return super()._value(leaf)
        made = torch_api.fake_twin(self._mode, leaf)
        self.memory.append((made, number))
        return made


class WatchedRecording(Recording):
    """A run of which it is known how long every piece of memory was in use."""

    def __init__(self, model: nn.Module, mode: torch_api.FakeTensorMode | None) -> None:
        super().__init__(model, mode)
        self.tracer: WatchedTracer = WatchedTracer(model, mode)

    def tensors(self) -> AbstractContextManager[Any]:
        """Return what to run in: the mode, or where values are drawn that nobody sees later."""
        devices = range(torch.cuda.device_count() if self.mode is None else 0)
        return self.mode or torch.random.fork_rng(devices)

    def begin(self, recorder: Recorder) -> None:
        """Tell `recorder` which tensors share memory."""
        for tensor, number in self.tracer.memory:
            recorder.put_in(("memory", number), tensor)

    def read(self) -> Capture:
        """Turn what was recorded into records, and link them."""
        found = super().read()
        link(found.records, self.tracer.graph)
        return found
