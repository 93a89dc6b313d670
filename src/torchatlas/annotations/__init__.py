"""Annotations add keys to a graph and never change its structure."""

from __future__ import annotations

from collections.abc import Callable

from ..graph import ModelGraph
from .flops import flops
from .params import params
from .placement import placement
from .traffic import traffic

DEFAULT: tuple[Callable[[ModelGraph], None], ...] = (placement, params, flops, traffic)
"""What `annotate` runs, in order."""

__all__ = ["DEFAULT", "annotate", "flops", "params", "placement", "traffic"]


def annotate(graph: ModelGraph) -> ModelGraph:
    """Add every default annotation to `graph`, in place, and return it."""
    for annotation in DEFAULT:
        annotation(graph)
    return graph
