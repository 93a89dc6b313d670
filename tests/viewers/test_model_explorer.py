"""What Model Explorer shows of the files that torchatlas writes, in a real browser."""

from __future__ import annotations

import pytest

import hostile
import torchatlas as ta
from browser import WEBGL, Page, open_in_model_explorer, open_page

TELLING = (
    "<%2Ftext><script>alert(1)<%2Fscript>/</text><script>alert(1)</script>",
    "%2F%2F///",
)
"""Ids in the hostile graph; a software WebGL takes seconds to show each."""

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("model_explorer")
    with open_page(*WEBGL) as page:
        yield page


@pytest.fixture
def show(page: Page, tmp_path):
    """A function that opens a graph in Model Explorer."""

    def show(graph: ta.ModelGraph, name: str = "model.json"):
        graph.export(tmp_path / name)
        return open_in_model_explorer(tmp_path / name, page)

    return show


def test_search_finds_a_node_and_the_panel_tells_its_costs(captured, show):
    with show(captured("tiny")) as explorer:
        panel = explorer.find("conv/conv2d")
        assert panel["NODE INFO"] == {
            "op name": "aten.conv2d", "id": "conv/conv2d", "namespace": "conv"
        }  # fmt: skip
        facts = panel["ATTRIBUTES"]
        # 2 FLOP x 3 x 3 x 3 multiply-adds x 4 x 8 x 8 outputs x 2 in the batch
        assert facts["flops"] == "27648 (27.6 kFLOP)"
        assert facts["shape"] == "[2, 4, 8, 8]" and facts["dtype"] == "float32"
        assert facts["params"] == "108" and facts["device"] == "cpu"
        assert facts["weights"] == "conv/weight"
        assert panel["OUTPUTS (1)"]["shape"] == "float32[2, 4, 8, 8]"
        assert explorer.find("conv/weight")["ATTRIBUTES"]["read by"] == "conv/conv2d"


def test_overlays_are_loaded(captured, show):
    with show(captured("tiny")) as explorer:
        page = explorer.page
        page.wait_for("document.body.innerText.includes('Aggregated stats')")
        assert "FLOPs (FLOP)" in page.evaluate("document.querySelector('info-panel').innerText")
        data = explorer.find("conv/conv2d")["NODE DATA PROVIDERS"]
        assert data["FLOPs (FLOP)"] == "27648"
        assert data["device"] == "cpu" and data["parameters"] == "-"


def test_written_files_show_the_same(captured, page, tmp_path):
    graph = captured("resnet18")
    graph.export(tmp_path / "model.explorer.json")
    graph.export(tmp_path / "model.overlays.json")
    with open_in_model_explorer(tmp_path / "model.explorer.json", page) as explorer:
        # called twice in a block: found by its id, drawn in its place
        panel = explorer.find("layer1/0/relu/relu_1")
        assert panel["ATTRIBUTES"]["flops_other"] == "200704 (201 kFLOP)"
        assert panel["NODE INFO"]["namespace"] == "layer1/0/relu (call 2)"
        page.wait_for("document.body.innerText.includes('FLOPs (kFLOP)')")
        data = explorer.find("conv1/conv2d")["NODE DATA PROVIDERS"]
        assert data["FLOPs (kFLOP)"] == "236028"


def test_page_speaks_to_this_machine_only(captured, show, page):
    before = len(page.events)
    with show(captured("tiny")):
        events = page.events[before:]
    sent = [e["params"]["request"]["url"] for e in events if _is(e, "Network.requestWillBeSent")]
    got = [e["params"]["response"]["url"] for e in events if _is(e, "Network.responseReceived")]
    assert len(got) > 5
    assert {url.split(":")[0] for url in got} <= {"http", "data", "blob", "about"}
    assert all("//127.0.0.1:" in url for url in got if url.startswith("http"))
    assert sent


def _is(event, method):
    return event.get("method") == method


def test_hostile_names_open_and_run_nothing(page, show):
    graph = hostile.graph()
    before = len(page.events)
    with show(graph) as explorer:
        for name in TELLING:
            panel = explorer.find(name)
            assert panel["ATTRIBUTES"]["shape"] == "[2, 4]"
            assert panel["ATTRIBUTES"]["device"] == "cuda:0"
        assert page.evaluate("document.querySelectorAll('info-panel img, b script').length") == 0
    assert nothing_ran(page, before)


def nothing_ran(page: Page, since: int) -> bool:
    """Say whether since then no dialog was opened and no script of the page has failed."""
    page.evaluate("1")
    events = page.events[since:]
    dialogs = [e for e in events if _is(e, "Page.javascriptDialogOpening")]
    raised = [e for e in events if _is(e, "Runtime.exceptionThrown")]
    return dialogs == [] and raised == []
