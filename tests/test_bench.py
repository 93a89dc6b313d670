"""Benchmarks of one model: that figures fit each other, what is written, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas import devices
from torchatlas.annotations.achieved import achieved
from torchatlas.benches.describe import describe
from torchatlas.benches.model import Plan, bench_module, benchmark, parse_ways
from torchatlas.benches.ranking import top_modules
from torchatlas.benches.result import Benchmark, from_json, to_json
from torchatlas.benches.tables import WIDTH, Report
from torchatlas.cli import main
from torchatlas.frontends import set_up
from torchatlas.graph import op_nodes
from torchatlas.schema import Measured, Timing

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.inner(x)

class Fails(nn.Module):
    def forward(self, x):
        return x @ torch.zeros(7, 7)
"""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.up(self.norm(x)).relu()


class Stack(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(16) for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(16, 4), nn.ReLU())

    def forward(self, x, ids):
        for block in self.blocks:
            x = block(x)
        return self.head(x) + ids


def stack() -> ta.ModelGraph:
    return ta.capture(Stack(), (torch.randn(6, 16), torch.zeros(6, 4, dtype=torch.int64)))


@pytest.fixture
def measured() -> ta.ModelGraph:
    """A graph with latencies as a GPU run would leave them: 10 µs an op, 25 of a Linear."""
    graph = stack()
    for _, node in op_nodes(graph):
        node["latency_us"] = 25.0 if node["op"] == "aten.linear" else 10.0
        node["kernels"] = (f"kernel_of_{node['op'].rpartition('.')[2]}",)
    total = sum(node["latency_us"] for _, node in op_nodes(graph))
    graph.graph["measured"] = Measured(
        device="cuda:0",
        device_name="NVIDIA H200",
        median_us=total + 50.0,
        iqr_us=4.0,
        p90_us=total + 60.0,
        residual_us=50.0,
        samples=30,
        steps=20,
        torch="2.15.0",
        unstable=("blocks/1/up/linear",),
        launches=17,
        peak_bytes=123_456,
        others=(
            Timing("compile", (total + 50.0) / 4, 30.0, 80.0, 12, note="2 graphs"),
            Timing(
                "cuda-graph",
                None,
                error="operation not permitted \x1b[1m\nwhen stream is capturing",
            ),
        ),
    )
    return graph


# -- the result ----------------------------------------------------------------------------


def test_what_a_measured_graph_says(measured):
    found = describe(measured)
    run = measured.graph["measured"]
    assert (found.device, found.device_name, found.batch) == ("cuda:0", "NVIDIA H200", 6)
    assert (found.model, found.dtype, found.torch) == ("Stack", "float32", "2.15.0")
    assert found.params == 3 * (32 + 16 * 17) + 16 * 4 + 4
    assert found.flops == 3 * 2 * 6 * 16 * 16 + 2 * 6 * 16 * 4
    assert (found.launches, found.peak_bytes) == (17, 123_456)
    assert found.predicted_peak_bytes == ta.totals(measured).peak_bytes
    assert found.sum_us + found.residual_us == pytest.approx(run.median_us)
    # The blocks are a chain, and every op on it; the sum of the inputs is not another branch.
    assert found.critical_path_us == pytest.approx(found.sum_us)


def test_ways_stand_beside_each_other(measured):
    eager, compiled, graph = describe(measured).runs
    assert [run.way for run in (eager, compiled, graph)] == ["eager", "compile", "cuda-graph"]
    assert eager.throughput == pytest.approx(6e6 / eager.median_us)
    assert compiled.throughput == pytest.approx(4 * eager.throughput)
    assert (eager.speedup, compiled.speedup) == (1.0, pytest.approx(4.0))
    assert compiled.mfu == pytest.approx(4 * eager.mfu)
    assert eager.stable and not compiled.stable  # 30 µs of about 60
    assert graph.median_us is graph.throughput is graph.speedup is graph.mfu is None
    assert "capturing" in graph.error


