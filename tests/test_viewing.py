"""Serving files in viewers; tests/viewers looks at the pages themselves."""

from __future__ import annotations

import builtins
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pytest

import torchatlas as ta
from extras import package
from torchatlas import viewing
from torchatlas.errors import FormatError, MissingExtraError, UsageError
from torchatlas.viewing import model_explorer_page

DOT = b'digraph "g" { "a" -> "b"; }'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.dot"
    path.write_bytes(DOT)
    return path


@pytest.fixture
def graph(captured, tmp_path):
    path = tmp_path / "graph.json"
    captured("tiny").export(path)
    return path


def get(url: str, **headers: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=10).read()


def test_serves_the_file_on_loopback_and_then_no_more(file):
    pytest.importorskip("netron")
    with viewing.serving(file) as url:
        assert url.startswith("http://127.0.0.1:")
        assert b"/data/model.dot" in get(url)
        assert get(f"{url}/data/model.dot") == DOT
    with pytest.raises(urllib.error.URLError):
        get(url)


def test_serves_nothing_that_lies_beside_the_file(file):
    pytest.importorskip("netron")
    (file.parent / "secret.txt").write_text("secret")
    with viewing.serving(file) as url:
        for path in ("secret.txt", "../secret.txt", f"..%2F..{file.parent}/secret.txt"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"{url}/data/{path}")


PACKAGES = {"netron": "netron", "model-explorer": "model_explorer", "tensorboard": "tensorboard"}
PLACES = {
    "netron": "/data/graph.onnx",
    "model-explorer": "/api/v1/load_graphs_json?graph_index=0",
    "tensorboard": "/data/plugin/graphs/graph?run=.",
    "browser": "/graph.html",
}
"""Where each viewer serves what a graph was made into."""


@pytest.fixture(params=viewing.VIEWERS)
def viewer(request):
    """Every viewer in turn."""
    if request.param in PACKAGES:
        package(PACKAGES[request.param])
    return request.param


def root_of(url: str) -> str:
    return "/".join(url.split("/")[:3])


def test_every_viewer_shows_a_saved_graph_and_is_gone(viewer, graph, tmp_path, monkeypatch):
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    threads = set(threading.enumerate())
    with viewing.serving(graph, viewer=viewer) as url:
        assert url.startswith("http://127.0.0.1:")
        assert b"conv/conv2d" in get(root_of(url) + PLACES[viewer])
    with pytest.raises(urllib.error.URLError):
        get(url)
    assert list(temporary.glob("torchatlas-*")) == []
    left = [t for t in set(threading.enumerate()) - threads if t.is_alive() and not t.daemon]
    assert left == []


def test_every_viewer_serves_nothing_else_and_only_this_machine(viewer, graph):
    (graph.parent / "secret.txt").write_text("secret")
    with viewing.serving(graph, viewer=viewer) as url:
        root, port = root_of(url), int(root_of(url).rpartition(":")[2])
        paths = (
            "/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", f"/{graph.parent}/secret.txt",
            f"/api/v1/read_text_file?path={graph.parent}/secret.txt", "/graph.json", "//etc/passwd",
        )  # fmt: skip
        for path in paths:
            with pytest.raises(urllib.error.HTTPError, match=r"40[034]"):
                get(root + path)
        with socket.socket() as other:
            other.settimeout(5)
            assert other.connect_ex((own_address(), port)) != 0


