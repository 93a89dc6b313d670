"""A GPU that is none: the CPU does the work, and what it launches and allocates is made up."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from torchatlas.measurements.accelerators import Events, Gpu

KERNELS = {"aten::addmm": ["gemm", "bias"], "aten::mul": ["mul"], "aten::add_": ["fill"]}


class StandIn(Gpu):
    """Launches `kernels` by the op that torch's dispatcher calls, each of `micros`."""

    def __init__(self, kernels: dict[str, list[str]] = KERNELS, micros: float = 2.0) -> None:
        super().__init__(torch.device("cpu"))
        self.kernels, self.micros = kernels, micros
        self.did: list[str] = []
        self.counts = False
        """Whether it counts memory, which takes a while; otherwise there is none."""
        self._watch = _Watch()

    def name(self) -> str:
        return "a stand-in"

    def synchronize(self) -> None:
        self.did.append("synchronize")

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @contextmanager
    def profiled(self) -> Iterator[Events]:
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
            yield found.events
        self.did.append("profile")
        for event in found.events():
            for name in self.kernels.get(event.name, ()):
                event.append_kernel(name, 0, self.micros)

    # -- memory: that of all tensors of the process, looked at after each op ---------------------

    def allocated(self) -> int:
        return live_bytes() if self.counts else 0

    def reset_peak(self) -> None:
        if self.counts:
            self._watch.most = live_bytes()
            self._watch.__enter__()

    def peak(self) -> int:
        if self.counts:
            self._watch.__exit__(None, None, None)
        return self._watch.most


def live_bytes() -> int:
    """Return the bytes of all memory that a tensor of this process lies in."""
    found_by_type = (x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter))
    tensors = [x for x in found_by_type if x.layout is torch.strided]
    found = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}
    return sum(found.values())


class _Watch(TorchDispatchMode):
    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, live_bytes())
        return result