def test_limits_by_hand(measured):
    found = describe(measured)
    h200 = devices.find("NVIDIA H200")
    median = found.eager.median_us
    assert found.limits.device == "H200"
    assert found.limits.mfu == pytest.approx(found.flops / h200.matrix["float32"] / median * 1e6)
    assert found.limits.mfu == found.eager.mfu
    # All ops are as small as a launch, but for none.
    ops = sum(1 for _ in op_nodes(measured))
    assert found.limits.roofline_us == pytest.approx(ops * h200.launch_us)
    assert found.limits.bounds == {"launch": pytest.approx(ops * h200.launch_us)}
    assert found.limits.roofline_share == found.limits.roofline_us / median
    whole = achieved(measured, h200).total
    assert found.limits.bandwidth_share == whole.bandwidth_share


def test_top_nodes_are_the_longest(measured):
    found = describe(measured, top=4)
    assert [node.op for node in found.nodes] == ["aten.linear"] * 4
    assert [node.stable for node in found.nodes] == [True, False, True, True]
    first = found.nodes[0]
    assert first.id == "blocks/0/up/linear" and first.kernels == ("kernel_of_linear",)
    assert first.share == pytest.approx(25 / found.sum_us)
    assert first.bound == "launch"
    assert first.roofline_share == pytest.approx(devices.find("H200").launch_us / 25)
    everything = describe(measured, top=1000)
    assert sum(node.share for node in everything.nodes) == pytest.approx(1)


@pytest.mark.parametrize("top", [1, 2, 3, 5, 8, 1000])
def test_top_modules_take_the_model_apart(measured, top):
    rows = top_modules(measured, top)
    assert len(rows) <= top
    assert [row.latency_us for row in rows] == sorted((r.latency_us for r in rows), reverse=True)
    assert sum(row.share for row in rows) <= 1 + 1e-9
    if top >= 1000:
        assert sum(row.share for row in rows) == pytest.approx(1)
        assert sum(row.ops for row in rows) == ta.totals(measured).ops
        assert {(row.path, row.own): row.count for row in rows} == {
            ("blocks.*.norm", False): 3,
            ("blocks.*.up", False): 3,
            ("blocks.*", True): 3,  # the sum and the ReLU that it calls itself
            ("head.0", False): 1,
            ("head.1", False): 1,
            ("", True): 1,
        }


def test_a_module_that_takes_most_is_taken_apart():
    graph = stack()
    for _, node in op_nodes(graph):
        node["latency_us"] = 1.0  # 12 of 15 in the blocks
    rows = top_modules(graph, 3)
    assert (rows[0].path, rows[0].own, rows[0].ops) == ("blocks.*", True, 6)
    assert "blocks.*" not in {row.path for row in rows if not row.own}


def test_modules_of_other_classes_do_not_stand_together():
    graph = ta.capture(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.zeros(1, 4)
    )
    for _, node in op_nodes(graph):
        node["latency_us"] = 1.0
    rows = {(row.path, row.type.rpartition(".")[2], row.count) for row in top_modules(graph, 9)}
    assert rows == {("*", "Linear", 2), ("1", "ReLU", 1)}


def test_a_device_that_is_not_known(measured):
    before = measured.graph["measured"]
    measured.graph["measured"] = dataclasses.replace(before, device_name="Riva 128")
    found = describe(measured)
    assert found.limits is None and found.eager.mfu is None
    assert found.nodes[0].bound is None and found.nodes[0].roofline_share is None
    assert found.modules[0].roofline_share is None
    assert "torchatlas calibrate --device cuda:0" in found.notes[0]
    text = str(Report(found))
    assert "roofline" not in text and "MFU" not in text and "calibrate" in text


def test_limits_that_are_too_low_are_doubted(measured):
    rates = {"float32": 1e6}
    slow = devices.Device("slow", rates, rates, bandwidth=1e12)
    found = describe(measured, limits=slow)
    assert found.limits.mfu > 1 and "busy machine, or products of float32" in found.notes[0]
    told = describe(measured, limits=slow, tf32=True)
    assert "TF32" not in told.notes[0] and told.limits.tf32 and not found.limits.tf32
    narrow = dataclasses.replace(slow, matrix={"float32": 1e15}, vector={"float32": 1e15})
    narrow = dataclasses.replace(narrow, bandwidth=1e7)
    found = describe(measured, limits=narrow)
    assert found.limits.roofline_share > 1 and "Caches" in found.notes[0]
    assert describe(measured).notes == ()


