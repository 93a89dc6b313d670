"""The benchmark of one model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from ..devices import Device, resolve
from ..errors import UsageError
from ..graph import ModelGraph
from ..measurements import measure
from ..schema import WAYS, Way
from .describe import describe
from .result import Benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to make a model, and how to measure it: what the options of the command say.

    It is plain data, so that it can be handed to another process.
    """

    inputs: tuple[str, ...] = ()
    """As ``--input``; empty for models that know an input of their own."""
    arguments: tuple[str, ...] = ()
    """As ``--arg``."""
    train: bool = False
    fake: bool = False
    frontend: str = "auto"
    mode: Literal["forward", "inference", "training"] = "forward"
    device: str = "cpu"
    dtype: str | None = None
    """Floating-point weights and inputs are put in it; None leaves them."""
    compare: tuple[Way, ...] = ()
    """Ways to run it beside ``eager``, which always is; see `parse_ways`."""
    steps: int | None = None
    warmup: int = 3
    cache: Literal["warm", "cold"] = "warm"
    limits: str | None = None
    """A device's name, or the file of a calibrated one; None for what the driver reports."""
    tf32: bool = False
    top: int = 10
    threads: int | None = None
    """Threads that torch uses on a CPU; None leaves them."""


def bench(
    model: str,
    plan: Plan,
    *,
    batch: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Benchmark, ModelGraph]:
    """Make the model that a name means, capture it, measure it, and say what was found.

    `model` is a name as the command line takes it: ``timm:resnet18``. The samples of its example
    are repeated, or cut, to `batch` of them. All else is as with `bench_module`.

    Raises UsageError for a wrong name, option or device, and other AtlasErrors where the model
    cannot be made, captured or run.
    """
    from ..frontends import set_up
    from ..frontends.loading import load_model, make_example, parse_argument, parse_input
    from ..frontends.zoos import batched

    check_plan(plan)
    set_up.existing_device(plan.device)
    made = dict(map(parse_argument, plan.arguments))
    for text in plan.inputs:
        parse_input(text)
    (tell or _silent)(f"making {model}")
    module = load_model(model, made, fake=plan.fake).train(plan.train)
    example = make_example(plan.inputs, module)
    if batch is not None:
        example = batched(example, batch)
    return bench_module(module, example, plan, model=model, tell=tell)


def bench_module(
    module: Any,
    example: Any,
    plan: Plan,
    *,
    model: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Benchmark, ModelGraph]:
    """Capture a module, measure it as `plan` says, and say what was found.

    `model` is what it is called in the result, by default as its graph. The graph is the measured
    one, with latencies and, where the limits of the device are known, its roofline. `tell` is
    called with what takes long next. What the plan says of making a model (`inputs`, `arguments`,
    `train`, `fake`) does not matter here. A `dtype`, and a training step on a GPU, change the
    module in place.

    Raises what `bench` does.
    """
    from ..api import capture
    from ..frontends import set_up

    limits, place = check_plan(plan), set_up.existing_device(plan.device)
    name, tell = model or type(module).__name__, tell or _silent
    if plan.dtype is not None:
        module, example = set_up.converted(module, example, plan.dtype)
    on = None if place == "cpu" else place
    if plan.mode == "training" and on is not None:  # its backward pass is run, on real tensors
        module, example, on = *set_up.converted(module, example, on), None
    with set_up.threads(plan.threads):
        tell(f"capturing {name}")
        graph = capture(module, example, mode=plan.mode, frontend=plan.frontend, device=on)
        tell(f"measuring {name} on {place}")
        return benchmark(
            graph,
            model=model,
            device=place,
            compare=plan.compare,
            steps=plan.steps,
            warmup=plan.warmup,
            cache=plan.cache,
            limits=limits,
            tf32=plan.tf32,
            top=plan.top,
        )


def _silent(text: str) -> None:
    """Say nothing."""


def check_plan(plan: Plan) -> Device | None:
    """Return the limits that are asked for; raises UsageError where the plan makes no sense.

    Whether there is such a device is seen where torch is at hand.
    """
    if plan.steps is not None and plan.steps < 1:
        raise UsageError(f"{plan.steps} steps measure nothing", hint="1 or more")
    if plan.warmup < 0:
        raise UsageError(f"there are no {plan.warmup} runs to warm up", hint="0 or more")
    if plan.top < 1:
        raise UsageError(f"there are no {plan.top} longest ops", hint="1 or more")
    if plan.threads is not None and plan.threads < 1:
        raise UsageError(f"there are no {plan.threads} threads", hint="1 or more")
    for what, chosen, known in (
        ("cache", plan.cache, ("warm", "cold")),
        ("mode", plan.mode, ("forward", "inference", "training")),
    ):
        if chosen not in known:
            raise UsageError(f"there is no {what} {chosen!r}", hint=f"it is {' or '.join(known)}")
    if plan.dtype is not None:
        from ..frontends.set_up import parse_dtype

        parse_dtype(plan.dtype)
    return None if plan.limits is None else resolve(plan.limits)


def benchmark(
    graph: ModelGraph,
    example: Any = None,
    *,
    model: str | None = None,
    device: str = "cpu",
    compare: Sequence[Way] = (),
    steps: int | None = None,
    warmup: int = 3,
    cache: Literal["warm", "cold"] = "warm",
    limits: str | PathLike[str] | Device | None = None,
    tf32: bool = False,
    top: int = 10,
) -> tuple[Benchmark, ModelGraph]:
    """Measure a captured graph, and say what was found; returns the measured graph with it.

    `device`, `compare`, `steps`, `warmup`, `cache` and `example` are those of `measure`. `model`
    is what it is called, by default as the graph calls it. `limits` are those of the device, by
    default what its driver's name stands for; `tf32` says that they are those of TF32 where
    float32 is multiplied. The `top` ops and modules that take longest are listed.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4), torch.randn(2, 8))
    >>> found, timed = benchmark(graph, steps=20, limits="cpu")
    >>> found.batch, found.params, found.flops, [node.id for node in found.nodes]
    (2, 36, 128, ['linear'])
    >>> found.eager.throughput == 2e6 / found.eager.median_us
    True

    Raises what `measure` does, and UsageError for `limits` that are not known.
    """
    known = None if limits is None else resolve(limits)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* than the graph says")  # a note of the result
        measured = measure(
            graph,
            example,
            device=device,
            steps=steps,
            warmup=warmup,
            cache=cache,
            compare=compare,
            strict=False,
        )
    return describe(measured, model=model, limits=known, tf32=tf32, top=top), measured


def parse_ways(text: str) -> tuple[Way, ...]:
    """Return the ways in ``eager,compile`` but for ``eager``, which is always measured.

    >>> parse_ways("eager,compile"), parse_ways("eager")
    (('compile',), ())

    Raises UsageError for a way that does not exist.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ("eager", *WAYS):
            raise UsageError(
                f"there is no way {name!r} to run a model",
                hint=f"choose among eager, {', '.join(WAYS)}",
            )
    return tuple(way for way in WAYS if way in names)
