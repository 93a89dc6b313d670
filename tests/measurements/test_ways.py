"""The model compiled, or as a CUDA graph: that it is, what that leaves behind, and how it fails."""

from __future__ import annotations

import gc
import logging
import os
import sys
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import torchatlas as ta
from torchatlas.frontends import torch_api
from torchatlas.frontends.replay import Program
from torchatlas.frontends.set_up import threads
from torchatlas.measurements.sampling import sample
from torchatlas.measurements.values import generators_kept, ready, stand_ins
from torchatlas.measurements.ways import time_ways
from torchatlas.schema import Timing


def timed(model, *args, ways=("compile",), seconds=0.05, **options):
    with torch.no_grad(), generators_kept():
        sampler = lambda call: sample(call, seconds=seconds)  # noqa: E731
        return time_ways(lambda: model(*args), ways, sampler, **options)


@pytest.fixture(autouse=True)
def no_limits():
    """A compiler that is as it came: what a test compiles is forgotten."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def backend(monkeypatch):
    """A compiler that takes no time: it counts the graphs that it gets, and runs them."""
    graphs = []

    def compile(function, **options):
        def count(module, inputs):
            graphs.append(module)
            return lambda *args: (graphs.append("run"), module(*args))[1]

        return original(function, backend=count, **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    return graphs


class Pointwise(nn.Module):
    def forward(self, x):
        for _ in range(8):
            x = torch.sin(x) * 1.1 + x.cos().exp()
        return x


class Broken(nn.Module):
    """One that torch.compile takes apart into two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.linear(x).sin()
        torch._dynamo.graph_break()
        return x.cos()


# -- compiled ------------------------------------------------------------------------------------


def test_what_is_made_of_small_ops_gets_faster():
    model, x = Pointwise(), torch.randn(200, 500)
    eager, compiled = [], []
    with threads(1):
        for _ in range(3):  # the least of three, because of what else runs on the machine
            eager.append(sample(lambda: model(x), seconds=0.2).median)
            (found,) = timed(model, x, seconds=0.2)
            compiled.append(found.median_us)
    assert (found.way, found.error, found.note) == ("compile", "", "")
    assert 0 < min(compiled) < 0.8 * min(eager)
    assert found.p90_us >= found.median_us and found.samples >= 3


def test_what_is_timed_is_compiled_every_time(backend):
    """Though torch gives up after eight compilations of one function, and says nothing."""
    for size in range(1, 11):
        backend.clear()
        (found,) = timed(nn.Linear(size, 2), torch.randn(3, size))
        compiled = [graph for graph in backend if graph != "run"]
        assert (found.error, len(compiled)) == ("", 1)
        assert backend.count("run") > 4


def test_what_the_compiler_leaves_alone_is_no_compiled_model():
    @torch.compiler.disable
    def plain(x):
        return x + 1

    (found,) = timed(plain, torch.ones(3))
    assert found.median_us is None
    assert found.error == "torch.compile compiled nothing of the model, which ran as it is written"


def test_it_is_compiled_whatever_the_stance(backend):
    with torch.compiler.set_stance("force_eager"):
        (found,) = timed(nn.ReLU(), torch.ones(3))
        assert found.error == "" and "run" in backend
        backend.clear()
        torch.compile(nn.ReLU())(torch.ones(3))
        assert not backend


def test_a_compiled_function_of_the_user_stays_compiled(backend):
    model, runs = Broken(), []

    def own(module, inputs):
        runs.append("compiled")
        return module.forward

    x = torch.randn(2, 4)
    compiled = torch._dynamo.optimize(own)(model)
    compiled(x)
    assert runs == ["compiled"] * 2
    timed(model, x)
    timed(Broken(), torch.randn(3, 4))
    compiled(x)
    assert runs == ["compiled"] * 2


