"""Two captures of one model beside each other: by front end, and with or without replay."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import nn

import torchatlas as ta
from torchatlas.frontends import traced
from torchatlas.graph import op_nodes

Result = dict[str, Any]

TOTALS = ("macs", "flops", "flops_other", "params", "ops")
SHOWN = 12
"""Differences that a result lists; their number is always there."""


def ops_by_module(
    graph: ta.ModelGraph, names: Mapping[str, str] | None = None
) -> Counter[tuple[str, str]]:
    """Return how often each module calls each op; `names` renames modules."""
    names = names or {}
    return Counter(
        (names.get(node["module"], node["module"]), node["op"]) for _, node in op_nodes(graph)
    )


def differences(
    left: ta.ModelGraph, right: ta.ModelGraph, names: Mapping[str, str] | None = None
) -> Result:
    """Return ops per module and totals that are not equal in the two graphs.

    Each is a name with both numbers; ops that only one graph has count 0 in the other. `names`
    renames modules in both.
    """
    ours, theirs = ops_by_module(left, names), ops_by_module(right, names)
    ops = {
        f"{module or '.'}: {op}": [ours[module, op], theirs[module, op]]
        for module, op in sorted(ours.keys() | theirs.keys())
        if ours[module, op] != theirs[module, op]
    }
    mine, other = ta.totals(left), ta.totals(right)
    totals = {
        name: [str(getattr(mine, name)), str(getattr(other, name))]
        for name in TOTALS
        if getattr(mine, name) != getattr(other, name)
    }
    return {"ops": ops, "totals": totals}


def first_names(model: nn.Module) -> dict[str, str]:
    """Return for each path to a module the first path to the same module.

    >>> inner = nn.Linear(2, 2)
    >>> first_names(nn.ModuleDict({"a": inner, "b": inner}))
    {'': '', 'a': 'a', 'b': 'a'}
    """
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(module), name)
        for name, module in model.named_modules(remove_duplicate=False)
    }


def compare_export(made: Any) -> Result:
    """Compare what `trace` and `export` capture, and try what explains a difference.

    A module may stand under several paths, of which each front end names one; and a model may
    ask whether it is exported and then take another way. A difference is explained if there is
    none left once modules have their first path, or the model was told so in `trace` too; and if
    values decide, which `trace` takes from the example and `export` asserts or leaves open.
    """
    traced = ta.capture(made.model, made.example, frontend="trace")
    exported = ta.capture(made.model, made.example, frontend="export")
    found = differences(traced, exported)
    if not any(found.values()):
        return {"status": "equal", "text_equal": ta.to_text(traced) == ta.to_text(exported)}
    result = _different(found)
    names = first_names(made.model)
    if not any(differences(traced, exported, names).values()):
        return {**result, "status": "explained", "because": TWO_PATHS}
    with said_to_be_exported():
        told = ta.capture(made.model, made.example, frontend="trace")
    if not any(differences(told, exported, names).values()):
        return {**result, "status": "explained", "because": ASKS}
    if traced.graph.get("specialised") and _is_about_values(found, exported):
        return {**result, "status": "explained", "because": VALUES}
    return result


def _is_about_values(found: Result, exported: ta.ModelGraph) -> bool:
    """Say whether `export` left sizes open, or differs in reading numbers and asserting alone."""
    sums = ta.totals(exported)
    if not all(isinstance(getattr(sums, name), int) for name in TOTALS):
        return True
    ops = {name.rpartition(": ")[2] for name in found["ops"]}
    return all(op.startswith(("operator.", "math.", "aten.item", "aten._assert")) for op in ops)


VALUES = "depends on values: `trace` holds for the example's, `export` leaves them open"
TWO_PATHS = "a module stands under two paths"
ASKS = "asks whether it is exported"


def _different(found: Result) -> Result:
    ops = found["ops"]
    return {
        "status": "different",
        "totals": found["totals"],
        "differences": len(ops),
        "ops": dict(list(ops.items())[:SHOWN]),
    }


@contextlib.contextmanager
def said_to_be_exported() -> Iterator[None]:
    """Answer yes where a model asks torch whether it is being exported."""
    with (
        mock.patch.object(torch.compiler, "is_exporting", return_value=True),
        mock.patch.object(torch.compiler, "is_compiling", return_value=True),
    ):
        yield


def compare_replay(made: Any) -> Result:
    """Compare `trace` with and without repeated modules being replayed, to the letter.

    Where replaying fails the front end runs everything after all; the result has the reason.
    """
    if not replays():
        raise NotImplementedError("this torchatlas has no replay to switch off")
    with spied() as failures:
        replayed = ta.capture(made.model, made.example, frontend="trace")
    run = ta.capture(made.model, made.example, frontend="trace", replay=False)
    texts = [ta.to_text(graph).splitlines() for graph in (replayed, run)]
    result: Result = {"status": "equal", "lines": len(texts[0])}
    if texts[0] != texts[1]:
        first = next((pair for pair in zip(*texts, strict=False) if pair[0] != pair[1]), None)
        result |= {"status": "different", "first": first}
    return {**result, "gave_up": failures[0]} if failures else result


@contextlib.contextmanager
def spied() -> Iterator[list[str]]:
    """Note what the runs of `trace` raise, of which the front end itself makes a second run."""
    run, failures = traced._run, list[str]()

    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except Exception as error:
            failures.append(f"{type(error).__name__} {error}".strip())
            raise

    with mock.patch.object(traced, "_run", noting):
        yield failures


def replays() -> bool:
    """Say whether `capture` takes `replay`."""
    return "replay" in inspect.signature(ta.capture).parameters


COMPARISONS: dict[str, Callable[[Any], Result]] = {
    "export": compare_export,
    "replay": compare_replay,
}
