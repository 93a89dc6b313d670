"""What all viewers share: reading the file, making the graph of it, and a small web server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import FormatError, UsageError
from ..graph import ModelGraph
from ..reading import SUFFIXES as GRAPHS
from ..reading import load

HOST = "127.0.0.1"


def suffix_in(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Say whether the name of a file ends in one of `suffixes`, large or small."""
    return path.name.lower().endswith(suffixes)


def read(path: Path) -> bytes:
    """Return the content of a file. Raises FormatError if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read: {error.strerror}", hint="give the path of a model file"
        ) from error
    if not content:
        raise FormatError(f"{path} is empty", hint="write the file again")
    return content


def graph_of(path: Path, viewer: str, suffixes: tuple[str, ...]) -> ModelGraph:
    """Return the graph in a file that `viewer` cannot show as it is.

    Raises UsageError where the file holds no graph, naming the `suffixes` that the viewer shows.
    """
    if path.suffix.lower() not in GRAPHS or suffix_in(path, NO_GRAPHS):
        known = dict.fromkeys((*suffixes, *GRAPHS))
        suffix = next((s for s in NO_GRAPHS if path.name.lower().endswith(s)), path.suffix.lower())
        raise UsageError(
            f"{viewer} does not show files with the suffix {suffix!r}",
            hint=f"it shows {', '.join(known)}",
        )
    return load(path)


NO_GRAPHS = (".explorer.json", ".overlays.json", ".attachment.json")
"""Suffixes of JSON files that are no graphs to be read back."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers: a status, and a content of a type or an address to go to."""

    content: bytes = b""
    type: str = "application/json"
    status: HTTPStatus = HTTPStatus.OK
    location: str = ""


Answer = Callable[[str, Mapping[str, list[str]]], Reply | None]
"""A path and the parameters of a request to the reply, or None if there is nothing there."""


@contextmanager
def serving(answer: Answer, port: int | None, policy: str) -> Iterator[str]:
    """Serve what `answer` gives on the loopback interface; yield the address without a path.

    Every reply tells the browser what the page may load, by the content security `policy`.
    Requests that name another host are refused: a page from the Internet could make its own
    name stand for this machine and read what is served. Raises UsageError for a taken `port`.
    """
    try:
        server = _Server((HOST, port or 0), _handler(answer, policy))
    except (OSError, OverflowError) as error:
        raise taken(port, error) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a tab that was closed while it loaded is no error of ours."""


def taken(port: int | None, error: Exception) -> UsageError:
    """Return the error that says that a port is not to be had."""
    return UsageError(
        f"port {port} cannot be used: {error}", hint="leave the port out to get a free one"
    )


def _handler(answer: Answer, policy: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, port = self.request.getsockname()
            url = urlsplit(self.path)
            if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
                reply: Reply | None = Reply(status=HTTPStatus.FORBIDDEN)
            else:
                reply = answer(url.path, parse_qs(url.query))
            self._send(reply or Reply(status=HTTPStatus.NOT_FOUND))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            if reply.location:
                self.send_header("Location", reply.location)
            self.send_header("Content-Type", reply.type)
            self.send_header("Content-Length", str(len(reply.content)))
            self.send_header("Content-Security-Policy", policy)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