def test_what_python_runs_between_is_compiled_every_time_too(backend):
    """And by the user afterwards: torch gives up the code of a model after eight times as well."""
    for size in range(2, 11):
        (found,) = timed(Broken(), torch.randn(size, 4), seconds=0.0, warmup=0)
        assert (found.error, found.note) == ("", "2 graphs, with Python in between")
    counted = torch_api.Compilations()
    torch.compile(Broken())(torch.randn(2, 4))
    assert (counted.graphs, counted.left) == (2, 0)


def test_settings_are_as_before(backend):
    config = torch._dynamo.config
    before = {name: getattr(config, name) for name in SETTINGS}
    timed(nn.ReLU(), torch.ones(3))
    assert {name: getattr(config, name) for name in SETTINGS} == before


SETTINGS = (
    "recompile_limit",
    "accumulated_recompile_limit",
    "fail_on_recompile_limit_hit",
    "suppress_errors",
    "automatic_dynamic_shapes",
)


def test_nothing_is_left_on_the_model():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            self.seen = x
            return self.norm(x) * self.calls

    model = Counts().train()
    graph = ta.capture(model, torch.randn(3, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = {path: set(vars(part)) for path, part in model.named_modules()}
    ids = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    kept = []
    with generators_kept(), torch.no_grad():
        program = Program(graph.source, gradients=False, make=stand_ins())
        start = {name: value.clone() for name, value in program.inputs.items()}

        def set_back():
            for name, value in start.items():
                program.inputs[name].copy_(value)

        with ready(graph.source, program.copies) as call:
            kept.append(weakref.ref(model.norm.weight))
            (found,) = time_ways(
                call, ["compile"], lambda c: sample(c, seconds=0.05), set_back=set_back
            )
    assert (found.error, found.note) == ("", "")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {n: id(value) for n, value in model.state_dict(keep_vars=True).items()} == ids
    assert {path: set(vars(part)) for path, part in model.named_modules()} == held
    assert "forward" not in vars(model) and type(model) is Counts
    program.inputs.clear()
    program.copies = call = set_back = None
    gc.collect()
    assert kept[0]() is None  # the copies of the weights are given back


def children():
    found = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = process.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append(process)
    return set(found)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_is_left_behind():
    from torch._inductor import async_compile

    async_compile.shutdown_compile_workers()
    before = children()
    with torch_api.compiling(lambda: None):
        async_compile.AsyncCompile.process_pool()
        assert children() - before
    assert children() == before


def test_workers_that_were_there_before_stay(monkeypatch):
    from torch._inductor import async_compile

    class Pool:
        def shutdown(self):
            raise AssertionError

    monkeypatch.setattr(async_compile, "_pool_set", {Pool()})
    with torch_api.compiling(lambda: None):
        pass
    assert len(async_compile._pool_set) == 1


def test_nothing_is_printed(capfd):
    logger = logging.getLogger("torch._inductor.compile_fx")
    timed(Broken(), torch.randn(2, 4), seconds=0.0)
    assert not logger.disabled
    assert capfd.readouterr() == ("", "")


# -- what differs ----------------------------------------------------------------------------


def test_other_outputs_are_said(monkeypatch):
    def compile(function, **_):
        def wrong(module, inputs):
            return lambda *args: [x * 1.25 if x.dtype != torch.bool else x for x in module(*args)]

        return torch._dynamo.optimize(wrong)(function)

    monkeypatch.setattr(torch, "compile", compile)
    (found,) = timed(nn.Linear(4, 4), torch.randn(2, 4))
    assert found.note == "its outputs differ from the model's by 25 %" and found.median_us > 0
    (found,) = timed(nn.Linear(4, 4).bfloat16(), torch.randn(2, 4).bfloat16())
    assert "its outputs differ" in found.note
    (found,) = timed(lambda x: (x > 0, x.new_full((2,), float("inf"))), torch.randn(2, 4))
    assert found.note == ""


def test_random_outputs_are_not_compared(backend):
    (found,) = timed(nn.Dropout(0.5).train(), torch.ones(100))
    assert (found.error, found.note) == ("", "")


def test_every_call_sees_the_same_tensors(backend):
    x, seen = torch.ones(3), []

    def grow(x):
        seen.append(float(x[0]))
        return x.mul_(10.0)

    def set_back():
        x.fill_(1)

    def sampler(call):
        set_back()
        return sample(call, steps=1, seconds=0)

    with torch.no_grad():
        (found,) = time_ways(
            lambda: torch.compiler.disable(grow)(x.sin_().asin_().round_()),
            ["compile"],
            lambda call: sampler(call),
            set_back=set_back,
            warmup=2,
        )
    assert (found.error, found.note) == ("", "")
    assert seen[:6] == [1.0] * 6  # the first call, three that are compared, two to warm up


# -- failing -----------------------------------------------------------------------------------


def test_without_a_compiler_for_cpp_an_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "no-compiler")))
    with torch._inductor.config.patch(force_disable_caches=True):
        (found,) = timed(Pointwise(), torch.randn(3, 77))
    assert found == Timing(
        "compile",
        None,
        error="there is no C++ compiler that torch.compile could use: install g++, or set CXX",
    )


