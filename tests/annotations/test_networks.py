"""Whole networks: no op without a rule, and multiply-adds that can be derived or looked up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torchatlas as ta
import truth
from torchatlas.graph import op_nodes

os.environ["HF_HUB_OFFLINE"] = "1"

HIDDEN, WIDE, LAYERS, HEADS, WORDS, BATCH, LENGTH = 32, 48, 2, 4, 100, 2, 16
TINY = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": WORDS,
}
TOKENS = BATCH * LENGTH
ATTENTION = 2 * TOKENS * LENGTH * HIDDEN  # of one layer: queries times keys, weights times values
PROJECTIONS = 4 * TOKENS * HIDDEN * HIDDEN


def text(*shape: int) -> torch.Tensor:
    return torch.zeros(shape or (BATCH, LENGTH), dtype=torch.long)


def transformer(name: str, **config: object) -> nn.Module:
    auto = pytest.importorskip("transformers")
    return auto.AutoModel.from_config(auto.AutoConfig.for_model(name, **config)).eval()


def test_bert(sample):
    model = transformer("bert", **TINY)
    layer = PROJECTIONS + ATTENTION + 2 * TOKENS * HIDDEN * WIDE
    pooler = BATCH * HIDDEN * HIDDEN
    total = sample(model, text()).totals
    assert total.macs == LAYERS * layer + pooler
    assert total.unknown == {}


def test_gpt2(sample):
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": WORDS}
    model = transformer("gpt2", use_cache=False, **sizes)
    layer = PROJECTIONS + ATTENTION + 2 * TOKENS * HIDDEN * 4 * HIDDEN
    total = sample(model, text()).totals
    assert total.macs == LAYERS * layer
    assert total.unknown == {}


def test_llama_shares_keys(sample):
    model = transformer("llama", num_key_value_heads=2, use_cache=False, **TINY)
    projections = TOKENS * HIDDEN * (HIDDEN + HIDDEN // 2 + HIDDEN // 2 + HIDDEN)
    layer = projections + ATTENTION + 3 * TOKENS * HIDDEN * WIDE
    total = sample(model, text()).totals
    assert total.macs == LAYERS * layer
    assert total.unknown == {}


def test_mixtral_counts_routed_tokens(sample):
    routed = {"num_local_experts": 8, "num_experts_per_tok": 3}
    model = transformer("mixtral", num_key_value_heads=HEADS, use_cache=False, **routed, **TINY)
    router = TOKENS * HIDDEN * 8
    experts = TOKENS * 3 * (3 * HIDDEN * WIDE)
    layer = PROJECTIONS + ATTENTION + router + experts
    total = sample(model, text()).totals
    assert total.macs == LAYERS * layer
    assert total.unknown == {}


def test_t5(sample):
    sizes = {"d_model": HIDDEN, "d_ff": WIDE, "num_layers": 1, "num_heads": HEADS, "d_kv": 8}
    model = transformer("t5", vocab_size=WORDS, use_cache=False, **sizes)
    feed_forward = 2 * TOKENS * HIDDEN * WIDE
    blocks = 3 * (PROJECTIONS + ATTENTION) + 2 * feed_forward  # own, own and across
    total = sample(model, text(), None, text()).totals
    assert total.macs == blocks
    assert total.unknown == {}


class Keywords(nn.Module):
    """Calls a model by the names of its arguments."""

    def __init__(self, model: nn.Module, *names: str) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *args: torch.Tensor) -> object:
        return self.model(**dict(zip(self.names, args, strict=True)), return_dict=False)[0]


def test_whisper(sample):
    sides = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("attention_heads", HEADS), ("ffn_dim", WIDE))
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = transformer(
        "whisper", d_model=HIDDEN, vocab_size=WORDS, max_source_positions=50, use_cache=False,
        **sides, **tokens,
    )  # fmt: skip
    wrapped = Keywords(model, "input_features", "decoder_input_ids")
    total = sample(wrapped, (BATCH, 80, 100), text()).totals
    sounds = BATCH * 50
    convolutions = BATCH * HIDDEN * 3 * (100 * 80 + 50 * HIDDEN)
    encoder = sounds * (4 * HIDDEN * HIDDEN + 2 * 50 * HIDDEN + 2 * HIDDEN * WIDE)
    across = 2 * TOKENS * HIDDEN * HIDDEN + 2 * sounds * HIDDEN * HIDDEN + 2 * TOKENS * 50 * HIDDEN
    decoder = PROJECTIONS + ATTENTION + across + 2 * TOKENS * HIDDEN * WIDE
    assert total.macs == convolutions + encoder + decoder
    assert total.unknown == {}


def test_clip(sample):
    vision = {key: n for key, n in TINY.items() if key != "vocab_size"}
    model = transformer(
        "clip",
        projection_dim=16,
        text_config=TINY | {"max_position_embeddings": 77},
        vision_config=vision | {"image_size": 32, "patch_size": 8},
    )
    wrapped = Keywords(model, "input_ids", "pixel_values")
    total = sample(wrapped, text(), (BATCH, 3, 32, 32)).totals
    patches = 16 + 1

    def tower(length: int) -> int:
        weights = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * WIDE
        return LAYERS * BATCH * length * (weights + 2 * length * HIDDEN)

    embedding = BATCH * 16 * HIDDEN * 3 * 8 * 8
    projections = 2 * BATCH * HIDDEN * 16
    similarity = BATCH * BATCH * 16
    assert total.macs == tower(LENGTH) + tower(patches) + embedding + projections + similarity
    assert total.unknown == {}


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(8, 16, 2, bidirectional=True),
        nn.GRU(8, 16),
        nn.RNN(8, 16, nonlinearity="relu"),
        nn.Transformer(16, 4, 1, 1, 32).eval(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_torch_layers_are_covered(sample, model):
    shapes = [(5, 3, 16)] * 2 if isinstance(model, nn.Transformer) else [(5, 3, 8)]
    assert sample(model, *shapes).totals.unknown == {}


@pytest.mark.parametrize("name", ["convnextv2_atto", "tf_efficientnetv2_b0"])
def test_timm_is_covered(sample, name):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name).eval()
    total = sample(model, (1, 3, 64, 64)).totals
    assert total.unknown == {}
    assert total.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vit_b_32"]
)
def test_torchvision_publishes_the_same(sample, name):
    models = pytest.importorskip("torchvision.models")
    weight = models.get_model_weights(name).DEFAULT
    (size,) = weight.transforms().crop_size
    with torch.device("meta"):
        model = models.get_model(name).eval()
        image = torch.zeros(1, 3, size, size)
    total = sample(model, image).totals
    assert round(total.macs / 1e9, 3) == weight.meta["_ops"]
    assert total.params == weight.meta["num_params"]
    assert total.unknown == {}


def torchvision(name: str, **config: object) -> nn.Module:
    return getattr(pytest.importorskip("torchvision.models"), name)(**config)


def pyramid() -> nn.Module:
    detection = pytest.importorskip("torchvision.models.detection")
    whole = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    return whole.backbone


Vision = tuple[Callable[[], nn.Module], Callable[[int], int], int]
VISION: dict[str, Vision] = {
    "resnet50": (lambda: torchvision("resnet50"), truth.resnet50, 64),
    "resnet50, odd sides": (lambda: torchvision("resnet50"), truth.resnet50, 75),
    "mobilenet_v3_large": (
        lambda: torchvision("mobilenet_v3_large"),
        truth.mobilenet_v3_large,
        64,
    ),
    "convnextv2_tiny": (
        lambda: pytest.importorskip("timm").create_model("convnextv2_tiny"),
        truth.convnextv2_tiny,
        64,
    ),
    "vit_b_16": (lambda: torchvision("vit_b_16", image_size=64), truth.vit_b_16, 64),
    "swin_t, windows padded": (lambda: torchvision("swin_t"), truth.swin_t, 96),
    "backbone of Faster R-CNN": (pyramid, truth.resnet50_fpn, 64),
}


@pytest.mark.parametrize(("make", "expected", "size"), VISION.values(), ids=VISION.keys())
def test_vision(sample, make, expected, size):
    with torch.device("meta"):
        model, image = make().eval(), torch.zeros(1, 3, size, size)
    total = sample(model, image).totals
    assert (total.macs, total.flops) == (expected(size), 2 * expected(size))
    assert total.unknown == {}


def test_both_passes_of_grouped_convolutions():
    # torch's own counter has the weight gradient of a grouped convolution too large
    with torch.device("meta"):
        model, image = torchvision("mobilenet_v3_large"), torch.zeros(2, 3, 64, 64)
    graph = ta.capture(model.train(), image, mode="training")
    macs = {"forward": 0, "backward": 0}
    for _, node in op_nodes(graph):
        macs[node["phase"]] += node["macs"]
    forward, first = truth.mobilenet_v3_large(64), truth.conv2d(32, 3, 16, 3)
    assert macs == {"forward": 2 * forward, "backward": 2 * truth.backward(forward, first)}


def test_truth_is_what_is_published():
    assert round(truth.resnet50() / 1e9, 3) == 4.089
    assert round(truth.mobilenet_v3_large() / 1e9, 3) == 0.217
    assert round(truth.swin_t() / 1e9, 3) == 4.491
    assert round(truth.vit_b_16() / 1e9, 3) == 17.564


MODES: dict[str, tuple[bool, Callable[[], Any]]] = {
    "train": (True, contextlib.nullcontext),
    "eval": (False, contextlib.nullcontext),
    "no_grad": (False, torch.no_grad),
}
"""Whether the model trains, and what it is captured under: torch has other kernels for each."""

LAYERS_OF_TORCH: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "LSTM": (
        lambda: nn.LSTM(8, 16, 2, bidirectional=True),
        1,
        truth.recurrent(4, 15, 8, 16, layers=2, directions=2),
    ),
    "GRU": (lambda: nn.GRU(8, 16, 3), 1, truth.recurrent(3, 15, 8, 16, layers=3)),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        3,
        truth.multihead(5, 3, 8),
    ),
}


@pytest.mark.parametrize(("trains", "context"), MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize(
    ("make", "inputs", "macs"), LAYERS_OF_TORCH.values(), ids=LAYERS_OF_TORCH.keys()
)
def test_torch_layers_whatever_the_mode(sample, make, inputs, macs, trains, context):
    model = make().train(trains)
    x = torch.zeros(5, 3, 8)
    with context():
        total = sample(model, *[x] * inputs).totals
    assert (total.macs, total.flops, total.unknown) == (macs, 2 * macs, {})


def language(name: str, auto: str, **config: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model(name, use_cache=False, **config)
    return getattr(transformers, auto).from_config(made).eval()


SHARED = {"heads": HEADS, "shared": 2, "words": WORDS}
GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": WORDS}
MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 3}
SIZES = (BATCH, LENGTH, HIDDEN)

LANGUAGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "bert": (
        lambda: language("bert", "AutoModel", **TINY),
        truth.bert(*SIZES, WIDE, LAYERS),
    ),
    "gpt2": (
        lambda: language("gpt2", "AutoModelForCausalLM", **GPT2),
        truth.gpt2(*SIZES, LAYERS, WORDS),
    ),
    "llama": (
        lambda: language("llama", "AutoModelForCausalLM", num_key_value_heads=2, **TINY),
        truth.llama(*SIZES, WIDE, LAYERS, **SHARED),
    ),
    "mixtral": (
        lambda: language(
            "mixtral", "AutoModelForCausalLM", num_key_value_heads=2, **MIXTRAL, **TINY
        ),
        truth.mixtral(*SIZES, WIDE, LAYERS, experts=8, chosen=3, **SHARED),
    ),
}


@pytest.mark.parametrize(("make", "macs"), LANGUAGE.values(), ids=LANGUAGE.keys())
def test_language(sample, make, macs):
    total = sample(make(), text()).totals
    assert (total.macs, total.flops, total.unknown) == (macs, 2 * macs, {})


def test_t5_of_two_lengths(sample):
    sizes = {"d_model": HIDDEN, "d_ff": WIDE, "num_layers": LAYERS, "num_heads": HEADS}
    model = language("t5", "AutoModelForSeq2SeqLM", vocab_size=WORDS, d_kv=6, **sizes)
    wrapped = Keywords(model, "input_ids", "decoder_input_ids")
    macs = truth.t5(BATCH, LENGTH, 5, HIDDEN, WIDE, LAYERS, projected=6 * HEADS, words=WORDS)
    total = sample(wrapped, text(), text(BATCH, 5)).totals
    assert (total.macs, total.unknown) == (macs, {})
