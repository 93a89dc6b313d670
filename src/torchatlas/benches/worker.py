"""What the processes of a zoo run do; imported there only."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import msgspec

from ..frontends.set_up import existing_device
from ..frontends.zoos import BUILT_IN, make_of_zoo, zoo_names, zoo_versions
from .model import Plan, bench_module
from .result import Benchmark


def plan_of(told: dict[str, Any]) -> Plan:
    """Return the plan that `asdict` turned into `told`."""
    return msgspec.convert(told, Plan)


def list_models(task: dict[str, Any]) -> dict[str, Any]:
    """Return the names in the `zoos` of the task, and on what a result depends beside its plan."""
    versions = {"torch": metadata.version("torch")}
    for zoo in task["zoos"]:
        versions |= zoo_versions(zoo)
    if (device := task.get("device")) is not None:
        existing_device(device)
    return {"names": {zoo: zoo_names(zoo) for zoo in task["zoos"]}, "versions": versions}


def measure_model(task: dict[str, Any]) -> dict[str, Any]:
    """Make the model of the task, measure it, and return its benchmark as data."""
    zoo, name, batch = task["zoo"], task["name"], task["batch"]
    model, example = make_of_zoo(zoo, name, batch)
    plan = plan_of(task["plan"])
    found, _ = bench_module(model.train(plan.train), example, plan, model=name)
    if zoo in BUILT_IN:
        found = _of_batch(found, batch or 1)
    told: dict[str, Any] = msgspec.to_builtins(asdict(found))
    return told


def _of_batch(found: Benchmark, batch: int) -> Benchmark:
    """Return a benchmark with its true batch size: a detector's images are a list of tensors."""
    runs = [
        run if run.median_us is None else replace(run, throughput=batch * 1e6 / run.median_us)
        for run in found.runs
    ]
    return replace(found, batch=batch, runs=tuple(runs))
