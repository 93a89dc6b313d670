"""What a notebook shows of a graph: its picture and its summary, and never an error."""

from __future__ import annotations

import base64
import contextlib
import html

from ..graph import ModelGraph
from ..modules import module_tree

_ALL = 2000
"""Nodes up to which the deepest picture that can be read is looked for, within a second."""
_SOME = 10_000
"""Nodes up to which the modules of the model itself are drawn; a larger graph is only told."""

_ROWS = 100
"""Modules that a summary in a notebook has at most."""


def mimebundle(graph: ModelGraph) -> dict[str, str]:
    """Return `graph` in the formats of a notebook: plain text, HTML and, where it can be, SVG.

    The picture, which needs Graphviz, is collapsed to what can be read, and stands in the HTML
    too, as an image, in which nothing can run.
    """
    bundle = {"text/plain": _text(graph)}
    picture = ""
    with contextlib.suppress(Exception):  # a graph that cannot be drawn can still be told
        if svg := _picture(graph):
            bundle["image/svg+xml"] = svg.decode()
            data = base64.b64encode(svg).decode()
            name = html.escape(str(graph.graph.get("name", "")))
            source = f"data:image/svg+xml;base64,{data}"
            picture = f'<img alt="{name}" style="max-width: 100%" src="{source}">'
    bundle["text/html"] = f"{picture}<pre>{html.escape(bundle['text/plain'])}</pre>"
    return bundle


def _text(graph: ModelGraph) -> str:
    with contextlib.suppress(Exception):
        if len(graph) > _SOME:
            return f"{graph}\n\nLarge: graph.summary() tells its modules."
        inner = module_tree(graph).children.values()
        depth = 2 if sum(1 + len(row.children) for row in inner) <= _ROWS else 1
        return f"{graph}\n\n{graph.summary(depth if len(inner) <= _ROWS else 0)}"
    return object.__repr__(graph)


def _picture(graph: ModelGraph) -> bytes:
    from .picture import svg

    if len(graph) > _SOME:
        return b""
    return svg(graph) if len(graph) <= _ALL else svg(graph, depth=1)
