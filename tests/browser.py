"""Drive a headless Chromium over its DevTools protocol, and Netron in it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchatlas.viewing import serving

BINARIES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
    "--window-size=1600,1000",
    # Netron's page would report to Google; a test speaks to nothing but this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
KEYS = {"Escape": 27, "Enter": 13, "Backspace": 8}


class Page:
    """A tab: commands go out, and what the page does meanwhile is kept in `events`."""

    def __init__(self, socket: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket, self._numbers, self._session = socket, itertools.count(1), None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)
            if answer.get("method") == "Page.javascriptDialogOpening":
                # An open dialog holds up the page, and with it the answer to this call.
                reply = {"id": 0, "method": "Page.handleJavaScriptDialog"}
                reply |= {"params": {"accept": True}, "sessionId": self._session}
                self._socket.send(json.dumps(reply))

    def happened(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of each event `method`, such as Runtime.exceptionThrown."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def goto(self, url: str, timeout: float = 30) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for(
            "document.readyState === 'complete' && location.href !== 'about:blank'", timeout
        )

    def evaluate(self, script: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, condition: str, timeout: float = 30) -> Any:
        """Return what the script `condition` gives as soon as that is true."""
        deadline = time.monotonic() + timeout
        while not (value := self.evaluate(condition)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true after {timeout} s: {condition}")
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def set_cookie(self, url: str, name: str, value: str) -> None:
        self.call("Network.setCookie", url=url, name=name, value=value)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, *, control: bool = False) -> None:
        code = KEYS.get(key) or ord(key.upper())
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=2 if control else 0,
            )


@contextlib.contextmanager
def open_page() -> Iterator[Page]:
    """Start Chromium with an empty profile; skip the test without it, but fail it in CI."""
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    websocket = _websocket()
    if binary is None or websocket is None:
        problem = "this test needs chromium and the package websocket-client"
        pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = _devtools_url(process, Path(profile))
            socket = websocket.create_connection(
                url, timeout=60, suppress_origin=True, http_no_proxy=["127.0.0.1"]
            )
            with contextlib.closing(socket):
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _websocket() -> Any:
    try:
        import websocket
    except ImportError:
        return None
    return websocket


def _devtools_url(process: subprocess.Popen[bytes], profile: Path) -> str:
    found = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lines = found.read_text().split() if found.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise RuntimeError(f"chromium did not start; exit code {process.poll()}")


_SIDE_BAR = """
(() => {
    const line = ".sidebar-item-value > [class^=sidebar-item-value-line]";
    const sections = {"": {}};
    let section = sections[""];
    for (const item of document.querySelectorAll("#sidebar-content .sidebar-object > *")) {
        if (item.classList.contains("sidebar-section")) {
            section = sections[item.textContent] = {};
        } else if (item.classList.contains("sidebar-item")) {
            const lines = item.querySelectorAll(line);
            const name = item.querySelector("input").value;
            section[name] = [...lines].map((line) => line.textContent).join("\\n");
        }
    }
    return sections;
})()
"""


class Netron:
    """Netron with a model open in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes of the graph in view."""
        return self.page.evaluate("window.__view__.activeTarget.nodes.map((node) => node.name)")

    @property
    def titles(self) -> dict[str, str]:
        """The name of every node that is drawn, and the text in its box."""
        found = self.page.evaluate(
            "[...document.querySelectorAll('#target g.graph-node')].map((box) =>"
            "[box.id.slice('node-name-'.length), box.querySelector('text').textContent])"
        )
        assert len(dict(found)) == len(found)
        return dict(found)

    def select(self, name: str) -> dict[str, dict[str, str]]:
        """Open the side bar of a node; return its sections, the nameless first one included."""
        self.page.evaluate(
            "window.__view__.showNodeProperties("
            f"window.__view__.activeTarget.nodes.find((node) => node.name === {json.dumps(name)}))"
        )
        return self.side_bar(name)

    def click(self, name: str) -> dict[str, dict[str, str]]:
        """Click with the mouse on a node that is in sight; return the side bar's sections."""
        rect = f"document.getElementById({json.dumps('node-name-' + name)}).getBoundingClientRect()"
        middle = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({rect})"
        self.page.click(*self.page.evaluate(middle))
        return self.side_bar(name)

    def side_bar(self, name: str) -> dict[str, dict[str, str]]:
        """Wait for the side bar of the node `name`; return its sections."""
        self.page.wait_for(f"{_SIDE_BAR.strip()}[''].name === {json.dumps(name)}")
        return self.page.evaluate(_SIDE_BAR)


@contextlib.contextmanager
def open_in_netron(path: Path, page: Page) -> Iterator[Netron]:
    """Serve the file at `path` in Netron and wait until it is drawn, or fail with its message."""
    with serving(path) as url:
        page.set_cookie(url, "consent", "1")
        page.goto(url)
        shown = "['default', 'message', 'alert'].find((c) => document.body.classList.contains(c))"
        if page.wait_for(shown, timeout=60) != "default":
            pytest.fail(page.evaluate("document.getElementById('message-text').innerText"))
        yield Netron(page)
        page.goto("about:blank#")
