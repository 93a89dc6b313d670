"""Recording what `torch.compile` makes: graphs as captured, breaks, recompilations, no traces."""

from __future__ import annotations

import gc
import inspect
import re
import runpy
import textwrap
import threading
import tomllib
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import models
import torchatlas as ta
from torchatlas import compiled
from torchatlas.frontends import dynamo, torch_api
from torchatlas.frontends.example import arguments
from torchatlas.graph import op_nodes

INSTALLED = "torchatlas" in torch._dynamo.list_backends()
BACKEND = "torchatlas" if INSTALLED else compiled.backend
PRINT, ITEM, BRANCH = (
    "Failed to trace builtin operator",
    "Tensor.item()",
    "Data-dependent branching",
)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    ta.recorded().clear()
    torch.manual_seed(0)


def ops(*graphs, phase=None):
    """How often each op stands in each module."""
    nodes = (node for graph in graphs for _, node in op_nodes(graph))
    return Counter((n["module"], n["op"]) for n in nodes if phase in (None, n["phase"]))


def line_of(function, text):
    """The line of the file on which `text` stands in `function`."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Printing(Two):
    def forward(self, x):
        x = self.first(x)
        print("in between")
        return self.second(x)


class Repeated(nn.Module):
    """A break in each of two blocks; called one by one, so that no loop is left to eager."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Printing(), Printing()])

    def forward(self, x):
        x = self.layers[0](x)
        return self.layers[1](x)


