"""What Netron shows of the files that torchatlas writes, in a real browser."""

from __future__ import annotations

import base64
import functools
import json
import time

import pytest
import torch

import hostile
import models
import torchatlas as ta
from browser import Netron, Page, open_in_netron, open_page
from torchatlas.exporters import dot, netron_json, onnx_model, onnx_structure

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
def executable(name: str, *, functions: bool = False) -> bytes:
    graph = ta.capture(*models.make(name))
    return onnx_model.render(graph, functions=functions).content


OPEN = "window.__view__.activeTarget.name"


def press(netron: Netron, node: str, button: str, then: str) -> None:
    """Click on a button in the header of a drawn node, once it stands still, for `then` to hold.

    ƒ opens a function, and + a nested graph in its place.
    """
    box = f"document.getElementById({json.dumps('node-name-' + node)})"
    where = (
        f"(() => {{ const box = {box};"
        f"const text = [...box?.querySelectorAll('text') ?? []].find((e) => e.textContent === "
        f"{json.dumps(button)});"
        "if (!text || !document.body.classList.contains('default')) return null;"
        "const { x, y, width, height } = text.getBoundingClientRect();"
        "const middle = [x + width / 2, y + height / 2];"
        "return box.contains(document.elementFromPoint(...middle)) ? middle : null; })()"
    )
    before, found = None, netron.page.wait_for(where)
    while found != before:
        time.sleep(0.2)
        before, found = found, netron.page.wait_for(where)
    netron.page.click(*found)
    netron.page.wait_for(then)


def trail(netron: Netron, count: int) -> list[str]:
    """Return the functions that were opened, from the outermost, when they are `count`."""
    shown = "[...document.querySelectorAll('#toolbar-path .toolbar-path-name-button')]"
    netron.page.wait_for(f"{shown}.length === {count}")
    return netron.page.evaluate(f"{shown}.map((button) => button.textContent)")


def test_functions_open_one_inside_the_other(captured, show):
    flops = captured("resnet18").nodes["layer1/0/conv1/conv2d"]["flops"]
    with show(executable("resnet18", functions=True), "model.onnx") as netron:
        assert len(netron.nodes) == 10 and netron.titles["layer1"] == "Sequential"
        bar = netron.select("layer1")
        assert bar["Metadata"]["module_type"].endswith("Sequential")
        assert "925 MFLOP" in bar[""]["description"]
        press(netron, "layer1", "ƒ", f"{OPEN} === 'layer1.Sequential'")
        assert netron.nodes == ["layer1/0", "layer1/1"]
        press(netron, "layer1/0", "ƒ", f"{OPEN} === 'layer1.0.BasicBlock'")
        bar = netron.select("layer1/0/conv1/conv2d")
        assert bar["Metadata"]["flops"] == str(flops) == "231211008"
        assert bar["Inputs"]["W"] == "name: layer1.0.conv1.weight"
        drawn = netron.page.evaluate("document.getElementById('target').textContent")
        times = "\N{MULTIPLICATION SIGN}"
        assert f"64{times}64{times}3{times}3" in drawn  # the weight, inside the function
        assert f"1{times}64{times}56{times}56" in drawn  # the shape on an edge
        assert trail(netron, 2) == ["layer1.Sequential", "layer1.0.BasicBlock"]


def test_functions_of_bert_lead_to_its_attention(show):
    names = ["encoder", "encoder/layer/0", "encoder/layer/0/attention"]
    names.append("encoder/layer/0/attention/self")
    with show(executable("bert", functions=True), "model.onnx") as netron:
        assert [*netron.titles.values()] == ["BertEmbeddings", "BertEncoder", "BertPooler"]
        for name in names:
            press(netron, name, "ƒ", f"{OPEN}.startsWith('{name.replace('/', '.')}.')")
        attention = f"{names[-1]}/scaled_dot_product_attention"
        assert int(fact(netron.select(attention), "flops")) > 0


class Branch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.yes = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: self.yes(y) + 1, lambda y: y - 1, (x,))


@pytest.mark.parametrize("functions", [False, True])
def test_bodies_open_in_place(functions, show):
    graph = ta.capture(Branch(), torch.ones(2, 4))
    content = onnx_structure.render(graph, functions=functions)
    with show(content, "model.onnx") as netron:
        assert netron.nodes == ["sum", "gt", "cond"]
        page, drawn = netron.page, "document.getElementById('target').textContent"
        assert "relu" not in page.evaluate(drawn)
        press(netron, "cond", "+", f"{drawn}.includes('sub')")
        press(netron, "cond", "+", f"{drawn}.includes({'Sequential' if functions else 'relu'!r})")


def test_annotations_stand_on_the_nodes_on_request(captured, show):
    with show(onnx_structure.render(captured("tiny")), "model.onnx") as netron:
        drawn = "document.getElementById('target').textContent"
        assert "flops = 27648" not in netron.page.evaluate(drawn)
        netron.page.press("d", control=True)
        netron.page.wait_for(f"{drawn}.includes('flops = 27648')")
        assert netron.select("conv/conv2d")["Inputs"].keys() == {"input", "weight"}


