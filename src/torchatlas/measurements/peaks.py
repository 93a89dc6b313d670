"""How much memory of a device a model and its ops need, as the device's allocator counts it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from ..frontends.replay import Program
from .accelerators import Gpu
from .values import Restorable


def peaks(
    call: Callable[[], Any], program: Program, gpu: Gpu, changed: Restorable
) -> tuple[int, dict[str, int]]:
    """Return the most bytes in use while the model runs, and while each op of `program` does.

    The weights and the example count, as copies of them that `program` and `call` share. What was
    there before does not: the user's own tensors, and what libraries keep for all calls, such as
    the workspace of cuBLAS. Both have to have run before.
    """
    gc.collect()  # what only a cycle holds would be freed at some time or other
    changed.set_back()
    gpu.synchronize()
    base = gpu.allocated() - program.copies.nbytes(gpu.place)
    gpu.reset_peak()
    call()
    gpu.synchronize()
    whole = gpu.peak() - base
    found: dict[str, int] = {}

    def invoke(key: str, target: Any, args: Any, kwargs: Any) -> Any:
        gpu.reset_peak()
        result = target(*args, **kwargs)
        found[key] = gpu.peak() - base
        return result

    changed.set_back()
    program.run(invoke=invoke)
    gpu.synchronize()
    return whole, {key: size for key, size in found.items() if key in program.ids}
