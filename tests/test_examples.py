"""Every example runs offline, leaves nothing behind, and says what is true."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchatlas as ta

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(tmp_path: Path):
    """A function that runs an example in a process of its own and returns what it printed."""

    def run_in_process(name: str, *arguments: str) -> str:
        (here := tmp_path / "here").mkdir()
        (temporary := tmp_path / "temporary").mkdir()
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *arguments],
            cwd=here,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert list(here.iterdir()) == [], "an example writes only into the folder it is given"
        left = ("torchinductor", "org.chromium", ".org.chromium")  # not ours
        assert not [p for p in temporary.iterdir() if not p.name.startswith(left)]
        return done.stdout

    return run_in_process


def numbers(text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", text)]


def test_every_example_is_short_documented_and_tested_here():
    tests = Path(__file__).read_text()
    index = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        assert text.count("\n") < 60, path.name
        assert f"python examples/{path.name}" in text.split('"""')[1], path.name
        assert f'run("{path.name}"' in tests, path.name
        assert f"({path.name})" in index, path.name


def test_vision_model(run, tmp_path):
    import onnx
    import torchvision

    out = tmp_path / "made" / "by the example"
    printed = run("vision_model.py", str(out))
    graph = ta.load(out / "resnet18.json")
    ta.validate(graph)
    billions = torchvision.models.ResNet18_Weights.DEFAULT.meta["_ops"]
    assert round(ta.totals(graph).macs / 1e9, 3) == billions
    onnx.checker.check_model(str(out / "resnet18.onnx"))
    drawn = (out / "resnet18.dot").read_text()
    assert drawn.count(" -> ") == graph.number_of_edges()
    assert all(f'"{name}"' in drawn for name, node in graph.nodes(data=True) if node["op"])
    costliest = re.findall(r"^  (\S+): (\d+) MFLOP", printed, re.MULTILINE)
    found = [graph.nodes[name]["flops"] for name, _ in costliest]
    flops = [node["flops"] for _, node in graph.nodes(data=True) if node.get("flops")]
    assert found == sorted(flops, reverse=True)[:3]
    assert [round(n / 1e6) for n in found] == [int(printed) for _, printed in costliest]


def test_language_model(run):
    printed = run("language_model.py")
    shares = [float(n) for n in re.findall(r": ([\d.]+)% of the FLOPs", printed)]
    assert len(shares) == 6
    assert sum(shares[:3]) == pytest.approx(100, abs=0.2)
    assert sum(shares[3:]) == pytest.approx(100, abs=0.2)
    assert shares[3] > shares[0], "attention grows with the square of the length"
    for length in (128, 2048):
        projections = 2 * length * 512 * (512 + 128 + 128 + 512)  # 8 heads of 64 ask, 2 answer
        attention = 2 * 8 * length * length * (64 + 64)
        mlp = 2 * length * 512 * 1408 * 3
        row = f"{(projections + attention) / 1e6:15,.1f} {mlp / 1e6:11,.1f}"
        assert len(re.findall(rf"^[0-3] +{re.escape(row)} ", printed, re.MULTILINE)) == 4


def test_dict_inputs(run):
    lines = run("dict_inputs.py").splitlines()
    assert "input   batch/words: int64[2, 7]" in lines
    assert "output  output/scores, from div" in lines
    assert "output  output/kept, from sum" in lines
    tied = "embed/weight is also head.weight; used by embed/embedding, head/linear"
    assert f"tied    {tied}" in lines
    assert "shared  the module 'mix' runs as mix/linear and mix/linear_1" in lines
    assert numbers(lines[-1]) == [1000 * 64 + 64 * 64 + 64]


def test_graph_algorithms(run):
    printed = run("graph_algorithms.py")
    [[length, nodes]] = re.findall(r"costliest path: (\d+) of (\d+) nodes, from x to ", printed)
    assert 2 < int(length) < int(nodes)
    [line] = [line for line in printed.splitlines() if " FLOPs (" in line]
    cost, total = numbers(line)[:2]
    # What stands beside the path is the three 1 x 1 convolutions of the shortcuts.
    shortcuts = 2 * (64 * 128 * 28**2 + 128 * 256 * 14**2 + 256 * 512 * 7**2)
    assert total - cost == shortcuts
    [beside] = re.findall(r"^beside it: (.*)$", printed, re.MULTILINE)
    assert all("downsample" in name for name in beside.split(", "))
    assert "takes 157,504 of the parameters" in printed  # 9408 + 4 x 36864 + 5 x 2 x 64


def test_split_over_devices(run):
    printed = run("split_over_devices.py")
    sent = re.findall(r"send ([\d,]+) bytes,\n  the output of (\S+);", printed)
    sizes = [numbers(size)[0] for size, _ in sent]
    assert sizes == [4 * 128 * 28**2, 4 * 256 * 14**2, 4 * 512]
    assert sent[0][1].startswith("layer2/1/")


