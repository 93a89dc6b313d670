"""What `flops_accuracy.py` counts: models and single operations, with the truth about them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import truth  # noqa: E402

Made = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A model with its inputs, and the multiply-adds that it takes."""

    make: Callable[[], Made]
    macs: int
    about: str
    training: bool = False
    no_grad: bool = False


class Positional(nn.Module):
    """Calls a model or a function by position: the one way that every counter knows."""

    def __init__(self, model: Callable[..., Any], *names: str) -> None:
        super().__init__()
        self.model, self.names = model, names
        if not isinstance(model, nn.Module):  # some counters need a parameter to find the device
            self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, *args: Any) -> Any:
        """Call it with `args`, by name where names are given; the result is then a tuple."""
        if self.names:
            return self.model(**dict(zip(self.names, args, strict=True))).to_tuple()
        return self.model(*args)


def _image(size: int) -> tuple[Tensor]:
    return (torch.randn(1, 3, size, size),)


def _torchvision(name: str) -> Made:
    from torchvision import models

    return getattr(models, name)(), _image(224)


def _convnext() -> Made:
    import timm

    return timm.create_model("convnextv2_tiny"), _image(224)


def _backbone() -> Made:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).backbone, _image(512)


def _transformer(kind: str, auto: str, *lengths: int, **config: Any) -> Made:
    import transformers

    made = transformers.AutoConfig.for_model(kind, use_cache=False, **config)
    model = getattr(transformers, auto).from_config(made)
    ids = tuple(torch.zeros(1, length, dtype=torch.int64) for length in lengths)
    names = ("input_ids", "decoder_input_ids")[: len(ids)]
    return Positional(model, *names), ids


def _attention() -> Made:
    return nn.MultiheadAttention(256, 8, batch_first=True), (torch.randn(8, 64, 256),) * 3


def _sequence() -> tuple[Tensor]:
    return (torch.randn(32, 8, 128),)


LLAMA = {
    "hidden_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
MIXTRAL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
}
T5 = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
HEADS = {"heads": 32, "shared": 8, "words": 128256}
ROUTED = {"heads": 4, "shared": 2, "experts": 8, "chosen": 3, "words": 100}

MODELS: dict[str, Case] = {
    "resnet50": Case(lambda: _torchvision("resnet50"), truth.resnet50(), "224 x 224"),
    "mobilenet_v3_large": Case(
        lambda: _torchvision("mobilenet_v3_large"), truth.mobilenet_v3_large(), "224 x 224"
    ),
    "convnextv2_tiny": Case(_convnext, truth.convnextv2_tiny(), "224 x 224, of timm"),
    "faster_rcnn_backbone": Case(
        _backbone, truth.resnet50_fpn(512), "ResNet-50 and its pyramid, 512 x 512"
    ),
    "vit_b_16": Case(lambda: _torchvision("vit_b_16"), truth.vit_b_16(), "224 x 224"),
    "swin_t": Case(lambda: _torchvision("swin_t"), truth.swin_t(), "224 x 224"),
    "lstm": Case(
        lambda: (nn.LSTM(128, 256, 2, bidirectional=True), _sequence()),
        truth.recurrent(4, 256, 128, 256, layers=2, directions=2),
        "2 layers of 256, both directions; 32 steps of 8",
    ),
    "gru": Case(
        lambda: (nn.GRU(128, 256, 2), _sequence()),
        truth.recurrent(3, 256, 128, 256, layers=2),
        "2 layers of 256; 32 steps of 8",
    ),
    "attention, train": Case(
        _attention,
        truth.multihead(8, 64, 256),
        "nn.MultiheadAttention of 8 heads on 8 x 64 x 256",
        training=True,
    ),
    "attention, eval": Case(_attention, truth.multihead(8, 64, 256), "the same"),
    "attention, no_grad": Case(_attention, truth.multihead(8, 64, 256), "the same", no_grad=True),
    "bert-base": Case(
        lambda: _transformer("bert", "AutoModel", 128),
        truth.bert(1, 128, 768, 3072, 12),
        "128 tokens",
    ),
    "gpt2": Case(
        lambda: _transformer("gpt2", "AutoModelForCausalLM", 128),
        truth.gpt2(1, 128, 768, 12, 50257),
        "128 tokens",
    ),
    "llama-1b": Case(
        lambda: _transformer("llama", "AutoModelForCausalLM", 128, **LLAMA),
        truth.llama(1, 128, 2048, 8192, 2, **HEADS),
        "the width of Llama 3.2 1B with 2 of its 16 layers, 128 tokens",
    ),
    "t5-small": Case(
        lambda: _transformer("t5", "AutoModelForSeq2SeqLM", 128, 64, vocab_size=32128, **T5),
        truth.t5(1, 128, 64, 512, 2048, 6, projected=512, words=32128),
        "128 tokens in, 64 out",
    ),
    "mixtral-tiny": Case(
        lambda: _transformer("mixtral", "AutoModelForCausalLM", 128, **MIXTRAL),
        truth.mixtral(1, 128, 64, 96, 2, **ROUTED),
        "2 layers of 64, 3 of 8 experts, 128 tokens",
    ),
}


def _tensor(shape: Any) -> Tensor:
    return torch.randn(shape) if isinstance(shape, tuple) else shape


def operations() -> dict[str, Case]:
    """Return the single operations of the tests, each as a model."""
    spec = importlib.util.spec_from_file_location(
        "by_hand", TESTS / "annotations" / "test_flops_by_hand.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def case(model: Any, shapes: Any, macs: int) -> Case:
        whole = model if isinstance(model, nn.Module) else Positional(model)
        return Case(lambda: (whole, tuple(map(_tensor, shapes))), macs, "", training=True)

    return {name: case(*row[:3]) for name, row in module.CONTRACTIONS.items()}


def _both(forward: int, first: int) -> tuple[int, int]:
    """Return those of both passes; the `first` layer's input needs no gradient."""
    images = 2
    return 2 * images * forward, 2 * images * truth.backward(forward, first)


TRAINED = {
    "resnet50": _both(truth.resnet50(), truth.conv2d(112, 3, 64, 7)),
    "mobilenet_v3_large": _both(truth.mobilenet_v3_large(), truth.conv2d(112, 3, 16, 3)),
}
"""FLOPs of the forward and of the backward pass on two images."""
