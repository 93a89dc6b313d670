"""What `import torchatlas` offers."""

from __future__ import annotations

from typing import Any

from .annotations import annotate
from .graph import ModelGraph, build
from .text import progress


def capture(
    model: Any,
    example: Any = None,
    *,
    frontend: str = "auto",
    include_source: bool = False,
) -> ModelGraph:
    """Capture `model` into an annotated graph.

    `model` is an `nn.Module`, a function, an `ExportedProgram` or an `fx.GraphModule`.
    `example` is one input, a tuple of positional arguments, a mapping of keyword arguments, or
    a pair of both; its tensors may be real, fake, or on the meta device, and only their shapes,
    data types and devices matter. `frontend` is ``"auto"`` or one of
    `torchatlas.frontends.FRONTENDS`; the graph's keys ``frontend`` and ``attempts`` say which
    one served and why others did not. `include_source` keeps the line of code that called each
    op (``file:line``, relative) on the graph, and so in every file written from it.

    Raises InputError where the model itself raises on the example, naming the module, the op
    and the shapes, and CaptureError where no front end can capture it.
    """
    from .frontends import record

    with progress(f"capturing {type(model).__name__}"):
        found, source = record(model, example, frontend=frontend)
        if not include_source:
            for op in found.records:
                op.source = ""
        graph, source.ids = build(found.records, **found.attrs)
        graph.source = source
        return annotate(graph)
