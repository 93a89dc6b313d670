"""What `import torchatlas` offers."""

from __future__ import annotations

from typing import Any

from .annotations import annotate
from .graph import ModelGraph, build


def capture(model: Any, example: Any = None, *, frontend: str = "auto") -> ModelGraph:
    """Capture `model`."""
    from .frontends import exported

    args = example if isinstance(example, tuple) else (example,)
    program = exported.export(model, args, {}, strict=False)
    found = exported.read(program, model)
    graph, ids = build(found.records, frontend="export", **found.attrs)
    graph.source = found
    return annotate(graph)
