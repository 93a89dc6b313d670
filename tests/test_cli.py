"""The command line as a person uses it: what it writes, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import onnx
import pytest

import torchatlas as ta
from torchatlas import cli
from torchatlas.exporters import FORMATS, suffix_of

NET = """
import time

import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, width), nn.ReLU())

    def forward(self, x):
        return self.inner(x)

class Evil(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.add_module("</text><script>alert(1)</script>", nn.Linear(4, 4))
        self.add_module('a"b\\n[bold]\\x1b[31m', nn.Linear(4, 3))

class Knot(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.back = self

class Slow(nn.Module):
    def forward(self, x):
        print("running", flush=True)
        time.sleep(60)
        return x

def broken():
    raise RuntimeError("out of luck")

answer = 42
"""


def run_alone(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "140"}
    command = [sys.executable, "-m", "torchatlas.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which has torch already; modules it loads go again."""
    command = ["torchatlas", *map(str, args)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "path", sys.path.copy())
        patch.setenv("COLUMNS", "140")
        patch.delitem(sys.modules, "net", raising=False)
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stop,
        ):
            cli.main()
        sys.modules.pop("net", None)
    return subprocess.CompletedProcess(command, stop.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "made" / "here"
    options = ("--arg", "width=16", "--input", "x=8x32", "--out", out)
    done = run_alone("capture", f"{net}:Net", *options)
    assert done.returncode == 0, done.stderr
    return done, out


def test_capture_writes_three_files_and_prints_the_summary(saved):
    done, out = saved
    assert sorted(path.name for path in out.iterdir()) == ["Net.dot", "Net.json", "Net.onnx"]
    assert "inner" in done.stdout and "8.19 k" in done.stdout  # 2 x 8 x 32 x 16
    assert f"wrote {out / 'Net.onnx'}" in done.stdout
    assert done.stderr == ""
    assert ta.totals(ta.load(out / "Net.json")).macs == 8 * 32 * 16


def test_all_formats_on_request(saved, tmp_path):
    _, out = saved
    done = run("export", out / "Net.json", "--to", "all", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    expected = sorted(f"Net{suffix_of(format)}" for format in FORMATS)
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    # What was read is not written over.
    again = run("export", tmp_path / "Net.structure.onnx", "--to", "all")
    assert again.returncode == 0, again.stderr
    assert f"wrote {tmp_path / 'Net.structure.html'}" in again.stdout


def test_export_from_a_saved_graph(saved, tmp_path):
    _, out = saved
    to = ("--to", "dot", "--to", "onnx", "--functions")
    done = run("export", out / "Net.json", *to, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Net.dot", "Net.onnx"]
    assert (tmp_path / "Net.dot").read_bytes() == (out / "Net.dot").read_bytes()
    made = onnx.load(tmp_path / "Net.onnx").functions
    assert [function.name for function in made] == ["inner.Sequential"]


def test_summary_of_a_file_and_of_a_model(saved, net):
    _, out = saved
    of_file = run("summary", out / "Net.json", "--columns", "flops,ops", "--sort", "flops")
    assert of_file.stdout.splitlines()[0].split() == ["module", "FLOPs", "ops"]
    of_model = run("summary", f"{net}:Net", "--arg", "width=16", "--input", "8x32")
    assert "8.19 k" in of_model.stdout


def test_schema_is_json():
    assert json.loads(run("schema").stdout)["$schema"].startswith("https://json-schema.org")


def test_zoo_names_need_no_input():
    done = run("summary", "timm:test_resnet", "--depth", "0")
    assert done.returncode == 0, done.stderr
    assert "ResNet" in done.stdout


def test_help_is_quick_and_needs_no_torch():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert run_alone("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_hostile_names_are_harmless_in_the_terminal(net, tmp_path):
    done = run_alone("capture", f"{net}:Evil", "--input", "2x4", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "[bold]" in done.stdout and "<script>" in done.stdout


FAILURES = [
    (
        ("capture", "{net}:Net", "--input", "8x31"),
        1,
        ["'inner.0' (Linear)", "float32[8, 31]", "hint"],
    ),
    (
        ("capture", "{net}:Net", "--input", "8x32", "--out", "/proc/no"),
        1,
        ["cannot make the folder"],
    ),
    (("capture", "{net}:Nett", "--input", "8x32"), 2, ["has no 'Nett'", "did you mean Net?"]),
    (("capture", "{net}:Net"), 2, ["input is not known", "--input"]),
    (("capture", "{net}:Net", "--input", "8by32"), 2, ["is no input", "1x3x224x224"]),
    (("capture", "{net}:Net", "--input", "8x32", "--format", "xls"), 2, ["no format 'xls'", "dot"]),
    (("capture", "{net}:Net", "--input", "8x32", "--frontend", "jit"), 2, ["no front end 'jit'"]),
    (
        ("capture", "{net}:Net", "--input", "8x32", "--weights", "all"),
        2,
        ["include, external or none"],
    ),
    (("capture", "{net}:Net", "--arg", "16", "--input", "8x32"), 2, ["--arg name=value"]),
    (("capture", "{net}:Net", "--arg", "depth=16", "--input", "8x32"), 1, ["unexpected keyword"]),
    (("capture", "{net}:broken", "--input", "8x32"), 1, ["RuntimeError: out of luck"]),
    (("capture", "{net}:answer", "--input", "8x32"), 1, ["not callable"]),
    (
        ("capture", "{net}:Net", "--input", "8x32", "--dynamic", "x=batch", "--dynamic", "n"),
        2,
        ["says of no input", "--dynamic NAME=DIM"],
    ),
    (("capture", "{net}:Net", "--input", "8x32", "--dynamic", "y=batch"), 2, ["'y' is no tensor"]),
    (
        ("capture", "{net}:Net", "--input", "8x32", "--dynamic", "x=_,width"),
        1,
        ["fixes 'width' to 32", "hint: leave"],
    ),
    (("capture", "{net}:Knot", "--input", "8x2"), 1, ["module 'inner.back' contains itself"]),
    (("capture", "no/file.py:Net", "--input", "8x32"), 2, ["there is no file"]),
    (("capture", "no_such_package:Net", "--input", "8x32"), 2, ["no module 'no_such_package'"]),
    (("capture", "resnet18", "--input", "8x32"), 2, ["does not name a model", "timm:NAME"]),
    (("capture", "torchvision.models:resnet81", "--input", "8x32"), 2, ["did you mean resnet"]),
    (("capture", "timm:convnextv3"), 2, ["timm has no 'convnextv3'", "did you mean"]),
    (("capture", "hf:bertt"), 2, ["no model type 'bertt'", "did you mean", "bert"]),
    (("summary", "no.json"), 1, ["No such file"]),
    (("view", "no.onnx"), 1, ["no.onnx"]),
    (("export", "no.json", "--to", "dot"), 1, ["No such file"]),
]


@pytest.mark.parametrize(("args", "status", "said"), FAILURES, ids=lambda v: str(v)[:40])
def test_failures_say_what_to_do_and_leave_nothing(args, status, said, net, tmp_path):
    given = [arg.format(net=net) for arg in args]
    if given[0] == "capture" and "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    done = run(*given)
    assert done.returncode == status, done.stderr
    for text in said:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_quickly_and_leaves_nothing(net, tmp_path):
    command = [sys.executable, "-m", "torchatlas.cli", "capture", f"{net}:Slow", "--input", "8x2"]
    out = tmp_path / "out"
    with subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stdout.readline() == "running\n"
        begin = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert (running.returncode, said.strip()) == (130, "")
    assert time.monotonic() - begin < 50  # it was to sleep for longer
    assert not out.exists() and not list(tmp_path.iterdir())


def test_cost_over_symbolic_sizes(net, tmp_path):
    symbolic = ("--input", "x=1x32", "--dynamic", "batch")
    rows = ("--at", "batch=1", "--at", "batch=8")
    done = run("cost", f"{net}:Net", *symbolic, *rows)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "FLOPs = 512*batch"  # 2 x 32 x 8
    assert "for batch: at least 1" in others
    table = [line.split() for line in others[others.index("") + 1 :]]
    assert table[0][:2] == ["sizes", "FLOPs"]
    assert [row[:2] for row in table[1:]] == [["batch=1", "512"], ["batch=8", "4.1"]]
    capture = ("capture", f"{net}:Net", *symbolic, "--format", "json", "--out", tmp_path)
    assert run(*capture).returncode == 0
    of_file = run("cost", tmp_path / "Net.json", *rows)
    assert of_file.stdout == done.stdout
    refused = run("cost", tmp_path / "Net.json", "--at", "bath=8")
    assert refused.returncode == 2 and "its symbols are batch" in refused.stderr


def test_cost_of_numbers(net):
    done = run("cost", f"{net}:Net", "--input", "8x32")
    assert done.stdout.splitlines()[0] == "FLOPs = 4.1 k"
    refused = run("cost", f"{net}:Net", "--input", "8x32", "--at", "batch=8")
    assert refused.returncode == 2 and "name them with --dynamic" in refused.stderr


def test_usage_errors_of_the_parser_are_two():
    assert run("capture", "--no-such-option").returncode == 2
    assert run("paint").returncode == 2


def test_missing_package_says_what_to_install(monkeypatch):
    from torchatlas.errors import MissingExtraError
    from torchatlas.frontends.loading import load_model

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchatlas\[zoo\]'"):
        load_model("timm:resnet18")
