"""`export` chooses the format, writes whole files or none, and says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import models
import torchatlas as ta
from torchatlas.errors import FormatError, UsageError
from torchatlas.exporters import FORMATS, render

STATIC = [name for name in FORMATS if name != "onnx"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", models.SMALL)
def test_every_format_renders_every_small_model(format, name, captured):
    content, _ = render(captured(name), format)
    assert content == render(captured(name), format)[0]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_renders_hostile_names(format):
    content, _ = render(ta.capture(*models.hostile()), format)
    assert b"\x1b[31m" not in content and b"x" * 1000 not in content
    assert "\u202e".encode() not in content


@pytest.mark.parametrize("format", STATIC)
def test_saved_graphs_render_like_live_ones(format, captured, tmp_path):
    captured("tiny").export(tmp_path / "graph.json")
    loaded = ta.load(tmp_path / "graph.json")
    assert render(loaded, format) == render(captured("tiny"), format)


def test_saved_graph_to_onnx_is_the_structure(captured, tmp_path):
    import onnx

    captured("tiny").export(tmp_path / "graph.json")
    ta.load(tmp_path / "graph.json").export(tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    assert {node.domain for node in model.graph.node} == {"pkg.torch.ops"}


@pytest.mark.parametrize("suffix", [".json", ".dot", ".onnx"])
def test_part_of_a_graph_is_a_graph(suffix, captured, tmp_path):
    import networkx as nx
    import onnx

    graph = captured("resnet18")
    part = graph.subgraph([n for n in graph if n.startswith("layer1/0/")])
    ta.validate(part)
    part.export(tmp_path / f"part{suffix}")
    if suffix == ".json":
        assert nx.utils.graphs_equal(part, ta.load(tmp_path / "part.json"))
    if suffix == ".onnx":
        onnx.checker.check_model(tmp_path / "part.onnx", full_check=True)


def test_external_weights_stand_beside_the_file(captured, tmp_path):
    import onnx

    captured("tiny").export(tmp_path / "a.onnx", weights="external")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    weight = next(t for t in onnx.load(tmp_path / "a.onnx").graph.initializer if "head" in t.name)
    expected = captured("tiny").source.model.state_dict()[weight.name].numpy()
    assert (onnx.numpy_helper.to_array(weight) == expected).all()


def test_no_weights_on_request(captured, tmp_path):
    import onnx

    captured("tiny").export(tmp_path / "a.onnx", weights="none")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)
    kept = {tensor.name for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert kept.isdisjoint(captured("tiny").source.model.state_dict())


def test_a_model_that_onnx_cannot_hold_becomes_its_structure(tmp_path):
    import onnx
    import torch

    with torch.device("meta"):
        model = models.Residual()
    with pytest.warns(UserWarning, match="has no values to write(.|\n)*structure only"):
        ta.capture(model, torch.ones(3, 4)).export(tmp_path / "a.onnx")
    assert {n.domain for n in onnx.load(tmp_path / "a.onnx").graph.node} == {"pkg.torch.ops"}


def test_unknown_suffix_lists_the_known(captured, tmp_path):
    with pytest.raises(UsageError, match=r"'\.xls'(.|\n)*\.dot, \.json, \.onnx"):
        captured("tiny").export(tmp_path / "graph.xls")
    with pytest.raises(UsageError, match="no option 'colour'"):
        captured("tiny").export(tmp_path / "graph.dot", colour="red")
    with pytest.raises(UsageError, match="no format 'xls'"):
        captured("tiny").export(tmp_path / "graph", format="xls")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_said(captured, tmp_path):
    with pytest.raises(FormatError, match=r"the folder .* does not exist"):
        captured("tiny").export(tmp_path / "no" / "graph.dot")


def test_read_only_folder_is_said(captured, tmp_path, monkeypatch):
    # Root may write anywhere, so the answer of the system is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FormatError, match="is read-only"):
        captured("tiny").export(tmp_path / "graph.dot")
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_no_other(captured, tmp_path, monkeypatch):
    path = tmp_path / "graph.dot"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FormatError, match="No space left on device"):
        captured("tiny").export(path)
    assert [p.name for p in tmp_path.iterdir()] == ["graph.dot"]
    assert path.read_text() == "old"


def test_load_of_something_else(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(FormatError, match=r"one of \.json, \.onnx, \.pt2"):
        ta.load(tmp_path / "model.pt")
    with pytest.raises(FormatError, match="No such file"):
        ta.load(tmp_path / "no.json")


SCRIPT = """
import sys, hashlib
sys.path.insert(0, {tests!r})
import models, torchatlas as ta
for name in ("tiny", "shared_and_tied", "regions", "llama"):
    graph = ta.capture(*models.make(name))
    for suffix in (".json", ".dot", ".onnx"):
        graph.export(name + suffix)
    graph.export(name + ".structure.onnx", format="onnx-structure")
"""


def test_two_runs_in_different_folders_write_the_same_bytes(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]))
    files = []
    for seed, folder in enumerate(("one", "two/deeper")):
        where = tmp_path / folder
        where.mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", script], cwd=where, env=environment, check=True)
        files.append({p.name: p.read_bytes() for p in where.iterdir() if p.is_file()})
    assert files[0].keys() == files[1].keys() and len(files[0]) == 16
    different = [name for name in files[0] if files[0][name] != files[1][name]]
    assert different == []
    for name, content in files[0].items():
        assert str(tmp_path).encode() not in content, name
        assert str(Path(models.__file__).parent).encode() not in content, name