def test_an_op_without_a_known_limit_leaves_the_whole_unknown(measured):
    mine = devices.Device("mine", {"float64": 1e12}, {"float32": 1e12}, bandwidth=1e11)
    found = describe(measured, limits=mine)
    assert found.limits.untimed == {"aten.linear": 4}
    assert found.limits.roofline_us is found.limits.roofline_share is found.limits.mfu is None
    assert "aten.linear x4" in str(Report(found))


def test_a_training_step_has_phases():
    graph = ta.capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.ones(3, 4), mode="training")
    for _, node in op_nodes(graph):
        node["latency_us"] = 3.0
    count = {"forward": 0, "backward": 0}
    for _, node in op_nodes(graph):
        count[node["phase"]] += 1
    timed = 3.0 * sum(count.values())
    graph.graph["measured"] = Measured(
        *("cpu", "a CPU", timed + 9.0, 1.0, timed, 9.0, 20, 20), mode="training"
    )
    found = describe(graph)
    assert found.mode == "training" and found.batch == 3
    assert found.phases == {name: 3.0 * n for name, n in count.items()}
    text = str(Report(found))
    assert f"forward {3 * count['forward']} µs, backward {3 * count['backward']} µs" in text


def test_json_comes_back(measured):
    found = describe(measured)
    content = to_json(found)
    assert from_json(content) == found and to_json(from_json(content)) == content
    told = json.loads(content)
    assert list(told)[:2] == ["format", "schema"]
    assert list(told)[2:] == [field.name for field in dataclasses.fields(Benchmark)]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no benchmark"),
        (b"[1]", "does not say"),
        (b'{"format": "torchatlas benchmark", "schema": 99}', "version 99"),
        (b'{"format": "torchatlas benchmark", "schema": 1}', "model"),
    ],
)
def test_other_files_are_refused(content, why):
    with pytest.raises(ta.AtlasError, match=why):
        from_json(content)


def test_a_graph_that_was_not_measured():
    with pytest.raises(ta.AtlasError, match="not measured"):
        describe(stack())


# -- how it reads --------------------------------------------------------------------------


def test_the_report_fits_and_marks_what_is_unstable(measured):
    text = str(Report(describe(measured, model="hf:\x1b[31m" + "long" * 40)))
    assert "\x1b" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    compiled = next(line for line in lines if line.startswith("compile"))
    assert "~" in compiled and "4.00x" in compiled
    eager = next(line for line in lines if line.startswith("eager"))
    assert "~" not in eager
    assert any(line.startswith("cuda-graph") and "failed" in line for line in lines)
    assert any("stream is capturing" in line for line in lines)
    assert any(line.split() == ["compile", "2", "graphs"] for line in lines)
    assert "38.4 M" in eager  # 9984 FLOP in 260 µs
    assert "blocks.*.up x3" in text and "17 launches" in text


def test_hostile_and_long_names_are_cut_to_the_width():
    model = nn.Sequential()
    model.add_module("[bold]" + "very_long_name_" * 8, nn.Linear(4, 4))
    graph = ta.capture(model, torch.zeros(1, 4))
    found, _ = benchmark(graph, steps=3, limits="cpu")
    text = str(Report(found))
    assert "[bold]" in text and "…" in text
    assert max(map(len, text.splitlines())) <= WIDTH


# -- one model, measured -------------------------------------------------------------------


def test_figures_of_a_real_run_fit_each_other():
    graph = stack()
    found, timed = benchmark(graph, steps=20, warmup=1, limits="cpu", top=1000)
    run = timed.graph["measured"]
    assert found.eager.median_us == run.median_us and found.eager.samples == run.samples
    assert found.eager.throughput == pytest.approx(6e6 / run.median_us)
    assert found.sum_us == pytest.approx(sum(node.latency_us for node in found.nodes))
    assert sum(node.share for node in found.nodes) == pytest.approx(1)
    assert sum(row.share for row in found.modules) == pytest.approx(1)
    assert found.limits.roofline_share == pytest.approx(found.limits.roofline_us / run.median_us)
    assert 0 < found.critical_path_us <= found.sum_us * (1 + 1e-9)
    assert "latency_us" not in graph.nodes["head/0/linear"]  # the graph given is left alone
    assert timed.nodes["head/0/linear"]["roofline_us"] > 0


