"""What TensorBoard shows of the files that torchatlas writes, in a real browser."""

from __future__ import annotations

import pytest

import hostile
import torchatlas as ta
from browser import Page, open_in_tensorboard, open_page
from torchatlas.exporters.tensorboard_names import escape

TELLING = (
    "<%2Ftext><script>alert(1)<%2Fscript>/</text><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>/<img src=x onerror=alert(1)>",
    "ends in \\/ends in \\_1",
    "%2F%2F///",
    " / ",
    "__proto__/proto",
)
"""Ids in the hostile graph, one of every kind."""

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("tensorboard")
    with open_page() as page:
        yield page


@pytest.fixture
def show(page: Page, tmp_path):
    """A function that opens a graph in TensorBoard."""

    def show(graph: ta.ModelGraph, name: str = "model.tfevents"):
        graph.export(tmp_path / name)
        return open_in_tensorboard(tmp_path / name, page)

    return show


def test_search_finds_a_node_and_the_card_tells_its_costs(captured, show):
    with show(captured("tiny")) as board:
        facts = board.find("conv/conv2d")
        # 2 FLOP x 3 x 3 x 3 multiply-adds x 4 x 8 x 8 outputs x 2 in the batch
        assert facts["flops"] == "27648"
        assert facts["shape"] == "[2, 4, 8, 8]" and facts["dtype"] == "float32"
        assert facts["Device"] == "/device:cpu:0"
        assert facts["module_type"] == "torch.nn.modules.conv.Conv2d"
        shapes = board.neighbours
        assert shapes["x"] == "2×3×8×8" and shapes["conv/weight"] == "4×3×3×3"  # noqa: RUF001
        assert board.find("conv/weight")["params"] == "108"


def test_costs_can_be_coloured_by(captured, show):
    with show(captured("tiny")) as board:
        offered = board.choose_tag("FLOPs as time: 1 us stands for 1 FLOP")
        assert {"Compute time", "Memory", "Device"} <= set(offered)


def test_calls_are_drawn_apart_and_found_by_their_id(captured, show):
    with show(captured("resnet18"), "model.json") as board:
        assert board.find("layer1/0/relu/relu_1")["drawn_as"] == "layer1/0/relu (call 2)/relu_1"
        drawn = board.drawn
        assert {"layer1/0/relu", "layer1/0/relu (call 2)"} <= set(drawn)
        assert "layer2/0" not in drawn


def test_hostile_names_open_and_run_nothing(page, show):
    graph = hostile.graph()
    before = len(page.events)
    with show(graph) as board:
        for name in TELLING:
            facts = board.find(escape(name))
            assert facts["shape"] == "[2, 4]" and facts["Device"] == "/device:cuda:0"
    assert nothing_ran(page, before)


def nothing_ran(page: Page, since: int) -> bool:
    """Say whether since then no dialog was opened and no script of the page has failed."""
    page.evaluate("1")
    events = page.events[since:]
    dialogs = [e for e in events if e.get("method") == "Page.javascriptDialogOpening"]
    raised = [e for e in events if e.get("method") == "Runtime.exceptionThrown"]
    return dialogs == [] and raised == []
