"""The report: one file, whole, private and safe, quickly written; `tests/viewers` opens it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import sys
import time
from html import unescape
from html.parser import HTMLParser

import pytest
import torch

import hostile
import models
import synthetic
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.errors import MissingExtraError, UsageError
from torchatlas.exporters import html_report, render
from torchatlas.graph import build, in_order
from torchatlas.memory import PURPOSES, lifetimes, timeline
from torchatlas.modules import module_tree
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Decision, Measured, TensorMeta, Timing

TIMES = "\N{MULTIPLICATION SIGN}"


class Reader(HTMLParser):
    """Takes a page apart: its elements with their attributes, and the text in each script."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        self._inside = found.get("id") or tag if tag in ("script", "style", "title") else ""

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data

    @property
    def data(self):
        return json.loads(self.texts["data"])

    @property
    def policy(self) -> dict[str, list[str]]:
        metas = (found for tag, found in self.elements if tag == "meta")
        text = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
        return {name: rest for name, *rest in (part.split() for part in text.split("; "))}


def column(data, key):
    """Return what every node has under a key, as the page reads it."""
    packed = data["columns"][key]
    values = packed["values"]
    if packed["type"] == "text":
        values = [False if i < 0 else data["strings"][i] for i in values]
    elif "expressions" in packed:
        few = packed["expressions"]
        values = [few[-1 - v] if isinstance(v, int) and v < 0 else v for v in values]
    if "at" not in packed:
        return values
    dense = [False] * len(data["nodes"]["id"])
    for i, value in zip(packed["at"], values, strict=True):
        dense[i] = value
    return dense


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# -- what it holds -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.SMALL)
def test_every_node_has_its_facts(name, captured):
    graph = captured(name)
    data = Reader(html_report.render(graph)).data
    nodes = dict(in_order(graph))
    assert [n for n in data["nodes"]["id"] if "#" not in n] == list(nodes)
    place = {node: i for i, node in enumerate(data["nodes"]["id"])}
    for key in ("op", "kind", "flops", "bytes_read", "params", "live_bytes", "device"):
        if key not in data["columns"]:
            assert not any(key in node for node in nodes.values())
            continue
        found = column(data, key)
        for node, facts in nodes.items():
            assert found[place[node]] == facts.get(key, False), (node, key)


def test_shapes_and_arguments(captured):
    data = Reader(html_report.render(captured("tiny"))).data
    node = data["nodes"]["id"].index("conv/conv2d")
    (made,) = data["nodes"]["outputs"][node]
    shape, dtype, device, stride, size = data["tensors"][made]
    assert shape == [2, 4, 8, 8] and stride == [256, 64, 8, 1] and size == 2 * 4 * 8 * 8 * 4
    assert (data["strings"][dtype], data["strings"][device]) == ("float32", "cpu")
    texts = [data["strings"][i] for i in data["arguments"][data["nodes"]["args"][node]]]
    arguments = dict(zip(texts[::2], texts[1::2], strict=True))
    assert arguments["padding"] == "[1, 1]" and "weight" not in arguments


def test_edges_and_their_uses(captured):
    graph = captured("regions")
    data = Reader(html_report.render(graph)).data
    ids, edges = data["nodes"]["id"], data["edges"]
    found = set()
    for source, target, how in zip(edges["source"], edges["target"], edges["how"], strict=True):
        flat = edges["uses"][how]
        for output, argument in zip(flat[::2], flat[1::2], strict=True):
            found.add((ids[source], ids[target], output, data["strings"][argument]))
    assert found == {
        (source, target, -1 if use.output is None else use.output, use.argument)
        for source, target, edge in graph.edges(data=True)
        for use in edge["uses"]
    }


@pytest.mark.parametrize("name", ["tiny", "in_place_views", "regions"])
def test_memory_adds_up_to_live_bytes(name, captured):
    graph = captured(name)
    data = Reader(html_report.render(graph)).data
    memory = data["memory"]
    assert tuple(memory["purposes"]) == PURPOSES
    in_use = [0] * len(graph)
    for size, first, last in zip(memory["bytes"], memory["first"], memory["last"], strict=True):
        for i in range(first, last + 1):
            in_use[i] += size
    expected = dict(timeline(lifetimes(graph)))
    assert in_use == [expected[name] for name in data["nodes"]["id"]]


