"""The report in a real browser, opened from disk: what it shows, and what it never does."""

from __future__ import annotations

import json
import time

import pytest

import hostile
import models
import synthetic
import torchatlas as ta
from browser import Page, open_page
from torchatlas.text import number

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

X = "\N{MULTIPLICATION SIGN}"


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    with open_page() as page:
        page.call("Log.enable")
        yield page


class Report:
    """A report that is open in a tab."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def do(self, script: str):
        return self.page.evaluate(script)

    def wait(self, condition: str, timeout: float = 30):
        return self.page.wait_for(condition, timeout)

    def settle(self) -> None:
        """Wait until what was asked for is drawn and no longer moves."""
        place = "document.querySelector('#picture > g').getAttribute('transform')"
        frames = "new Promise((done) => setTimeout(() => requestAnimationFrame(done), 60))"
        before = None
        while before != (before := self.do(f"{frames}.then(() => {place})")):
            pass

    @property
    def boxes(self) -> list[str]:
        """The names of the boxes in sight: ids of nodes, paths of closed modules."""
        return self.do("[...document.querySelectorAll('.box')].map((box) => box.dataset.name)")

    @property
    def areas(self) -> list[str]:
        """The paths of the open modules in sight."""
        return self.do("[...document.querySelectorAll('.area')].map((box) => box.dataset.name)")

    def element(self, name: str) -> str:
        marked = f'[data-name="{name}"]'
        return f"document.querySelector({json.dumps(f'.box{marked}, .head-of{marked}')})"

    def click(self, element: str, count: int = 1) -> None:
        """Click with the mouse on the middle of an element."""
        rect = f"{element}.getBoundingClientRect()"
        middle = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({rect})"
        self.page.click(*self.do(middle))
        self.settle()

    def find(self, text: str) -> None:
        """Type into the search field, as a person would, and take the first hit."""
        self.page.press("/")
        assert self.do("document.activeElement.id") == "search"
        self.page.call("Input.insertText", text=text)
        self.page.press("Enter")
        self.settle()

    @property
    def chosen(self) -> dict[str, str]:
        """What the inspector says of the chosen node, by key."""
        return self.do(
            "Object.fromEntries([...document.querySelectorAll('#inspector [data-key]')]"
            ".map((cell) => [cell.dataset.key, cell.innerText]))"
        )

    def key(self, key: str) -> None:
        """Press a key that `Page.press` does not know."""
        made = f"new KeyboardEvent('keydown', {{ key: {json.dumps(key)}, bubbles: true }})"
        self.do(f"document.activeElement.dispatchEvent({made})")

    def tab(self, name: str) -> None:
        self.do(f"document.getElementById('tab-{name}').click()")

    def open_module(self, path: str) -> None:
        self.click(f"{self.element(path)}.querySelector('.sign')")

    @property
    def marked(self) -> str:
        """The name of the box that is marked as chosen."""
        return self.do("document.querySelector('.box.chosen').dataset.name")

    def choose_option(self, element: str, value: str) -> None:
        self.do(
            f"((e) => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change')) }})"
            f"(document.getElementById({json.dumps(element)}))"
        )
        self.settle()

    def column(self, key: str) -> list[str]:
        """Return the cells in sight of a column of the table, from the top."""
        cells = f"document.querySelectorAll('#grid [data-column={key}]')"
        return self.do(f"[...{cells}].map((cell) => cell.textContent)")

    def rectangles(self, selector: str) -> list[tuple[float, float, float, float]]:
        """Return left, right, top and bottom of elements, in the order of the page."""
        return self.do(
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            ".map((element) => element.getBoundingClientRect())"
            ".map(({ left, right, top, bottom }) => [left, right, top, bottom])"
        )


@pytest.fixture
def show(page: Page, tmp_path):
    """A function that writes the report of a graph and opens it from disk."""

    def show(graph: ta.ModelGraph) -> Report:
        graph.export(tmp_path / "report.html")
        page.goto("about:blank#")
        page.events.clear()
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for("document.body.dataset.ready === 'yes'")
        report = Report(page)
        report.settle()
        return report

    yield show
    assert complaints(page) == []
    assert requests(page) == []
    page.goto("about:blank#")


def complaints(page: Page) -> list[str]:
    """Return what went wrong: dialogs, errors of scripts, and what the policy had to refuse."""
    page.evaluate("1")
    found = [str(e) for e in page.happened("Page.javascriptDialogOpening")]
    found += [str(e) for e in page.happened("Runtime.exceptionThrown")]
    found += [str(e) for e in page.happened("Runtime.consoleAPICalled")]
    return found + [e["entry"]["text"] for e in page.happened("Log.entryAdded")]


def requests(page: Page) -> list[str]:
    """Return what was asked for besides the file itself and what is held in memory."""
    urls = [e["request"]["url"] for e in page.happened("Network.requestWillBeSent")]
    return [u for u in urls if not u.endswith("/report.html") and not u.startswith("about:")]


# -- the picture -------------------------------------------------------------------------------


def test_a_node_is_found_clicked_and_read(captured, show):
    report = show(captured("resnet18"))
    assert "3.63 GFLOP" in report.do("document.querySelector('.cards').innerText")
    report.find("layer1/0/conv1/conv2d")
    # 2 FLOP x 3 x 3 x 64 multiply-adds x 64 x 56 x 56 outputs
    assert report.chosen["flops"] == "231 MFLOP\n231,211,008"
    assert report.chosen["shape"] == X.join(["1", "64", "56", "56"])
    assert (
        report.do("document.querySelector('.box.chosen').dataset.name") == "layer1/0/conv1/conv2d"
    )
    report.click(report.element("layer1/0/bn1/batch_norm"))
    assert report.chosen["id"] == "layer1/0/bn1/batch_norm"
    live = captured("resnet18").nodes["layer1/0/bn1/batch_norm"]["live_bytes"]
    assert report.chosen["live_bytes"] == f"{number(live, 'B')}\n{live:,}"
    assert report.do("document.querySelectorAll('.lines .chosen').length") == 2


def test_neighbours_are_links(captured, show):
    report = show(captured("resnet18"))
    report.find("maxpool/max_pool2d")
    links = "[...document.querySelectorAll('#inspector .link')]"
    texts = report.do(f"{links}.map((link) => link.textContent)")
    assert "relu/relu" in texts and "layer1/0/conv1/conv2d" in texts
    report.do(f"{links}.find((link) => link.textContent === 'layer1/0/conv1/conv2d').click()")
    report.settle()
    assert report.chosen["id"] == "layer1/0/conv1/conv2d"
    assert report.do("decodeURIComponent(location.hash)") == "#layer1/0/conv1/conv2d"


def test_modules_open_and_close(captured, show):
    report = show(captured("resnet18"))
    assert len(report.boxes) <= 40 and "layer1" in report.boxes and report.areas == []
    report.open_module("layer1")
    assert {"layer1.0", "layer1.1"} <= set(report.boxes) and report.areas == ["layer1"]
    report.open_module("layer1.0")
    assert "layer1/0/conv1/conv2d" in report.boxes and report.areas == ["layer1", "layer1.0"]
    report.open_module("layer1")
    assert report.areas == [] and "layer1.0" not in report.boxes


def test_boxes_neither_overlap_nor_leave_their_module(captured, show):
    report = show(captured("resnet18"))
    for path in ("layer1", "layer1.0", "layer2", "layer2.0"):
        report.do(f"{report.element(path)}.querySelector('.sign circle')"
                  ".dispatchEvent(new MouseEvent('click', { bubbles: true }))")  # fmt: skip
        report.do("document.getElementById('fit').click()")
        report.settle()
    rects = report.rectangles(".box .face")
    assert len(rects) > 25
    for i, (left, right, top, bottom) in enumerate(rects):
        for other in rects[:i]:
            beside = right <= other[0] + 0.5 or other[1] <= left + 0.5
            assert beside or bottom <= other[2] + 0.5 or other[3] <= top + 0.5
    for path, node in (("layer1", "layer1.0"), ("layer1.0", "layer1/0/conv1/conv2d")):
        (outer,) = report.rectangles(f'[data-name="{path}"] > rect')
        inner = report.rectangles(f'[data-name="{node}"] > rect')[-1]
        assert outer[0] < inner[0] and inner[1] < outer[1]
        assert outer[2] < inner[2] and inner[3] < outer[3]


def test_texts_stay_in_their_boxes(captured, show):
    report = show(captured("attention"))
    assert len(report.boxes) > 3
    for name in report.boxes:
        box = f'[data-name="{name}"]'
        left, right, top, bottom = report.rectangles(f"{box} .face")[0]
        for text in report.rectangles(f"{box} text"):
            assert left <= text[0] and text[1] <= right, name
            assert top - 1 <= text[2] and text[3] <= bottom + 1, name


def test_parameters_appear_when_asked_for(captured, show):
    report = show(captured("tiny"))
    assert "conv/weight" not in report.boxes
    report.find("conv/weight")
    assert report.chosen["params"] == "108" and "conv/weight" in report.boxes
    assert report.do("document.getElementById('weights').checked") is True


def test_colours_follow_a_key(captured, show):
    report = show(captured("resnet18"))
    fill = f"getComputedStyle({report.element('conv1/conv2d')}.querySelector('.face')).fill"
    by_family = report.do(fill)
    report.choose_option("colour", "flops")
    report.settle()
    texts = report.do(f"{report.element('layer1')}.querySelector('.sub').textContent")
    assert texts == "925 MFLOP" and report.do(fill) != by_family
    options = report.do("[...document.getElementById('colour').options].map((o) => o.value)")
    assert options == ["family", "flops", "bytes", "params", "device"]


def test_the_keyboard_is_enough(captured, show):
    report = show(captured("resnet18"))
    report.do("document.getElementById('picture').focus()")
    report.find("conv1/conv2d")
    report.do("document.getElementById('picture').focus()")
    report.key("ArrowDown")
    report.settle()
    assert report.chosen["id"] == "bn1/batch_norm"
    for _ in range(3):
        report.key("ArrowDown")
    report.key("Enter")
    report.settle()
    assert report.areas == ["layer1"]
    report.page.press("Escape")
    assert "id" not in report.chosen


# -- plots and table ---------------------------------------------------------------------------


def test_plots_show_modules_and_the_peak_of_memory(captured, show):
    graph = captured("resnet18")
    report = show(graph)
    report.tab("modules")
    report.wait("document.querySelectorAll('#icicle .slice').length > 10")
    texts = report.do("document.getElementById('icicle').textContent")
    assert "layer1" in texts and "925 MFLOP" in texts and "25 %" in texts
    report.choose_option("area", "params")
    report.wait("document.getElementById('icicle').textContent.includes('8.39 M')")
    report.tab("memory")
    report.wait("!!document.querySelector('#memory-chart .annotation-text')")
    texts = report.do("document.querySelector('#memory-chart .annotation-text').textContent")
    largest = max(node["live_bytes"] for _, node in graph.nodes(data=True))
    assert largest == 53_821_088 and texts == "peak 53.8 MB at bn1/batch_norm"
    assert graph.nodes["bn1/batch_norm"]["live_bytes"] == largest


def test_intensity_is_a_histogram_until_there_are_times(captured, show):
    graph = captured("tiny")
    report = show(graph)
    assert report.do("document.getElementById('tab-roofline').textContent") == "Intensity"
    timed = graph.copy()
    for _, node in timed.nodes(data=True):
        if node["kind"] == "op":
            node.update(latency_us=12.5, bound="memory")
    report = show(timed)
    assert report.do("document.getElementById('tab-roofline').textContent") == "Roofline"
    report.tab("roofline")
    report.wait("document.querySelectorAll('#roofline-chart .point').length > 0")
    assert "memory bound" in report.do("document.getElementById('roofline-chart').textContent")
    report.find("conv/conv2d")
    assert report.chosen["latency_us"] == "12.5 µs"


def test_table_sorts_filters_and_chooses(captured, show):
    report = show(captured("resnet18"))
    report.tab("nodes")
    report.do("document.querySelector('[data-sort=flops]').click()")
    assert report.column("id")[:2] == ["conv1/conv2d", "layer1/0/conv1/conv2d"]
    assert report.column("flops")[:2] == ["236 M", "231 M"]
    report.click("document.querySelector('#grid .row')")
    assert report.chosen["id"] == "conv1/conv2d"
    report.click("document.getElementById('filter')")
    report.page.call("Input.insertText", text="layer2 conv2d flops>200M")
    assert set(report.column("id")) == {
        "layer2/0/conv2/conv2d",
        "layer2/1/conv1/conv2d",
        "layer2/1/conv2/conv2d",
    }
    report.tab("graph")
    report.settle()
    assert report.marked == "conv1/conv2d"


def test_symbolic_costs_are_expressions_and_plots_say_why_not(show):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    report = show(ta.capture(model, torch.zeros(2, 8), dynamic=["batch"]))
    report.find("0/linear")
    assert report.chosen["flops"] == "64*batch FLOP" and report.chosen["shape"] == f"batch{X}4"
    report.tab("memory")
    assert "symbolic sizes" in report.do("document.getElementById('memory-chart').innerText")
    areas = report.do("[...document.getElementById('area').options].map((o) => o.value)")
    assert areas == ["params"]
    note = report.do("document.getElementById('area-note').textContent")
    assert note.startswith("FLOPs, Bytes moved: not drawn, as they depend on symbolic sizes")
    assert report.do("document.getElementById('tab-roofline').hidden") is True


def test_a_step_of_training_falls_into_its_phases(show):
    report = show(ta.capture(*models.make("tiny"), mode="training"))
    assert {"forward pass", "backward pass"} <= set(report.boxes)
    report.do("document.getElementById('expand').click()")
    report.settle()
    assert {"forward pass", "backward pass"} <= set(report.areas)
    starts = report.do(
        "[...document.querySelectorAll('.lines path')].map((line) => line.getAttribute('d'))"
        r".map((d) => [Number(/^M[-\d.]+,([-\d.]+)/.exec(d)[1]), Number(/V([-\d.]+)$/.exec(d)[1])])"
    )
    assert len(starts) > 5 and all(top <= bottom for top, bottom in starts)


# -- safety and size ---------------------------------------------------------------------------


def test_hostile_names_are_text_in_every_view(page, show):
    graph = hostile.graph()
    for _, node in graph.nodes(data=True):
        node["params"] = 1  # so that there is an icicle of the modules
    report = show(graph)
    for name in list(graph)[:: len(graph) // 12]:
        report.do(f"location.hash = encodeURIComponent({json.dumps(name)})")
        shown = "document.querySelector('#inspector [data-key=id]')?.textContent"
        report.wait(f"{shown} === {json.dumps(name)}")
    report.find("<img")
    assert "<img src=x onerror=alert(1)>" in report.chosen["id"]
    report.do("document.getElementById('expand').click()")
    report.tab("modules")
    report.wait("!!document.querySelector('#icicle .slice')")
    assert "<b>bold</b>" in report.do("document.getElementById('icicle').textContent")
    report.tab("memory")
    report.wait("!!document.querySelector('#memory-chart .annotation-text')")
    assert report.do("document.querySelectorAll('.chart img, .chart a, .chart b').length") == 0
    report.tab("nodes")
    report.do("document.querySelector('[data-sort=id]').click()")
    assert (
        report.do("document.querySelectorAll('main img, main b, aside img, aside script').length")
        == 0
    )
    assert report.do("document.title").startswith("</title><script>alert(1)</script>")


def test_the_policy_is_in_force(page, captured, show):
    report = show(captured("tiny"))
    report.do(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.head.append(script); const box = document.createElement('div');"
        "box.setAttribute('onclick', 'window.ran = 1'); document.body.append(box); box.click()"
    )
    assert report.do("window.ran") is None
    refused = report.do("fetch('https://example.org/').then(() => false, () => true)")
    assert refused is True
    assert len(complaints(page)) >= 3 and requests(page) == []
    page.events.clear()


def test_control_flow_stands_beside_its_op(show):
    import torch
    from torch._higher_order_ops.cond import cond

    class Branch(torch.nn.Module):
        def forward(self, x):
            return cond(x.sum() > 0, lambda x: (x @ x).relu(), lambda x: x - 1, (x,))

    graph = ta.capture(Branch(), torch.ones(4, 4))
    (op,) = (name for name, node in graph.nodes(data=True) if "subgraphs" in node)
    report = show(graph)
    report.find(f"{op}#")
    report.find("matmul")
    assert report.chosen["id"].startswith(f"{op}#") and report.chosen["flops"] == "128 FLOP"


@pytest.mark.parametrize("shape", ["modules", "flat"])
def test_ten_thousand_nodes(shape, show):
    graph = synthetic.deep(10_000)
    if shape == "flat":
        for _, node in graph.nodes(data=True):
            node.update(module="", module_type="Net", module_stack=node["module_stack"][:1])
    begun = time.monotonic()
    report = show(graph)
    assert time.monotonic() - begun < 15
    assert len(report.boxes) <= 60
    frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"

    def milliseconds(script: str) -> float:
        begin, end = "const begun = performance.now()", "return performance.now() - begun"
        return report.do(f"(async () => {{ {begin}; {script}; await {frame}; {end} }})()")

    sign = "document.querySelector('.box.module .sign circle')"
    opened = milliseconds(f"{sign}.dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))")
    assert opened < 1000  # under 100 on an idle machine
    assert report.areas
    assert milliseconds("document.getElementById('expand').click()") < 3000
    report.find(list(graph)[7000])
    assert report.chosen["id"] == list(graph)[7000]
    report.tab("nodes")
    assert milliseconds("document.querySelector('[data-sort=flops]').click()") < 3000
    assert len(report.column("id")) < 100
    report.do("document.getElementById('grid-body').scrollTop = 1e9")
    last = "document.querySelector('#grid .row:last-child')?.getAttribute('aria-rowindex')"
    report.wait(f"Number({last}) > 7000")
