"""The devices that are measured on, and all that a measurement asks of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..errors import UsageError

Events = Callable[[], Sequence[Any]]
"""Returns the events that a profile has seen: `torch.autograd.profiler_util.FunctionEvent`."""


class Processor:
    """The CPU: an op is done when its call returns."""

    def __init__(self, place: torch.device) -> None:
        """Begin; `place` is where tensors have to lie."""
        self.place = place

    def name(self) -> str:
        """Return the name of the processor as the system knows it."""
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        except OSError:
            lines = []
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(named, "") or platform.processor() or platform.machine()

    def synchronize(self) -> None:
        """Wait until everything is done that was begun."""

    def current(self) -> AbstractContextManager[Any]:
        """Make it torch's current device inside the block."""
        return nullcontext()


class Gpu(Processor):
    """A CUDA device: a call launches kernels and returns before they are done."""

    def __init__(self, place: torch.device, others: Sequence[torch.device] = ()) -> None:
        """Begin; a model may also have parts on the `others`, which are waited for too."""
        super().__init__(place)
        self._places = dict.fromkeys([place, *others])

    def name(self) -> str:
        """Return the name of the product, as its driver knows it."""
        return str(torch.cuda.get_device_name(self.place))

    def synchronize(self) -> None:
        """Wait until all kernels are done that were launched."""
        for place in self._places:
            torch.cuda.synchronize(place)

    def current(self) -> AbstractContextManager[Any]:
        """Make it torch's current device inside the block."""
        return torch.cuda.device(self.place)

    def allocated(self) -> int:
        """Return the bytes of the device that tensors take right now."""
        return torch.cuda.memory_allocated(self.place)

    def reset_peak(self) -> None:
        """Begin to look for a new peak."""
        torch.cuda.reset_peak_memory_stats(self.place)

    def peak(self) -> int:
        """Return the most bytes that tensors have taken since `reset_peak`."""
        return torch.cuda.max_memory_allocated(self.place)

    @contextmanager
    def profiled(self) -> Iterator[Events]:
        """Profile the block; what is yielded returns the events, once the block has ended."""
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=activities, acc_events=True) as found:  # else it warns of cycles
            yield found.events
            self.synchronize()


CPU = Processor(torch.device("cpu"))


def accelerator(place: torch.device, others: Sequence[torch.device] = ()) -> Processor:
    """Return the device at `place`, to measure a model on that has parts on the `others` too.

    Raises UsageError where there is none, or where torch does not tell what runs there.
    """
    for where in (place, *others):
        if where.type not in ("cpu", "cuda"):
            raise UsageError(
                f"there is no measuring on {str(where)!r}", hint="measure on 'cpu' or on 'cuda'"
            )
        if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            known = ", ".join(f"'cuda:{i}'" for i in range(count))
            raise UsageError(
                f"there is no device {str(where)!r} here",
                hint=f"there are {known}" if count else "this torch sees no GPU: see nvidia-smi",
            )
    if place.type == "cpu":
        return CPU
    return Gpu(place, [where for where in others if where.type == "cuda"])