def own_address() -> str:
    """Return another address of this machine; skip the test where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.2"  # loopback too, but not where a viewer listens


@pytest.mark.parametrize("viewer", ["model-explorer", "browser"])
def test_a_page_from_elsewhere_cannot_ask(viewer, graph):
    if viewer in PACKAGES:
        package(PACKAGES[viewer])
    with viewing.serving(graph, viewer=viewer) as url:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(root_of(url) + PLACES[viewer], Host="evil.example")
        assert get(root_of(url) + PLACES[viewer])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.onnx", "netron"), ("a.DOT", "netron"), ("a.netron", "netron"), ("a.pt2", "netron"),
        ("a.json", "netron"), ("a.explorer.json", "model-explorer"), ("a.html", "browser"),
        ("a.tfevents", "tensorboard"), ("a.svg", "browser"), ("a.pdf", "browser"),
        ("a.png", "browser"), ("events.out.tfevents.123.host", "tensorboard"), (".", "tensorboard"),
    ],
)  # fmt: skip
def test_suffix_means_a_viewer(name, expected, tmp_path):
    assert viewing.default_viewer(tmp_path / name) == expected


def test_model_explorer_shows_overlays_that_stand_beside(captured, tmp_path):
    package("model_explorer")
    captured("tiny").export(tmp_path / "a.explorer.json")
    with (
        viewing.serving(tmp_path / "a.explorer.json") as url,
        pytest.raises(urllib.error.HTTPError),
    ):
        get(f"{url}/api/v1/load_node_data?node_data_index=0")
    captured("tiny").export(tmp_path / "a.overlays.json")
    with viewing.serving(tmp_path / "a.explorer.json") as url:
        content = json.loads(get(f"{url}/api/v1/load_node_data?node_data_index=0"))["content"]
        assert json.loads(content)["Tiny"]["name"] == "FLOPs (FLOP)"
        assert b"app-root" in get(url)
    for text in ("[", "[]", '{"graphs": 1}', "[" * 100_000):
        (tmp_path / "a.explorer.json").write_text(text)
        with pytest.raises(FormatError, match=r"a\.explorer\.json"):
            viewing.view(tmp_path / "a.explorer.json")
    captured("tiny").export(tmp_path / "a.explorer.json")
    (tmp_path / "a.overlays.json").write_text('{"Tiny": 1}')
    with pytest.raises(FormatError, match="no overlays"):
        viewing.view(tmp_path / "a.explorer.json")


def test_folder_of_a_writer_is_shown_in_tensorboard(captured, tmp_path):
    package("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "run") as writer:
        ta.add_graph(writer, captured("tiny"))
    with viewing.serving(tmp_path) as url:
        deadline = time.monotonic() + 20
        while b"run" not in (found := get(f"{url}/data/plugin/graphs/info")):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert b"conv/conv2d" in get(f"{url}/data/plugin/graphs/graph?run=run")


def test_a_picture_is_served_as_it_is(tmp_path):
    path = tmp_path / "name with ünusual#?.svg"
    path.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    with viewing.serving(path) as url:
        assert get(url) == path.read_bytes()


def test_name_of_the_file_cannot_enter_the_page(tmp_path):
    pytest.importorskip("netron")
    path = tmp_path / '"><script>alert(1)<.dot'
    path.write_bytes(DOT)
    with viewing.serving(path) as url:
        assert b"<script>alert" not in get(url)


def test_serves_at_the_port_that_is_asked_for(file):
    pytest.importorskip("netron")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with viewing.serving(file, port=port) as url:
        assert url == f"http://127.0.0.1:{port}"


def test_port_that_is_taken_is_an_error(file):
    pytest.importorskip("netron")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be used"):
            viewing.serving(file, port=port).__enter__()
    with pytest.raises(UsageError, match="port 70000 cannot be used"):
        viewing.serving(file, port=70000).__enter__()


def test_file_that_the_viewer_does_not_show_is_an_error(file, tmp_path):
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(FormatError, match="not a graph of torchatlas"):
        viewing.view(tmp_path / "graph.json")
    for viewer in ("model-explorer", "tensorboard", "browser"):
        with pytest.raises(UsageError, match=r"not show files with the suffix '\.dot'\n.*\.pt2"):
            viewing.view(file, viewer=viewer)
    for suffix in (".txt", ".overlays.json", ".attachment.json"):
        with pytest.raises(UsageError, match=f"Netron does not show .* {suffix!r}"):
            viewing.view(tmp_path / f"a{suffix}")
    with pytest.raises(UsageError, match=r"no viewer 'gimp'\n.*netron, model-explorer"):
        viewing.view(file, viewer="gimp")
    with pytest.raises(FormatError, match="no event files"):
        viewing.view(tmp_path)


def test_file_without_content_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        viewing.view(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FormatError, match="is empty"):
        viewing.view(tmp_path / "model.onnx")


def test_missing_viewer_says_what_to_install(graph, monkeypatch):
    monkeypatch.setattr(model_explorer_page, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"torchatlas\[viewers\]"):
        viewing.view(graph, viewer="model-explorer")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"torchatlas\[tensorboard\]"):
        viewing.view(graph, viewer="tensorboard")


def test_netron_missing_says_what_to_install(file, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "netron":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"torchatlas\[viewers\]"):
        viewing.view(file)


def test_view_announces_opens_and_ends_at_an_interrupt(file, monkeypatch):
    pytest.importorskip("netron")
    said, opened = [], []

    def open_and_interrupt(url):
        opened.append(url)
        raise KeyboardInterrupt

    monkeypatch.setattr(viewing.webbrowser, "open", open_and_interrupt)
    viewing.view(file, announce=said.append)
    assert said == opened
    assert len(said) == 1
    with pytest.raises(urllib.error.URLError):
        get(said[0])


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_ends_the_process_quietly(viewer, graph, tmp_path):
    script = (
        "import signal, sys; from torchatlas.cli import main;"
        # Tests that run in the background inherit a shell's "ignore".
        "signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    arguments = ["view", str(graph), "--with", viewer, "--no-browser"]
    (temporary := tmp_path / "temporary").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as process:
        try:
            line = process.stdout.readline().decode()
            url = line.split()[-1]
            assert b"conv/conv2d" in get(root_of(url) + PLACES[viewer])
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert line == f"{graph} is shown at {url}\n"
    assert list(temporary.glob("torchatlas-*")) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of its group is left
