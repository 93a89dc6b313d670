"""Other ways to run the whole model than op by op from Python: compiled, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from ..errors import AtlasError, MeasurementError
from ..frontends import torch_api
from ..frontends.opaque import pack
from ..schema import Timing, Way

Call = Callable[[], Any]
Remarks = Callable[[], str]
Maker = Callable[[Call, str, Call], AbstractContextManager[tuple[Call, Remarks]]]
"""Yields a call that is made in another way, and what there is to say of it in the end."""

_WARMUP = 3


class Summary(Protocol):
    """What a sampler says of its samples, in microseconds."""

    @property
    def median(self) -> float:
        """Half of the samples are shorter."""

    @property
    def iqr(self) -> float:
        """Between the first quartile and the third."""

    @property
    def p90(self) -> float:
        """Nine tenths of the samples are shorter."""

    @property
    def samples(self) -> int:
        """How many there are."""


def time_ways(
    call: Call,
    ways: Sequence[Way],
    sampler: Callable[[Call], Summary],
    *,
    device: str = "cpu",
    set_back: Call = lambda: None,
    warmup: int = _WARMUP,
) -> tuple[Timing, ...]:
    """Time the model in each of `ways`; `call` calls it as it is.

    ``sampler(call)`` times a call, and `set_back` gives tensors that a call changes the values
    that they had. The first calls are not timed: they compile or record, and there are `warmup`
    more. A way that does not work has no times but an `error`, and the others are timed all the
    same.
    """
    return tuple(_timing(way, call, sampler, device, set_back, warmup) for way in ways)


def _timing(
    way: Way,
    call: Call,
    sampler: Callable[[Call], Summary],
    device: str,
    set_back: Call,
    warmup: int,
) -> Timing:
    try:
        with _MAKERS[way](call, device, set_back) as (other, remarks):
            differs = _difference(call, other, set_back)
            for _ in range(warmup):
                set_back()
                other()
            found = sampler(other)
            note = "; ".join(filter(None, (remarks(), differs)))
    except AtlasError as error:
        return Timing(way, None, error=error.problem)
    except Exception as error:
        return Timing(way, None, error=torch_api.compiler_error(error))
    return Timing(way, found.median, found.iqr, found.p90, found.samples, note=note)


@contextmanager
def _compiled(call: Call, device: str, set_back: Call) -> Iterator[tuple[Call, Remarks]]:
    with torch_api.compiling(call) as (compiled, done):
        set_back()
        compiled()
        graphs, left = done.graphs, done.left
        if not graphs:
            raise MeasurementError(
                "torch.compile compiled nothing of the model, which ran as it is written",
                hint="see whether it is switched off, for the model or by TORCHDYNAMO_DISABLE",
            )

        def remarks() -> str:
            found = [f"{graphs} graphs, with Python in between"] if graphs > 1 else []
            if left:
                found.append(f"functions that run as they are written: {left}")
            if done.graphs > graphs:
                found.append("compiled again while it was timed")
            return "; ".join(found)

        yield compiled, remarks


@contextmanager
def _cuda_graph(call: Call, device: str, set_back: Call) -> Iterator[tuple[Call, Remarks]]:
    if torch.device(device).type != "cuda":
        raise MeasurementError(
            f"a CUDA graph needs a CUDA device, and this is {device}", hint="measure on cuda"
        )
    with torch.cuda.device(device):
        make: Any = torch.cuda.Stream
        here, aside = torch.cuda.current_stream(), make()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # what is set up at a first call must not be recorded
            for _ in range(_WARMUP):
                set_back()
                call()
            set_back()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = call()

        def replay() -> Any:
            graph.replay()
            return made

        yield replay, lambda: ""


_MAKERS: dict[Way, Maker] = {"compile": _compiled, "cuda-graph": _cuda_graph}


# -- whether it is the same model --------------------------------------------------------------

_CLOSE = {torch.float16: 0.05, torch.bfloat16: 0.1}
"""How far outputs may be from those of the model, by data type; as a part of the latter."""


def _difference(call: Call, other: Call, set_back: Call) -> str:
    """Say how far the outputs of `other` are from those of `call`; "" where they are close.

    Nothing is said of a model that makes something else at each call, as dropout does.
    """

    def outputs(function: Call) -> list[torch.Tensor]:
        set_back()
        leaves = torch_api.tree_leaves(pack(function())[0])
        floats = [x for x in leaves if isinstance(x, torch.Tensor) and _has_reals(x)]
        return [x.detach().clone() for x in floats]

    expected, again, found = outputs(call), outputs(call), outputs(other)
    if len(expected) != len(found):
        return f"it makes {len(found)} tensors of floats, and the model {len(expected)}"
    if len(expected) != len(again) or not all(map(_close, expected, again)):
        return ""
    far = [(a, b) for a, b in zip(expected, found, strict=True) if not _close(a, b)]
    if not far:
        return ""
    if any(a.shape != b.shape for a, b in far):
        return "its outputs have other shapes than the model's"
    return f"its outputs differ from the model's by {100 * max(_distance(*p) for p in far):.2g} %"


def _has_reals(tensor: torch.Tensor) -> bool:
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    return plain and (tensor.is_floating_point() or tensor.is_complex())


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and _distance(one, other) <= _CLOSE.get(one.dtype, 0.01)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the norm of the difference, as a part of the norm of `one`."""
    wide = torch.complex128 if one.is_complex() else torch.float64
    a, b = one.to(wide), other.to(wide)
    same = (a == b) | (a.isnan() & b.isnan())  # also infinities, which have no difference
    far = float(torch.where(same, 0, a - b).abs().square().sum().sqrt())
    near = float(a[a.isfinite()].abs().square().sum().sqrt())
    if far == 0:
        return 0.0
    return far / near if near else float("inf")
