"""The picture of a graph as `pydot` objects, for people who change it before it is drawn."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..graph import ModelGraph
from . import dot
from .dot_quoting import Block

if TYPE_CHECKING:
    import pydot


def to_pydot(graph: ModelGraph, **options: Any) -> pydot.Dot:
    """Return what `dot.render` writes as a `pydot.Dot`, without going through text.

    `options` are those of `dot.render`. Raises UsageError for one that it does not have.

    >>> import torch, torchatlas as ta
    >>> picture = to_pydot(ta.capture(torch.nn.Linear(8, 4), torch.zeros(2, 8)), rankdir="LR")
    >>> picture.get_rankdir(), picture.get_edges()[0].get_destination()
    ('"LR"', '"linear"')
    """
    import pydot

    known = {k: option.default for k, option in signature(dot.render).parameters.items()}
    del known["graph"]
    if unknown := options.keys() - known.keys():
        raise UsageError(
            f"a DOT file has no option {min(unknown)!r}", hint=f"it has {', '.join(known)}"
        )
    block = dot.drawn(graph, **{**known, **options})
    made = pydot.Dot(block.name, graph_type="digraph", strict=True, **block.attributes)
    _fill(made, block)
    return made


def _fill(made: pydot.Graph, block: Block) -> None:
    import pydot

    for part in block.parts:
        if isinstance(part, Block):
            inner = pydot.Subgraph(part.name, **part.attributes)
            _fill(inner, part)
            made.add_subgraph(inner)
        elif len(part[0]) == 2:
            made.add_edge(pydot.Edge(*part[0], **part[1]))
        else:
            made.add_node(pydot.Node(*part[0], **part[1]))