def test_a_failing_way_leaves_the_others(monkeypatch):
    def compile(function, **_):
        def fail(module, inputs):
            raise ValueError("no such luck\nin line 3")

        return torch._dynamo.optimize(fail)(function)

    monkeypatch.setattr(torch, "compile", compile)
    found = timed(nn.ReLU(), torch.ones(3), ways=("compile", "cuda-graph"))
    assert found == (
        Timing("compile", None, error="ValueError: no such luck"),
        Timing("cuda-graph", None, error="a CUDA graph needs a CUDA device, and this is cpu"),
    )


# -- CUDA graphs -------------------------------------------------------------------------------


class Recorded:
    """Stands in for `torch.cuda`, and writes down what happens in which order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.on = "main"

    def log(self, event):
        self.events.append(f"{event} on {self.on}")

    @contextmanager
    def running_on(self, where):
        before, self.on = self.on, where
        yield
        self.on = before

    def install(self, monkeypatch):
        outer = self

        class Stream:
            def __init__(self, name="side"):
                self.name = name

            def wait_stream(self, other):
                outer.events.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self):
                outer.log("replay")

        stand_ins = {
            "device": lambda place: outer.running_on("main"),
            "Stream": Stream,
            "current_stream": lambda: Stream("main"),
            "stream": lambda stream: outer.running_on(stream.name),
            "CUDAGraph": Graph,
            "graph": lambda graph: outer.running_on("the graph"),
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)


def test_a_cuda_graph_is_recorded_once_and_replayed(monkeypatch):
    cuda = Recorded()
    cuda.install(monkeypatch)
    out = torch.ones(2)
    (found,) = time_ways(
        lambda: cuda.log("call") or out,
        ["cuda-graph"],
        lambda call: (cuda.events.append("timed"), sample(call, steps=1))[1],
        device="cuda:0",
        set_back=lambda: cuda.log("set back"),
        warmup=2,
    )
    assert (found.error, found.note) == ("", "") and found.median_us is not None
    before, _, after = " ".join(cuda.events).partition(" timed ")
    warm = ["set back on side", "call on side"] * 3
    assert before.startswith(
        " ".join(["side waits for main", *warm, "set back on side", "main waits for side", ""])
        + "call on the graph set back on main"
    )
    assert before.count("on the graph") == 1 and before.endswith("replay on main")
    assert set(after.split(" replay")) <= {"replay on main", " on main", ""}


@pytest.mark.cuda
def test_a_cuda_graph_makes_what_the_model_makes():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).cuda().eval()
    x = torch.randn(4, 64, device="cuda")
    found = timed(model, x, ways=("compile", "cuda-graph"), device="cuda")
    assert [(t.error, t.note) for t in found] == [("", "")] * 2
    assert all(t.median_us > 0 for t in found)
