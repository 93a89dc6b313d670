"""Tables: one row a node, numbers that add up, and no formula from a name."""

from __future__ import annotations

import csv
import io
import sys

import pytest
import torch

import hostile
import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.errors import MissingExtraError, UsageError
from torchatlas.exporters import table
from torchatlas.graph import build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta
from torchatlas.sums import SUMMED

LIBRARIES = pytest.mark.parametrize("library", ["pandas", "polars"])


def read(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def unknown():
    """Return a graph of which one op has no known cost, and one has."""
    out = TensorMeta((2,))
    first = OpRecord("a", "op", op="my.op", outputs=(out,))
    relu = {"op": "aten.relu", "tags": ("pointwise",), "outputs": (out,)}
    second = OpRecord("b", "op", args={"self": Value("a")}, **relu)
    return annotate(build([first, second], name="M")[0])


# -- data frames -------------------------------------------------------------------------------


@LIBRARIES
@pytest.mark.parametrize("name", [*models.SMALL, "resnet18"])
def test_one_row_a_node_and_sums_that_are_the_totals(library, name, captured):
    pytest.importorskip(library)
    graph = captured(name)
    frame = graph.to_frame(library)
    ids = list(frame.index) if library == "pandas" else frame["id"].to_list()
    assert ids == list(graph)
    found = ta.totals(graph)
    for key in SUMMED:
        if key in frame.columns:
            assert frame[key].sum() == getattr(found, key)


def test_columns_are_keys_with_types(captured):
    pytest.importorskip("pandas")
    frame = captured("tiny").to_frame()
    assert frame.index.name == "id"
    row = frame.loc["conv/conv2d"]
    assert row["flops"] == 27648 and row["op"] == "aten.conv2d" and row["device"] == "cpu"
    assert row["shape"] == "2x4x8x8" and row["dtype"] == "float32" and row["module"] == "conv"
    assert str(frame["flops"].dtype) == "Int64" and str(frame["op"].dtype) == "string"
    assert frame["flops"].isna().loc["conv/weight"] and frame["params"].isna().loc["conv/conv2d"]
    assert frame.groupby("module_type")["params"].sum()["torch.nn.modules.linear.Linear"] == 25


@LIBRARIES
def test_unknown_is_missing_and_not_zero(library):
    pytest.importorskip(library)
    frame = unknown().to_frame(library)
    assert frame["flops"].to_list()[1] == 0
    missing = frame["flops"].isna() if library == "pandas" else frame["flops"].is_null()
    assert missing.to_list() == [True, False]
    whole = unknown()
    for node in whole.nodes:
        whole.nodes[node]["flops"] = None
    assert "flops" in whole.to_frame(library).columns


@LIBRARIES
def test_symbolic_counts_are_text(library):
    pytest.importorskip(library)
    graph = ta.capture(torch.nn.Linear(8, 4), torch.zeros(2, 8), dynamic=["batch"])
    frame = graph.to_frame(library)
    flops = dict(zip(graph, frame["flops"].to_list(), strict=True))
    assert flops["linear"] == "64*batch"
    shapes = dict(zip(graph, frame["shape"].to_list(), strict=True))
    assert shapes["linear"] == "batchx4"
    assert graph.nodes["weight"]["params"] == frame["params"].to_list()[list(graph).index("weight")]


@LIBRARIES
def test_numbers_that_no_integer_holds_are_floats(library):
    pytest.importorskip(library)
    graph = unknown()
    graph.nodes["relu"]["flops_other"] = 2**70
    assert graph.to_frame(library)["flops_other"].to_list()[-1] == float(2**70)


def test_graphs_of_every_kind_have_frames(captured):
    pytest.importorskip("pandas")
    training = ta.capture(models.Tiny(), torch.randn(2, 3, 8, 8), mode="training")
    frame = training.to_frame()
    assert set(frame["phase"]) == {"forward", "backward"}
    assert frame.loc["gradient/conv/weight", "gradient_of"] == "conv/weight"
    small = ta.collapse(captured("tiny"), 1).to_frame()
    assert small.loc["conv", "contains"] == "aten.conv2d x1"
    assert len(hostile.graph().to_frame()) == len(hostile.graph())
    assert list(ta.ModelGraph(schema=1, name="M").to_frame().columns)[:2] == ["shape", "dtype"]


def test_no_library(captured, monkeypatch):
    with pytest.raises(UsageError, match="no library 'numpy'"):
        captured("tiny").to_frame("numpy")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="'pandas', which is not installed"):
        captured("tiny").to_frame("pandas")
    pytest.importorskip("polars")
    assert captured("tiny").to_frame().columns[0] == "id"
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match="'pandas', which is not installed"):
        captured("tiny").to_frame()


