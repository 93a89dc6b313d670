"""A file in Netron."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..exporters import render
from .files import HOST, graph_of, read, suffix_in, taken

SUFFIXES = (
    ".dot", ".onnx", ".netron", ".message", ".pt2", ".pt", ".pth", ".pb", ".pbtxt", ".mlir",
    ".tflite", ".keras", ".h5", ".pte", ".mlmodel", ".safetensors", ".gguf",
)  # fmt: skip
"""Suffixes of the files that Netron shows: what torchatlas writes first, then the common ones."""


@contextmanager
def serving(path: Path, port: int | None) -> Iterator[str]:
    """Serve a file in Netron; yield the address.

    Weights that an ONNX file keeps in a second file are not served with it: Netron then shows
    their shapes without their values.
    """
    name, content = _content(path)
    netron = _netron()
    with tempfile.TemporaryDirectory(prefix="torchatlas-") as empty:
        # Netron hands out whatever lies beside the file, to anyone on this machine: so the
        # content comes from memory, and beside it lies nothing.
        served = Path(empty, re.sub(r"[^\w.\-]", "_", name))
        address = _serve(netron, served, content, port)
        try:
            yield f"http://{address[0]}:{address[1]}"
        finally:
            _stop(netron, address)


def _content(path: Path) -> tuple[str, bytes]:
    if suffix_in(path, SUFFIXES):
        return path.name, read(path)
    graph = graph_of(path, "Netron", SUFFIXES)
    return f"{path.stem}.onnx", bytes(render(graph, "onnx-structure")[0])


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
        raise taken(port, error) from error
    finally:
        logging.getLogger().removeHandler(silence)


def _stop(netron: Any, address: tuple[str, int]) -> None:
    netron.stop(address)
    deadline = time.monotonic() + 5
    while netron.status(address) and time.monotonic() < deadline:
        time.sleep(0.02)
