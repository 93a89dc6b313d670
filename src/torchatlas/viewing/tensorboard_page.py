"""A graph, or a folder of event files, in TensorBoard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FormatError, MissingExtraError, UsageError
from ..exporters import render
from .files import HOST, graph_of, read, taken

SUFFIXES = (".tfevents",)
RELOAD = 5
"""Seconds after which TensorBoard looks again what is new in a folder."""


@contextmanager
def serving(path: Path, port: int | None) -> Iterator[str]:
    """Serve a graph, an event file, or a folder of them in TensorBoard; yield the address.

    A folder is read again and again, as a training run writes to it.
    """
    program = _tensorboard()
    if path.is_dir():
        if not any(path.rglob("*tfevents*")):
            raise FormatError(
                f"{str(path)!r} holds no event files", hint="give the folder that a writer wrote to"
            )
        with _server(program, path, port, RELOAD) as url:
            yield url
        return
    with tempfile.TemporaryDirectory(prefix="torchatlas-") as folder:
        # Alone in a folder, for TensorBoard shows whatever lies beside the file.
        Path(folder, "events.out.tfevents.0").write_bytes(_content(path))
        with _server(program, Path(folder), port, 0) as url:
            yield f"{url}/#graphs"


def is_shown(path: Path) -> bool:
    """Say whether TensorBoard shows a file as it is: writers name theirs ``….tfevents.….host``."""
    return ".tfevents" in path.name


def _content(path: Path) -> bytes:
    if is_shown(path):
        return read(path)
    graph = graph_of(path, "TensorBoard", SUFFIXES)
    return bytes(render(graph, "tensorboard")[0])


def _tensorboard() -> Any:
    try:
        from tensorboard import program
    except ImportError as error:
        raise MissingExtraError("tensorboard", extra="tensorboard") from error
    return program


@contextmanager
def _server(program: Any, folder: Path, port: int | None, reload: int) -> Iterator[str]:
    """Serve the event files in `folder`; read them before, and every `reload` seconds if not 0."""
    servers: list[Any] = []

    def make(app: Any, flags: Any) -> Any:
        servers.append(program.WerkzeugServer(app, flags))
        return servers[0]

    board = program.TensorBoard(server_class=make)
    board.configure(
        logdir=str(folder),
        host=HOST,
        port=port or 0,
        load_fast="false",  # which would start another process
        reload_interval=reload,
        reload_task="thread" if reload else "blocking",
    )
    try:
        url = str(board.launch()).rstrip("/")
    except (program.TensorBoardServerException, OSError, OverflowError) as error:
        raise _refused(port, error) from error
    try:
        yield url
    finally:
        servers[0].shutdown()
        servers[0].server_close()


def _refused(port: int | None, error: Exception) -> UsageError:
    return taken(port, Exception(getattr(error, "msg", error)))
