"""Examples for a model of transformers, made from the names of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

TOKENS = 8
"""Length of the text in an example."""


def candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield examples for `model`, the likeliest first.

    All hold the model's main input and whatever ``forward`` cannot do without; they differ in
    the shape of the main input, and in whether optional arguments are there.
    """
    names = list(_parameters(model))
    required = [n for n, p in _parameters(model).items() if p.default is inspect.Parameter.empty]
    main = getattr(model, "main_input_name", "input_ids")
    wanted = [name for name in ([main] if isinstance(main, str) else main) if name in names]
    wanted = list(dict.fromkeys([*wanted, *required]))
    own = getattr(model, "dummy_inputs", None)
    for extra in _EXTRAS:
        chosen = [*wanted, *(n for n in extra if n in names and n not in wanted)]
        if extra and len(chosen) == len(wanted):
            continue
        yield from _shaped(model, chosen)
    if isinstance(own, dict) and all(key in names for key in own):
        yield own
    if "use_cache" in names:
        for example in _shaped(model, wanted):
            yield {**example, "use_cache": False}


_EXTRAS: tuple[tuple[str, ...], ...] = (
    (),
    ("decoder_input_ids",),
    ("input_ids",),
    ("input_ids", "attention_mask"),
    ("input_ids", "decoder_input_ids"),
    ("input_ids", "pixel_values"),
    ("input_ids", "pixel_values", "bbox"),
    ("input_ids", "pixel_values", "image_embeds_position_mask"),
    ("input_ids", "input_values"),
    ("input_ids", "input_features"),
    ("pixel_values",),
    ("input_features",),
    ("input_values",),
    ("attention_mask",),
    ("decoder_input_ids", "decoder_attention_mask", "attention_mask"),
    ("image_grid_thw",),
    ("decoder_input_values",),
    ("visual_feats", "visual_pos"),
    ("lang_ids",),
)
"""Optional arguments that some models cannot do without, tried one after the other."""


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(model.forward).parameters
    return {name: p for name, p in found.items() if p.kind in kinds}


