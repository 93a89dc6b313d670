"""Models that the tests train for one step, each with an example; quick, and without weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchatlas as ta

IDS = torch.arange(16).view(2, 8) % 13
TINY = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def language_model(kind: str, head: bool = True, attention: str = "eager", **config) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model(kind, attn_implementation=attention, **config)
    made.use_cache = False
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    return auto.from_config(made)


def vision(name: str, **config) -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(**config)


class TiedAndShared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())

    def forward(self, ids):
        return self.head(self.block(self.block(self.embed(ids))))


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return (x * weight).exp()

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        inner = (x * weight).exp() * gradient
        return inner * weight, (inner * x).sum(0)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(8, 8), nn.Parameter(torch.randn(8))

    def forward(self, x):
        return Scale.apply(self.linear(x), self.scale).tanh()


class WritesThroughViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        y = self.linear(x) * 1
        y[:, :4].mul_(self.gate(x))
        positive = (x > 0).float()
        y[1].add_(2)
        return y.sin() * positive


class Checkpoints(nn.Module):
    """Runs a function again that calls a module and an op outside any."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.drop, self.reentrant = nn.Dropout(0.2), reentrant

    def forward(self, x):
        def part(y):
            return self.second(torch.tanh(self.drop(self.first(y)))).sin()

        return self.head(checkpoint(part, self.first(x), use_reentrant=self.reentrant))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


class TwoLosses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.frozen = nn.Linear(8, 4).requires_grad_(False)

    def forward(self, x):
        y, z = self.linear(x), self.frozen(x)
        return {"first": nn.functional.mse_loss(y, z), "second": y.abs().mean()}


def dropouts() -> nn.Module:
    first = nn.Linear(8, 32), nn.Dropout(0.5), nn.Hardswish(inplace=True)
    return nn.Sequential(*first, nn.Linear(32, 16), nn.Dropout(0.3, inplace=True), nn.Linear(16, 4))


def normed() -> nn.Module:
    weight = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    return nn.Sequential(weight, nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)))


MODELS = {
    "resnet18": (lambda: vision("resnet18"), lambda: torch.randn(2, 3, 32, 32)),
    "bert": (
        lambda: language_model("bert", False, "sdpa", **TINY),
        lambda: {"input_ids": IDS},
    ),
    "gpt2": (
        lambda: language_model("gpt2", vocab_size=32, n_embd=16, n_layer=2, n_head=2),
        lambda: {"input_ids": IDS, "labels": IDS},
    ),
    "llama": (
        lambda: language_model("llama", num_key_value_heads=1, **TINY),
        lambda: {"input_ids": IDS, "labels": IDS},
    ),
    "mixtral": (
        lambda: language_model("mixtral", num_key_value_heads=1, num_local_experts=4, **TINY),
        lambda: {"input_ids": IDS, "labels": IDS},
    ),
    "lstm": (
        lambda: nn.LSTM(6, 5, 2, bidirectional=True, dropout=0.3),
        lambda: torch.randn(7, 2, 6),
    ),
    "swin": (
        lambda: vision(
            "SwinTransformer",
            patch_size=[4, 4],
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=[4, 4],
            stochastic_depth_prob=0.5,
        ),
        lambda: torch.randn(2, 3, 32, 32),
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "tied and shared": (TiedAndShared, lambda: torch.arange(6).view(2, 3)),
    "dropout": (dropouts, lambda: torch.randn(4, 8)),
    "parametrized": (normed, lambda: torch.randn(4, 8)),
    "custom": (Custom, lambda: torch.randn(4, 8)),
    "views": (WritesThroughViews, lambda: torch.randn(4, 8)),
    "checkpoint": (lambda: Checkpoints(False), lambda: torch.randn(4, 8)),
    "reentrant checkpoint": (lambda: Checkpoints(True), lambda: torch.randn(4, 8)),
    "autocast": (Mixed, lambda: torch.randn(4, 8)),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)).bfloat16(),
        lambda: torch.randn(4, 8, dtype=torch.bfloat16),
    ),
    "two losses": (TwoLosses, lambda: torch.randn(4, 8)),
}


def make(name: str) -> tuple[nn.Module, Any]:
    """Return the model `name` and its example, the same each time."""
    torch.manual_seed(0)
    model, example = (part() for part in MODELS[name])
    return model.train(), example


@lru_cache(maxsize=64)
def step(name: str) -> ta.ModelGraph:
    """Return the graph of a training step of `name`."""
    return ta.capture(*make(name), mode="training")
