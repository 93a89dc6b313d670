"""How long results live and what is in use at once: by hand, and against torch's MemTracker."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchatlas as ta
from peak_memory import CASES, captured, tracked
from torchatlas.graph import op_nodes
from torchatlas.memory import lifetimes, memory_at
from torchatlas.sums import totals

KB = 1024  # bytes of a float32[16, 16]


def square(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes or (16, 16))


def live(graph: ta.ModelGraph) -> dict[str, int]:
    return {name: node["live_bytes"] // KB for name, node in op_nodes(graph)}


def test_a_chain_holds_two_results_at_a_time():
    graph = ta.capture(lambda x: x.exp().sin().cos(), square())
    # the input stays; exp + sin, then sin + cos
    assert live(graph) == {"exp": 2, "sin": 3, "cos": 3}
    exp, sin, cos = (graph.nodes[name] for name in ("exp", "sin", "cos"))
    assert (exp["first_use"], exp["last_use"]) == (sin["index"], sin["index"])
    assert sin["last_use"] == cos["index"]
    assert cos["last_use"] == cos["first_use"] == graph.nodes["output"]["index"]


def test_a_residual_lives_until_it_is_added():
    graph = ta.capture(lambda x: (y := x.exp()).sin().cos() + y, square())
    assert live(graph) == {"exp": 2, "sin": 3, "cos": 4, "add": 4}
    assert graph.nodes["exp"]["first_use"] == graph.nodes["sin"]["index"]
    assert graph.nodes["exp"]["last_use"] == graph.nodes["add"]["index"]


def test_a_view_keeps_its_base_and_takes_nothing():
    graph = ta.capture(lambda x: (x.exp()[:1], x.cos())[0].sin(), square())
    view = next(name for name, node in op_nodes(graph) if "view" in node["tags"])
    assert graph.nodes[view]["storages"] == graph.nodes["exp"]["storages"]
    assert graph.nodes["exp"]["last_use"] == graph.nodes["sin"]["index"]
    # while cos runs, though nobody needs it: input, exp, cos
    assert live(graph)["cos"] == 3


def test_an_op_in_place_reuses_its_operand():
    graph = ta.capture(lambda x: x.exp().sin_().cos_(), square())
    assert set(live(graph).values()) == {2}
    assert len(lifetimes(graph).storages) == 2


def test_what_the_model_returns_stays():
    graph = ta.capture(lambda x: (x.exp(), x.sin(), x.cos()), square())
    assert live(graph) == {"exp": 2, "sin": 3, "cos": 4}


def test_a_broadcast_tensor_takes_what_is_stored():
    graph = ta.capture(lambda x: x.expand(64, 16, 16).sin(), square(1, 16, 16))
    assert live(graph) == {"expand": 1, "sin": 65}


class Inner(nn.Module):
    def forward(self, x):
        return x.exp().sin().cos()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x.tan()).tanh()


def test_python_holds_the_arguments_of_a_running_call():
    graph = ta.capture(Outer(), square())
    # x.tan() is an argument of `inner` and so outlives `exp`, its only reader
    assert live(graph) == {"tan": 2, "inner/exp": 3, "inner/sin": 4, "inner/cos": 4, "tanh": 3}


def test_the_peak_names_its_node_and_what_is_alive():
    model = nn.Sequential(nn.Linear(16, 64, bias=False), nn.ReLU(), nn.Linear(64, 16, bias=False))
    found = ta.totals(ta.capture(model, square()))
    assert found.peak.node == "1/relu"
    split = {purpose: n // KB for purpose, n in found.peak.split.items() if n}
    assert split == {"parameters": 8, "inputs": 1, "activations": 8}
    assert found.peak_bytes == sum(found.peak.alive.values()) == 17 * KB
    assert list(found.peak.alive) == ["0/weight", "2/weight", "0/linear", "1/relu", "input"]
    assert list(found.peak.alive.values()) == sorted(found.peak.alive.values(), reverse=True)


def test_memory_at_any_node():
    graph = ta.capture(lambda x: x.exp().sin().cos(), square())
    for name, node in op_nodes(graph):
        assert memory_at(graph, name).nbytes == node["live_bytes"]


def test_a_training_step_by_hand():
    model = nn.Linear(16, 16, bias=False)
    graph = ta.capture(model, square(), mode="training", optimizer=torch.optim.SGD)
    peak = ta.totals(graph).peak
    assert {purpose: n // KB for purpose, n in peak.split.items() if n // KB} == {
        "parameters": 1,
        "inputs": 1,
        "gradients": 1,
        "activations": 1,
    }
    # saved for the backward pass
    x = graph.nodes["input"]
    assert any(
        graph.nodes[reader]["phase"] == "backward" for reader in graph.successors("input")
    ), x


def test_symbolic_sizes_are_compared_for_every_value():
    import sympy

    from torchatlas.annotations import annotate
    from torchatlas.graph import build
    from torchatlas.records import OpRecord, Value
    from torchatlas.schema import TensorMeta

    batch = sympy.Symbol("batch", integer=True, positive=True)

    def step(key: str, operand: str, shape: tuple) -> OpRecord:
        meta = TensorMeta(shape, "float32")
        args = {"self": Value(operand)} if operand else {}
        kind = "op" if operand else "input"
        name = f"aten.{key}" if operand else ""
        return OpRecord(key, kind, name, args=args, outputs=(meta,), target=key)

    records = [
        step("x", "", (batch, 4)),
        step("exp", "x", (batch, 4)),
        step("sum", "exp", (batch, 2)),
        step("tan", "sum", (batch, 1)),
    ]
    graph, _ = build(records, name="test")
    peak = totals(annotate(graph)).peak
    assert (peak.node, peak.nbytes) == ("sum", 40 * batch)
    records[-1] = step("tan", "sum", (1000,))
    graph, _ = build(records, name="test")
    peak = totals(annotate(graph)).peak
    assert peak.nbytes == sympy.Max(40 * batch, 24 * batch + 4000)
    assert peak.node == ""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit"])
def test_against_memtracker(name, case):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    if name == "vit":
        model: nn.Module = models.VisionTransformer(32, 8, 2, 2, 32, 64)
        x = torch.zeros(4, 3, 32, 32)
    else:
        model, x = models.get_model(name), torch.zeros(4, 3, 64, 64)
    ours, _ = captured(model, (x,), case)
    if case == "forward":
        assert ours == pytest.approx(tracked(model, (x,), case), rel=0.02)
    else:  # recorded as it runs, so every byte is known
        assert ours == tracked(model, (x,), case)


class KeepsLocals(nn.Module):
    """Holds two results in local variables while a layer runs that needs neither."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16, bias=False)

    def forward(self, x):
        with torch.no_grad():
            first = x.exp()
            second = first.sin()
            third = second.cos()
        return self.linear(third)


