"""One training step as a graph: what it holds, that it computes eager's gradients, its costs."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchatlas as ta
from torchatlas.errors import CaptureError, InputError, UsageError
from torchatlas.frontends.replay import replay
from torchatlas.graph import inputs_of, op_nodes


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=False))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
    depthwise = nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.MaxPool2d(2)
    return nn.Sequential(*convolutions, *depthwise, nn.Flatten(), nn.Linear(32, 5))


MODELS = {
    "convolutions": (network, lambda: torch.randn(2, 3, 8, 8)),
    "residual": (Block, lambda: torch.randn(4, 8)),
    "checkpointed": (Checkpointed, lambda: torch.randn(4, 8)),
    "tied": (Tied, lambda: torch.arange(6).view(2, 3)),
    "attention": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "gru": (lambda: nn.GRU(4, 6, 2), lambda: torch.randn(5, 2, 4)),
    "embedding bag": (lambda: nn.EmbeddingBag(10, 4), lambda: torch.arange(6).view(2, 3)),
}


@pytest.mark.parametrize(("make", "example"), MODELS.values(), ids=MODELS.keys())
def test_graph_computes_the_gradients_of_eager(make, example):
    torch.manual_seed(0)
    model, x = make(), example()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = ta.capture(model, x, mode="training")
    ta.validate(graph)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    made: dict[tuple[str, int], torch.Tensor] = {}
    replay(
        graph.source,
        lambda node, values: made.update({(node, i): value for i, value in enumerate(values)}),
    )
    outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(output.sum() for output in outputs).backward()
    for name, parameter in model.named_parameters():
        (source,) = inputs_of(graph, f"gradient/{name.replace('.', '/')}").values()
        torch.testing.assert_close(made[source], parameter.grad, rtol=1e-5, atol=1e-6)


def test_backward_stands_under_the_module_of_its_forward():
    graph = ta.capture(network(), torch.randn(2, 3, 8, 8), mode="training")
    ops = {(node["phase"], node["module"], node["op"]) for _, node in op_nodes(graph)}
    for place in [
        ("forward", "0", "aten.convolution"),
        ("backward", "0", "aten.convolution_backward"),
        ("backward", "1", "aten.native_batch_norm_backward"),
        ("backward", "2", "aten.threshold_backward"),
        ("backward", "3", "aten.convolution_backward"),
        ("backward", "4", "aten.hardswish_backward"),
        ("backward", "5", "aten.max_pool2d_with_indices_backward"),
        ("backward", "7", "aten.mm"),
    ]:
        assert place in ops
    order = [node["phase"] for _, node in op_nodes(graph)]
    assert order == sorted(order, key=["forward", "backward"].index)
    assert ta.totals(graph).coverage == 1


def test_what_a_checkpoint_runs_again_is_part_of_the_backward_pass():
    graph = ta.capture(Checkpointed(), torch.randn(4, 8), mode="training")
    calls = Counter(
        (node["phase"], node["module"]) for _, node in op_nodes(graph) if node["op"] == "aten.addmm"
    )
    assert calls["forward", "block.first"] == calls["backward", "block.first"] == 1
    assert calls["forward", "head"] == 1
    assert calls["backward", "head"] == 0


@pytest.mark.parametrize(
    ("make", "states"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer"}),
        (lambda p: torch.optim.AdamW(p), {"step", "exp_avg", "exp_avg_sq"}),
        (lambda p: torch.optim.AdamW(p, foreach=True), {"step", "exp_avg", "exp_avg_sq"}),
        (lambda p: torch.optim.AdamW(p, fused=True), {"step", "exp_avg", "exp_avg_sq"}),
    ],
    ids=["sgd", "adamw", "adamw foreach", "adamw fused"],
)
def test_optimizer(make, states):
    model = Block()
    graph = ta.capture(model, torch.randn(4, 8), mode="training", optimizer=make)
    held = [n for _, n in graph.nodes(data=True) if n["kind"] == "buffer"]
    assert {n["target"].split(".")[1] for n in held} == states
    assert {n["phase"] for n in held} == {"optimizer"}
    totals = ta.totals(graph)
    state_bytes = sum(n["outputs"][0].nbytes for n in held)
    assert totals.peak.split["optimizer"] == state_bytes
    assert totals.coverage == 1
    written = {
        source
        for name, node in op_nodes(graph)
        if node["phase"] == "optimizer" and "writes" in node
        for argument, (source, _) in inputs_of(graph, name).items()
        if argument.partition(".")[0] in node["writes"]
    }
    assert {"first/weight", "second/bias"} <= written
    other = ta.capture(
        model, torch.randn(4, 8), mode="training", optimizer=make(model.parameters())
    )
    assert ta.to_text(other) == ta.to_text(graph)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_loss_with_a_target():
    target = torch.tensor([1, 0, 1, 1])
    graph = ta.capture(
        nn.Linear(8, 2),
        torch.randn(4, 8),
        mode="training",
        loss=lambda output: F.cross_entropy(output, target),
    )
    ops = {node["op"] for _, node in op_nodes(graph)}
    assert {"aten.nll_loss_forward", "aten.nll_loss_backward"} <= ops
    (source,) = inputs_of(graph, "loss").values()
    assert graph.nodes[source[0]]["op"] == "aten.nll_loss_forward"


def test_a_model_that_returns_its_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        "gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=20, use_cache=False
    )
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    ids = torch.zeros(2, 6, dtype=torch.long)
    graph = ta.capture(model, {"input_ids": ids, "labels": ids}, mode="training")
    assert "output/loss" in graph
    assert "loss" not in graph
    assert ta.totals(graph).coverage == 1
    assert "gradient/transformer/wte/weight" in graph


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        y = self.linear(x)
        return y if y.sum() > 0 else -y

    LINE = forward.__code__.co_firstlineno + 2


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (Block().requires_grad_(False), {}, InputError, "nothing that the model returns"),
        (Block(), {"loss": lambda y: y}, InputError, r"shape \(4, 8\), not a tensor of one"),
        (Block(), {"loss": lambda y: 3.0}, InputError, "the loss is a float"),
        (Block(), {"loss": lambda y: torch.ones(())}, InputError, "does not depend"),
        (Block(), {"optimizer": 3}, UsageError, "int is no optimizer"),
        (Block(), {"optimizer": lambda p: None}, UsageError, "NoneType is no optimizer"),
        (Block(), {"frontend": "fx"}, UsageError, "front end of its own"),
        (Block(16), {}, InputError, "raises on this example in module 'first'"),
    ],
)
def test_errors(model, options, error, words):
    with pytest.raises(error, match=words):
        ta.capture(model, torch.randn(4, 8), mode="training", **options)


def test_a_step_that_looks_at_values_runs_on_copies():
    torch.manual_seed(0)
    model, x = Branching(), torch.randn(4, 8)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    graph = ta.capture(model, x, mode="training", optimizer=torch.optim.AdamW)
    assert graph.graph["specialised"] is True
    (decision,) = graph.graph["decisions"]  # and not that AdamW counts its steps
    assert decision.source.endswith(f"test_training.py:{Branching.LINE}")
    assert decision.value == str(bool(model.linear(x).sum() > 0))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())
    results = graph.source.run()
    model(x).sum().backward()
    assert torch.equal(results["gradient/linear/weight"], model.linear.weight.grad)


def test_a_step_that_looks_at_values_needs_some():
    with torch.device("meta"):
        model = Branching()
    with pytest.raises(CaptureError, match="could not be captured"):
        ta.capture(model, torch.randn(4, 8), mode="training")


def test_a_loss_needs_training():
    with pytest.raises(UsageError, match="needs a training step"):
        ta.capture(Block(), torch.randn(4, 8), loss=torch.sum)
    with pytest.raises(UsageError, match="no mode 'train'"):
        ta.capture(Block(), torch.randn(4, 8), mode="train")


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "resnet18"])
def test_backward_of_convolutions_is_twice_the_forward(name):
    models = pytest.importorskip("torchvision.models")
    model = models.get_model(name)
    graph = ta.capture(model, torch.zeros(2, 3, 64, 64), mode="training")
    sums: Counter[str] = Counter()
    for _, node in op_nodes(graph):
        sums[node["phase"]] += node["flops"]
    # No gradient of the image is asked for, so the first convolution's backward is once its own.
    first = next(n["flops"] for _, n in op_nodes(graph) if n["op"] == "aten.convolution")
    assert sums["backward"] == 2 * sums["forward"] - first


def test_models_without_weights_stay_as_they_are():
    from torchatlas.frontends.weightless import weightless

    wanted = ta.to_text(
        ta.capture(Block(), torch.randn(4, 8), mode="training", optimizer=torch.optim.AdamW)
    )
    with weightless():
        fake = Block()
    with torch.device("meta"):
        meta = Block()
    for model in (fake, meta):
        before = dict(vars(model.first))
        graph = ta.capture(model, torch.randn(4, 8), mode="training", optimizer=torch.optim.AdamW)
        assert ta.to_text(graph).replace("'meta'", "'cpu'") == wanted
        assert all(parameter.grad is None for parameter in model.parameters())
        assert vars(model.first) == before


def test_wrappers_and_functions():
    wrapped = nn.DataParallel(Block())
    graph = ta.capture(wrapped, torch.randn(4, 8), mode="training")
    assert graph.graph["name"] == "Block" and "gradient/first/weight" in graph
    weight = torch.randn(8, 8, requires_grad=True)
    graph = ta.capture(lambda x: x @ weight, torch.randn(4, 8), mode="training")
    assert [n["kind"] for _, n in graph.nodes(data=True)].count("constant") == 1
    assert weight.grad is None
    x = torch.randn(4, 8, requires_grad=True)
    graph = ta.capture(nn.ReLU(), x, mode="training")
    assert x.grad is None
