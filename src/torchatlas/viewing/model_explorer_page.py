"""A graph in Model Explorer, with its overlays.

Only the page of the package ``ai-edge-model-explorer`` is used. Its own server hands out any file
of this machine that it is asked for (``/api/v1/read_text_file``), converts and keeps what is
uploaded, asks the package index for a newer version, and cannot be stopped from within the
process. The page needs four answers, which `serving` gives from memory.

Addresses and replies: `model_explorer/server.py` and `config.py`, version 0.1.34.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ..errors import FormatError, MissingExtraError
from ..exporters import render
from ..exporters.model_explorer_overlays import all_overlays
from .files import Reply, graph_of, read, suffix_in
from .files import serving as serving_replies

SUFFIXES = (".explorer.json",)

# The page keeps to this machine; what it builds of names are texts, never scripts.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "form-action 'none'"
)

JSON_ADAPTER = {
    "fileExts": ["json"],
    "type": "adapter",
    "id": "builtin_json",
    "name": "JSON adapter",
    "description": "Reads graphs in Model Explorer's own format.",
}


class _Shown(NamedTuple):
    """What the page asks for: a collection of graphs, and overlays by title."""

    graphs: Mapping[str, Any]
    overlays: Sequence[tuple[str, Mapping[str, Any]]]


@contextmanager
def serving(path: Path, port: int | None) -> Iterator[str]:
    """Serve a graph in Model Explorer; yield the address.

    The overlays are those of the graph, or for an ``.explorer.json`` those of the
    ``.overlays.json`` beside it, if there is one.
    """
    shown = _shown(path)
    page = _page()
    query = _query(shown)

    def answer(asked: str, parameters: Mapping[str, list[str]]) -> Reply | None:
        if asked == "/" and "data" not in parameters:
            return Reply(status=HTTPStatus.FOUND, location=f"/?data={query}")
        if asked in page:
            kind = mimetypes.guess_type(page[asked].name)[0] or "application/octet-stream"
            return Reply(page[asked].read_bytes(), kind)
        return _data(asked, parameters, shown)

    with serving_replies(answer, port, POLICY) as url:
        yield url


def _data(asked: str, parameters: Mapping[str, list[str]], shown: _Shown) -> Reply | None:
    """Return what the page learns from its server."""
    if asked == "/api/v1/get_extensions":
        return _json([JSON_ADAPTER])
    if asked == "/api/v1/load_graphs_json":
        return _json({"graphs": shown.graphs["graphs"]})
    if asked == "/api/v1/load_node_data":
        index = parameters.get("node_data_index", [""])[0]
        if index.isdecimal() and int(index) < len(shown.overlays):
            return _json({"content": json.dumps(shown.overlays[int(index)][1])})
    if asked == "/api/v1/check_new_version":
        return _json(
            dict.fromkeys(("version", "runningVersion", "releaseUrl", "desktopAppUrl"), "")
        )
    if asked == "/apistream/server_director":
        return Reply(status=HTTPStatus.NO_CONTENT)  # ends a stream for good
    return None


def _json(content: Any) -> Reply:
    return Reply(json.dumps(content).encode())


def _query(shown: _Shown) -> str:
    """Return the part of the address that says what the page is to load."""
    label = str(shown.graphs.get("label", "graph"))
    titles = [title.replace("/", "\N{DIVISION SLASH}") for title, _ in shown.overlays]
    # The overlay that comes last is the one that is switched on: FLOPs.
    order = [*range(1, len(titles)), *range(min(len(titles), 1))]
    return quote(
        json.dumps(
            {
                "models": [{"url": f"graphs://{label}/0"}],
                "nodeData": [f"node_data://{titles[i]}/{i}" for i in order],
                "nodeDataTargets": ["" for _ in titles],
            }
        )
    )


def _shown(path: Path) -> _Shown:
    if not suffix_in(path, SUFFIXES):
        graph = graph_of(path, "Model Explorer", SUFFIXES)
        graphs = json.loads(render(graph, "model-explorer")[0])
        name = graphs["graphs"][0]["id"]
        found = [(overlay["name"], {name: overlay}) for _, overlay in all_overlays(graph)]
        return _Shown(graphs, found)
    graphs = _parse(path)
    if not isinstance(graphs, dict) or not isinstance(graphs.get("graphs"), list):
        raise FormatError(
            f"{str(path)!r} holds no graphs of Model Explorer",
            hint="write it with graph.export, format 'model-explorer'",
        )
    beside = path.with_name(path.name[: -len(SUFFIXES[0])] + ".overlays.json")
    return _Shown(graphs, _overlays(beside, graphs) if beside.exists() else ())


def _overlays(path: Path, graphs: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the overlays in a file, each under the name of the graph that it belongs to."""
    found = _parse(path)
    ids = [str(graph.get("id")) for graph in graphs["graphs"] if isinstance(graph, dict)]
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise FormatError(
            f"{str(path)!r} holds no overlays of Model Explorer",
            hint="write it with graph.export, format 'model-explorer-overlays'",
        )
    return [
        (str(overlay.get("name", key)), {id: overlay})
        for key, overlay in found.items()
        for id in ids
        if key == id or key.startswith(f"{id}: ")
    ]


def _parse(path: Path) -> Any:
    try:
        return json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} is not JSON: {error}", hint="write it again") from error


def _page() -> dict[str, Path]:
    """Return the files of the page by the paths under which it asks for them."""
    spec = find_spec("model_explorer")  # which does not import it, and torch with it
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        root = Path(folder, "web_app")
        files = {f"/{f.relative_to(root).as_posix()}": f for f in root.rglob("*") if f.is_file()}
        if "/index.html" in files:
            return {"/": files["/index.html"], **files}
    raise MissingExtraError("ai-edge-model-explorer", extra="viewers")
