"""The graph as a networkx graph, its checks and its sums."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import networkx as nx
import pytest

import torchatlas as ta
from torchatlas.errors import GraphError
from torchatlas.graph import build, inputs_of, require
from torchatlas.records import OpRecord, Value
from torchatlas.schema import NODE_FIELDS, Module, TensorMeta, Use

F = TensorMeta((2, 2), "float32", "cpu", (2, 1))


def record(key, *reads, op="aten.add", storage=None, writes=(), stack=()):
    args = {
        f"a{i}": Value(*read) if isinstance(read, tuple) else Value(read)
        for i, read in enumerate(reads)
    }
    return OpRecord(
        key,
        "op" if reads else "input",
        op if reads else "",
        target=key,
        args=args,
        outputs=(F,),
        storages=(storage,),
        writes=writes,
        stack=stack,
    )


def edges(*records):
    graph, _ = build(records, name="test")
    ta.validate(graph)
    return {
        (a, b): [(u.output, u.argument) for u in e["uses"]] for a, b, e in graph.edges(data=True)
    }


def test_read_of_a_base_after_a_write_through_a_view_waits_for_it():
    found = edges(
        record("x", storage="X"),
        record("v", "x", op="t.view", storage="X"),
        record("w", "v", op="t.write_", storage="X", writes=("a0",)),
        record("r", "x", op="t.read"),
    )
    assert found["write", "read"] == [(None, "after")]
    assert found["x", "read"] == [(0, "a0")]


def test_a_write_waits_for_reads_through_other_views():
    found = edges(
        record("x", storage="X"),
        record("v", "x", op="t.view", storage="X"),
        record("r", "x", op="t.read"),
        record("w", "v", op="t.write_", storage="X", writes=("a0",)),
    )
    assert found["read", "write"] == [(None, "after")]


def test_reading_a_tensor_after_its_write_reads_what_the_write_returned():
    found = edges(
        record("x", storage="X"),
        record("w1", "x", op="t.one_", storage="X", writes=("a0",)),
        record("w2", "w1", op="t.two_", storage="X", writes=("a0",)),
        record("r", "x", "w1", op="t.read"),
    )
    assert found == {
        ("x", "one"): [(0, "a0")],
        ("one", "two"): [(0, "a0")],
        ("two", "read"): [(0, "a0"), (0, "a1")],
    }


def test_a_view_made_after_the_write_needs_no_edge_of_its_own():
    found = edges(
        record("x", storage="X"),
        record("v", "x", op="t.view", storage="X"),
        record("w", "v", op="t.write_", storage="X", writes=("a0",)),
        record("u", "x", op="t.late", storage="X"),
        record("r", "u", op="t.read"),
    )
    assert found["write", "late"] == [(None, "after")]
    assert ("write", "read") not in found


def test_separate_memory_stays_separate():
    found = edges(
        record("x", storage="X"),
        record("y", storage="Y"),
        record("w", "x", op="t.write_", storage="X", writes=("a0",)),
        record("r", "y", op="t.read"),
    )
    assert ("write", "read") not in found


def test_names_collide_without_harm():
    graph, ids = build([record("add"), record("k", "add"), record("l", "k")], name="test")
    assert list(graph) == ["add", "add_1", "add_2"] and ids["k"] == "add_1"


# -- it is a networkx graph ----------------------------------------------------------------


def test_copy_subgraph_relabel_and_pickle(captured):
    graph = captured("tiny")
    copied = graph.copy()
    assert isinstance(copied, ta.ModelGraph) and nx.utils.graphs_equal(graph, copied)
    assert copied.source is graph.source

    inside = graph.subgraph([n for n in graph if n.startswith("conv/")])
    assert isinstance(inside, ta.ModelGraph) and set(inside) == {"conv/conv2d", "conv/weight"}
    ta.validate(inside)
    assert ta.totals(inside).macs == ta.totals(graph.subgraph(["conv/conv2d"])).macs > 0

    renamed = nx.relabel_nodes(graph, {"conv/conv2d": "first"})
    assert isinstance(renamed, ta.ModelGraph)
    ta.validate(renamed)
    assert inputs_of(renamed, "norm/batch_norm")["input"] == ("first", 0)
    assert ta.totals(renamed).peak_bytes == ta.totals(graph).peak_bytes
    assert replace(ta.totals(renamed), peak=None) == replace(ta.totals(graph), peak=None)

    for again in (pickle.loads(pickle.dumps(graph)), copy.copy(graph)):
        assert isinstance(again, ta.ModelGraph) and nx.utils.graphs_equal(graph, again)
    assert pickle.loads(pickle.dumps(graph)).source is None


def test_algorithms_apply(captured):
    graph = captured("resnet18")
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.has_path(graph, "x", "output")
    flops = nx.get_node_attributes(graph, "flops")
    assert max(flops, key=flops.get) in flops


# -- validate, require, totals -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.nodes["mean"].pop("op"), "'op' is missing"),
        (lambda g: g.nodes["mean"].update(colour="red"), "'colour' is not in the schema"),
        (lambda g: g.nodes["mean"].update(flops=-1), "'flops' has the value -1"),
        (lambda g: g.nodes["mean"].update(flops=1.5), "'flops' has the value 1.5"),
        (lambda g: g.nodes["mean"].update(kind="box"), "'kind'"),
        (lambda g: g.nodes["mean"].update(outputs=[F]), "'outputs'"),
        (lambda g: g.nodes["mean"].update(module_stack=(("", "Tiny"),)), "'module_stack'"),
        (lambda g: g.add_edge("mean", "x", uses=(Use(0, "a"),), bytes=0), "against the order"),
        (lambda g: g.edges["mean", "head/linear"].update(uses=()), "no uses"),
        (lambda g: g.edges["mean", "head/linear"].update(uses=(Use(3, "input"),)), "output 3"),
        (lambda g: g.graph.pop("name"), "'name' is missing"),
    ],
)
def test_validate_names_what_is_wrong(change, message, captured):
    graph = captured("tiny").copy()
    change(graph)
    with pytest.raises(GraphError, match=message):
        ta.validate(graph)


def test_require_names_who_writes_the_key():
    graph, _ = build([record("x"), record("y", "x")], name="test")
    with pytest.raises(GraphError, match=r"annotations\.flops writes it"):
        require(graph, "flops")
    ta.annotate(graph)
    require(graph, "flops")


def test_every_key_is_declared_with_its_writer():
    for key, field in NODE_FIELDS.items():
        writers = ("frontends", "graph", "annotations", "measurements", "transforms")
        assert field.doc and field.by.partition(".")[0] in writers, key


def test_unknown_costs_are_listed_and_never_zero():
    graph, _ = build([record("x"), record("y", "x", op="mylib.strange")], name="test")
    ta.annotate(graph)
    assert graph.nodes["strange"]["flops"] is None
    found = ta.totals(graph)
    assert found.unknown == {"mylib.strange": 1} and found.coverage == 0.0
    assert "unknown: mylib.strange x1" in str(found)


def test_a_module_in_the_stack_is_the_innermost():
    stack = (Module("", "Net"), Module("a", "Block"))
    graph, _ = build([record("x"), record("y", "x", stack=stack)], name="test")
    assert graph.nodes["a/add"]["module"] == "a"
    assert graph.nodes["a/add"]["module_type"] == "Block"