def test_a_model_without_ops():
    found, _ = benchmark(ta.capture(nn.Identity(), torch.zeros(2, 3)), steps=3, limits="cpu")
    assert found.ops == 0 and found.nodes == found.modules == ()
    assert found.limits is None and found.critical_path_us is None and found.dtype == "float32"
    assert "no node has a measured time" in str(Report(found))


def test_inputs_without_a_dimension_count_runs():
    found, _ = benchmark(ta.capture(nn.ReLU(), torch.tensor(1.0)), steps=3)
    assert found.batch == 1


def test_a_plan_sets_type_and_threads():
    model, x = nn.Linear(8, 8), torch.randn(4, 8)
    before = torch.get_num_threads()
    plan = Plan(dtype="bfloat16", threads=1, steps=3, limits="cpu")
    found, timed = bench_module(model, x, plan)
    assert (found.dtype, found.threads, found.model) == ("bfloat16", 1, "Linear")
    assert timed.nodes["linear"]["outputs"][0].dtype == "bfloat16"
    assert torch.get_num_threads() == before and x.dtype is torch.float32


def test_what_is_no_floating_point_number_keeps_its_type():
    model = Stack(1)
    example = {"x": torch.randn(6, 16), "ids": torch.zeros(6, 4, dtype=torch.int64)}
    model, example = set_up.converted(model, example, "float16")
    assert (example["x"].dtype, example["ids"].dtype) == (torch.float16, torch.int64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def test_ways():
    assert parse_ways("cuda-graph, eager,compile,compile") == ("compile", "cuda-graph")
    with pytest.raises(ta.AtlasError, match="no way 'jit'"):
        parse_ways("eager,jit")


# -- the command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("net") / "bench_net.py"
    path.write_text(NET)
    return str(path)


def run(monkeypatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["torchatlas", "bench", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_prints_and_writes(net, tmp_path, monkeypatch, capsys):
    out, page = tmp_path / "net.json", tmp_path / "net.graph.json"
    mine = tmp_path / "mine.json"
    rates = {"float32": 1e12}
    devices.save(devices.Device("my machine", rates, rates, bandwidth=1e11), mine)
    args = ("--input", "5x32", "--arg", "width=16", "--steps", "5", "--top", "2", "--threads", 1)
    files = ("--limits", mine, "--json", out, "--graph", page)
    assert run(monkeypatch, f"{net}:Net", *args, *files) == 0
    text, errors = capsys.readouterr()
    assert f"wrote {out}" in text and f"wrote {page}" in text and errors == ""
    found = from_json(out.read_bytes())
    assert (found.model, found.batch, found.threads) == (f"{net}:Net", 5, 1)
    assert found.flops == 2 * 5 * (32 * 16 + 16 * 4)
    assert found.limits.device == "my machine" and "my machine" in text
    assert len(found.nodes) == len(found.modules) == 2
    assert found.nodes[0].id in text
    # The graph has what the report page shows.
    node = ta.load(page).nodes[found.nodes[0].id]
    assert node["latency_us"] == found.nodes[0].latency_us and node["roofline_us"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.json",
        "net.graph.json",
        "net.json",
    ]


def test_a_training_step_is_measured(net, monkeypatch, capsys, tmp_path):
    out = tmp_path / "out.json"
    args = ("--input", "5x32", "--steps", 3, "--mode", "training", "--json", out, "--top", 1000)
    assert run(monkeypatch, f"{net}:Net", *args) == 0
    found = from_json(out.read_bytes())
    assert found.mode == "training" and found.eager.median_us > 0
    assert list(found.phases) == ["forward", "backward"]
    assert sum(found.phases.values()) == pytest.approx(found.sum_us)
    # The gradients of both weights, and of what lies between them; not that of the input.
    forward = 2 * 5 * (32 * 8 + 8 * 4)
    assert found.flops == 2 * forward + 2 * 5 * 8 * 4
    assert "training, warm cache" in capsys.readouterr().out


def test_a_processor_says_how_to_calibrate(net, monkeypatch, capsys):
    assert run(monkeypatch, f"{net}:Net", "--input", "5x32", "--steps", "3") == 0
    assert "torchatlas calibrate --device cpu --out mine.json" in capsys.readouterr().out


INPUT = ("--input", "5x32", "--steps", "3")
FAILURES = [
    (("{net}:Net", *INPUT, "--compare", "eager,jit"), 2, "no way 'jit'"),
    (("{net}:Net", *INPUT, "--device", "cuda:99"), 2, "no device 'cuda:99' here"),
    (("{net}:Net", *INPUT, "--device", "gpu"), 2, "no device 'gpu'"),
    (("{net}:Net", *INPUT, "--limits", "Riva 128"), 2, "'Riva 128' is not known"),
    (("{net}:Net", *INPUT, "--limits", "{tmp}/none.json"), 1, "cannot read"),
    (("{net}:Net", *INPUT, "--json", "{tmp}/none/out.json"), 1, "cannot write"),
    (("{net}:Net", *INPUT, "--graph", "{tmp}/graph.docx"), 2, "no format has the suffix"),
    (("{net}:Net", *INPUT, "--json", "{tmp}/a.json", "--graph", "{tmp}/a.json"), 2, "one file"),
    (("{net}:Net", *INPUT, "--dtype", "int8"), 2, "'int8' is no data type of weights"),
    (("{net}:Net", *INPUT, "--cache", "lukewarm"), 2, "no cache 'lukewarm'"),
    (("{net}:Net", *INPUT, "--mode", "dream"), 2, "no mode 'dream'"),
    (("{net}:Nought", *INPUT), 2, "has no 'Nought'"),
    (("{net}:Net", "--input", "5x32", "--steps", "0"), 2, "--steps"),
    (("{net}:Net", "--input", "5x31", "--steps", "3"), 1, "float32[5, 31]"),
    (("{net}:Fails", *INPUT), 1, "matmul(float32[5, 32], float32[7, 7])"),
]


@pytest.mark.parametrize(("args", "status", "why"), FAILURES)
def test_failures(args, status, why, net, tmp_path, monkeypatch, capsys):
    filled = [arg.format(net=net, tmp=tmp_path) for arg in args]
    assert run(monkeypatch, *filled) == status
    out, errors = capsys.readouterr()
    assert why in errors and "Traceback" not in errors
    assert out == "" and not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "not said what to measure"),
        (("a:b", "--zoo", "timm"), "exclude"),
        (("a:b", "--filter", "resnet*"), "--filter goes with --zoo"),
        (("a:b", "--list"), "--list goes with --zoo"),
        (("--zoo", "timm", "--input", "1x3"), "--input goes with MODEL"),
        (("--zoo", "timm", "--json", "a.json"), "--json goes with MODEL"),
        (("--zoo", "timm", "--limits", "Riva 128"), "'Riva 128' is not known"),
        (("--zoo", ","), "no zoo is named"),
    ],
)
def test_options_that_do_not_go_together(args, why, monkeypatch, capsys):
    assert run(monkeypatch, *args) == 2
    out, errors = capsys.readouterr()
    assert why in errors and out == ""