class Breaking(nn.Module):
    """Three deliberate breaks, the first inside a submodule."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Printing(), nn.Linear(4, 2)
        self.register_buffer("scale", torch.full((4,), 0.5))

    def forward(self, batch):
        x = self.block(batch["x"]) * self.scale
        if x.sum() > 0:
            x = x * 2
        peak = x.max().item()
        return self.head(x) * peak


# -- graphs --------------------------------------------------------------------------------


def test_the_backend_is_an_entry_point():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["torch_dynamo_backends"]["torchatlas"]
    module, _, function = named.partition(":")
    assert module == compiled.__name__ and getattr(compiled, function) is compiled.backend


@pytest.mark.skipif(not INSTALLED, reason="torchatlas runs from its folder, not installed")
def test_the_backend_is_found_by_its_name():
    torch.compile(Two(), backend="torchatlas")(torch.randn(2, 4))
    assert len(ta.recorded().compilations) == 1


@pytest.mark.parametrize("name", [n for n in models.SMALL if n not in ("lstm", "shared_and_tied")])
def test_a_whole_graph_is_the_captured_graph(name):
    model, example = models.make(name)
    args, kwargs = arguments(model, example)
    with ta.recording() as found:
        torch.compile(model, backend=BACKEND)(*args, **kwargs)
    [one] = found.compilations
    ta.validate(one.forward)
    captured = ta.capture(model, example, frontend="trace")
    assert one.forward.graph["attempts"] == ()
    assert ops(one.forward) == ops(captured)
    assert ta.totals(one.forward).macs == ta.totals(captured).macs
    assert found.breaks == found.recompilations == ()


def test_nodes_have_the_names_of_the_model():
    with ta.recording() as found:
        found.run(Breaking(), {"x": torch.randn(2, 4)})
    first = found.graphs[0]
    assert list(first)[:4] == ["block/first/weight", "block/first/bias", "x", "block/first/linear"]
    assert first.nodes["block/first/weight"]["kind"] == "parameter"
    node = first.nodes["block/first/linear"]
    assert [m.path for m in node["module_stack"]] == ["", "block", "block.first"]
    assert node["module_type"] == "torch.nn.modules.linear.Linear"
    line = line_of(Printing.forward, "self.first(x)")
    assert node["source"].endswith(f"test_dynamo.py:{line}")
    assert (node["flops"], node["phase"]) == (2 * 2 * 4 * 4, "forward")
    scaled = next(graph for graph in found.graphs if "scale" in graph)
    assert scaled.nodes["scale"]["kind"] == "buffer"
    assert scaled.graph["modules"]["head"] == "torch.nn.modules.linear.Linear"


def test_the_parts_of_a_broken_model_are_the_whole():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Printing(), nn.Linear(4, 2)

        def forward(self, x):
            x = self.block(x)
            print("and here")
            return self.head(x)

    model, example = Outer(), torch.randn(2, 4)
    with ta.recording() as found, torch.no_grad():
        found.run(model, example)
    whole = ta.capture(model, example, frontend="trace")
    assert len(found.graphs) == 3 and ops(*found.graphs) == ops(whole)
    assert sum(ta.totals(graph).macs for graph in found.graphs) == ta.totals(whole).macs
    assert sum(ta.totals(graph).params for graph in found.graphs) == ta.totals(whole).params


def test_a_graph_that_serves_twice_is_one():
    with ta.recording() as found, torch.no_grad():
        found.run(Repeated(), torch.randn(2, 4))
    assert [next(iter(graph)) for graph in found.graphs] == [
        "layers/0/first/weight",
        "layers/0/second/weight",
    ]


def test_inputs_are_called_by_their_arguments():
    def step(model, batch, *rest, scale):
        return model(batch["x"]) * rest[0] * scale

    with ta.recording() as found:
        found.run(step, Two(), {"x": torch.randn(2, 4)}, torch.ones(4), scale=torch.ones(()))
        found.run(nn.Sequential(nn.ReLU()), torch.randn(2, 4))
    step_graph, sequential = found.compilations
    kinds = {name: n["kind"] for name, n in step_graph.forward.nodes(data=True)}
    assert [n for n, kind in kinds.items() if kind == "input"] == ["batch/x", "rest/0", "scale"]
    assert kinds["model/first/weight"] == "parameter"
    assert step_graph.forward.nodes["model/first/linear"]["module"] == "model.first"
    assert list(sequential.forward) == ["input", "0/relu", "output"]
    assert sequential.function == "Sequential.forward"


def test_hostile_names_stay_names():
    model, example = models.hostile()
    with ta.recording() as found:
        found.run(model, example)
    [one] = found.compilations
    ta.validate(one.forward)
    assert ops(one.forward) == ops(ta.capture(model, example, frontend="trace"))
    assert not set("\x1b\x00\u202e") & set(str(found))


@pytest.mark.parametrize("training", [True, False])
def test_results_and_gradients_are_eagers(training):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten()
    ).train(training)
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    results = []
    for run in (model, torch.compile(model, backend=BACKEND)):
        torch.manual_seed(1)
        y = run(x)
        y.square().sum().backward()
        leaves = [*model.parameters(), x]
        results.append([y.detach().clone(), *(leaf.grad.clone() for leaf in leaves)])
        for leaf in leaves:
            leaf.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -- the backward pass ---------------------------------------------------------------------

LOSS = Counter({("", "aten.ones_like"): 1, ("", "aten.expand"): 1})
"""What differentiating the sum adds, which is the loss of a training graph by default."""


@pytest.mark.parametrize("name", ["tiny", "residual"])
def test_the_backward_graph_is_that_of_a_training_step(name):
    model, example = models.make(name)
    with ta.recording() as found:
        torch.compile(model, backend=BACKEND)(example)
    [one] = found.compilations
    ta.validate(one.backward)
    step = ta.capture(model, example, mode="training")
    assert ops(one.backward, phase="backward") + LOSS == ops(step, phase="backward")
    gradients = {name for name in step if name.startswith("gradient/")}
    assert {name for name in one.backward if name.startswith("gradient/")} == gradients
    assert gradients == {f"gradient/{n.replace('.', '/')}" for n, _ in model.named_parameters()}
    assert found.graphs == (one.forward, one.backward)


def test_the_backward_graph_reads_what_was_saved():
    with ta.recording() as found:
        found.run(Two(), torch.randn(2, 4))
    backward = found.compilations[0].backward
    assert backward.nodes["tangent/output"]["phase"] == "backward"
    assert backward.nodes["saved/relu"]["kind"] == "input"
    assert backward.nodes["second/weight"]["kind"] == "parameter"
    assert {n["phase"] for _, n in op_nodes(backward) if n["op"] != "aten.t"} == {"backward"}
    assert backward.nodes["threshold_backward"]["module"] == ""
    assert backward.nodes["first/mm"]["module"] == "first"


def test_an_activation_may_be_changed_in_place_after_a_break():
    class InPlace(Two):
        def forward(self, x):
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x.relu_())

    with ta.recording() as found:
        found.run(InPlace(), torch.randn(2, 4))
    second = found.compilations[1]
    assert second.failure == "" and "gradient/x" in second.backward
    assert "clone" not in second.backward and "saved/relu" in second.backward


def test_without_gradients_there_is_no_backward_graph():
    with ta.recording() as found, torch.no_grad():
        found.run(Two(), torch.randn(2, 4))
    assert found.compilations[0].backward is None
    assert [g.graph["frontend"] for g in found.graphs] == ["dynamo"]


def test_what_runs_inside_of_other_ops_is_seen():
    class Inside(Two):
        def forward(self, x):
            x = checkpoint(self.first, x, use_reentrant=False)
            return torch.cond(x.sum() > 0, self.second, lambda x: x * 2, (x,))

    with ta.recording() as found:
        found.run(Inside(), torch.randn(2, 4))
    [one] = found.compilations
    assert one.forward.nodes["first/linear"]["macs"] == 2 * 4 * 4
    assert one.forward.nodes["cond"]["op"] == "higher_order.cond"
    assert one.failure == "" and {"gradient/first/weight", "gradient/second/weight"} <= {
        *one.backward
    }


def test_a_graph_is_read_as_it_was_called():
    with ta.recording() as found, torch.autocast("cpu", dtype=torch.bfloat16):
        found.run(Two(), torch.randn(2, 4))
    with torch.inference_mode():
        forward, backward = found.graphs
    assert forward.nodes["first/linear"]["outputs"][0].dtype == "bfloat16"
    assert backward.nodes["tangent/output"]["outputs"][0].dtype == "bfloat16"
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_where_operators_are_out_of_reach_the_functions_are_shown(monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("<object at 0x12ab>, no")

    monkeypatch.setattr(torch_api, "trace_before_dispatch", fails)
    monkeypatch.setattr(torch_api, "trace_below_autograd", fails)
    with ta.recording() as found:
        found.run(Two(), torch.randn(2, 4))
    [graph] = found.graphs
    ta.validate(graph)
    assert [n["op"] for _, n in op_nodes(graph)] == ["torch.linear", "torch.relu", "torch.linear"]
    assert graph.graph["attempts"] == ("operators: ValueError: <object>, no",)
    assert ta.totals(graph).coverage == 0 and "first/linear" in graph
    assert "of 0/0 Two.forward: ValueError" in str(found)


# -- breaks --------------------------------------------------------------------------------


def test_three_breaks_are_three():
    with ta.recording() as found:
        found.run(Breaking(), {"x": torch.randn(2, 4)})
    wanted = [
        (line_of(Printing.forward, "print("), PRINT),
        (line_of(Breaking.forward, "if x.sum()"), BRANCH),
        (line_of(Breaking.forward, ".item()"), ITEM),
    ]
    assert [b.line for b in found.breaks] == [line for line, _ in wanted]
    for one, (_, reason) in zip(found.breaks, wanted, strict=True):
        assert Path(one.file).name == "test_dynamo.py" and not Path(one.file).is_absolute()
        assert reason in one.reason and one.explanation
        assert one.function == "forward" and one.skipped == ""
        assert str(Path(__file__).parent) not in one.detail
    assert "`print`" in found.breaks[0].explanation


class Loop(Two):
    def forward(self, x):
        for _ in range(2):
            x = self.first(x)
            torch._dynamo.graph_break()
        return x


class Looped(Repeated):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class SameLine(Two):
    def forward(self, x):
        x = self.first(x)
        print(x.sum().item())
        return self.second(x)


class First(Two):
    def forward(self, x):
        print("before any op")
        return self.first(x)


@pytest.mark.parametrize(
    ("model", "line", "reasons", "skipped"),
    [
        (Loop, (Loop, "graph_break"), ["Call to `torch._dynamo.graph_break()`"], "Loop.forward"),
        (Repeated, (Printing, "print("), [PRINT], ""),
        (Looped, (Printing, "print("), [PRINT], "Looped.forward"),
        (SameLine, (SameLine, "print("), [ITEM, PRINT], ""),
        (First, (First, "print("), [PRINT], ""),
    ],
)
def test_each_reason_at_a_place_is_one_break(model, line, reasons, skipped):
    with ta.recording() as found:
        found.run(model(), torch.randn(2, 4))
    assert [b.line for b in found.breaks] == [line_of(line[0].forward, line[1])] * len(reasons)
    for one, reason in zip(found.breaks, reasons, strict=True):
        assert reason in one.reason and one.skipped == skipped


# -- recompilations ------------------------------------------------------------------------


def test_recompilations_say_what_changed():
    class Flag(Two):
        def forward(self, x, double=False):
            return self.first(x) * 2 if double else self.first(x)

    model = Flag()
    run = torch.compile(model, backend=BACKEND)
    with ta.recording() as found, torch.no_grad():
        run(torch.randn(2, 4))
        run(torch.randn(2, 4))
        run(torch.randn(3, 4))
        run(torch.randn(5, 4))
        run(torch.randn(5, 4), double=True)
    size, flag = found.recompilations
    assert "size mismatch at index 0. expected 2, actual 3" in size.reason
    assert "double == False" in flag.reason and len(flag.guards) == 2
    line = line_of(Flag.forward, "if double")
    assert flag.reason.endswith(f"test_dynamo.py:{line})")
    assert (size.compile_id, flag.compile_id) == ("0/1", "0/2")
    _, symbolic, doubled = (one.forward for one in found.compilations)
    assert size.graph is symbolic and flag.graph is doubled
    assert size.function.endswith("Flag.forward")
    assert size.source.endswith(f"test_dynamo.py:{line_of(Flag.forward, 'def forward')}")
    [name] = symbolic.graph["symbols"]
    assert symbolic.graph["symbols"][name].min == 2
    bound = ta.bind(symbolic, **{name: 7})
    assert ta.totals(bound).macs == 7 * 4 * 4
    assert found.graphs == (found.compilations[0].forward, symbolic, doubled)


def test_a_recompilation_beyond_the_limit_has_no_graph():
    class Power(nn.Module):
        def forward(self, x, n):
            return x + len(n)

    run = torch.compile(Power(), backend=BACKEND)
    with ta.recording() as found, torch._dynamo.config.patch(recompile_limit=2):
        for n in ("a", "bb", "ccc"):
            run(torch.ones(2), n)
    first, second = found.recompilations
    assert first.graph is found.graphs[1] and second.graph is None
    assert str(found).endswith("-> no graph")


def test_another_backend_is_no_recompilation():
    model, x = Two(), torch.randn(2, 4)
    torch.compile(model, backend="eager")(x)
    with ta.recording() as found:
        torch.compile(model, backend=BACKEND)(x)
    assert len(found.compilations) == 1 and found.recompilations == ()


# -- what is recorded, and what is left behind ---------------------------------------------


def hooked():
    from torch._dynamo import convert_frame, output_graph, symbolic_convert

    return (
        output_graph.OutputGraph.call_user_compiler,
        symbolic_convert.InstructionTranslatorBase.log_graph_break,
        convert_frame.get_and_maybe_log_recompilation_reasons,
    )


def test_every_backend_is_seen_and_nothing_else():
    def theirs(program, inputs):
        program.graph.erase_node(program.graph.find_nodes(op="output")[0])  # it may do as it likes
        return lambda *args: (x,)

    model, x = Two(), torch.randn(2, 4)
    with ta.recording() as found:
        assert torch.compile(model, backend=theirs)(x) is x
        torch.export.export(model, (x,), strict=True)
    torch.compile(Printing(), backend="eager")(x)
    assert len(found.compilations) == 1 and found.breaks == ()
    assert "output" in found.graphs[0] and ta.recorded().compilations == ()


def test_nested_recordings_both_record():
    run = torch.compile(Printing(), backend=BACKEND)
    before = hooked()
    with ta.recording() as outer:
        with ta.recording() as inner:
            run(torch.randn(2, 4))
        assert hooked() != before
        run(torch.randn(3, 4))
    assert hooked() == before
    assert (len(inner.compilations), len(outer.compilations)) == (2, 4)
    assert len(inner.breaks) == len(outer.breaks) == 1
    assert (len(inner.recompilations), len(outer.recompilations)) == (0, 2)
    run(torch.randn(2, 4).double().float()[:1])
    assert len(outer.compilations) == 4


def test_threads_record_each_their_own():
    found, together, before = {}, threading.Barrier(2), hooked()

    def record(kind):
        with ta.recording() as found[kind]:
            together.wait()
            torch.compile(kind(), backend=BACKEND)(torch.randn(2, 4))
            together.wait()

    threads = [threading.Thread(target=record, args=(kind,)) for kind in (Two, Printing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.function for one in found[Two].compilations] == ["Two.forward"]
    assert len(found[Printing].compilations) == 2 and found[Two].breaks == ()
    assert hooked() == before


def test_an_exception_leaves_nothing_switched_on():
    def fails(program, inputs):
        raise ValueError("no backend")

    before, x = hooked(), torch.randn(2, 4)
    run = torch.compile(Two(), backend=BACKEND)
    with pytest.raises(KeyError), ta.recording() as found:
        {}[run(x)]
    assert len(found.graphs) == 2
    with ta.recording() as found, pytest.raises(Exception, match="no backend"):
        torch.compile(Printing(), backend=fails)(x)
    assert found.compilations == (), "what no backend took is not compiled"
    with ta.recording() as found, pytest.raises(Exception, match="print"):
        torch.compile(Printing(), backend=BACKEND, fullgraph=True)(x)
    assert hooked() == before


def test_recording_never_breaks_a_compilation(monkeypatch):
    def fails(program):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(dynamo, "describe", fails)
    model, x = Two(), torch.randn(2, 4)
    with ta.recording() as found, pytest.warns(RuntimeWarning, match="a fault of ours"):
        result = torch.compile(model, backend=BACKEND)(x)
    assert torch.equal(result, model(x)) and found.compilations == ()
    with pytest.warns(RuntimeWarning, match="a fault of ours"):
        torch.compile(Printing(), backend=compiled.backend)(x)
    assert ta.recorded().compilations == ()


def cached(model):
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    return len(_debug_get_cache_entry_list(type(model).forward.__code__))


def test_run_starts_afresh_and_leaves_nothing():
    model, x = Printing(), torch.randn(2, 4)
    for _ in range(3):
        with ta.recording() as found, torch._dynamo.config.patch(recompile_limit=1):
            result = found.run(model, x)
        assert (len(found.compilations), len(found.breaks)) == (2, 1)
        assert found.recompilations == () and torch.equal(result, model(x))
    assert cached(model) == 0


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_run_takes_what_was_compiled_before(how):
    model, x = Two(), torch.randn(2, 4)
    if how == "wrapped":
        other = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        other = model
    other(x)
    for _ in range(3):
        with ta.recording() as found:
            found.run(other, x)
        assert len(found.compilations) == 1 and found.recompilations == ()
        assert next(iter(found.graphs[0])) == "first/weight"
    with ta.recording() as found:
        other(x)
    kept = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    assert (found.compilations == ()) == kept, "older torch has to compile it again"


def test_a_part_that_is_compiled_keeps_its_path():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.compile(Two(), backend=BACKEND)

        def forward(self, x):
            return self.encoder(x) + 1

    with ta.recording() as found:
        Outer()(torch.randn(2, 4))
    assert "encoder/first/linear" in found.graphs[0]
    assert found.graphs[0].graph["modules"]["encoder"].endswith("Two")


def test_the_model_is_not_kept():
    model = Two()
    gone = weakref.ref(model), weakref.ref(model.first.weight)
    with ta.recording() as found:
        found.run(model, torch.randn(2, 4))
    read = found.graphs
    del model
    gc.collect()
    assert len(read) == 2 and [ref() for ref in gone] == [None, None]


def test_outside_of_a_recording_the_last_graphs_are_kept():
    model, x = Printing(), torch.randn(2, 4)
    torch.compile(model, backend=BACKEND)(x)
    kept = ta.recorded()
    assert [one.compile_id for one in kept.compilations] == ["0/0", "1/0"]
    [found] = kept.breaks
    assert found.reason == PRINT and found.line == line_of(Printing.forward, "print(")
    assert "first/linear" in kept.graphs[0] and kept._compilations.maxlen == compiled.KEPT
    kept.clear()
    assert kept.graphs == kept.breaks == ()


def test_old_compilations_make_room():
    few = compiled.Recorded(limit=2)
    run = torch.compile(Two(), backend=BACKEND, dynamic=False)
    with dynamo.watching(few):
        for n in (2, 3, 4):
            run(torch.randn(n, 4))
    assert [one.compile_id for one in few.compilations] == ["0/1", "0/2"]


# -- display -------------------------------------------------------------------------------


def test_display():
    from io import StringIO

    from rich.console import Console

    with ta.recording(include_source=False) as found:
        found.run(Breaking(), {"x": torch.randn(2, 4)})
    text = str(found)
    assert text == str(found.summary())
    assert text.splitlines()[0].endswith("compiled graphs, 3 breaks, 0 recompilations")
    assert repr(found) == f"<Recorded: {text.splitlines()[0]}>"
    first = next(line for line in text.splitlines() if line.lstrip().startswith("0 "))
    assert "Printing.forward" in first and "forward" in first and first.split()[1] == "1/0"
    place = f"test_dynamo.py:{line_of(Printing.forward, 'print(')} in forward: {PRINT}"
    assert any(line.endswith(place) for line in text.splitlines())
    console = Console(file=StringIO(), width=200)
    console.print(found)
    assert place in console.file.getvalue()
    assert not any("source" in node for graph in found.graphs for _, node in op_nodes(graph))


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        ("0/0: x.size()[0] == 2", "x.size()[0] == 2"),
        ("3/1: flag == [bold]\x1b", "flag == [bold]\N{REPLACEMENT CHARACTER}"),
        ("0/0: n == 3      # if n:  # dir/net.py:3 in f", "n == 3 (if n:)"),
        ('0/0: n == 3\nUser stack trace:\n  File "/a/site-packages/b.py", line 3, in f', None),
    ],
)
def test_guards_in_plain_words(told, plain):
    assert dynamo._guard(told) == (plain or "n == 3 (b.py:3)")


def test_the_documentation_says_what_is_true(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "dynamo.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "documented.py"
    script.write_text(first.replace('"torchatlas"', "BACKEND"))
    made = runpy.run_path(str(script), {"BACKEND": BACKEND})
    found = made["found"]
    assert len(found.graphs) == 8 and found.breaks[0].file.endswith("documented.py")
    said = re.search(r"reason +# (.*)$", first, re.MULTILINE)[1]
    assert found.recompilations[0].reason == said
    exec(textwrap.dedent(second), made)
    assert made["y"].shape == (8, 4) and len(made["found"].graphs) == 4


@pytest.mark.parametrize("suffix", [".json", ".dot"])
def test_recorded_graphs_are_exported(tmp_path, suffix):
    with ta.recording() as found:
        run = torch.compile(Breaking(), backend=BACKEND)
        for n in (2, 3):
            run({"x": torch.randn(n, 4)})
    for graph in found.graphs:
        graph.export(tmp_path / f"graph{suffix}")
        if suffix == ".json":
            loaded = ta.load(tmp_path / "graph.json")
            assert ta.to_text(loaded) == ta.to_text(graph)
