"""Drive a headless Chromium over its DevTools protocol, and viewers in it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
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
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""What a page that draws with WebGL needs on a machine without a GPU."""

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
def open_page(*flags: str) -> Iterator[Page]:
    """Start Chromium with an empty profile; skip the test without it, but fail it in CI.

    `flags` are its further options, such as `WEBGL`.
    """
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    websocket = _websocket()
    if binary is None or websocket is None:
        problem = "this test needs chromium and the package websocket-client"
        pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)
    # The path of a socket has room for about a hundred characters, less than pytest's folders.
    short = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(dir=short, ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [binary, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": profile},
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


# -- Model Explorer ----------------------------------------------------------------------------

_INFO_PANEL = """
((icons) => Object.fromEntries(
    [...document.querySelectorAll("info-panel .section")].map((section) => [
        section.querySelector(".header").innerText.split("\\n").pop(),
        Object.fromEntries([...section.querySelectorAll("tr")].map((row) =>
            [...row.querySelectorAll("td")].map((cell) => cell.innerText.split("\\n")
                .filter((line) => !icons.includes(line)).join(", ").trim()))),
    ])
))(["circle", "my_location", "unfold_more", "unfold_less"])
"""


class ModelExplorer:
    """Model Explorer with a graph open in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def panel(self) -> dict[str, dict[str, str]]:
        """What the side panel says, by section and key."""
        return self.page.evaluate(_INFO_PANEL)

    def find(self, name: str) -> dict[str, dict[str, str]]:
        """Search for the node with the id `name`, select it, and return the side panel."""
        field = "document.querySelector('search-bar input')"
        found = "[...document.querySelectorAll('search-bar .edge-node .label-and-metadata')]"
        self.page.evaluate(f"({field}.value = '', {field}.dispatchEvent(new Event('input')))")
        self.page.wait_for(f"{found}.length === 0")
        self.page.evaluate(f"{field}.focus()")
        self.page.call("Input.insertText", text=f"^id:{re.escape(name)}$")
        self.page.wait_for(f"{found}.length === 1")
        click = "new MouseEvent('click', {altKey: true, bubbles: true})"
        self.page.evaluate(f"{found}[0].dispatchEvent({click})")
        shown = name.replace("\\/", "/").strip()  # the page takes \\/ for an escaped slash
        chosen = f"({_INFO_PANEL.strip()}).ATTRIBUTES?.id === {json.dumps(shown)}"
        self.page.wait_for(chosen, timeout=20)
        return self.panel


@contextlib.contextmanager
def open_in_model_explorer(path: Path, page: Page) -> Iterator[ModelExplorer]:
    """Serve the graph at `path` in Model Explorer and wait until it is drawn."""
    with serving(path, viewer="model-explorer") as url:
        page.goto(url)
        page.wait_for("document.querySelector('search-bar input') !== null", timeout=60)
        page.wait_for("document.querySelector('info-panel') !== null", timeout=60)
        yield ModelExplorer(page)
        page.goto("about:blank#")


# -- TensorBoard -------------------------------------------------------------------------------

_DEEP = """
window.deep = (selector, root = document) => {
    const found = [...root.querySelectorAll(selector)];
    for (const element of root.querySelectorAll("*"))
        if (element.shadowRoot) found.push(...window.deep(selector, element.shadowRoot));
    return found;
}
true
"""
_NODE_CARD = """
Object.fromEntries(deep(".attr-left").map((left, i) =>
    [left.innerText, deep(".attr-right")[i].innerText]))
"""


class TensorBoard:
    """TensorBoard with a graph open in it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def drawn(self) -> list[str]:
        """The names of the nodes that are drawn, those inside folded ones left out."""
        return self.page.evaluate("deep('g.node').map((node) => node.getAttribute('data-name'))")

    def search(self, name: str) -> list[str]:
        """Return what the search finds by the exact text `name`, which must be something."""
        field, found = "deep('#runs-regex')[0]", "deep('#search-match')"
        self.page.evaluate(f"({field}.value = '', {field}.focus())")
        self.page.wait_for(f"{found}.length === 0")
        self.page.call("Input.insertText", text=re.escape(name))
        self.page.wait_for(f"{found}.length > 0")
        return self.page.evaluate(f"{found}.map((match) => match.innerText)")

    def find(self, name: str) -> dict[str, str]:
        """Search for the node `name`, select it, and return the attributes on its card."""
        matches = self.search(name)
        assert name in matches
        self.page.evaluate(f"deep('#search-match')[{matches.index(name)}].click()")
        shown = f"deep('tf-node-info')[0]?._node?.name === {json.dumps(name)}"
        self.page.wait_for(f"{shown} && deep('.attr-left').length > 0")
        texts = self.page.evaluate(_NODE_CARD)
        return {key: _plain(text) for key, text in texts.items()}

    @property
    def neighbours(self) -> dict[str, str]:
        """The inputs and outputs on the card, each with the shape of what flows."""
        rows = "deep('tf-node-list-item').map((row) => row.shadowRoot.textContent)"
        texts = [text.rpartition("}")[2].split() for text in self.page.evaluate(rows)]
        return {words[0]: " ".join(words[1:]) for words in texts}

    def choose_tag(self, tag: str) -> list[str]:
        """Choose a tag of recorded runs; return what can then be coloured by."""
        items = "deep('paper-item').filter((item) => item.innerText === {})"
        self.page.evaluate(f"{items.format(json.dumps(tag))}[0].click()")
        self.page.wait_for("!deep('paper-radio-button').find((b) => b.name === 'memory').disabled")
        offered = "deep('paper-radio-button').filter((b) => !b.disabled).map((b) => b.innerText)"
        return [text.strip() for text in self.page.evaluate(offered)]


def _plain(text: str) -> str:
    """Return the value of an attribute, which TensorBoard shows as JSON with its type."""
    return str(next(iter(json.loads(text).values()))) if text.startswith("{") else text


@contextlib.contextmanager
def open_in_tensorboard(path: Path, page: Page) -> Iterator[TensorBoard]:
    """Serve the graph at `path` in TensorBoard and wait until it is drawn."""
    with serving(path, viewer="tensorboard") as url:
        page.goto(url)
        page.evaluate(_DEEP)
        page.wait_for("deep('g.node').length > 0", timeout=60)
        yield TensorBoard(page)
        page.goto("about:blank#")
