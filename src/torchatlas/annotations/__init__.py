"""Annotations add keys to a graph and never change its structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from typing import TYPE_CHECKING

from ..errors import GraphError
from ..graph import ModelGraph, op_nodes
from ..names import body_id, join_body
from .flops import flops
from .formulas import Cost
from .liveness import liveness
from .own_formulas import flop_formula
from .params import params
from .placement import placement
from .roofline import critical_path
from .roofline import roofline as add_roofline
from .traffic import traffic

if TYPE_CHECKING:
    from ..devices import Device

DEFAULT: tuple[Callable[[ModelGraph], None], ...] = (
    placement,
    params,
    flops,
    traffic,
    liveness,
)
"""What `annotate` runs, in order."""

__all__ = [
    "DEFAULT",
    "Cost",
    "annotate",
    "critical_path",
    "flop_formula",
    "flops",
    "liveness",
    "params",
    "placement",
    "traffic",
]


def annotate(
    graph: ModelGraph,
    *,
    strict: bool = False,
    roofline: str | PathLike[str] | Device | None = None,
    tf32: bool = False,
) -> ModelGraph:
    """Add every default annotation to `graph`, in place, and return it.

    With `roofline`, a device or the name that a driver reports, also the least time that each op
    can take on it (see `torchatlas.annotations.roofline`); `tf32` lets products of float32 run
    as TF32.

    With `strict`, raises GraphError for an op whose cost no rule knows, naming it. Raises it too
    for a collapsed graph, whose ops are no longer there.
    """
    for name, node in op_nodes(graph):
        if "contains" in node:
            raise GraphError(
                f"{node['op']!r} stands for ops that were collapsed",
                node=name,
                hint="annotate the whole graph, and collapse it then",
            )
    for annotation in DEFAULT:
        annotation(graph)
    if strict:
        _check_known(graph)
    if roofline is not None:
        add_roofline(graph, roofline, tf32=tf32)
    return graph


def _check_known(graph: ModelGraph) -> None:
    unknown = list(_unknown(graph))
    if unknown:
        names = ", ".join(sorted({op for _, op in unknown}))
        raise GraphError(
            f"no rule says what {names} costs",
            node=unknown[0][0],
            hint=f"give one: @torchatlas.flop_formula({unknown[0][1].replace('.', '::', 1)!r})",
        )


def _unknown(graph: ModelGraph, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the ops whose cost nobody knows; for control flow those inside, if any."""
    for name, node in op_nodes(graph):
        if node["flops"] is None:
            whole = prefix + name
            parts = node.get("subgraphs", {}).items()
            inside = [u for k, b in parts for u in _unknown(b, join_body(body_id(whole, k), ""))]
            yield from inside or [(whole, node["op"])]
