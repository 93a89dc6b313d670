"""Tiny models of transformers, each with an example that it runs on.

The recipe knows no architecture by name. A configuration is made from the class's own default,
its sizes replaced by the name of the attribute (`SIZES`), in the configurations inside it too;
an example from the names of the arguments that ``forward`` needs (`zoo_inputs`). As not every
class takes every size, there are `RECIPES` from small to the default, and the first with which
the model, with random weights, runs on one of the examples is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

import zoo_inputs
from zoo_models import Made, NoExampleError

WIDTH, HEADS, VOCABULARY = 64, 4, 1024

SIZES: dict[str, dict[str, int]] = {
    "layers": {
        r"(\w+_)?num_(?!feat_extract)(\w+_)?layers|n_layers?|(\w+_)?(de|en)coder_layers|layers|(\w+_)?depth"
        r"|num_blocks|resampler_depth": 2,
        r"max_window_layers|first_k_dense_replace|num_kv_shared_layers": 1,
    },
    "vocabulary": {
        r"(\w+_)?vocab_size": VOCABULARY,
        r"(\w+_)?max_position_embeddings|n_positions|model_max_length|max_seq_len": 512,
    },
    "experts": {
        r"(moe_)?num_(local_|routed_)?experts|n_routed_experts": 4,
        r"(moe_)?num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts": 2,
        r"n_group|topk_group|n_groups|num_expert_group": 1,
        r"(moe|expert|shared\w*|dense)_(ffn_|expert_)?intermediate_size|ffn_hidden_size": 32,
    },
    "width": {
        r"(\w+_)?hidden_(size|dim)|d_model|n_embd|(\w+_)?embed_dim|(word_)?embed_proj_dim"
        r"|(\w+_)?projection_dim|\w+_embedding_size|emb_dim|pooler_output_size|output_dim"
        r"|hidden_size_per_layer_input|dim": WIDTH,
        r"(\w+_)?intermediate_size(_mlp)?|(\w+_)?ffn_dim|d_ff|(\w+_)?mlp_dim|n_inner|d_inner"
        r"|dim_feedforward|encoder_feedforward_dim|d_inner_hid": 2 * WIDTH,
        r"(\w+_)?num_(\w+_)?attention_heads|n_heads?|num_heads|(\w+_)?attention_heads": HEADS,
        r"(\w+_)?num_key_value_heads|num_kv_heads": 2,
        r"[qkv]+_lora_rank": 32,
    },
    "head": {
        r"(\w+_)?head_dim|dim_head|d_kv|kv_channels|d_head|attention_head_dim"
        r"|qk_(nope|rope)_head_dim": WIDTH // HEADS,
        r"rotary_dim": WIDTH // HEADS,
        r"qk_head_dim": 2 * WIDTH // HEADS,
    },
    "image": {
        r"image_size|img_size|input_size|crop_size|pretrain_image_size": 64,
    },
}
"""What the sizes become, by a pattern that the whole name of the attribute matches."""

USUAL_HEAD = 128
"""The size of a head where none is said and none is made smaller."""

SIZES["wide"] = {
    pattern: size * USUAL_HEAD * HEADS // WIDTH if size >= WIDTH else size
    for pattern, size in SIZES["width"].items()
}
"""Widths for models that take it for granted that a head has the usual size."""

RECIPES = (
    ("layers", "vocabulary", "experts", "width", "head", "image"),
    ("layers", "vocabulary", "experts", "width", "head"),
    ("layers", "vocabulary", "experts", "wide", "image"),
    ("layers", "vocabulary", "experts", "image"),
    ("layers", "vocabulary", "experts"),
    ("layers", "vocabulary"),
    ("layers",),
    ("vocabulary",),
    (),
)
"""Which sizes are made smaller, from the smallest model to the class's own default."""

LEFT_OPEN = {"vocab_size": VOCABULARY, "num_experts_per_tok": 2}
"""What some configurations leave for the user to say."""

LARGEST = 400_000_000
"""Parameters above which a configuration is passed over: its weights take over a GB."""


def make(name: str) -> Made:
    """Return a tiny model of the class called `name` and an example that it runs on.

    Raises NoExampleError, with every reason, where no recipe gives one.
    """
    import transformers

    kind = getattr(transformers, name)
    reasons: dict[str, str] = {}
    for recipe in RECIPES:
        label = "smallest" if recipe == RECIPES[0] else ", ".join(recipe) or "default"
        try:
            model = _model(kind, recipe)
        except Exception as error:
            reasons[label] = _reason(error)
            continue
        example, reason = _first_that_runs(model)
        if example is not None:
            shapes = {key: _shape(value) for key, value in example.items()}
            return Made(model, ((), example), {"recipe": label, "inputs": shapes})
        reasons[label] = reason
    first, *others = reasons.items()
    last = f"; {others[-1][0]}: {others[-1][1]}" if others and others[-1][1] != first[1] else ""
    raise NoExampleError(f"{first[0]}: {first[1]}{last}")


