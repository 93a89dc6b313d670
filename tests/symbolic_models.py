"""Models with symbolic sizes: tiny, each with an example, names and bindings to check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import models


@dataclass(frozen=True)
class Case:
    """A model, and what to capture it with and to bind it to."""

    make: Callable[[], models.Made]
    dynamic: Any
    bindings: list[dict[str, int]]


class UNet(nn.Module):
    """Down and up again by convolutions, with skips: the size must be a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(4, 4, 2, stride=2) for _ in range(3))
        self.up = nn.ModuleList(nn.ConvTranspose2d(4, 4, 2, stride=2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for layer in self.down:
            skips.append(torch.relu(layer(skips[-1])))
        y = skips.pop()
        for layer in self.up:
            y = layer(y) + skips.pop()
        return y


class Positions(nn.Module):
    """A transformer layer behind learned positions: at most 16 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 16, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.positions[:, : x.shape[1]])


class Bags(nn.Module):
    """An embedding bag, and an einsum over what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 8)
        self.mix = nn.Parameter(torch.zeros(8, 3, 5))

    def forward(self, ids: Tensor, other: Tensor) -> Tensor:
        return torch.einsum("bi,ijk,bj->bk", self.bag(ids), self.mix, other)


def _eval(made: models.Made) -> models.Made:
    return made[0].eval(), made[1]


def _torchvision(name: str, size: int, **config: Any) -> models.Made:
    import torchvision

    return getattr(torchvision.models, name)(**config).eval(), torch.zeros(1, 3, size, size)


def _vit() -> models.Made:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=5)
    return model.eval(), torch.zeros(1, 3, 32, 32)


def _swin() -> models.Made:
    from torchvision.models import SwinTransformer

    model = SwinTransformer([4, 4], 8, [2, 2], [2, 4], [4, 4], num_classes=5)
    return model.eval(), torch.zeros(1, 3, 32, 32)


def _convnext() -> models.Made:
    import timm

    model = timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1), dims=(4, 8, 8, 8))
    return model.eval(), torch.zeros(1, 3, 96, 96)


def _text(length: int = 6) -> Tensor:
    return torch.arange(2, 2 + length).reshape(1, length)


_WORDS = [
    {"batch": 1, "seq": 9},
    {"batch": 2, "seq": 6},
    {"batch": 8, "seq": 2},
    {"batch": 3, "seq": 31},
]
_IMAGES = [
    {"batch": 1, "height": 64, "width": 64},
    {"batch": 2, "height": 96, "width": 32},
    {"batch": 3, "height": 32, "width": 160},
    {"batch": 1, "height": 224, "width": 224},
]
_BATCHES = [{"batch": n} for n in (1, 2, 5, 64)]
_IMAGE = {"x": {0: "batch", 2: "height", 3: "width"}}

CASES: dict[str, Case] = {
    "mlp": Case(
        lambda: (nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), torch.zeros(1, 8)),
        ["batch"],
        _BATCHES,
    ),
    "resnet18": Case(lambda: _torchvision("resnet18", 64), _IMAGE, _IMAGES),
    "mobilenet_v3_small": Case(
        lambda: _torchvision("mobilenet_v3_small", 64), {"x": {0: "batch"}}, _BATCHES
    ),
    "vit": Case(_vit, {"x": {0: "batch"}}, _BATCHES),
    "swin": Case(_swin, {"x": {0: "batch"}}, _BATCHES),
    "convnextv2": Case(_convnext, _IMAGE, _IMAGES),
    "unet": Case(
        lambda: (UNet(), torch.zeros(1, 3, 32, 32)),
        _IMAGE,
        [*_IMAGES[:3], {**_IMAGES[0], "height": 8}],
    ),
    "lstm": Case(lambda: models.make("lstm"), ["batch", "seq"], _WORDS),
    "gru": Case(
        lambda: (nn.GRU(4, 5, bidirectional=True), torch.zeros(7, 2, 4)), ["seq", "batch"], _WORDS
    ),
    "attention": Case(lambda: _eval(models.make("attention")), ["batch", "seq"], _WORDS),
    "positions": Case(
        lambda: (Positions().eval(), torch.zeros(1, 6, 8)),
        ["batch", "seq"],
        [*_WORDS[:3], {"batch": 1, "seq": 16}],
    ),
    "bags": Case(
        lambda: (Bags(), (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))),
        {"ids": ["batch", "words"], "other": ["batch"]},
        [{"batch": b, "words": w} for b, w in ((1, 1), (1, 5), (4, 1), (3, 9))],
    ),
    **{
        name: Case(
            lambda name=name: _eval(models.make(name)), {"input_ids": ["batch", "seq"]}, _WORDS
        )
        for name in ("bert", "gpt2", "llama", "mixtral")
    },
    "t5": Case(
        lambda: _eval(models.make("t5")),
        {"input_ids": ["batch", "seq"], "decoder_input_ids": ["batch", "out"]},
        [{**sizes, "out": out} for sizes, out in zip(_WORDS, (5, 2, 7, 3), strict=True)],
    ),
}