def test_training_step(run):
    printed = run("training_step.py", "2")
    work = dict(re.findall(r"^(\w+) +([\d.]+) GFLOP$", printed, re.MULTILINE))
    assert list(work) == ["forward", "backward", "optimizer"]
    # Every convolution costs twice its forward pass again, but for the gradient of the image.
    assert 1.9 < float(work["backward"]) / float(work["forward"]) < 2
    sizes = dict(re.findall(r"^  (\w+) +([\d.]+) MB$", printed, re.MULTILINE))
    assert sizes["parameters"] == "46.8"  # 11,689,512 of 4 bytes
    assert sizes["optimizer"] == "93.5"  # two moments of each
    saved = re.findall(r"^  (\S+): [\d.]+ MB$", printed, re.MULTILINE)
    assert {"bn1/native_batch_norm", "conv1/convolution"} <= set(saved)


@pytest.mark.browser
def test_screenshots(run, tmp_path):
    if shutil.which("chromium") is None:
        pytest.fail("no chromium") if os.environ.get("CI") else pytest.skip("no chromium")
    run("screenshots.py", str(tmp_path))
    shots = sorted(path.name for path in tmp_path.glob("*.png"))
    assert shots == [
        f"{n}.png" for n in ("model_explorer", "netron", "picture", "report", "tensorboard")
    ]
    from PIL import Image

    for name in shots:
        with Image.open(tmp_path / name) as shot:
            assert len(shot.getcolors()) > 16, f"{name} is blank"


def test_graph_breaks(run):
    printed = run("graph_breaks.py")
    source = (EXAMPLES / "graph_breaks.py").read_text().splitlines()
    breaks = re.findall(r"^\S*graph_breaks.py, line (\d+): ", printed, re.MULTILINE)
    there = [source[int(line) - 1].strip() for line in breaks]
    assert [line.split("(")[0] for line in there] == ["print", "if x.abs", "scale = x.norm"]
    costs = re.findall(r"^(.+): (\S+) FLOPs(, compiled again)?$", printed, re.MULTILINE)
    assert len(costs) == 8 and [bool(again) for *_, again in costs] == [False] * 4 + [True] * 4
    body, head = 2 * (64 * 256 + 256 * 256), 2 * 256 * 10
    assert [int(n) for _, n, _ in costs[:4]] == [8 * body, 0, 0, 8 * head]
    factors = [re.fullmatch(r"(\d+)\*\w+|0", n)[1] for _, n, _ in costs[4:]]
    assert factors == [str(body), None, None, str(head)], "the second batch makes its size a symbol"


def test_batch_sweep(run, tmp_path):
    out = tmp_path / "made" / "by the example"
    printed = run("batch_sweep.py", str(out), "cpu")
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+)%", printed, re.MULTILINE)
    assert [batch for batch, *_ in rows] == ["1", "2", "4"]
    for batch, ms, rate, mfu in rows:
        told = json.loads((out / f"batch{batch}.json").read_text())
        assert told["batch"] == int(batch) and told["ops"] == 69
        assert float(ms) == pytest.approx(told["runs"][0]["median_us"] / 1e3, abs=0.006)
        assert float(rate) == pytest.approx(int(batch) * 1e3 / float(ms), rel=0.01)
        assert float(mfu) == pytest.approx(100 * told["limits"]["mfu"], abs=0.06)
        assert sum(row["share"] for row in told["modules"]) == pytest.approx(1)
    growth = [float(n) for n in re.findall(r": ([\d.]+) times$", printed, re.MULTILINE)]
    assert len(growth) == 3 and growth == sorted(growth, reverse=True)
    assert "latency_us" in (out / "report.html").read_text()


class Fan(nn.Module):
    """Three layers read the narrow tensor, and a second input goes straight to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 8)
        self.readers = nn.ModuleList(nn.Linear(8, 64) for _ in range(3))

    def forward(self, x: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
        x = self.wide(x)
        return sum(reader(x) for reader in self.readers) + late


def test_a_tensor_with_several_readers_is_sent_once():
    cheapest_cut = runpy.run_path(str(EXAMPLES / "split_over_devices.py"))["cheapest_cut"]
    graph = ta.capture(Fan(), (torch.randn(1, 64), torch.randn(1, 1)))
    size, first = cheapest_cut(graph, 0.25, 0.3)
    assert "wide/linear" in first
    assert not any(name.startswith("readers") for name in first)
    assert size == 8 * 4 + 4


def test_the_benchmark_still_fits_the_code_that_it_times(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "capture.py"
    out = tmp_path / "out.json"
    command = [sys.executable, str(script), "--models", "tiny", "--tools", "steps"]
    done = subprocess.run(
        [*command, "--repeat", "1", "--json", str(out)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(out.read_text())["models"]["tiny"]["steps"]
    steps = {"torch.export", "read", "build", "annotate", "json", "dot", "onnx-structure"}
    assert found.get("first", found).keys() == steps
    assert "- tiny: **" in done.stdout