def _first_that_runs(model: nn.Module) -> tuple[dict[str, Any] | None, str]:
    reason = "no argument is known"
    for number, example in enumerate(zoo_inputs.candidates(model)):
        try:
            torch.manual_seed(0)
            with torch.no_grad():
                model(**example)
            return example, ""
        except Exception as error:
            if number == 0:
                reason = _reason(error)
    return None, reason


def _shape(value: Any) -> Any:
    return list(value.shape) if isinstance(value, torch.Tensor) else repr(value)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}"


# -- configurations ----------------------------------------------------------------------------


def _model(kind: Any, recipe: tuple[str, ...]) -> nn.Module:
    config = tiny(kind.config_class, recipe)
    with torch.device("meta"):
        count = sum(p.numel() for p in kind(config).parameters()) if "width" not in recipe else 0
    if count > LARGEST:
        raise ValueError(f"{count} parameters")
    torch.manual_seed(0)
    model = kind(config).eval()
    assert isinstance(model, nn.Module)
    return model


def tiny(kind: Any, recipe: tuple[str, ...]) -> Any:
    """Return a configuration of the class `kind` with the sizes of `recipe`."""
    default = kind()
    wanted = dict(_smaller(default, recipe))
    return kind(**wanted) if wanted else default


def _smaller(config: Any, recipe: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of the configuration's class that make it smaller."""
    from transformers import PreTrainedConfig

    settings = vars(config)
    ids = iter(range(VOCABULARY - 1, 0, -1))
    layers = _layers_to_keep(settings) if "layers" in recipe else ()
    for name, value in settings.items():
        if isinstance(value, PreTrainedConfig):
            yield name, tiny_inner(value, recipe)
        elif "vocabulary" in recipe and _is_token(name, value):
            yield name, next(ids)
        elif layers and name == "num_hidden_layers":
            yield name, len(layers)
        elif layers and _is_per_layer(value, settings):
            yield name, [value[i] for i in layers]
        elif recipe and value is None and name in LEFT_OPEN:
            yield name, LEFT_OPEN[name]
        elif recipe and value is None and name == "head_dim":
            yield name, WIDTH // HEADS if "head" in recipe else USUAL_HEAD
        elif {"width", "wide"} & set(recipe) and _has_as_many_keys_as_heads(name, settings):
            yield name, HEADS
        elif isinstance(value, dict) and "mrope_section" in value and "head" in recipe:
            yield name, {**value, "mrope_section": _sections(value)}
        elif "layers" in recipe and name == "attention_types":
            yield name, [[value[0][0], 1]]
        elif (size := _size(name, value, recipe)) is not None:
            yield name, size


def _has_as_many_keys_as_heads(name: str, settings: Mapping[str, Any]) -> bool:
    heads, pairs = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    return name == "num_key_value_heads" and heads is not None and heads == pairs and heads > HEADS


def _sections(rope: Mapping[str, Any]) -> list[int]:
    """Return the parts of a head that turn with time, height and width, for a smaller head.

    >>> _sections({"mrope_section": [16, 24, 24]})
    [2, 3, 3]
    >>> _sections({"mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5})
    [1, 1, 2]
    """
    old: list[int] = rope["mrope_section"]
    total = int(WIDTH / HEADS * rope.get("partial_rotary_factor", 1.0) / 2)
    new = [max(1, part * total // sum(old)) for part in old[:-1]]
    return [*new, total - sum(new)]


def _is_per_layer(value: Any, settings: Mapping[str, Any]) -> bool:
    count = settings.get("num_hidden_layers")
    return isinstance(value, list) and len(value) == count and count > 2


def _layers_to_keep(settings: Mapping[str, Any]) -> list[int]:
    """Return the first layer of every kind, where a configuration lists the kind of each."""
    lists = [value for name, value in settings.items() if _is_per_layer(value, settings)]
    if not lists:
        return []
    kinds = list(map(repr, zip(*lists, strict=True)))
    first = sorted({kinds.index(kind) for kind in kinds})
    return first[:8] if len(first) > 1 else [0, 1]


def tiny_inner(config: Any, recipe: tuple[str, ...]) -> Any:
    """Return a smaller copy of a configuration inside another one, which may not be its default."""
    plain = {k: v for k, v in config.to_diff_dict().items() if k not in _NOT_ARGUMENTS}
    return type(config)(**{**plain, **dict(_smaller(config, recipe))})


_NOT_ARGUMENTS = frozenset({"model_type", "transformers_version", "_name_or_path"})


def _is_token(name: str, value: Any) -> bool:
    return (
        re.fullmatch(r"\w+_token_(id|index)", name) is not None
        and isinstance(value, int)
        and value >= VOCABULARY
    )


def _size(name: str, value: Any, recipe: tuple[str, ...]) -> Any:
    for part in recipe:
        for pattern, size in SIZES[part].items():
            if re.fullmatch(pattern, name):
                return _scaled(value, size)
    return None


def _scaled(value: Any, size: int) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value > size:
        return size
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        return type(value)(min(v, size) for v in value)
    return None