def _shaped(model: nn.Module, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield examples with the arguments `names` in every likely shape of the first of several."""
    made = {name: list(_values(model, name)) for name in names}
    if not names or not all(made.values()):
        return
    for i in range(max(map(len, made.values()))):
        yield {name: values[min(i, len(values) - 1)] for name, values in made.items()}


# -- values by the name of an argument ---------------------------------------------------------


def _values(model: nn.Module, name: str) -> Iterator[Any]:
    maker = _MAKERS.get(name)
    if maker is not None:
        yield from maker(model)


def _ids(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield a text; one with marks that some models look for; two choices; several codebooks."""
    text = torch.arange(5, 5 + TOKENS)
    yield text.unsqueeze(0)
    marks = [setting(model, f"{name}_token_id", default=2) for name in ("question", "sep", "eos")]
    question, separator, end = (m if isinstance(m, int) else 2 for m in marks)
    yield torch.tensor([[5, question, separator, 6, separator, 7, separator, end]])
    yield text.expand(1, 2, TOKENS).contiguous()
    yield text.expand(setting(model, "num_codebooks", default=4), TOKENS).contiguous()
    yield text.expand(1, setting(model, "num_codebooks", default=4), TOKENS).contiguous()


def _mask(model: nn.Module) -> Iterator[torch.Tensor]:
    for ids in _ids(model):
        yield torch.ones_like(ids)


def setting(model: nn.Module, *names: str, default: Any = None) -> Any:
    """Return the first attribute of that name in the configuration, or in those inside it."""
    from transformers import PreTrainedConfig

    config = model.config
    inner = [c for c in vars(config).values() if isinstance(c, PreTrainedConfig)]
    for name in names:
        for place in [config, *inner]:
            if (found := getattr(place, name, None)) is not None:
                return found
    return default


def _sides(model: nn.Module) -> list[tuple[int, int]]:
    size = setting(model, "image_size", "img_size", "crop_size", default=224)
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    if isinstance(size, (list, tuple)):
        size = (int(size[0]), int(size[-1]))
    else:
        size = (int(size), int(size))
    return list(dict.fromkeys([size, (64, 64), (224, 224), (256, 256), (336, 336)]))


def _images(model: nn.Module) -> Iterator[torch.Tensor]:
    channels = setting(model, "num_channels", "in_channels", "in_chans", default=3)
    channels = channels if isinstance(channels, int) else 3
    sides = _sides(model)
    for height, width in sides:
        yield torch.rand(1, channels, height, width)
    frames = setting(model, "num_frames", "frames_per_clip", default=2)
    for height, width in sides[:2]:
        yield torch.rand(1, frames, channels, height, width)
    yield torch.rand(1, 2, channels, *sides[0])


def _videos(model: nn.Module) -> Iterator[torch.Tensor]:
    channels = setting(model, "num_channels", "in_channels", "in_chans", default=3)
    frames = setting(model, "num_frames", "frames_per_clip", default=8)
    for height, width in _sides(model):
        yield torch.rand(1, frames, channels, height, width)


def _features(model: nn.Module) -> Iterator[torch.Tensor]:
    bins = setting(
        model, "num_mel_bins", "input_feat_per_channel", "feature_size", "mel_bins",
        "input_feat_size", "input_dim", "feature_projection_input_dim", default=80,
    )  # fmt: skip
    length = setting(model, "max_source_positions", default=None)
    if isinstance(length, int):
        yield torch.rand(1, bins, 2 * length)
    for frames in (128, 1024, 3000):
        yield torch.rand(1, frames, bins)
        yield torch.rand(1, bins, frames)
    yield torch.rand(1, 1, 1024, bins)
    yield torch.rand(1, 1, 1001, bins)


def _sound(model: nn.Module) -> Iterator[torch.Tensor]:
    bins = setting(model, "num_mel_bins", default=128)
    length = setting(model, "max_length", default=1024)
    yield torch.rand(1, 16000)
    yield torch.rand(1, 1, 16000)
    yield torch.rand(1, length, bins)
    yield torch.rand(1, TOKENS, bins)


def _series(model: nn.Module) -> Iterator[torch.Tensor]:
    length = setting(model, "context_length", default=64)
    lags = setting(model, "lags_sequence", default=[0])
    channels = setting(model, "input_size", "num_input_channels", default=1)
    if setting(model, "lags_sequence") is not None:
        total = length + max(lags)
        yield torch.rand(1, total) if channels == 1 else torch.rand(1, total, channels)
    yield torch.rand(1, length, channels)
    yield torch.rand(1, length)


def _past(model: nn.Module) -> int:
    return int(setting(model, "context_length", default=64)) + max(
        setting(model, "lags_sequence", default=[0])
    )


def _times(model: nn.Module) -> Iterator[torch.Tensor]:
    yield torch.rand(1, _past(model), setting(model, "num_time_features", default=0))


def _observed(model: nn.Module) -> Iterator[torch.Tensor]:
    channels = setting(model, "input_size", default=1)
    yield torch.ones(1, _past(model), *([] if channels == 1 else [channels]))


def _width(model: nn.Module) -> int:
    return int(setting(model, "hidden_size", "d_model", default=64))


def _hidden(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield states of a text, or the patches of an image that goes with a `grid_thw`."""
    if "grid_thw" in _parameters(model):
        yield from _patches(model)
    yield torch.rand(1, TOKENS, _width(model))


GRID = (1, 4, 4)
"""Frames, rows and columns of the patches of an image, where it comes as a list of these."""


def _patches(model: nn.Module) -> Iterator[torch.Tensor]:
    patch = setting(model, "patch_size", default=14)
    channels = setting(model, "in_channels", "in_chans", "num_channels", default=3)
    count = GRID[0] * GRID[1] * GRID[2]
    for frames in dict.fromkeys([setting(model, "temporal_patch_size", default=1), 2, 1]):
        yield torch.rand(count, channels * frames * patch * patch)
    yield torch.rand(count, channels, patch, patch)
    yield torch.rand(1, count, channels, patch, patch)


def _pictures(model: nn.Module) -> Iterator[torch.Tensor]:
    if {"grid_thw", "image_grid_thw"} & _parameters(model).keys():
        yield from _patches(model)
    yield from _images(model)


def _boxes(model: nn.Module) -> Iterator[torch.Tensor]:
    yield torch.tensor([[1, 2, 3, 4]]).expand(1, TOKENS, 4).contiguous()


def _latents(model: nn.Module) -> Iterator[torch.Tensor]:
    for width in {_width(model), setting(model, "codebook_dim", "latent_dim", default=64)}:
        yield torch.rand(1, TOKENS, width)
        yield torch.rand(1, width, TOKENS)


def _any(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield what a model takes that takes anything."""
    yield from _ids(model)
    yield from _images(model)
    yield from _sound(model)


def _masked(model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield which patches of an image or a video are hidden: half of them."""
    (height, width), *_ = _sides(model)
    patch = setting(model, "patch_size", default=16)
    frames = setting(model, "num_frames", default=1) // setting(model, "tubelet_size", default=1)
    count = frames * (height // patch) * (width // patch)
    yield (torch.arange(count) % 2 == 0).unsqueeze(0)


def _regions(model: nn.Module) -> Iterator[torch.Tensor]:
    yield torch.rand(1, TOKENS, setting(model, "visual_feat_dim", default=2048))


def _tensor(*shape: int, kind: str = "rand") -> Callable[[nn.Module], Iterator[torch.Tensor]]:
    def values(model: nn.Module) -> Iterator[torch.Tensor]:
        if kind == "rand":
            yield torch.rand(shape)
        else:
            yield torch.full(shape, kind == "ones", dtype=torch.int64)

    return values


_MAKERS: dict[str, Callable[[nn.Module], Iterator[Any]]] = {
    "attention_mask": _mask,
    "bbox": _boxes,
    "bool_masked_pos": _masked,
    "decoder_attention_mask": _mask,
    "decoder_input_ids": _ids,
    "decoder_input_values": _sound,
    "encoder_hidden_states": _hidden,
    "grid_thw": lambda model: iter([torch.tensor([GRID])]),
    "hidden_states": _hidden,
    "image_embeds_position_mask": _tensor(1, TOKENS, kind="zeros"),
    "image_grid_thw": lambda model: iter([torch.tensor([GRID])]),
    "input_features": _features,
    "input_ids": _ids,
    "input_values": _sound,
    "inputs": _any,
    "inputs_embeds": _hidden,
    "lang_ids": _tensor(1, kind="zeros"),
    "latents": _latents,
    "merge_sizes": lambda model: iter([torch.tensor([2])]),
    "past_observed_mask": _observed,
    "past_time_features": _times,
    "past_values": _series,
    "pixel_values": _pictures,
    "pixel_values_videos": _videos,
    "prompt_masks": _images,
    "prompt_pixel_values": _images,
    "qformer_input_ids": _ids,
    "query_embeds": _hidden,
    "spectrogram": _features,
    "visual_feats": _regions,
    "visual_pos": _tensor(1, TOKENS, 4),
}
