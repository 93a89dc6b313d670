"""Scopes for viewers that fold what stands in one module into one box.

Such a box is drawn with the edges of all that is in it. Where a module runs, something else runs,
and the module runs again, the box would have to stand before and after that other thing: the
drawing gets a cycle which the model does not have. So every call after the first one has a scope
of its own, and so have the backward pass and the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..graph import ModelGraph, in_order
from ..names import path_to_id
from .nesting import BODY

Node = Mapping[str, Any]

MARK = re.compile(r" \((?:call|part) \d+\)(?=/|$)")
"""What marks a scope as that of a later call."""


class Scope(NamedTuple):
    """Where a node is drawn: in a phase, and in scopes from the outermost inwards."""

    phase: str
    """``backward`` or ``optimizer``; empty for the forward pass."""
    parts: tuple[str, ...]
    again: bool
    """Whether one of the scopes is a second or later call of a module."""

    def __str__(self) -> str:
        return "/".join((self.phase, *self.parts) if self.phase else self.parts)


def scopes(graph: ModelGraph) -> dict[str, Scope]:
    """Return the scope of every node of a flat graph: its id without the leaf, calls apart.

    A later call of a module is called ``relu (call 2)``, and what the backward pass computes of
    it apart from the rest ``relu (part 2)``. A container that is entered several times, for one of
    its modules after the other, stays one scope.
    """
    calls = {"": _Calls("call")}
    found = {}
    for name, node in in_order(graph):
        parts = tuple(name.split("/")[:-1])
        phase = str(node.get("phase", "forward")).replace("forward", "")
        if node["kind"] == "op":
            marked = calls.setdefault(phase, _Calls("part")).mark(node, parts)
            found[name] = Scope(phase, marked, marked != parts)
        else:
            found[name] = Scope(phase, parts, False)
    return found


@dataclass(slots=True)
class _Module:
    """A module, what ran in its current call, and the modules that were called in that."""

    count: int = 1
    ran: set[tuple[str, str]] = field(default_factory=set)
    inner: dict[str, _Module] = field(default_factory=dict)


class _Calls:
    """Counts the calls of modules along the order of execution.

    Two ops of a module stand in one call if nothing outside the module runs between them. They
    also do if the second one is new: a call that runs again runs something that ran before.
    """

    def __init__(self, word: str) -> None:
        self._word, self._root = word, _Module()
        self._open: tuple[str, ...] = ()

    def mark(self, node: Node, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the scopes of an op, with the number of the call on those that run again."""
        stack = tuple(_ids(node))
        what = (str(node["module"]), str(node["op"]))
        marks: dict[str, int] = {}
        module, entered = self._root, False
        for depth, scope in enumerate(stack):
            entered = entered or depth >= len(self._open) or self._open[depth] != scope
            module = module.inner.setdefault(scope, _Module())
            if entered and what in module.ran:
                module.count += 1
                module.ran, module.inner = set(), {}
            module.ran.add(what)
            if module.count > 1:
                marks[scope] = module.count
        self._open = stack
        return tuple(_marked(parts, marks, self._word)) if marks else parts


def _ids(node: Node) -> Iterator[str]:
    """Yield the modules and bodies around a node as they stand in its id, without the root."""
    body = ""
    for module in node.get("module_stack", ()):
        if BODY in module.path:
            body = module.path
            yield body
        elif module.path:
            inner = path_to_id(module.path)
            yield f"{body}/{inner}" if body else inner


def _marked(parts: Sequence[str], marks: Mapping[str, int], word: str) -> Iterator[str]:
    path = ""
    for part in parts:
        path = f"{path}/{part}" if path else part
        yield f"{part} ({word} {marks[path]})" if path in marks else part
