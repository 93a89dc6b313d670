"""Event files of TensorBoard, read back; tests/viewers looks at the page itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hostile
import models
import torchatlas as ta
from extras import package
from torchatlas.errors import UsageError
from torchatlas.exporters import tensorboard_events
from torchatlas.exporters.tensorboard_names import escape


def events(content: bytes, tmp_path):
    """Return the events in a file, read by TensorBoard itself."""
    loader = package("tensorboard.backend.event_processing.event_file_loader")
    path = tmp_path / "events.out.tfevents.test"
    path.write_bytes(content)
    return list(loader.RawEventFileLoader(str(path)).Load())


def parsed(raw):
    """Return the GraphDef and, by tag, the RunMetadata in a list of serialised events."""
    event_pb2 = package("tensorboard.compat.proto.event_pb2")
    graph_pb2 = package("tensorboard.compat.proto.graph_pb2")
    config_pb2 = package("tensorboard.compat.proto.config_pb2")
    graphs, tagged = [], {}
    for event in map(event_pb2.Event.FromString, raw):
        if event.HasField("graph_def"):
            graphs.append(graph_pb2.GraphDef.FromString(event.graph_def))
        if event.HasField("tagged_run_metadata"):
            entry = event.tagged_run_metadata
            tagged[entry.tag] = config_pb2.RunMetadata.FromString(entry.run_metadata)
    (graph,) = graphs
    return graph, tagged


@pytest.fixture
def read(tmp_path):
    """A function that renders a graph and reads it: nodes by name, and stats by tag and name."""

    def read(graph, **options):
        made, tagged = parsed(events(tensorboard_events.render(graph, **options), tmp_path))
        nodes = {node.name: node for node in made.node}
        assert len(nodes) == len(made.node)
        stats = {
            tag: {s.node_name: s for device in run.step_stats.dev_stats for s in device.node_stats}
            for tag, run in tagged.items()
        }
        return nodes, stats

    return read


def source(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]


@pytest.mark.parametrize("name", models.SMALL)
def test_names_are_ids_and_inputs_are_edges(name, captured, read):
    graph = captured(name)
    nodes, stats = read(graph)
    assert set(nodes) == set(graph)
    edges = {(source(value), n) for n, node in nodes.items() for value in node.input}
    assert edges == set(graph.edges)
    assert all(set(found) == set(graph) for found in stats.values())


def test_a_node_tells_its_costs_shapes_and_device(captured, read):
    nodes, _ = read(captured("tiny"))
    conv = nodes["conv/conv2d"]
    assert conv.op == "aten.conv2d" and conv.device == "/device:cpu:0"
    assert list(conv.input) == ["x", "conv/weight"]
    assert conv.attr["flops"].i == 27648 and conv.attr["id"].s == b"conv/conv2d"
    assert conv.attr["module_type"].s == b"torch.nn.modules.conv.Conv2d"
    (shape,) = conv.attr["_output_shapes"].list.shape
    assert [dim.size for dim in shape.dim] == [2, 4, 8, 8]
    assert nodes["conv/weight"].op == "Const.parameter"


def test_symbolic_sizes_are_open_and_unknown_is_said(read):
    graph = ta.capture(nn.Linear(4, 8), torch.randn(2, 4), dynamic=["batch"])
    nodes, stats = read(graph)
    (shape,) = nodes["linear"].attr["_output_shapes"].list.shape
    assert [dim.size for dim in shape.dim] == [-1, 8]
    assert nodes["linear"].attr["flops"].s == b"64*batch"
    assert list(stats) == ["memory only"]


def test_flops_stand_for_time_under_a_tag_that_says_so(captured, read):
    _, stats = read(captured("resnet18"))
    (tag,) = stats
    assert tag == "FLOPs as time: 1 us stands for 1 kFLOP"
    conv = stats[tag]["conv1/conv2d"]
    assert conv.all_end_rel_micros == 236028 and conv.memory[0].total_bytes == 4 * 64 * 112 * 112
    assert all(found.all_start_micros > 0 for found in stats[tag].values())


def test_measured_times_come_first_then_estimates(captured, read):
    graph = captured("tiny").copy()
    for _, node in graph.nodes(data=True):
        node["roofline_us"] = 3.0
    _, stats = read(graph)
    assert list(stats) == ["roofline estimate", "FLOPs as time: 1 us stands for 1 FLOP"]
    graph.nodes["conv/conv2d"]["latency_us"] = 0.25
    _, stats = read(graph)
    assert next(iter(stats)) == "measured latency" and "roofline estimate" not in stats
    times = {name: found.all_end_rel_micros for name, found in stats["measured latency"].items()}
    assert times.pop("conv/conv2d") == 1 and set(times.values()) == {0}


def test_a_second_call_has_a_scope_and_its_id(captured, read):
    nodes, _ = read(captured("resnet18"))
    mark = nodes["layer1/0/relu/relu_1"]
    drawn = nodes["layer1/0/relu (call 2)/relu_1"]
    assert mark.op == "Const.id" and mark.attr["drawn_as"].s.decode() == drawn.name
    assert list(drawn.input) == ["layer1/0/add", "layer1/0/relu/relu_1"]
    assert drawn.attr["id"].s == b"layer1/0/relu/relu_1" and drawn.op == "aten.relu_"
    assert nodes["layer1/1/conv1/conv2d"].input[0] == drawn.name


def test_the_backward_pass_has_a_scope_in_front_of_the_id(read):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = ta.capture(model, torch.randn(3, 4), mode="training")
    nodes, _ = read(graph)
    assert "backward/1/threshold_backward" in nodes
    assert all(any(name.endswith(node) for name in nodes) for node in graph)


def test_parameters_and_lines_of_code_are_options(captured, read):
    nodes, _ = read(captured("tiny"), parameters=False)
    assert "conv/weight" not in nodes and list(nodes["conv/conv2d"].input) == ["x"]
    graph = ta.capture(*models.make("tiny"), include_source=True)
    nodes, _ = read(graph)
    assert "source" not in nodes["conv/conv2d"].attr
    nodes, _ = read(graph, include_source=True)
    assert b"models.py:" in nodes["conv/conv2d"].attr["source"].s


def test_hostile_names_are_escaped_and_stand_in_an_attribute(read):
    graph = hostile.graph()
    nodes, _ = read(graph)
    found = {node.attr["id"].s.decode() for node in nodes.values()}
    assert found == set(graph)
    for name, node in nodes.items():
        assert not set(name) & set('"\\:^\n') and "//" not in name and name.strip("/ ") != ""
        assert {source(value) for value in node.input} <= set(nodes)
        assert len(node.attr["op"].s) < 1024 and node.op not in ("constructor", "__proto__")


def test_escaped_names_are_those_that_need_it():
    assert escape("layer1/0/relu (call 2)/relu") == "layer1/0/relu (call 2)/relu"
    assert escape("toString") == "toString_"


def test_missing_package_says_what_to_install(captured, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ta.AtlasError, match=r"torchatlas\[tensorboard\]"):
        tensorboard_events.render(captured("tiny"))


# -- writers -----------------------------------------------------------------------------------


def test_summary_writer_takes_the_graph(captured, tmp_path):
    package("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 0.5, 1)
        ta.add_graph(writer, captured("tiny"))
    (path,) = tmp_path.iterdir()
    loader = package("tensorboard.backend.event_processing.event_file_loader")
    graph, tagged = parsed(loader.RawEventFileLoader(str(path)).Load())
    assert {node.name for node in graph.node} == set(captured("tiny"))
    assert list(tagged) == ["FLOPs as time: 1 us stands for 1 FLOP"]


class Logger:
    """As Lightning's loggers: the writer is the experiment."""

    def __init__(self) -> None:
        self.events = []
        self.experiment = self

    def add_event(self, event, step=None, walltime=None):
        self.events.append(event)


def test_a_logger_takes_the_graph(captured):
    logger = Logger()
    ta.add_graph(logger, captured("tiny"), parameters=False)
    graph, _ = parsed(event.SerializeToString() for event in logger.events)
    assert "conv/conv2d" in {node.name for node in graph.node}


def test_what_takes_no_events_is_an_error(captured):
    with pytest.raises(UsageError, match="no writer of events"):
        ta.add_graph(object(), captured("tiny"))

    class Strict:
        def add_event(self, event, step=None):
            raise TypeError("expected an event_pb2.Event proto")

    with pytest.raises(UsageError, match=r"Strict does not take.*\n.*tfevents"):
        ta.add_graph(Strict(), captured("tiny"))
