"""Show a file in a viewer, on this machine only: Netron, Model Explorer, TensorBoard, a browser.

Whatever `torchatlas.load` reads may be given to any viewer: it is written in the viewer's own
format first, in memory or in a temporary folder. Servers listen on the loopback interface, hand
out the one file and the viewer's own page, and are gone when the view ends.
"""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from os import PathLike
from pathlib import Path

from ..errors import UsageError
from . import model_explorer_page, netron_page, plain_page, tensorboard_page
from .files import HOST, suffix_in

__all__ = ["HOST", "READABLE", "VIEWERS", "serving", "view"]

READABLE = netron_page.SUFFIXES

VIEWERS: dict[str, Callable[[Path, int | None], AbstractContextManager[str]]] = {
    "netron": netron_page.serving,
    "model-explorer": model_explorer_page.serving,
    "tensorboard": tensorboard_page.serving,
    "browser": plain_page.serving,
}
"""Name of a viewer to what serves a file in it, at a port or at any, and gives the address."""


def view(
    path: str | PathLike[str],
    *,
    viewer: str | None = None,
    port: int | None = None,
    browser: bool = True,
    announce: Callable[[str], object] = lambda url: None,
) -> None:
    """Show the file at `path` in `viewer` until interrupted (Ctrl-C).

    The viewer is served at `port`, or at a free one. Once it is, `announce` is called with its
    address, and the user's browser is told to open it unless `browser` is False. Netron's page
    is its own, and reports its use to Google Analytics where it can; that of Model Explorer is
    kept from speaking to anyone but this machine. Raises as `serving` does.
    """
    with suppress(KeyboardInterrupt), serving(path, viewer=viewer, port=port) as url:
        announce(url)
        if browser:
            webbrowser.open(url)
        while True:
            time.sleep(1)


@contextmanager
def serving(
    path: str | PathLike[str], *, viewer: str | None = None, port: int | None = None
) -> Iterator[str]:
    """Serve the file at `path` in a viewer, on the loopback interface; yield the address.

    `viewer` is one of `VIEWERS`; by default the one that the suffix means: ``browser`` for
    ``.html``, ``.svg``, ``.pdf`` and ``.png``, ``model-explorer`` for ``.explorer.json``,
    ``tensorboard`` for ``.tfevents`` and folders of event files, ``netron`` for all else.
    Netron can serve only one file at a time. Raises FormatError if there is no such file or it
    is not what its suffix says, UsageError if the viewer cannot show such files or `port` is not
    to be had, MissingExtraError without the viewer.
    """
    path = Path(path)
    chosen = viewer if viewer is not None else default_viewer(path)
    if chosen not in VIEWERS:
        raise UsageError(
            f"there is no viewer {chosen!r}", hint=f"the known ones are {', '.join(VIEWERS)}"
        )
    with VIEWERS[chosen](path, port) as url:
        yield url


def default_viewer(path: Path) -> str:
    """Return the viewer for a file, or a folder of event files.

    >>> [default_viewer(Path(name)) for name in ("a.onnx", "a.explorer.json", "a.json", "a.svg")]
    ['netron', 'model-explorer', 'netron', 'browser']
    """
    if suffix_in(path, model_explorer_page.SUFFIXES):
        return "model-explorer"
    if suffix_in(path, plain_page.SUFFIXES):
        return "browser"
    if path.is_dir() or tensorboard_page.is_shown(path):
        return "tensorboard"
    return "netron"