def test_training_structure_opens(show):
    graph = ta.capture(*models.make("tiny"), mode="training")
    with show(onnx_structure.render(graph, functions=True), "model.onnx") as netron:
        backward = next(name for name in netron.nodes if "backward" in name)
        assert netron.select(backward)["Metadata"]["phase"] == "backward"


def test_structures_with_hostile_names_run_nothing(page, show):
    graph = hostile.graph()
    for functions in (False, True):
        before = len(page.events)
        content = onnx_structure.render(graph, functions=functions)
        with show(content, "hostile.onnx") as netron:
            assert len(netron.titles) == len(set(netron.nodes)) > 30
            for name in netron.nodes[:20]:
                assert netron.select(name)["Metadata"].get("device", "cuda:0") == "cuda:0"
        assert nothing_ran(page, before)


# -- Netron's own JSON -------------------------------------------------------------------------


def test_netron_json_shows_facts_shapes_and_colours(captured, show):
    graph = captured("resnet18")
    with show(netron_json.render(graph), "resnet18.netron") as netron:
        assert set(netron.nodes) == {name for name, kind in graph.nodes("kind") if kind == "op"}
        bar = netron.select("conv1/conv2d")
        assert bar["Attributes"]["flops"] == "236027904"
        assert bar["Attributes"]["shape"] == "[1, 64, 112, 112]"
        assert bar["Attributes"]["flops_other"] == "0"
        assert bar["Inputs"] == {"input": "name: x", "weight": "name: conv1/weight"}
        drawn = netron.page.evaluate("document.getElementById('target').textContent")
        times = "\N{MULTIPLICATION SIGN}"
        assert f"1{times}64{times}112{times}112" in drawn and f"64{times}3{times}7{times}7" in drawn
        for name, category in (
            ("conv1/conv2d", "layer"), ("relu/relu", "activation"), ("maxpool/max_pool2d", "pool"),
        ):  # fmt: skip
            box = f"document.getElementById('node-name-{name}')"
            assert netron.page.evaluate(
                f"{box}.querySelector('.node-item-type-{category}') != null"
            )


def test_netron_json_with_hostile_names_runs_nothing(page, show):
    graph = hostile.graph()
    before = len(page.events)
    with show(netron_json.render(graph), "hostile.netron") as netron:
        assert set(netron.nodes) == {name for name, kind in graph.nodes("kind") if kind == "op"}
        for name in netron.nodes:
            assert netron.select(name)["Attributes"]["device"] == "cuda:0"
    assert nothing_ran(page, before)


@pytest.fixture
def drop(page: Page):
    """A function that drops a file onto Netron, which was started without one."""
    import netron

    address = netron.serve(None, None, address=("127.0.0.1", 0))
    url = f"http://{address[0]}:{address[1]}"
    page.set_cookie(url, "consent", "1")
    page.goto(url)
    # Only once it shows its welcome does the page listen for files.
    page.wait_for("document.body.className.trim() === 'welcome'")

    def drop(content: bytes, name: str) -> Netron:
        data = json.dumps(base64.b64encode(content).decode())
        page.evaluate(
            f"(() => {{ const bytes = Uint8Array.from(atob({data}), (c) => c.charCodeAt(0));"
            "const transfer = new DataTransfer();"
            f"transfer.items.add(new File([bytes], {json.dumps(name)}));"
            "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer,"
            " bubbles: true, cancelable: true})); })()"
        )
        return Netron(page)

    yield drop
    page.goto("about:blank#")
    netron.stop(address)


ATTACHED = "window.__view__.model.attachment.metrics._entries.size > 0"


@pytest.mark.parametrize("format", ["netron", "onnx", "structure", "foreign"])
def test_an_attachment_adds_facts_to_an_open_model(format, captured, page, drop, tmp_path):
    graph, node, name = captured("tiny"), "head/linear", "model.onnx"
    attached = netron_json.attachment(graph)
    if format == "netron":
        model, name = netron_json.render(graph), "model.netron"
    elif format == "onnx":
        model = executable("tiny")
    elif format == "structure":
        model = onnx_structure.render(graph)
    else:
        made, example = models.make("tiny")
        torch.onnx.export(made, (example,), tmp_path / "a.onnx", dynamo=True, verbose=False)
        model, node = (tmp_path / "a.onnx").read_bytes(), "node_linear"
        attached = netron_json.attachment(graph, names="onnx")
    netron = drop(model, name)
    page.wait_for("document.body.classList.contains('default') && !!window.__view__.model")
    drop(attached, "model.attachment.json")
    page.wait_for(ATTACHED)
    bar = netron.select(node)
    assert bar["Metrics"]["flops"] == str(2 * 2 * 4 * 5)
    assert bar["Metadata"]["id"] == "head/linear" and bar["Metadata"]["shape"] == "[2, 5]"


# -- ONNX, both kinds --------------------------------------------------------------------------


def test_structural_onnx_shows_flops(captured, show):
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
