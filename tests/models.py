"""The models that the tests capture, each with an example; built from configurations, offline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Any]


class Tiny(nn.Module):
    """A convolution, a norm, an activation in place and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """A skip connection, added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y += x
        return y * y


class SharedAndTied(nn.Module):
    """Dict inputs and outputs, one module under two names and called twice, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.block = nn.Linear(8, 8)
        self.again = self.block
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.full((8,), 0.5), persistent=False)

    def forward(self, batch: dict[str, Tensor], *, bias: Tensor) -> dict[str, Tensor]:
        x = self.embed(batch["ids"])
        x = self.again(self.block(self.block(x))) * self.scale
        return {"logits": self.head(x) + bias, "mask": batch["mask"] + 1}


class InPlaceViews(nn.Module):
    """Writes through overlapping views, read before and after through others."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x * 1
        before = x * 2
        row, column = x[0], x[:, 0]
        row.add_(1)
        between = column * 3
        column.mul_(2)
        x[1:3].relu_()
        return before, between, x + row


class Regions(nn.Module):
    """``no_grad`` and ``autocast`` regions, several outputs per op, constants."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            frozen = x.detach().to(torch.float32) * 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = x @ x.t()
        first, second = x.split(2)
        values, indices = torch.max(frozen, dim=1)
        return {
            "product": product,
            "pair": [first, second + torch.tensor(1.0)],
            "top": (values, indices),
        }


@dataclasses.dataclass
class Pair:
    """Not registered with torch's pytree."""

    left: Tensor
    right: Tensor


class Dataclasses(nn.Module):
    """A dataclass in, a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, pair: Pair) -> Pair:
        return Pair(self.mix(pair.left), pair.right + pair.left)


class Attention(nn.Module):
    """Self-attention by `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.attention(x, x, x)


class Recurrent(nn.Module):
    """An LSTM of two layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(x)


HOSTILE = (
    "</text><script>alert(1)</script>",
    'a"b\n[bold]',
    "\x1b[31m\u202e\x00",
    "x" * 100_000,
    "=cmd|calc",
    "a;b/c",
)


def hostile() -> Made:
    """Return a model whose modules have names that attack every format."""
    model = nn.Sequential()
    for name in HOSTILE:
        model.add_module(name, nn.Linear(4, 4))
    return model, torch.randn(2, 4)


SMALL: dict[str, Callable[[], Made]] = {
    "tiny": lambda: (Tiny(), torch.randn(2, 3, 8, 8)),
    "residual": lambda: (Residual(), torch.randn(3, 4)),
    "shared_and_tied": lambda: (
        SharedAndTied(),
        (
            ({"ids": torch.ones(2, 3, dtype=torch.int64), "mask": torch.zeros(2)},),
            {"bias": torch.randn(10)},
        ),
    ),
    "in_place_views": lambda: (InPlaceViews(), torch.randn(4, 4)),
    "regions": lambda: (Regions(), torch.randn(4, 4)),
    "dataclasses": lambda: (Dataclasses(), Pair(torch.randn(2, 3), torch.randn(2, 3))),
    "attention": lambda: (Attention(), torch.randn(2, 7, 16)),
    "lstm": lambda: (Recurrent(), torch.randn(2, 7, 6)),
}


def _torchvision(name: str) -> Made:
    import torchvision

    return getattr(torchvision.models, name)(), torch.randn(1, 3, 224, 224)


def _timm(name: str, size: int) -> Made:
    import timm

    return timm.create_model(name, pretrained=False), torch.randn(1, 3, size, size)


def _calibrate(model: nn.Module, shape: Sequence[int]) -> None:
    """Let the norms see a few batches: without, a deep model is chaotic in float32."""
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, *shape[1:]))


def _hf(kind: str, example: dict[str, Tensor], **config: Any) -> Made:
    import transformers

    made = transformers.AutoConfig.for_model(kind, **config)
    if hasattr(made, "use_cache"):
        made.use_cache = False
    return transformers.AutoModel.from_config(made), example


def _ids(length: int = 8) -> Tensor:
    return torch.arange(2, 2 + length).reshape(1, length)


_LM = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}

LARGE: dict[str, Callable[[], Made]] = {
    **{
        name: lambda name=name: _torchvision(name)
        for name in ("resnet18", "resnet50", "mobilenet_v3_large", "swin_t", "vit_b_16")
    },
    "convnextv2_tiny": lambda: _timm("convnextv2_tiny", 64),
    "tf_efficientnetv2_s": lambda: _timm("tf_efficientnetv2_s", 64),
    "bert": lambda: _hf("bert", {"input_ids": _ids()}, intermediate_size=64, **_LM),
    "gpt2": lambda: _hf(
        "gpt2", {"input_ids": _ids()}, vocab_size=64, n_embd=32, n_layer=2, n_head=4
    ),
    "llama": lambda: _hf(
        "llama", {"input_ids": _ids()}, intermediate_size=64, num_key_value_heads=2, **_LM
    ),
    "t5": lambda: _hf(
        "t5",
        {"input_ids": _ids(), "decoder_input_ids": _ids(4)},
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
    ),
    "whisper": lambda: _hf(
        "whisper",
        {"input_features": torch.randn(1, 16, 40), "decoder_input_ids": _ids(4)},
        vocab_size=64,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "clip": lambda: _hf(
        "clip",
        {"input_ids": _ids(), "pixel_values": torch.randn(1, 3, 32, 32)},
        projection_dim=16,
        text_config={
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "eos_token_id": 9,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    "mixtral": lambda: _hf(
        "mixtral",
        {"input_ids": _ids()},
        intermediate_size=64,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        **_LM,
    ),
}

ALL = {**SMALL, **LARGE}
OLD_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)


def params(names: Iterable[str]) -> list[Any]:
    """Return the names for `parametrize`; those that torch itself gets wrong are marked so."""
    why = "fake LSTM states had a dimension too many"
    wrong = pytest.mark.xfail(OLD_TORCH, reason=why, strict=True)
    return [pytest.param(name, marks=wrong) if name == "lstm" else name for name in names]


def make(name: str) -> Made:
    """Return the model `name` in eval mode, with no weight or statistic left trivial."""
    torch.manual_seed(0)
    model, example = ALL[name]()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.std() == 0:
            with torch.no_grad():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    if name == "tf_efficientnetv2_s":
        _calibrate(model, example.shape)
    return model.eval(), example