def test_a_recorded_step_knows_what_local_variables_hold():
    graph = ta.capture(KeepsLocals(), square(), mode="training")
    found = lifetimes(graph)
    last = {storage.node: storage.last for storage in found.storages}
    returned = graph.nodes["linear/mm"]["index"]
    assert last["exp"] == last["sin"] == returned
    # autograd keeps the operand of the product until its backward has run
    backward = [n for n, node in op_nodes(graph) if node["phase"] == "backward"]
    readers = [graph.nodes[n]["index"] for n in backward if graph.has_edge("cos", n)]
    assert last["cos"] >= max(readers) > returned
    # and the caller the gradient, the output and the loss
    end = max(node["index"] for _, node in graph.nodes(data=True))
    gradient = next(s for s in found.storages if s.purpose == "gradients")
    assert gradient.last == last["linear/mm"] == end
    freed = [number for _, node in op_nodes(graph) for number in node.get("frees", ())]
    assert len(freed) == len(set(freed))


def test_what_a_graph_says_of_its_run_goes_before_what_follows_from_it():
    graph = ta.capture(lambda x: x.exp().sin().cos(), square())
    (number,) = graph.nodes["exp"]["storages"]
    graph.nodes["cos"]["frees"] = (number,)
    assert [s.last for s in lifetimes(graph).storages if s.node == "exp"] == [3]
    graph.nodes["cos"]["frees"] = (*graph.nodes["sin"]["storages"],)
    assert [s.last for s in lifetimes(graph).storages if s.node == "exp"] == [4]