def test_the_command_runs_a_zoo(monkeypatch, capsys, tmp_path):
    asked = {}

    class Done:
        exit_code = 1

        def table(self):
            return "the table"

        def markdown(self):
            return "the page µ"

    def run_zoo(zoos, plan, **options):
        asked.update(zoos=zoos, plan=plan, **options)
        return Done()

    monkeypatch.setattr("torchatlas.benches.zoo.run_zoo", run_zoo)
    page = tmp_path / "page.md"
    args = ("--zoo", "torchvision, timm", "--filter", "resnet*", "--compare", "eager,compile")
    assert run(monkeypatch, *args, "--sample", 3, "--retry", "--page", page) == 1
    assert "the table" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == "the page µ"
    assert asked["zoos"] == ["torchvision", "timm"]
    assert asked["plan"] == Plan(compare=("compile",))
    assert (asked["filter"], asked["sample"], asked["retry"]) == ("resnet*", 3, True)
    assert (asked["batch"], asked["timeout"], asked["out"]) == (None, 300.0, None)


def test_a_batch_is_made_of_the_example(net, monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    shape = ("--input", "5x32", "--batch", 7)
    assert run(monkeypatch, f"{net}:Net", *shape, "--steps", 3, "--json", out) == 0
    found = from_json(out.read_bytes())
    assert found.batch == 7 and found.flops == 2 * 7 * (32 * 8 + 8 * 4)


# -- other ways, other devices -------------------------------------------------------------


def test_a_way_that_does_not_work_is_shown_and_spoils_nothing(net, monkeypatch, capsys, tmp_path):
    out = tmp_path / "out.json"
    args = ("--input", "5x32", "--steps", 3, "--compare", "eager,cuda-graph", "--json", out)
    assert run(monkeypatch, f"{net}:Net", *args) == 0
    eager, graph = from_json(out.read_bytes()).runs
    assert eager.median_us > 0 and graph.way == "cuda-graph" and graph.median_us is None
    assert "needs a CUDA device" in graph.error
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["cuda-graph", "failed"] for line in lines)


