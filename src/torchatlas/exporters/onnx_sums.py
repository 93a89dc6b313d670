"""What the calls of modules cost: sums over their ops, for files in which a module is one node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graph import ModelGraph
from ..modules import Row, module_tree
from ..schema import NODE_FIELDS, Dim
from ..sums import SUMMED, add_up
from ..text import number
from .onnx_order import ids_of

if TYPE_CHECKING:
    from onnx import NodeProto

_SAID = {
    "params": "parameters",
    "flops": "",
    "flops_other": "outside contractions",
    "int_ops": "in integers",
    "bytes_read": "read",
    "bytes_written": "written",
    "comm_bytes": "sent",
}
"""What a sentence says of a module, each sum with its words."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The sums over the ops of one call of a module, by key; `unknown` ops are left out of them."""

    sums: Mapping[str, Dim]
    ops: int
    unknown: int

    @property
    def properties(self) -> dict[str, Any]:
        """The same as metadata, without what is nothing."""
        always = ("flops", "macs", "params")
        found: dict[str, Any] = {key: self.sums[key] for key in always}
        found |= {key: v for key, v in self.sums.items() if key not in always and v != 0}
        return {**found, "ops": self.ops, **({"unknown": self.unknown} if self.unknown else {})}

    def __str__(self) -> str:
        parts = [f"{self.ops} op{'' if self.ops == 1 else 's'}"]
        for key, words in _SAID.items():
            if self.sums[key] != 0 or key == "flops":
                parts.append(f"{number(self.sums[key], NODE_FIELDS[key].unit)} {words}".strip())
        missing = [f"the cost of {self.unknown} ops unknown"] if self.unknown else []
        return ", ".join([*parts, *missing])


class Sums:
    """Adds up what modules of a graph cost; `known` has the nodes of its bodies by id as well."""

    def __init__(self, graph: ModelGraph, known: Mapping[str, Mapping[str, Any]]) -> None:
        self._graph, self._known = graph, known
        self._rows = dict(_rows(module_tree(graph)))

    def of(self, path: str, nodes: Iterable[NodeProto], *, is_whole: bool) -> Cost:
        """Return what the module at `path` costs, all of it or the part that `nodes` stand for."""
        if is_whole and path in self._rows:
            row = self._rows[path]
            return Cost({key: row.sums[key] for key in SUMMED}, row.ops, row.unknown.total())
        ids = {name: None for node in nodes if _is_main(node) for name in ids_of(node)}
        ops = [self._known[name] for name in ids if self._known[name]["kind"] == "op"]
        weights = {w for name in ids if name in self._graph for w in self._graph.predecessors(name)}
        terms = {key: [op[key] for op in ops if op.get(key) is not None] for key in SUMMED}
        for key in ("params", "param_bytes"):
            terms[key] = [self._graph.nodes[w].get(key, 0) for w in sorted(weights)]
        unknown = sum(op.get("flops") is None for op in ops)
        return Cost({key: add_up(values) for key, values in terms.items()}, len(ops), unknown)


def _rows(row: Row) -> Iterator[tuple[str, Row]]:
    yield row.path, row
    for child in row.children.values():
        yield from _rows(child)


def _is_main(node: NodeProto) -> bool:
    """Say whether a node stands for the costs of its op, of which it may be one part of several."""
    parts = [entry.value for entry in node.metadata_props if entry.key == "part"]
    return not parts or parts[0].startswith("1/")
