"""Files as models: what `load` reads, how it says what a file is, and the command line's part."""

from __future__ import annotations

import inspect
import pickle

import networkx as nx
import pytest
import torch
from typer.testing import CliRunner

import models
import torchatlas as ta
from torchatlas.cli import app
from torchatlas.errors import FormatError, UsageError
from torchatlas.reading import SUFFIXES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny model in every kind of file that can be read."""
    folder = tmp_path_factory.mktemp("files")
    model, data = models.make("tiny")
    program = torch.export.export(model, (data,))
    torch.export.save(program, folder / "tiny.pt2")
    graph = ta.capture(program)
    graph.export(folder / "tiny.json")
    graph.export(folder / "tiny.onnx")
    return folder, graph


def test_json_comes_back_equal(tiny):
    folder, graph = tiny
    assert nx.utils.graphs_equal(ta.load(folder / "tiny.json"), graph)


def test_pt2_gives_the_graph_of_the_program(tiny):
    folder, graph = tiny
    found = ta.load(folder / "tiny.pt2")
    assert ta.to_text(found) == ta.to_text(graph)
    assert ta.totals(found) == ta.totals(graph)
    assert found.graph["frontend"] == "pt2"


def test_onnx_gives_a_costed_graph(tiny):
    folder, graph = tiny
    found = ta.load(folder / "tiny.onnx")
    ta.validate(found)
    assert ta.totals(found).macs == ta.totals(graph).macs


def test_suffixes_are_read_whatever_their_case(tiny, tmp_path):
    folder, graph = tiny
    (tmp_path / "TINY.PT2").write_bytes((folder / "tiny.pt2").read_bytes())
    assert ta.to_text(ta.load(str(tmp_path / "TINY.PT2"))) == ta.to_text(graph)


def test_sizes_take_the_place_of_symbols(tmp_path):
    model, data = models.make("residual")
    batch = {"x": {0: torch.export.Dim.AUTO}}
    program = torch.export.export(model, (data,), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "model.pt2")
    graph = ta.load(tmp_path / "model.pt2")
    (name,) = graph.graph["symbols"]
    bound = ta.load(tmp_path / "model.pt2", sizes={name: 3})
    assert ta.to_text(bound) == ta.to_text(ta.capture(model, data))
    with pytest.raises(ta.AtlasError, match="batch"):
        ta.load(tmp_path / "model.pt2", sizes={"batch": 3})


# -- trust ---------------------------------------------------------------------------------------


def test_trusted_programs_can_be_written_with_their_weights(tiny, tmp_path):
    import onnxruntime

    folder, graph = tiny
    found = ta.load(folder / "tiny.pt2", trust=True)
    assert ta.to_text(found) == ta.to_text(graph)
    assert found.source is not None
    found.export(tmp_path / "tiny.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx")
    model, data = models.make("tiny")
    (result,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), model(data), atol=1e-5, rtol=1e-4)


def test_trust_is_off_unless_asked_for_by_name():
    parameter = inspect.signature(ta.load).parameters["trust"]
    assert parameter.default is False and parameter.kind is parameter.KEYWORD_ONLY


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".pt2"])
def test_there_is_nothing_to_trust_in_other_files(suffix, tmp_path):
    with pytest.raises(UsageError, match=r"nothing in a \.\w+ file is executed"):
        ta.load(tmp_path / f"x{suffix}", trust=True)


def test_what_torch_cannot_load_is_an_error_with_its_reason(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as file:
        file.writestr("x/models/model.json", "{}")
    with pytest.raises(FormatError, match=r"torch .* cannot load .*x\.pt2"):
        ta.load(tmp_path / "x.pt2", trust=True)


# -- what is no model ----------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (LFS, "is a git-lfs pointer"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\xef\xbb\xbf \n<HTML>", "is a web page"),
        (pickle.dumps({"weight": [1.0]}), "is a pickle"),
        (pickle.dumps([1], protocol=2), "is a pickle"),
    ],
)
def test_files_that_are_something_else_are_named(suffix, content, message, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        ta.load(path)
    assert str(path) in str(caught.value) and "hint" in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_cannot_be_read_say_why(suffix, tmp_path):
    with pytest.raises(FormatError, match="No such file"):
        ta.load(tmp_path / f"missing{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(FormatError, match="it is a folder"):
        ta.load(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"\x00" * 64, b"hello", b"PK\x03\x04", b"{", b"\x08\x09"])
def test_nonsense_is_a_format_error(suffix, content, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        ta.load(path)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model", "model.safetensors", ".pt2"])
def test_other_suffixes_are_refused_with_those_that_are_read(name, tmp_path):
    with pytest.raises(FormatError, match=r"\.json, \.onnx, \.pt2"):
        ta.load(tmp_path / name)


def test_arguments_that_no_operator_takes_are_a_format_error(tmp_path):
    import json
    import zipfile

    model, data = models.make("tiny")
    torch.export.save(torch.export.export(model, (data,)), tmp_path / "tiny.pt2")
    with zipfile.ZipFile(tmp_path / "tiny.pt2") as file:
        (name,) = (n for n in file.namelist() if n.endswith("models/model.json"))
        content = json.loads(file.read(name))
    (call,) = (
        n
        for n in content["graph_module"]["graph"]["nodes"]
        if n["target"].endswith("conv2d.default")
    )
    call["inputs"][1]["arg"] = {"as_int": 3}
    with zipfile.ZipFile(tmp_path / "forged.pt2", "w") as file:
        file.writestr(name, json.dumps(content))
    with pytest.raises(FormatError, match="what its operators cost cannot be computed"):
        ta.load(tmp_path / "forged.pt2")


# -- the command line ----------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def test_summary_cost_and_export_take_a_pt2(tiny, tmp_path):
    folder, graph = tiny
    done = run("summary", folder / "tiny.pt2", "--columns", "flops,ops")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].split() == ["module", "FLOPs", "ops"]
    done = run("cost", folder / "tiny.pt2")
    assert done.exit_code == 0 and "FLOPs = 27.7 k" in done.output
    done = run("export", folder / "tiny.pt2", "--to", "dot", "--to", "json", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert ta.to_text(ta.load(tmp_path / "tiny.json")) == ta.to_text(graph)
    assert "tiny.dot" in done.output


def test_summary_takes_an_onnx(tiny):
    done = run("summary", tiny[0] / "tiny.onnx", "--depth", "0")
    assert done.exit_code == 0 and "27.7 k" in done.output


@pytest.mark.parametrize("trusted", [True, False])
def test_only_what_is_trusted_is_written_with_weights(trusted, tiny, tmp_path):
    import onnx

    trust = ["--trust"] if trusted else []
    done = run("export", tiny[0] / "tiny.pt2", "--to", "onnx", "--out", tmp_path, *trust)
    assert done.exit_code == 0, done.output
    stored = onnx.load(tmp_path / "tiny.onnx").graph.initializer
    assert any(list(t.dims) == [4, 3, 3, 3] and t.raw_data for t in stored) is trusted


def test_export_never_overwrites_the_model_it_reads(tiny, tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes((tiny[0] / "tiny.onnx").read_bytes())
    before = path.read_bytes()
    done = run("export", path, "--to", "onnx")
    assert isinstance(done.exception, UsageError) and "would overwrite" in str(done.exception)
    assert path.read_bytes() == before


def test_trust_is_refused_for_what_is_no_pt2():
    done = run("summary", "timm:test_resnet", "--trust")
    assert isinstance(done.exception, UsageError) and "for .pt2 files" in str(done.exception)