def test_a_gpu_is_captured_for_and_measured_on(monkeypatch):
    """What is handed on for a GPU, with a stand-in for the run on it."""
    asked = {}

    def on_gpu(graph, example=None, **options):
        asked.update(options)
        timed = graph.copy()
        for _, node in op_nodes(timed):
            node["latency_us"] = 20.0
        timed.graph["measured"] = Measured(
            *("cuda:1", "NVIDIA A100-SXM4-80GB", 25.0, 1.0, 26.0, 5.0, 20, 20), threads=1
        )
        return timed

    monkeypatch.setattr("torchatlas.frontends.set_up.existing_device", lambda text: "cuda:1")
    monkeypatch.setattr("torchatlas.benches.model.measure", on_gpu)
    model, x = nn.Linear(64, 64, bias=False), torch.randn(8, 64)
    plan = Plan(device="cuda:1", dtype="bfloat16", compare=("compile",), steps=20, cache="cold")
    found, timed = bench_module(model, x, plan)
    assert asked.pop("device") == "cuda:1" and asked.pop("compare") == ("compile",)
    assert asked == {"steps": 20, "warmup": 3, "cache": "cold", "strict": False}
    assert {node["outputs"][0].device for _, node in op_nodes(timed)} == {"cuda:1"}
    assert model.weight.device.type == "cpu"  # the copy goes there when it is measured
    assert found.limits.device == "A100 SXM 80GB" and found.dtype == "bfloat16"
    assert found.limits.mfu == pytest.approx(2 * 8 * 64 * 64 / 312e12 / 25e-6)
    assert "NVIDIA A100-SXM4-80GB, cuda:1" in str(Report(found))


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["forward", "training"])
def test_a_run_on_a_gpu(mode):
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024))
    plan = Plan(device="cuda", mode=mode, steps=20)
    found, _ = bench_module(model, torch.randn(256, 1024), plan)
    assert found.device == "cuda:0" and found.launches >= 3 and found.peak_bytes > 0
    assert found.nodes[0].kernels and sum(node.share for node in found.nodes) <= 1 + 1e-9


def test_a_graph_that_the_device_contradicts_is_benchmarked_and_noted():
    graph = stack()
    name = "head/1/relu"
    (said,) = graph.nodes[name]["outputs"]
    graph.nodes[name]["outputs"] = (dataclasses.replace(said, shape=(6, 5)),)
    found, timed = benchmark(graph, steps=2)
    assert timed.graph["contradicted"] == (name,)
    assert any(note.startswith(f"Of {name} the graph has another shape") for note in found.notes)
    assert found.eager.median_us > 0
