"""Open a file in Netron, on this machine only."""

from __future__ import annotations

import logging
import re
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import FormatError, MissingExtraError, UsageError

HOST = "127.0.0.1"

READABLE = (
    ".dot", ".onnx", ".netron", ".message", ".pt2", ".pt", ".pth", ".pb", ".pbtxt", ".mlir",
    ".tflite", ".keras", ".h5", ".pte", ".mlmodel", ".safetensors", ".gguf",
)  # fmt: skip
"""Suffixes of the files that Netron shows: what torchatlas writes first, then the common ones."""


def view(
    path: str | PathLike[str],
    *,
    port: int | None = None,
    browser: bool = True,
    announce: Callable[[str], object] = lambda url: None,
) -> None:
    """Show the file at `path` in Netron until interrupted (Ctrl-C).

    Netron is served at `port`, or at a free one. Once it is, `announce` is called with its
    address, and the user's browser is told to open it unless `browser` is False. The page is
    Netron's own, and reports its use to Google Analytics where it can. Raises as `serving` does.
    """
    with suppress(KeyboardInterrupt), serving(path, port=port) as url:
        announce(url)
        if browser:
            webbrowser.open(url)
        while True:
            time.sleep(1)


@contextmanager
def serving(path: str | PathLike[str], *, port: int | None = None) -> Iterator[str]:
    """Serve the file at `path` in Netron, on the loopback interface; yield the address.

    Only one file can be served at a time. Weights that an ONNX file keeps in a second file are
    not served with it: Netron then shows their shapes without their values. Raises FormatError
    if there is no such file, UsageError if Netron does not read such files or `port` is not to
    be had, MissingExtraError without Netron.
    """
    content = _read(Path(path))
    netron = _netron()
    with tempfile.TemporaryDirectory(prefix="torchatlas-") as empty:
        # Netron hands out whatever lies beside the file, to anyone on this machine: so the
        # content comes from memory, and beside it lies nothing.
        served = Path(empty, re.sub(r"[^\w.\-]", "_", Path(path).name))
        address = _serve(netron, served, content, port)
        try:
            yield f"http://{address[0]}:{address[1]}"
        finally:
            _stop(netron, address)


def _read(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        json = " (of a torchatlas graph, export .dot or .onnx and view that)"
        raise UsageError(
            f"Netron does not read files with the suffix {suffix!r}",
            hint=f"it reads {', '.join(READABLE)}{json if suffix == '.json' else ''}",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read: {error.strerror}", hint="give the path of a model file"
        ) from error
    if not content:
        raise FormatError(f"{path} is empty", hint="write the file again")
    return content


def _netron() -> Any:
    try:
        import netron
    except ImportError as error:
        raise MissingExtraError("netron", extra="viewers") from error
    return netron


def _serve(netron: Any, served: Path, content: bytes, port: int | None) -> tuple[str, int]:
    # Netron sets up logging for the whole process, and writes to it, if no one has done so.
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)
    try:
        host, found = netron.serve(str(served), bytearray(content), address=(HOST, port or 0))
        return str(host), int(found)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"port {port} cannot be used: {error}", hint="leave the port out to get a free one"
        ) from error
    finally:
        logging.getLogger().removeHandler(silence)


def _stop(netron: Any, address: tuple[str, int]) -> None:
    netron.stop(address)
    deadline = time.monotonic() + 5
    while netron.status(address) and time.monotonic() < deadline:
        time.sleep(0.02)