def test_memory_of_control_flow_counts_its_bodies():
    from torch._higher_order_ops.cond import cond

    class Branch(torch.nn.Module):
        def forward(self, x):
            return cond(x.sum() > 0, lambda x: (x @ x).relu() + 1, lambda x: x - 1, (x,))

    graph = ta.capture(Branch(), torch.ones(4, 4))
    data = Reader(html_report.render(graph)).data
    op = next(name for name, node in graph.nodes(data=True) if "subgraphs" in node)
    at = data["nodes"]["id"].index(op)
    memory = data["memory"]
    rows = zip(memory["bytes"], memory["first"], memory["last"], strict=True)
    assert sum(b for b, first, last in rows if first <= at <= last) == graph.nodes[op]["live_bytes"]
    inside = [name for name in data["nodes"]["id"] if name.startswith(f"{op}#")]
    assert any(name.endswith("matmul") for name in inside)
    assert all(column(data, "first_use")[data["nodes"]["id"].index(n)] is False for n in inside)


def test_symbolic_costs_are_expressions():
    class Net(torch.nn.Sequential):
        pass

    model = Net(torch.nn.Linear(8, 4), torch.nn.ReLU())
    graph = ta.capture(model, torch.zeros(2, 8), dynamic=["batch"])
    page = html_report.render(graph)
    data = Reader(page).data
    assert column(data, "flops")[data["nodes"]["id"].index("0/linear")] == "64*batch"
    assert data["sums"]["0"]["flops"] == "64*batch"
    assert "symbolic" in data["memory"]
    assert "64*batch FLOP" in page.decode() and "batch: at least 1" in page.decode()


def test_unknown_cost_is_null_and_said():
    out = (TensorMeta((2, 4)),)
    records = [OpRecord("x", "input", target="x", outputs=out)]
    records += [OpRecord("y", "op", op="my.op", args={"x": Value("x")}, outputs=out)]
    page = html_report.render(annotate(build(records, name="Net")[0]))
    data = Reader(page).data
    assert column(data, "flops") == [False, None]
    assert "The cost of 1 op is unknown" in page.decode() and f"my.op {TIMES}1" in page.decode()
    assert "cost known of 0% of ops" in page.decode()


def test_totals_and_modules_stand_without_javascript(captured):
    page = html_report.render(captured("resnet18")).decode()
    text = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "3.63 GFLOP" in text and "11.7 M" in text and "53.8 MB" in text
    row = re.search(r'<tr[^>]*><td title="layer1">layer1</td>(.*?)</tr>', text)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1])
    assert cells == [
        "Sequential",
        TIMES.join(["1", "64", "56", "56"]),
        "14",
        "148 k",
        "925 M",
        "24.7 MB",
        "25.5%",
    ]


def test_the_table_of_modules_keeps_the_outer_ones(monkeypatch, captured):
    from torchatlas.exporters import report_summary

    monkeypatch.setattr(report_summary, "MAX_ROWS", 12)
    lines, left_out = report_summary.module_lines(module_tree(captured("resnet18")), "ResNet")
    assert len(lines) == 12 and left_out > 10
    paths = [line.path for line in lines]
    assert paths.index("layer4") < paths.index("fc") and "layer1.0" in paths


def test_notes_name_what_was_assumed(captured):
    graph = captured("tiny").copy()
    graph.graph.update(
        specialised=True,
        decisions=(Decision("net.py:12", "aten.item", "3"),),
        attempts=("export: ValueError: no /home/someone/deep/net.py here (at net.py:9)",),
        dropped={"aten.detach": 3},
        constraints=(),
    )
    text = unescape(html_report.render(graph).decode())
    assert "aten.item → 3" in text and f"aten.detach {TIMES}3" in text
    assert "export: ValueError: no net.py here<" in text
    assert "/home/someone" not in text and "net.py:" not in text
    assert "net.py:12: aten.item -> 3" in unescape(
        html_report.render(graph, include_source=True).decode()
    )


def test_measured_keys_are_passed_on(captured):
    graph = captured("tiny").copy()
    graph.nodes["conv/conv2d"].update(latency_us=12.5, statistics={"mean": 0.5}, when=(1, "a"))
    data = Reader(html_report.render(graph)).data
    at = data["nodes"]["id"].index("conv/conv2d")
    assert column(data, "latency_us")[at] == 12.5 and data["fields"]["latency_us"]["unit"] == "µs"
    assert column(data, "statistics")[at] == {"mean": 0.5} and column(data, "when")[at] == [1, "a"]
    assert column(data, "latency_us")[at + 1] is False


