"""Serving a file in Netron; tests/viewers/test_netron.py looks at the page itself."""

from __future__ import annotations

import builtins
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from torchatlas import viewing
from torchatlas.errors import FormatError, MissingExtraError, UsageError

DOT = b'digraph "g" { "a" -> "b"; }'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.dot"
    path.write_bytes(DOT)
    return path


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=10).read()


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


def test_file_that_netron_does_not_read_is_an_error(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"'\.json'\n.*\.onnx.*export \.dot or \.onnx"):
        viewing.view(path)
    with pytest.raises(UsageError, match="''"):
        viewing.view(tmp_path)


def test_file_without_content_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        viewing.view(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FormatError, match="is empty"):
        viewing.view(tmp_path / "model.onnx")


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
def test_ctrl_c_ends_the_process_quietly(file):
    pytest.importorskip("netron")
    script = (
        "import signal, sys; from functools import partial; from torchatlas.viewing import view;"
        # Tests that run in the background inherit a shell's "ignore".
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "view(sys.argv[1], browser=False, announce=partial(print, flush=True)); print('end')"
    )
    command = [sys.executable, "-c", script, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = process.stdout.readline().decode().strip()
            assert get(f"{url}/data/model.dot") == DOT
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, b"end\n", b"")
