"""One HTML file with all there is to know of a graph, which opens from disk and loads nothing.

The page holds the facts as JSON (`report_data`), and draws them itself: its scripts lie in the
folder ``report``, in the order of `SCRIPTS`. plotly.js is in the file too, compressed. A content
security policy allows those scripts and styles by their hashes, and nothing else: no request, no
handler in an attribute, no script that a name from a model would bring.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from ..errors import MissingExtraError
from ..graph import ModelGraph
from ..modules import module_tree
from .families import COLOURS
from .nesting import flat
from .report_data import facts, to_json
from .report_summary import COLUMNS, cards, headline, module_lines, notes

SCRIPTS = (
    "core.js",
    "model.js",
    "tree.js",
    "ranks.js",
    "layout.js",
    "picture.js",
    "drawing.js",
    "inspector.js",
    "search.js",
    "table.js",
    "charts.js",
    "icicle.js",
    "memory.js",
    "roofline.js",
    "main.js",
)
"""The scripts of the page, in the order in which they stand in it."""

EMPTY = ""
"""The style element that plotly fills with rules by itself is empty when the policy sees it."""


def render(graph: ModelGraph, *, include_source: bool = False) -> bytes:
    """Return a page that shows `graph`: as a picture, in plots and as a table.

    The bodies of control flow stand beside their op, as in the other pictures. The file holds no
    tensor values; `include_source` adds the lines of code that called the ops. Raises
    MissingExtraError without plotly or jinja2.
    """
    plotly, plotly_hash = _plotly()
    template = _template()
    script, style = _script(), _asset("page.css") + _family_styles()
    found, subtitle = headline(graph)
    tree = module_tree(graph)
    lines, deeper = module_lines(tree, graph.graph["name"])
    page = template.render(
        policy=_policy(_digest(script), plotly_hash, style),
        graph=graph.graph,
        subtitle=subtitle,
        cards=cards(graph, found),
        notes=notes(graph, found, include_source=include_source),
        columns=COLUMNS,
        modules=lines,
        deeper=deeper,
        style=style,
        script=script,
        plotly=plotly,
        data=to_json(facts(graph, flat(graph), tree, include_source=include_source)),
    )
    return str(page).encode("utf-8", "replace")


def _policy(script: str, plotly: str, style: str) -> str:
    styles = f"'{_digest(style)}' '{_digest(EMPTY)}'"
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{script}' '{plotly}'",
            f"style-src {styles}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _digest(text: str) -> str:
    """Return the hash by which a content security policy knows a script or a style.

    >>> _digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@lru_cache(maxsize=1)
def _plotly() -> tuple[str, str]:
    """Return plotly.js, compressed and in base 64, and the hash of what that holds."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("plotly", extra="report") from error
    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode(), _digest(source)


@lru_cache(maxsize=1)
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", extra="report") from error
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return made.from_string(_asset("page.html"))


@lru_cache(maxsize=1)
def _script() -> str:
    parts = "\n".join(map(_asset, SCRIPTS))
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _asset(name: str) -> str:
    return files(__package__).joinpath("report", name).read_text("utf-8")


_DARK = {
    "op": ("var(--raised)", "#8b96a3"),
    "input": ("#cdd4db", "#cdd4db"),
    "output": ("#cdd4db", "#cdd4db"),
    "parameter": ("var(--surface)", "#58616c"),
    "buffer": ("var(--surface)", "#58616c"),
    "constant": ("var(--surface)", "#58616c"),
}
"""What on a dark page is not just a darker shade of the family's line."""


def _family_styles() -> str:
    """Return the rules that give each family of ops its colours, on a light and a dark page."""
    dark = {
        name: (f"color-mix(in srgb, {line} 38%, #14171b)", f"color-mix(in srgb, {line} 62%, white)")
        for name, (_, line) in COLOURS.items()
    }
    shades = "\n".join(map(_rule, dark, (dark | _DARK).values()))
    plain = "\n".join(map(_rule, COLOURS, COLOURS.values()))
    return f"{plain}\n@media (prefers-color-scheme: dark) {{\n{shades}\n}}\n"


def _rule(family: str, colours: tuple[str, str]) -> str:
    return f".f-{family} {{ --fill: {colours[0]}; --line: {colours[1]}; }}"