def test_measured_times_stand_beside_the_totals(captured):
    graph = captured("tiny").copy()
    graph.graph["measured"] = Measured(
        "cuda:0", "<b>GPU", 1500.0, 400.0, 1600.0, 100.0, 20, 20, peak_bytes=3_000_000,
        others=(Timing("compile", 750.0, 1.0, 760.0, 20, note="2 graphs"),
                Timing("cuda-graph", None, error="it does not")),
    )  # fmt: skip
    page = html_report.render(graph).decode()
    assert "&lt;b&gt;GPU" in page and "<b>GPU" not in page
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert "Measured 1.5 ms on <b>GPU, IQR 400 µs, unstable" in text
    assert "Compiled 750 µs 2 graphs Measured peak 3 MB allocated" in text
    assert "CUDA graph" not in text.partition("Graph Modules")[0]


# -- safety ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hostile.graph, lambda: ta.capture(*models.hostile())])
def test_hostile_names_stay_data(make):
    graph = make()
    page = html_report.render(graph)
    found = Reader(page)
    scripts = [attrs for tag, attrs in found.elements if tag == "script"]
    assert [attrs.get("id") for attrs in scripts] == ["data", "plotly", None]
    assert {tag for tag, _ in found.elements}.isdisjoint({"img", "iframe", "b", "a", "link"})
    assert not [a for _, attrs in found.elements for a in attrs if a.startswith("on")]
    assert found.data["nodes"]["id"] == [name for name, _ in in_order(graph)]
    block = re.search(rb'id="data">(.*?)</script>', page, re.S)[1]
    assert b"x" * 1000 not in page
    assert not re.search(rb"[<>&]", block) and "\u2028".encode() not in block


def test_policy_allows_what_is_there_and_nothing_else(captured):
    found = Reader(html_report.render(captured("tiny")))
    plotly = gzip.decompress(base64.b64decode(found.texts["plotly"])).decode()
    assert found.policy == {
        "default-src": ["'none'"],
        "script-src": [sha256(found.texts["script"]), sha256(plotly)],
        "style-src": [sha256(found.texts["style"]), sha256("")],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert "\r" not in found.texts["script"] and "\r" not in found.texts["style"]


def test_nothing_points_out_of_the_file(captured):
    page = html_report.render(captured("tiny"))
    for tag, attrs in Reader(page).elements:
        assert not attrs.keys() & {"src", "href", "style", "action", "srcset"}, (tag, attrs)
    own = re.sub(rb'id="plotly">.*?</script>', b"", page, flags=re.S)
    addresses = set(re.findall(rb"https?://[^\s\"'<]+", own))
    assert addresses == {b"http://www.w3.org/2000/svg"}


def test_scripts_never_read_text_as_markup():
    script = html_report._script()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in script
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", script)


def test_lines_of_code_only_on_request(captured):
    graph = captured("tiny").copy()
    graph.nodes["conv/conv2d"]["source"] = "nets/small.py:41"
    assert b"small.py" not in html_report.render(graph)
    data = Reader(html_report.render(graph, include_source=True)).data
    assert column(data, "source")[data["nodes"]["id"].index("conv/conv2d")] == "nets/small.py:41"


# -- the file ----------------------------------------------------------------------------------


def test_rendering_leaves_the_graph_alone_and_repeats(captured):
    graph = captured("regions")
    before = render(graph, "json")[0]
    first = html_report.render(graph)
    assert render(graph, "json")[0] == before and html_report.render(graph) == first


def test_small_enough():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.resnet50(weights=None)
    graph = ta.capture(model, torch.zeros(1, 3, 224, 224, device="meta"))
    assert len(html_report.render(graph)) < 3_000_000


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_missing_package_names_the_extra(package, monkeypatch, captured):
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.offline", None)
    html_report._plotly.cache_clear()
    html_report._template.cache_clear()
    with pytest.raises(MissingExtraError, match=r"torchatlas\[report\]") as caught:
        html_report.render(captured("tiny"))
    assert caught.value.package == package


def test_unknown_option(captured):
    with pytest.raises(UsageError, match="include_source"):
        render(captured("tiny"), "html", colour="red")


def test_an_empty_graph_has_a_page():
    graph = build([], name="Nothing")[0]
    assert Reader(html_report.render(graph)).data["nodes"]["id"] == []


def test_ten_thousand_nodes_in_three_seconds():
    graph = synthetic.deep(10_000)
    assert len(graph) == 9_998
    begun = time.process_time()
    page = html_report.render(graph)
    assert time.process_time() - begun < 3
    assert len(page) < 6_000_000
