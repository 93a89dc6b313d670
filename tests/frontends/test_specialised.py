"""Models that look at the values of tensors: the graph is that of one run, and says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models
import torchatlas as ta
from torchatlas.errors import CaptureError
from torchatlas.graph import op_nodes
from torchatlas.schema import Decision

HERE = "frontends/test_specialised.py"


class Branches(nn.Module):
    """Reads values in all the ways that Python has."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x = self.one(x) if x.sum() > 0 else self.two(x)  # the first line that reads
        count = int(x.shape[0] + x.argmax().item() * 0)
        kept = x[x > x.max() - 1e9]
        rows = torch.nonzero(x.abs() >= 0).tolist()[0]
        x.add_(1)
        return x * count, kept, x[rows[0]]


def line_of(text):
    with open(__file__) as file:  # noqa: PTH123
        return next(i for i, line in enumerate(file, 1) if text in line)


@pytest.mark.parametrize("frontend", ["auto", "trace"])
def test_each_decision_is_listed_with_its_line(frontend):
    x = torch.ones(2, 3)
    graph = ta.capture(Branches().eval(), x, frontend=frontend)
    ta.validate(graph)
    assert graph.graph["frontend"] == "trace" and graph.graph["specialised"] is True
    (attempt,) = graph.graph["attempts"]
    first = line_of("# the first line that" + " reads")
    assert f"(at {HERE}:{first})" in attempt
    found = graph.graph["decisions"]
    assert found[0] == Decision(f"{HERE}:{first}", "aten.is_nonzero", "True")
    assert found[1].op == "aten.item" and found[1].source == f"{HERE}:{first + 1}"
    assert Decision(f"{HERE}:{first + 2}", "aten.index", "shape (6,)") in found
    assert [d.op for d in found if d.source == f"{HERE}:{first + 3}"] == [
        "aten.nonzero",
        "Tensor.tolist",
    ]
    assert "one/linear" in graph and "two/linear" not in graph


def test_the_other_branch():
    graph = ta.capture(Branches().eval(), -torch.ones(2, 3))
    assert graph.graph["decisions"][0].value == "False"
    assert "two/linear" in graph and "one/linear" not in graph
    assert graph.nodes["two/linear"]["macs"] == 2 * 3 * 5


def test_the_model_and_the_example_stay_as_they_were():
    model, x = Branches(), torch.ones(2, 3)
    ta.capture(model, x)
    assert model.calls == 0 and torch.equal(x, torch.ones(2, 3))
    assert all(p.grad is None for p in model.parameters())


def test_no_graph_that_is_not_specialised_says_that_it_is(captured):
    assert "specialised" not in captured("tiny").graph
    assert "decisions" not in captured("tiny").graph


def test_without_values_the_error_names_the_line():
    with torch.device("meta"):
        model = Branches()
    with pytest.raises(CaptureError, match="depends on the values of tensors") as caught:
        ta.capture(model, torch.ones(2, 3, device="meta"))
    line = line_of("# the first line that" + " reads")
    assert f"(at {HERE}:{line})" in str(caught.value)
    assert "trace, on values: CaptureError: the model looks at" in str(caught.value)


def test_an_exception_of_the_model_on_its_values():
    class Picky(nn.Module):
        def forward(self, x):
            if (x < 0).any():
                raise ValueError("no negative numbers, please")
            return x

    assert "output" in ta.capture(Picky(), torch.ones(2))
    with pytest.raises(CaptureError, match="no negative numbers, please"):
        ta.capture(Picky(), -torch.ones(2))


def test_summary_and_files_say_it(tmp_path):
    graph = ta.capture(Branches(), torch.ones(2, 3))
    assert "specialised to the values of the example: " in str(graph.summary())
    graph.export(tmp_path / "graph.json")
    loaded = ta.load(tmp_path / "graph.json")
    assert loaded.graph["decisions"] == graph.graph["decisions"]
    assert loaded.graph["specialised"] is True
    with pytest.warns(UserWarning, match="torch.export cannot capture this model"):
        graph.export(tmp_path / "graph.onnx")
    assert (tmp_path / "graph.onnx").stat().st_size > 0


def test_mixtral_with_eager_experts():
    model, example = models.make("mixtral")
    model.set_experts_implementation("eager")
    expected = ta.totals(ta.capture(*models.make("mixtral"))).macs
    graph = ta.capture(model, example)
    assert graph.graph["specialised"] is True
    assert any("modeling_mixtral" in d.source for d in graph.graph["decisions"])
    assert 0 < ta.totals(graph).macs <= expected


def test_a_whole_detector():
    torchvision = pytest.importorskip("torchvision")
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = make(weights=None, weights_backbone=None, min_size=64, max_size=64).eval()
    model.rpn._pre_nms_top_n = {"training": 100, "testing": 50}
    graph = ta.capture(model, [torch.rand(3, 64, 64)])
    ta.validate(graph)
    assert graph.graph["specialised"] is True
    assert any(d.op == "torchvision.nms" for d in graph.graph["decisions"])
    assert {"output/0/boxes", "output/0/labels", "output/0/scores"} <= set(graph)
    conv = [name for name, n in op_nodes(graph) if n["op"] == "aten.conv2d"]
    assert len(conv) == sum(isinstance(m, nn.Conv2d) for m in model.modules()) + 6
