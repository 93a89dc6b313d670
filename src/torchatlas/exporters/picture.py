"""Draw a graph as SVG, PNG or PDF: what `dot` writes, laid out by Graphviz.

The package `pygraphviz`, whose wheels carry Graphviz, or a program `dot` on the path does it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import FormatError, MissingExtraError, UsageError
from ..graph import ModelGraph, bodies
from ..schema import WEIGHTS
from ..transforms.collapse import collapse
from . import dot

LIMIT = 150
"""Nodes that one picture can show readably."""

ENGINES = ("dot", "neato", "fdp", "sfdp", "twopi", "circo")

_Auto = Literal["auto"]
_DATES = re.compile(rb"(/(?:Creation|Mod)Date \(D:)\d{14}")
_SECONDS = 600
"""How long Graphviz may take: on a graph of any size that a person can look at, it is done."""


def svg(
    graph: ModelGraph,
    *,
    show: Sequence[str] = dot.SHOWN,
    parameters: bool | None = None,
    color_by: str | None = None,
    depth: int | _Auto | None = "auto",
    limit: int = LIMIT,
    legend: bool = True,
    rankdir: str = "TB",
    engine: str = "dot",
) -> bytes:
    """Return a picture of `graph` as SVG.

    A graph of more than `limit` nodes is drawn without its weights; one that is still too large
    is collapsed to the deepest modules that fit, and the title says so. ``depth=None`` draws
    every op and a number collapses to that depth; `parameters` says whether weights are drawn.
    The other options are those of `dot.render`, and `engine` names Graphviz's layout. Raises
    MissingExtraError without Graphviz, and FormatError where it cannot draw the graph.
    """
    chosen = _chosen(graph, depth, parameters, limit)
    return _draw(graph, "svg", engine, {}, _options(chosen, show, color_by, legend, rankdir))


def png(
    graph: ModelGraph,
    *,
    show: Sequence[str] = dot.SHOWN,
    parameters: bool | None = None,
    color_by: str | None = None,
    depth: int | _Auto | None = "auto",
    limit: int = LIMIT,
    legend: bool = True,
    rankdir: str = "TB",
    engine: str = "dot",
    dpi: int = 144,
) -> bytes:
    """Return a picture of `graph` as PNG with `dpi` pixels per inch; see `svg`."""
    if isinstance(dpi, bool) or not isinstance(dpi, int) or not 1 <= dpi <= 2400:
        raise UsageError(f"dpi={dpi!r} is no resolution", hint="give pixels per inch, such as 144")
    chosen = _chosen(graph, depth, parameters, limit)
    options = _options(chosen, show, color_by, legend, rankdir)
    return _draw(graph, "png", engine, {"dpi": str(dpi)}, options)


def pdf(
    graph: ModelGraph,
    *,
    show: Sequence[str] = dot.SHOWN,
    parameters: bool | None = None,
    color_by: str | None = None,
    depth: int | _Auto | None = "auto",
    limit: int = LIMIT,
    legend: bool = True,
    rankdir: str = "TB",
    engine: str = "dot",
) -> bytes:
    """Return a picture of `graph` as PDF, of one page; see `svg`."""
    chosen = _chosen(graph, depth, parameters, limit)
    content = _draw(graph, "pdf", engine, {}, _options(chosen, show, color_by, legend, rankdir))
    # The time of day says nothing about the model; equal lengths keep the file's offsets right.
    return _DATES.sub(rb"\g<1>19700101000000", content)


class Choice(NamedTuple):
    """What of a graph is drawn: modules at a depth, or None for every op; and whether weights."""

    depth: int | None
    parameters: bool


def readable(graph: ModelGraph, limit: int = LIMIT, parameters: bool | None = None) -> Choice:
    """Return the most of `graph` that `limit` nodes can show.

    All of it; or all but the weights; or the deepest modules that fit, or else the model as one.
    Weights stay where without them ops would stand there alone.
    """
    if parameters is not False and _count(graph, weights=True) <= limit:
        return Choice(None, True)
    if parameters is not True and _count(graph, weights=False) <= limit and not _lonely(graph):
        return Choice(None, False)
    weights = parameters is not False
    best = 0
    for depth in range(1, _deepest(graph) + 1):
        if _count(collapse(graph, depth), weights) > limit:
            break
        best = depth
    return Choice(best, weights)


def _count(graph: ModelGraph, weights: bool) -> int:
    parts = (graph, *(body for _, body in bodies(graph)))
    kinds = (node["kind"] for part in parts for _, node in part.nodes(data=True))
    return sum(weights or kind not in WEIGHTS for kind in kinds)


def _lonely(graph: ModelGraph) -> bool:
    """Say whether an op has to do with weights only, as the step count of a norm."""
    kinds = {name: node["kind"] for name, node in graph.nodes(data=True)}
    drawn = {
        name
        for edge in graph.edges
        if kinds[edge[0]] not in WEIGHTS and kinds[edge[1]] not in WEIGHTS
        for name in edge
    }
    return any(kind == "op" and name not in drawn for name, kind in kinds.items())


def _deepest(graph: ModelGraph) -> int:
    parts = (graph, *(body for _, body in bodies(graph)))
    stacks = (node.get("module_stack", ()) for part in parts for _, node in part.nodes(data=True))
    return max((sum(bool(module.path) for module in stack) for stack in stacks), default=0)


def _chosen(
    graph: ModelGraph, depth: int | _Auto | None, parameters: bool | None, limit: int
) -> Choice:
    if isinstance(depth, str):
        if depth == "auto":
            return readable(graph, limit, parameters)
        raise UsageError(f"depth={depth!r} is no depth", hint="give a number, None, or 'auto'")
    return Choice(depth, parameters is not False)


def _options(
    chosen: Choice, show: Sequence[str], color_by: str | None, legend: bool, rankdir: str
) -> dict[str, Any]:
    return {
        "depth": chosen.depth,
        "parameters": chosen.parameters,
        "show": show,
        "color_by": color_by,
        "legend": legend,
        "rankdir": rankdir,
    }


# -- Graphviz ----------------------------------------------------------------------------------


def _draw(
    graph: ModelGraph, format: str, engine: str, settings: Mapping[str, str], options: Any
) -> bytes:
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=f"choose {', '.join(ENGINES)}")
    package, program = _package(), shutil.which("dot")
    if package is None and program is None:
        raise MissingExtraError("pygraphviz", extra="picture")
    source = dot.render(graph, **options)
    try:
        if package is not None:
            return _draw_here(package, source, format, engine, settings)
        return _draw_there(str(program), source, format, engine, settings)
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        reason = said.decode(errors="replace").strip() or str(error)
        raise FormatError(
            f"Graphviz cannot draw the graph: {reason[:300]}",
            hint="draw less of it: depth=2, or another engine",
        ) from error


def _package() -> Any:
    try:
        import pygraphviz
    except (ImportError, OSError):  # the package is there, and Graphviz's libraries are not
        return None
    return pygraphviz


def _draw_here(
    package: Any, source: bytes, format: str, engine: str, settings: Mapping[str, str]
) -> bytes:
    drawing = package.AGraph(string=source.decode())
    try:
        drawing.graph_attr.update(settings)
        found: bytes = drawing.draw(format=format, prog=engine)
        return found
    finally:
        drawing.close()


def _draw_there(
    program: str, source: bytes, format: str, engine: str, settings: Mapping[str, str]
) -> bytes:
    given = [f"-G{key}={value}" for key, value in settings.items()]
    command = [program, f"-K{engine}", f"-T{format}", *given]
    run = subprocess.run(command, input=source, capture_output=True, check=True, timeout=_SECONDS)
    return run.stdout
