"""The ops and the modules of a measured graph that take longest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..annotations.achieved import Achievements
from ..graph import ModelGraph, op_nodes
from ..schema import Measured, Module
from .result import TopModule, TopNode


def top_nodes(
    graph: ModelGraph, measured: Measured, found: Achievements | None, top: int
) -> tuple[TopNode, ...]:
    """Return the `top` ops that take longest, the longest first."""
    timed = {name: node for name, node in op_nodes(graph) if node.get("latency_us")}
    whole = sum(node["latency_us"] for node in timed.values())
    ranked = sorted(timed.items(), key=lambda item: (-item[1]["latency_us"], item[1]["index"]))
    return tuple(
        TopNode(
            id=name,
            op=node["op"],
            latency_us=node["latency_us"],
            share=node["latency_us"] / whole,
            stable=name not in measured.unstable,
            bound=node.get("bound"),
            roofline_share=None if found is None else found.nodes[name].roofline_share,
            kernels=tuple(node.get("kernels", ())),
        )
        for name, node in ranked[:top]
    )


# -- modules -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """What ops take together; `roofline_us` is None where that of one is not known."""

    ops: int = 0
    us: float = 0.0
    roofline_us: float | None = 0.0

    def add(self, ops: int, us: float, roofline_us: float | None) -> None:
        self.ops += ops
        self.us += us
        known = self.roofline_us is not None and roofline_us is not None
        self.roofline_us = (self.roofline_us or 0.0) + (roofline_us or 0.0) if known else None


@dataclass(slots=True)
class _Group:
    """Modules that stand together: of one class, under one group, with names alike.

    `names` are those under the group above, `paths` those in the model.
    """

    type: str
    names: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    own: _Sum = field(default_factory=_Sum)
    whole: _Sum = field(default_factory=_Sum)
    inside: dict[tuple[str, str], _Group] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    group: _Group
    own: bool = False

    @property
    def sum(self) -> _Sum:
        return self.group.own if self.own else self.group.whole

    @property
    def opens(self) -> bool:
        return bool(self.group.inside) and not self.own

    def opened(self) -> Iterator[_Row]:
        """Yield what stands in its place: the groups inside, and the ops that are in none."""
        for (name, _), group in self.group.inside.items():
            label = next(iter(group.names)) if len(group.names) == 1 else name
            yield _Row(f"{self.path}.{label}" if self.path else label, group)
        if self.group.own.ops:
            yield _Row(self.path, self.group, own=True)


def top_modules(graph: ModelGraph, top: int) -> tuple[TopModule, ...]:
    """Return the `top` modules that take longest, the longest first.

    Beginning with the whole model, the longest module is taken apart into those inside of it
    while there are less than `top`, or it takes more than half of the time. So no op is in two,
    and all together would be the model.
    """
    root = _grouped(graph)
    rows = [_Row("", root)]
    while opening := [row for row in rows if row.opens]:
        longest = max(opening, key=lambda row: row.sum.us)
        if len(rows) >= top and longest.sum.us <= root.whole.us / 2:
            break
        rows.remove(longest)
        rows.extend(longest.opened())
    ranked = sorted((row for row in rows if row.sum.us > 0), key=lambda row: -row.sum.us)
    return tuple(_described(row, root.whole.us) for row in ranked[:top])


def _described(row: _Row, whole: float) -> TopModule:
    found = row.sum
    known = found.roofline_us is not None
    return TopModule(
        path=row.path,
        type=row.group.type,
        count=len(row.group.paths),
        own=row.own,
        ops=found.ops,
        latency_us=found.us,
        share=found.us / whole,
        roofline_share=(found.roofline_us or 0.0) / found.us if known else None,
    )


def _grouped(graph: ModelGraph) -> _Group:
    """Return the groups of modules, from the whole model inwards."""
    modules: Mapping[str, str] = graph.graph.get("modules", {})
    root = _Group(modules.get("", graph.graph.get("name", "")), paths={""})
    for _, node in op_nodes(graph):
        group = _innermost(root, node.get("module_stack", ()), node)
        _add(group.own, node)
    return root


def _innermost(root: _Group, stack: Sequence[Module], node: Mapping[str, Any]) -> _Group:
    """Add an op to the groups around it; return the innermost."""
    group, above = root, ""
    _add(group.whole, node)
    for module in stack:
        if not module.path:
            continue
        name = module.path.removeprefix(f"{above}.") if above else module.path
        group = group.inside.setdefault((_starred(name), module.type), _Group(module.type))
        group.names.add(name)
        group.paths.add(module.path)
        _add(group.whole, node)
        above = module.path
    return group


def _add(found: _Sum, node: Mapping[str, Any]) -> None:
    found.add(1, node.get("latency_us") or 0.0, node.get("roofline_us"))


def _starred(name: str) -> str:
    """Return the name of a module with a star for each number.

    >>> _starred("layers.11"), _starred("layer1.0.conv1")
    ('layers.*', 'layer1.*.conv1')
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
