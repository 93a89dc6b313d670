"""What Netron shows of the files that torchatlas writes, in a real browser."""

from __future__ import annotations

import functools

import pytest

import hostile
import models
import torchatlas as ta
from browser import Page, open_in_netron, open_page
from torchatlas.exporters import dot

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("netron")
    with open_page() as page:
        yield page


@pytest.fixture
def show(page: Page, tmp_path):
    """A function that opens content in Netron under a file name."""

    def show(content: bytes, name: str):
        path = tmp_path / name
        path.write_bytes(content)
        return open_in_netron(path, page)

    return show


# -- DOT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.SMALL)
def test_dot_shows_every_node(name, captured, show):
    graph = captured(name)
    with show(dot.render(graph), "model.dot") as netron:
        assert sorted(netron.nodes) == sorted(graph)
        assert set(netron.titles) == set(graph)


def test_dot_shows_facts_in_the_side_bar(captured, show):
    with show(dot.render(captured("tiny")), "model.dot") as netron:
        bar = netron.select("conv/conv2d")
        assert bar[""] == {"type": "aten.conv2d", "name": "conv/conv2d"}
        # 2 FLOP x 3 x 3 x 3 multiply-adds x 4 x 8 x 8 outputs x 2 in the batch
        assert bar["Attributes"]["flops"] == "27648"
        assert bar["Attributes"]["shape"] == "\N{MULTIPLICATION SIGN}".join("2488")
        assert bar["Attributes"]["dtype"] == "float32"
        assert bar["Attributes"]["device"] == "cpu"
        assert bar["Attributes"]["module"] == "conv"
        assert bar["Attributes"]["module_type"] == "Conv2d"
        assert bar["Inputs"] == {"0": "name: x", "1": "name: conv/weight"}
        assert netron.select("conv/weight")["Attributes"]["params"] == "108"
        assert netron.titles["conv/conv2d"] == "conv2d"
        assert netron.titles["norm/running_mean"] == "running_mean"


def test_dot_answers_a_click(captured, show):
    with show(dot.render(captured("residual")), "model.dot") as netron:
        assert netron.click("inner/linear")[""]["type"] == "aten.linear"


def test_dot_of_resnet18_shows_every_node(captured, show):
    graph = captured("resnet18")
    with show(dot.render(graph), "resnet18.dot") as netron:
        assert set(netron.titles) == set(graph)
        assert netron.select("conv1/conv2d")["Attributes"]["flops"] == "236027904"
    with show(dot.render(graph, parameters=False), "resnet18.dot") as netron:
        weights = {"parameter", "buffer", "constant"}
        assert set(netron.titles) == {n for n, k in graph.nodes("kind") if k not in weights}


def test_hostile_names_open_and_run_nothing(page, show):
    graph = hostile.graph()
    before = len(page.events)
    with show(dot.render(graph), "hostile.dot") as netron:
        assert len(netron.nodes) == len(netron.titles) == len(graph)
        for name in netron.nodes:
            bar = netron.select(name)
            if name != "output":
                assert bar["Attributes"]["shape"] == "2\N{MULTIPLICATION SIGN}4"
                assert bar["Attributes"]["device"] == "cuda\N{RATIO}0"
    assert nothing_ran(page, before)


def test_picture_with_hostile_names_runs_nothing(page, tmp_path):
    pygraphviz = pytest.importorskip("pygraphviz")
    graph = hostile.graph()
    agraph = pygraphviz.AGraph(string=dot.render(graph).decode())
    path = tmp_path / "hostile.svg"
    agraph.draw(path, format="svg", prog="dot")
    before = len(page.events)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.nodeName") == "svg"
    assert page.evaluate("document.querySelectorAll('g.node').length") == len(graph)
    assert page.evaluate("document.querySelectorAll('script, a, image, foreignObject').length") == 0
    assert nothing_ran(page, before)


def nothing_ran(page: Page, since: int) -> bool:
    """Say whether since then no dialog was opened and no script of the page has failed."""
    page.evaluate("1")
    events = page.events[since:]
    dialogs = [e for e in events if e.get("method") == "Page.javascriptDialogOpening"]
    raised = [e for e in events if e.get("method") == "Runtime.exceptionThrown"]
    return dialogs == [] and raised == []


# -- ONNX --------------------------------------------------------------------------------------


@functools.cache
def executable(name: str) -> bytes:
    from torchatlas.exporters import onnx_model

    return onnx_model.render(ta.capture(*models.make(name))).content


def test_structural_onnx_shows_flops(captured, show):
    from torchatlas.exporters import onnx_structure

    graph = captured("tiny")
    ops = {name for name, kind in graph.nodes("kind") if kind == "op"}
    with show(onnx_structure.render(graph), "model.onnx") as netron:
        assert set(netron.nodes) == ops
        bar = netron.select("conv/conv2d")
        assert fact(bar, "flops") == "27648"


def test_executable_onnx_shows_flops(captured, show):
    graph = captured("tiny")
    with show(executable("tiny"), "model.onnx") as netron:
        found = {}
        for name in netron.nodes:
            bar = netron.select(name)
            found[fact(bar, "id")] = fact(bar, "flops")
        linear = graph.nodes["head/linear"]["flops"]
        assert linear == 2 * 2 * 4 * 5
        assert found["head/linear"] == str(linear)


def fact(bar: dict[str, dict[str, str]], key: str) -> str | None:
    """Return what a side bar says of `key`, among metadata or attributes."""
    return bar.get("Metadata", {}).get(key) or bar.get("Attributes", {}).get(key)
