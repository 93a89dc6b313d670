"""Models as other libraries make them: Hugging Face, quantised, Lightning, Keras, odd tensors."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch
from torch import nn

import torchatlas as ta
from extras import BOTH, ids, package
from torchatlas.errors import CaptureError, InputError, UsageError
from torchatlas.frontends.replay import replay
from torchatlas.graph import op_nodes

X = torch.randn(2, 4)


# -- Hugging Face ----------------------------------------------------------------------------

WIDTH, HEADS, SHARED, HEAD, FFN, WORDS, LAYERS = 32, 4, 2, 8, 64, 64, 2
PAST, IDS = 8, torch.arange(2, 10).reshape(1, 8)
STATES = [
    f"past_key_values/layers/{i}/{part}" for i in range(LAYERS) for part in ("keys", "values")
]


@functools.cache
def llama() -> nn.Module:
    transformers = package("transformers")
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=SHARED,
    )
    return transformers.LlamaForCausalLM(config).eval()


def prefilled() -> Any:
    with torch.no_grad():
        return llama()(input_ids=IDS, use_cache=True).past_key_values


def llama_macs(new: int, past: int) -> int:
    """Return the multiply–adds of a causal model over `new` tokens after `past`, worked by hand."""
    projections = new * WIDTH * (2 * WIDTH + 2 * SHARED * HEAD)
    attention = HEADS * new * (past + new) * 2 * HEAD
    return LAYERS * (projections + attention + 3 * new * WIDTH * FFN) + new * WIDTH * WORDS


@BOTH
def test_prefill_returns_the_cache(frontend):
    graph = ta.capture(llama(), {"input_ids": IDS, "use_cache": True}, frontend=frontend)
    ta.validate(graph)
    assert ids(graph, "output") == ["output/logits", *(f"output/{name}" for name in STATES)]
    assert ta.totals(graph).macs == llama_macs(8, 0)


@BOTH
def test_decode_takes_the_cache_and_returns_it(frontend):
    cache = prefilled()
    before = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    example = {"input_ids": IDS[:, :1], "past_key_values": cache, "use_cache": True}
    graph = ta.capture(llama(), example, frontend=frontend)
    ta.validate(graph)
    assert [name for name in ids(graph, "input") if name != "use_cache"] == ["input_ids", *STATES]
    assert ids(graph, "output") == ["output/logits", *(f"output/{name}" for name in STATES)]
    assert ta.totals(graph).macs == llama_macs(1, PAST)
    (meta,) = graph.nodes[STATES[0]]["outputs"]
    assert meta.shape == (1, SHARED, PAST, HEAD)
    attention = next(
        n for n in graph if n.endswith("layers/1/self_attn/scaled_dot_product_attention")
    )
    assert graph.nodes[attention]["macs"] == HEADS * (PAST + 1) * 2 * HEAD
    # The model puts the new token into the cache that it is given: a copy.
    computed = replay(graph.source)
    after = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert cache.get_seq_length() == PAST
    with torch.no_grad():
        expected = llama()(**example)
    assert torch.equal(computed["output/logits"], expected.logits)
    assert torch.equal(computed[f"output/{STATES[0]}"], cache.layers[0].keys)


def test_an_empty_cache_stays_empty():
    cache = package("transformers").DynamicCache(config=llama().config)
    example = {"input_ids": IDS, "past_key_values": cache}
    for frontend in ("trace", "export", "auto"):
        graph = ta.capture(llama(), example, frontend=frontend)
        assert f"output/{STATES[-1]}" in graph
        assert cache.get_seq_length() == 0


def test_replayed_layers_use_their_own_part_of_the_cache():
    example = {"input_ids": IDS[:, :1], "past_key_values": prefilled()}
    whole = ta.capture(llama(), example, frontend="trace", replay=False)
    assert ta.to_text(ta.capture(llama(), example, frontend="trace")) == ta.to_text(whole)


@BOTH
def test_caches_without_values(frontend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    expected = llama_macs(1, PAST)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = prefilled()
    example = {"input_ids": IDS[:, :1], "past_key_values": fake}
    assert ta.totals(ta.capture(llama(), example, frontend=frontend)).macs == expected
    with torch.device("meta"):
        bare = type(llama())(llama().config).eval()
    example = {"input_ids": IDS[:, :1], "past_key_values": prefilled()}
    assert ta.totals(ta.capture(bare, example, frontend=frontend)).macs == expected


def test_a_static_cache_is_written_in_place():
    cache = package("transformers").StaticCache(config=llama().config, max_cache_len=16)
    with torch.no_grad():
        llama()(input_ids=IDS, past_key_values=cache)
    before = [layer.keys.clone() for layer in cache.layers]
    graph = ta.capture(
        llama(), {"input_ids": IDS[:, :1], "past_key_values": cache}, frontend="trace"
    )
    writers = [n for n, node in op_nodes(graph) if "writes" in node and STATES[0] in graph.pred[n]]
    assert len(writers) == 1
    assert graph.has_edge(writers[0], f"output/{STATES[0]}")
    assert all(torch.equal(a, b.keys) for a, b in zip(before, cache.layers, strict=True))


def test_encoder_and_decoder():
    transformers = package("transformers")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    config = transformers.T5Config(vocab_size=64, decoder_start_token_id=0, **sizes)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        first = model(input_ids=IDS, decoder_input_ids=IDS[:, :2], use_cache=True)
    encoded = transformers.modeling_outputs.BaseModelOutput(first.encoder_last_hidden_state)
    example = {
        "encoder_outputs": encoded,
        "decoder_input_ids": IDS[:, :1],
        "past_key_values": first.past_key_values,
    }
    graph = ta.capture(model, example, frontend="trace")
    caches = [
        f"past_key_values/{kind}_attention_cache/layers/0/{part}"
        for kind in ("self", "cross")
        for part in ("keys", "values")
    ]
    assert ids(graph, "input") == [
        *("encoder_outputs/last_hidden_state", "decoder_input_ids"),
        *caches,
    ]
    assert {f"output/{name}" for name in caches} <= set(graph)
    assert first.past_key_values.get_seq_length() == 2


def test_what_a_tokenizer_returns():
    encoded = package("transformers").BatchEncoding(
        {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    )
    graph = ta.capture(llama(), encoded, frontend="trace")
    assert ids(graph, "input") == ["input_ids", "attention_mask"]


# -- nn.Transformer ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layer", "encoder", "both", "attention"])
def test_the_fast_path_is_not_taken(kind):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    z = torch.randn(2, 7, 16)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    model, example = {
        "layer": (layer, z),
        "encoder": (nn.TransformerEncoder(layer, 2), {"src": z, "src_key_padding_mask": padding}),
        "both": (nn.Transformer(16, 4, 1, 1, 32, dropout=0.0, batch_first=True), (z, z)),
        "attention": (nn.MultiheadAttention(16, 4, batch_first=True), (z, z, z)),
    }[kind]
    trained = ta.totals(ta.capture(model.train(), example, frontend="trace"))
    with torch.no_grad():
        graph = ta.capture(model.eval(), example, frontend="trace")
    found = ta.totals(graph)
    assert (found.macs, found.params, found.coverage) == (trained.macs, trained.params, 1)
    assert not [n for n in graph if "_fwd" in n or "native" in n]
    if kind == "layer":  # four projections, two layers, and scores and sums over 7 tokens
        assert found.macs == 14 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 2 * 7 * 7 * 16


# -- complex, sparse, nested ---------------------------------------------------------------------


class Product(nn.Module):
    def __init__(self, weight) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return self.weight @ x


@BOTH
@pytest.mark.parametrize(
    ("weight", "macs"),
    [
        (torch.randn(3, 4, dtype=torch.complex64), 3 * 4 * 2),
        (torch.eye(4).to_sparse(), 4 * 2),
        (torch.eye(4).to_sparse_csr(), 4 * 2),
    ],
    ids=["complex", "coo", "csr"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_weights_of_other_kinds(weight, macs, frontend):
    x = torch.randn(4, 2, dtype=weight.dtype)
    graph = ta.capture(Product(weight), x, frontend=frontend)
    assert ids(graph, "op") == ["matmul"]
    assert graph.nodes["matmul"]["macs"] == macs
    assert graph.nodes["matmul"]["outputs"][0].dtype == str(weight.dtype).removeprefix("torch.")


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_named(layout):
    nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)
    for frontend in ("trace", "export"):
        with pytest.raises(CaptureError, match=r"nested tensors(.|\n)*pass a padded tensor"):
            ta.capture(nn.Linear(4, 5), nested, frontend=frontend)


# -- quantised ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_dynamically_quantised():
    from torch.ao.quantization import quantize_dynamic

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    model = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    for _ in range(2):  # torch's cache of results may not be asked about packed weights
        graph = ta.capture(model, torch.randn(3, 16), frontend="trace")
    totals = ta.totals(graph)
    assert (totals.int_ops, totals.flops) == (2 * 3 * (16 * 32 + 32 * 8), 0)
    with pytest.raises(CaptureError, match="hint: the packed weights of quantised layers"):
        ta.capture(model, torch.randn(3, 16), frontend="export")


class Scaled(torch.Tensor):
    """A weight of integers and a scale, as torchao makes them."""

    @staticmethod
    def __new__(cls, integers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype)

    def __init__(self, integers, scale) -> None:
        self.integers, self.scale = integers, scale

    def __tensor_flatten__(self):
        return ["integers", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, _, size, stride):
        return cls(inner["integers"], inner["scale"])

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, bias = args
            return (x @ weight.integers.t().to(x.dtype)) * weight.scale + bias
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].integers, args[0].scale)
        raise NotImplementedError(func)


def test_a_weight_that_is_made_of_tensors():
    model = nn.Linear(4, 3)
    weight = Scaled(torch.ones(3, 4, dtype=torch.int8), torch.ones(()))
    model.weight = nn.Parameter(weight, requires_grad=False)
    graph = ta.capture(nn.Sequential(model), X, frontend="trace")
    assert ids(graph, "parameter", "buffer") == ["0/weight/integers", "0/weight/scale", "0/bias"]
    node = graph.nodes["0/weight/integers"]
    assert (node["module"], node["params"], node["param_bytes"]) == ("0", 12, 12)
    assert not ids(graph, "constant") and ta.totals(graph).macs == 2 * 4 * 3


# -- Lightning ---------------------------------------------------------------------------------


@functools.cache
def lightning_class() -> Any:
    lightning = package("lightning.pytorch")

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            self.example_input_array = torch.randn(2, 4)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("loss", loss)
            return {"loss": loss, "batch": batch_idx}

        def configure_optimizers(self):
            made = torch.optim.SGD(self.parameters(), lr=0.1)
            return [made], [torch.optim.lr_scheduler.StepLR(made, 1)]

    return Classifier


BATCH = (torch.randn(2, 4), torch.tensor([0, 1]))
FORWARD = 2 * (4 * 8 + 8 * 3)


def test_lightning_has_an_example_of_its_own():
    model = lightning_class()()
    graph = ta.capture(model)
    assert ids(graph, "input") == ["x"] and ta.totals(graph).macs == FORWARD


def test_lightning_training_step():
    model = lightning_class()()
    graph = ta.capture(model, BATCH, mode="training")
    assert ids(graph, "input") == ["batch/0", "batch/1"]
    assert ids(graph, "output")[0] == "output/loss"
    assert {f"gradient/net/{i}/{name}" for i in (0, 2) for name in ("weight", "bias")} <= set(graph)
    assert graph.nodes["net/0/addmm"]["module"] == "net.0"
    # Backward: both gradients of the second layer, the weight's of the first.
    assert ta.totals(graph).macs == FORWARD + 2 * 2 * 8 * 3 + 2 * 4 * 8
    assert all(parameter.grad is None for parameter in model.parameters())
    own = ta.capture(model, BATCH[0], mode="training", loss=lambda y: y.mean())
    assert ids(own, "input") == ["x"]


def test_lightning_optimizer():
    graph = ta.capture(lightning_class()(), BATCH, mode="training", optimizer="configured")
    phases = {node["phase"] for _, node in op_nodes(graph)}
    assert phases == {"forward", "backward", "optimizer"}
    with pytest.raises(UsageError, match="a Linear does not configure an optimizer"):
        ta.capture(nn.Linear(4, 5), X, mode="training", optimizer="configured")


def test_lightning_metrics_stay_as_they_are():
    metrics = package("torchmetrics")
    given = {"task": "multiclass", "num_classes": 3}

    class Measured(lightning_class()):
        def __init__(self) -> None:
            super().__init__()
            self.mean = metrics.MeanMetric()  # branches on whether a value is a number
            self.both = metrics.MetricCollection({"a": metrics.Accuracy(**given)})
            self.seen = []

        def training_step(self, batch):
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("mean", self.mean(loss))
            self.log_dict(self.both(self(x), y))
            self.seen.append(loss)
            return loss

    model = Measured()
    graph = ta.capture(model, BATCH, mode="training")
    assert "output/loss" in graph and model.seen == []
    assert model.mean.update_count == model.both["a"].update_count == 0
    assert float(model.mean(torch.tensor(3.0))) == 3


def test_lightning_steps_that_cannot_be_captured():
    model = lightning_class()()
    with pytest.raises(InputError, match="needs a batch"):
        ta.capture(model, mode="training")
    model.automatic_optimization = False
    with pytest.raises(CaptureError, match=r"needs a Lightning trainer(.|\n)*pass loss=function"):
        ta.capture(model, BATCH, mode="training")

    class Asks(lightning_class()):
        def training_step(self, batch, number):
            return self(batch[0]).sum() * self.trainer.max_epochs

    with pytest.raises(CaptureError, match="needs a Lightning trainer"):
        ta.capture(Asks(), BATCH, mode="training")

    class Skips(lightning_class()):
        def training_step(self, batch):
            return None

    with pytest.raises(InputError, match="returns no loss"):
        ta.capture(Skips(), BATCH, mode="training")


# -- Keras -------------------------------------------------------------------------------------


@functools.cache
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    found = package("keras")
    if found.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend")
    return found


@BOTH
def test_keras_sequential(frontend):
    layers = keras().layers
    model = keras().Sequential(
        [
            keras().Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.5),
            layers.Dense(5, name="head"),
        ]
    )
    graph = ta.capture(model, torch.randn(2, 8, 8, 3), frontend=frontend)
    ta.validate(graph)
    assert graph.graph["name"] == "Sequential" and ids(graph, "input") == ["inputs"]
    states = [f"stem/{n}" for n in ("kernel", "bias")] + ["norm/gamma", "norm/beta"]
    assert ids(graph, "parameter") == [*states, "head/kernel", "head/bias"]
    assert ids(graph, "buffer") == ["norm/moving_mean", "norm/moving_variance"]
    assert {"stem/conv2d", "head/matmul"} <= set(graph)
    assert graph.nodes["stem/conv2d"]["module_type"].endswith("conv2d.Conv2D")
    assert ta.totals(graph).macs == 2 * 6 * 6 * 4 * 27 + 2 * 144 * 5
    assert ta.totals(graph).params == 4 * 27 + 4 + 2 * 4 + 144 * 5 + 5
    x = graph.source.placeholders["inputs"]
    assert torch.allclose(replay(graph.source)["output"], model(x), atol=1e-5)


@BOTH
def test_keras_graphs_and_subclasses(frontend):
    layers = keras().layers
    given = keras().Input((6,))
    shared = layers.Dense(6, name="shared")
    inner = keras().Sequential([layers.Dense(6, name="deep")], name="inner")
    outputs = layers.Dense(2, name="out")(
        layers.Add(name="sum")([shared(shared(given)), inner(given)])
    )
    graph = ta.capture(keras().Model(given, {"y": outputs}), torch.randn(2, 6), frontend=frontend)
    assert [n for n in ids(graph, "op") if n.endswith("matmul") or "matmul_" in n] == [
        *("shared/matmul", "shared/matmul_1", "inner/deep/matmul", "out/matmul"),
    ]
    assert ids(graph, "output") == ["output/y"]

    class Attends(keras().Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [layers.Dense(4, name=f"block{i}") for i in range(2)]
            self.attention = layers.MultiHeadAttention(2, 4, name="attention")

        def call(self, tokens):
            for block in self.blocks:
                tokens = block(tokens)
            return self.attention(tokens, tokens)

    model = Attends()
    with pytest.raises(CaptureError, match=r"no weights yet(.|\n)*run the model once"):
        ta.capture(model, torch.randn(2, 7, 4), frontend=frontend)
    model(torch.randn(2, 7, 4))
    graph = ta.capture(model, torch.randn(2, 7, 4), frontend=frontend)
    assert {"block1/matmul", "attention/query/kernel", "attention/query/einsum"} <= set(graph)
    assert ids(graph, "input") == ["tokens"]


def test_keras_shapes_that_do_not_fit():
    model = keras().Sequential([keras().Input((6,)), keras().layers.Dense(3, name="head")])
    with pytest.raises(InputError, match=r"Dense\)\n  ValueError: Input 0 (.|\n)*value 6"):
        ta.capture(model, torch.randn(2, 7))


def test_keras_training_step():
    model = keras().Sequential([keras().Input((6,)), keras().layers.Dense(3, name="head")])
    graph = ta.capture(model, torch.randn(2, 6), mode="training", loss=lambda y: y.mean())
    assert {"gradient/head/kernel", "gradient/head/bias"} <= set(graph)
    assert all(variable.value.grad is None for variable in model.variables)
