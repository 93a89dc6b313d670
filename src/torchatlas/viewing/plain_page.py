"""A report or a picture in the browser itself."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ..exporters import render
from .files import Reply, graph_of, read, suffix_in
from .files import serving as serving_replies

SUFFIXES = (".html", ".svg", ".pdf", ".png")

# The file may hold scripts and styles of its own, as a report does, but load and send nothing.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob: data:; "
    "form-action 'none'; base-uri 'none'"
)


@contextmanager
def serving(path: Path, port: int | None) -> Iterator[str]:
    """Serve a report or a picture, or the report of a graph; yield its address."""
    if suffix_in(path, SUFFIXES):
        name, content = path.name, read(path)
    else:
        graph = graph_of(path, "the browser", SUFFIXES)
        name, content = f"{path.stem}.html", bytes(render(graph, "html")[0])
    place = f"/{name}"
    type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    type += "; charset=utf-8" if type.startswith("text/") else ""

    def answer(asked: str, _: Mapping[str, list[str]]) -> Reply | None:
        return Reply(content, type) if asked == quote(place) else None

    with serving_replies(answer, port, POLICY) as url:
        yield url + quote(place)