# -- CSV ---------------------------------------------------------------------------------------


def test_csv_comes_back(captured):
    graph = captured("resnet18")
    rows = read(table.csv(graph))
    assert [row["id"] for row in rows] == list(graph)
    assert sum(int(row["flops"] or 0) for row in rows) == ta.totals(graph).flops
    assert next(row for row in rows if row["id"] == "conv1/weight")["flops"] == ""


def test_no_field_is_a_formula():
    graph = hostile.graph()
    for name in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"):
        graph.add_node(name, **{**graph.nodes["node"], "index": len(graph), "target": name})
    content = table.csv(graph)
    rows = read(content)
    assert len(rows) == len(graph)
    texts = [value for row in rows for value in row.values() if value]
    assert not any(text.lstrip().startswith(("=", "+", "-", "@")) for text in texts)
    assert "'=1+1" in [row["id"] for row in rows]
    assert all(line.isprintable() for line in content.decode().split("\n"))


# -- Markdown ----------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_markdown_has_modules_and_nodes(captured):
    text = table.markdown(captured("resnet18")).decode()
    title, said, modules, nodes = text.rstrip().split("\n\n")
    assert title == "# `ResNet`" and "11.7 M parameters" in said
    found = {cells(line)[0]: cells(line) for line in modules.split("\n")}
    assert found["`layer1/0`"][:4] == ["`layer1/0`", "`BasicBlock`", "1x64x56x56", "7"]
    assert found["`layer1/0`"][4:6] == ["74 k", "462 MFLOP"]
    assert "`layer1/0/conv1`" not in found
    names = [cells(line)[0] for line in nodes.split("\n")[2:]]
    assert names == [f"`{name}`" for name in captured("resnet18")]


def test_markdown_of_less(captured):
    text = table.markdown(captured("resnet18"), depth=1, nodes=False).decode()
    assert "`layer1`" in text and "layer1/0" not in text
    with pytest.raises(UsageError, match="is no depth"):
        table.markdown(captured("tiny"), depth=-1)


def test_markdown_says_what_is_unknown():
    text = table.markdown(unknown()).decode()
    assert "unknown: my.op x1" in text and "0 FLOP +?" in text
    assert cells(next(line for line in text.split("\n") if line.startswith("| `op`")))[-1] == "?"


def test_hostile_names_stay_in_their_cells():
    for graph in (hostile.graph(), ta.capture(*models.hostile())):
        graph.graph["name"] = "`evil` | <script>\n# heading"
        text = table.markdown(graph, depth=9).decode()
        title, said, modules, nodes = text.rstrip().split("\n\n")
        for block in (modules, nodes):
            lines = [cells(line) for line in block.split("\n")]
            assert {len(line) for line in lines} == {7}
            for line in lines[2:]:
                assert all("<" not in cell or cell.startswith("`") for cell in line)
                assert all(cell.count("`") in (0, 2) for cell in line)
        assert len(nodes.split("\n")) == len(graph) + 2
        assert title.count("`") == 2 and "\n" not in title
        assert "<" not in said.replace("\\<", "")


def test_stacks_of_hostile_types():
    stack = (Module("", "Net"), Module("a|b`c", "x.<script>|`"))
    record = OpRecord("a", "op", op="my.op|`<b>", outputs=(TensorMeta((2,)),), stack=stack)
    graph = annotate(build([record], name="M")[0])
    lines = table.markdown(graph).decode().split("\n")
    assert {len(cells(line)) for line in lines if line.startswith("|")} == {7}
