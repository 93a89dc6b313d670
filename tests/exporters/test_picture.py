"""Pictures: what is drawn of a graph, that it is the same each time, and what a notebook shows."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

import hostile
import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.errors import FormatError, MissingExtraError, UsageError
from torchatlas.exporters import notebook, picture
from torchatlas.graph import ModelGraph, build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta

SVG = "{http://www.w3.org/2000/svg}"


def drawn(content: bytes) -> list[str]:
    """Return the names of the nodes in a picture."""
    groups = ElementTree.fromstring(content).iter(f"{SVG}g")
    return [g.find(f"{SVG}title").text for g in groups if g.get("class") == "node"]


def words(content: bytes) -> str:
    return " ".join(text.text or "" for text in ElementTree.fromstring(content).iter(f"{SVG}text"))


def blocks(count: int, each: int = 3) -> ModelGraph:
    """Return a chain of blocks, each with as many ops as `each` says."""
    out = TensorMeta((2, 8))
    records = [OpRecord("x", "input", target="x", outputs=(out,))]
    for i in range(count):
        stack = (Module("", "Net"), Module("blocks", "List"), Module(f"blocks.{i}", "Block"))
        for j in range(each):
            inner = (*stack, Module(f"blocks.{i}.relu{j}", "ReLU"))
            args = {"self": Value(records[-1].key)}
            made = OpRecord(
                f"{i}.{j}", "op", op="aten.relu", args=args, outputs=(out,), stack=inner
            )
            records.append(made)
    return annotate(build(records, name="Net")[0])


# -- what is drawn -----------------------------------------------------------------------------


def test_a_small_graph_is_drawn_whole(captured):
    graph = captured("tiny")
    content = picture.svg(graph)
    assert set(drawn(content)) == set(graph)
    assert "collapsed" not in words(content) and "weights not drawn" not in words(content)


def test_weights_go_first(captured):
    graph = captured("resnet18")
    assert picture.readable(graph) == (None, False)
    content = picture.svg(graph)
    assert len(drawn(content)) == sum(
        node["kind"] in ("input", "op", "output") for _, node in graph.nodes(data=True)
    )
    assert "weights not drawn" in words(content)
    assert picture.readable(graph, limit=1000) == (None, True)


def test_the_deepest_modules_that_fit():
    graph = blocks(40)
    assert picture.readable(graph) == (None, True)
    assert picture.readable(graph, limit=120) == (2, True)
    assert picture.readable(graph, limit=40) == (1, True)
    assert picture.readable(graph, limit=1) == (0, True)
    content = picture.svg(graph, limit=120)
    assert drawn(content) == ["x", *(f"blocks/{i}" for i in range(40))]
    assert "collapsed to modules at depth 2" in words(content)


def test_a_large_graph_stays_readable(captured):
    graph = captured("resnet50")
    content = picture.svg(graph)
    assert "layer3/5" in drawn(content) and len(drawn(content)) <= picture.LIMIT
    assert "collapsed to modules at depth 2" in words(content)
    assert len(drawn(picture.svg(graph, depth=None, parameters=False))) == 177
    assert len(drawn(picture.svg(graph, depth=1))) == 13


def test_weights_stay_where_ops_would_stand_alone():
    import torch

    model = torch.nn.Sequential(*(torch.nn.BatchNorm1d(4) for _ in range(20))).train()
    graph = ta.capture(model, torch.randn(3, 4))
    # The ops that count the steps of a norm read a buffer, and nothing else.
    assert picture.readable(graph, limit=60) == (1, True)


def test_wrong_options(captured):
    graph = captured("tiny")
    for options, said in (
        ({"depth": "all"}, "depth='all' is no depth"),
        ({"depth": -1}, "-1 is no depth"),
        ({"engine": "cat"}, "no engine 'cat'"),
        ({"color_by": "colour"}, "no key 'colour'"),
        ({"show": "colour"}, "no key 'colour'"),
    ):
        with pytest.raises(UsageError, match=said):
            picture.svg(graph, **options)
    with pytest.raises(UsageError, match="is no resolution"):
        picture.png(graph, dpi=0)


# -- files -------------------------------------------------------------------------------------


def test_a_png_has_the_resolution_asked_for(captured):
    sizes = []
    for dpi in (72, 144):
        content = picture.png(captured("tiny"), dpi=dpi)
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        sizes.append(struct.unpack(">II", content[16:24]))
    assert sizes[1][0] == pytest.approx(2 * sizes[0][0], abs=3)


def test_a_pdf_says_no_time(captured):
    content = picture.pdf(captured("tiny"))
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert content.count(b"(D:") == content.count(b"(D:19700101000000")


@pytest.mark.parametrize("format", ["svg", "png", "pdf"])
@pytest.mark.parametrize("drawer", ["package", "program"])
def test_the_same_bytes_a_second_later(format, drawer, captured, monkeypatch):
    if drawer == "program":
        if shutil.which("dot") is None:
            pytest.skip("needs Graphviz's own dot")
        monkeypatch.setattr(picture, "_package", lambda: None)
    render = getattr(picture, format)
    before = render(captured("residual"))
    if format == "pdf":  # the one format with a time stamp of its own
        time.sleep(1.1)
    assert render(captured("residual")) == before


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's own dot")
def test_the_program_draws_what_the_package_draws(captured, monkeypatch):
    graph = captured("shared_and_tied")
    before = drawn(picture.svg(graph))
    monkeypatch.setattr(picture, "_package", lambda: None)
    assert drawn(picture.svg(graph)) == before
    monkeypatch.setattr(picture.dot, "render", lambda graph, **options: b"digraph {")
    with pytest.raises(FormatError, match=r"cannot draw the graph.*syntax error"):
        picture.svg(graph)


def test_without_graphviz_it_says_what_to_install(captured, monkeypatch):
    monkeypatch.setattr(picture, "_package", lambda: None)
    monkeypatch.setattr(picture.shutil, "which", lambda name: None)
    for render in (picture.svg, picture.png, picture.pdf):
        with pytest.raises(MissingExtraError, match=r"torchatlas\[picture\]"):
            render(captured("tiny"))


def test_a_graph_that_graphviz_refuses(captured, monkeypatch):
    monkeypatch.setattr(picture.dot, "render", lambda graph, **options: b"digraph {")
    with pytest.raises(FormatError, match="Graphviz cannot draw the graph"):
        picture.svg(captured("tiny"))


@pytest.mark.parametrize("graph", [hostile.graph, lambda: ta.capture(*models.hostile())])
def test_hostile_names_are_only_text(graph):
    content = picture.svg(graph(), depth=None, color_by="module_type")
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(content).iter()}
    assert tags <= {"svg", "g", "title", "text", "path", "polygon", "polyline", "ellipse"}
    for key in ("onload", "onerror", "href", "style"):
        assert f" {key}=".encode() not in content.replace(b"src=x onerror=", b"")
    assert picture.pdf(graph()).startswith(b"%PDF") and picture.png(graph()).startswith(b"\x89PNG")
    assert b"/URI" not in picture.pdf(graph()) and b"/JavaScript" not in picture.pdf(graph())


def test_resnet50_within_a_second(captured):
    graph = captured("resnet50")
    picture.svg(captured("tiny"))
    start = time.process_time()
    picture.svg(graph)
    assert time.process_time() - start < 1


# -- notebooks ---------------------------------------------------------------------------------


def test_a_notebook_shows_the_picture_and_the_summary(captured):
    bundle = captured("resnet18")._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/plain", "text/html", "image/svg+xml"}
    assert bundle["text/plain"].startswith("ModelGraph('ResNet': 69 ops")
    assert str(captured("resnet18").summary()) in bundle["text/plain"]
    assert "conv1/conv2d" in drawn(bundle["image/svg+xml"].encode())
    assert bundle["text/html"].startswith('<img alt="ResNet"')
    assert "BasicBlock" in bundle["text/html"]


def test_a_notebook_without_graphviz_shows_text(captured, monkeypatch):
    monkeypatch.setattr(picture, "_package", lambda: None)
    monkeypatch.setattr(picture.shutil, "which", lambda name: None)
    bundle = captured("tiny")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"} and "<img" not in bundle["text/html"]


def test_a_notebook_never_raises(captured):
    broken = captured("tiny").copy()
    broken.add_node("no keys")
    for graph in (broken, ModelGraph(), ModelGraph(name="x"), captured("tiny").subgraph([])):
        assert graph._repr_mimebundle_()["text/plain"]


def test_a_notebook_runs_no_name():
    bundle = notebook.mimebundle(hostile.graph())
    assert (
        "<script" not in bundle["text/html"]
        and "onerror=alert" not in (bundle["text/html"].split("<pre>")[0])
    )
    assert "&lt;" in bundle["text/html"]


def test_a_notebook_is_never_slow():
    graph = blocks(2000)
    graph._repr_mimebundle_()
    start = time.process_time()
    bundle = graph._repr_mimebundle_()
    assert time.process_time() - start < 1.5
    assert drawn(bundle["image/svg+xml"].encode()) == ["x", "blocks"]


def test_drawing_needs_no_torch(captured, tmp_path):
    captured("tiny").export(tmp_path / "graph.json")
    script = (
        "import sys, torchatlas as ta; from torchatlas.exporters import load, render;"
        f"graph = load({str(tmp_path / 'graph.json')!r});"
        "render(graph, 'svg', depth=1); render(graph, 'csv'); render(graph, 'gexf');"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# -- in a browser ------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
def test_a_browser_finds_the_facts_and_runs_no_name(captured, tmp_path):
    from browser import open_page

    bundle = notebook.mimebundle(hostile.graph())
    files = {
        "resnet18.svg": picture.svg(captured("resnet18")),
        "hostile.svg": picture.svg(hostile.graph(), depth=None),
        "notebook.html": b"<meta charset=utf-8>" + bundle["text/html"].encode(),
    }
    with open_page() as page:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
            page.goto((tmp_path / name).as_uri())
            assert page.evaluate("document.querySelectorAll('script, a, image').length") == 0
            if name == "resnet18.svg":
                found = page.evaluate(
                    "[...document.querySelectorAll('g.node')].find((g) => "
                    "g.querySelector('title').textContent === 'conv1/conv2d').textContent"
                )
                assert "236 MFLOP" in found
                shape = "\N{MULTIPLICATION SIGN}".join(["1", "64", "112", "112"])
                assert shape in page.evaluate("document.documentElement.textContent")
            if name == "notebook.html":
                page.wait_for("document.querySelector('img').naturalWidth > 100")
        assert page.happened("Page.javascriptDialogOpening") == []
        assert page.happened("Runtime.exceptionThrown") == []
