"""The architectures of timm, torchvision and transformers, each with an example it accepts.

Nothing is downloaded. timm's and torchvision's models have their full size and no weights
(`torchatlas.frontends.weightless`). A class of transformers is made with a tiny configuration:
sizes are made smaller by the name of the attribute, in the configuration and in those inside it;
where a class does not take that, less is made smaller. Its example is what the class itself offers
(`dummy_inputs`) or made after the names of the arguments that ``forward`` takes. Both are kept
only if the model, with real random weights, runs on the example: see `zoo_tiny`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from torchatlas.frontends.loading import load_model, make_example


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture: its name, and the group of like architectures that it belongs to."""

    name: str
    group: str


@dataclass
class Made:
    """A model, an example that it takes, and what to say of how they were made."""

    model: nn.Module
    example: Any
    notes: dict[str, Any] = field(default_factory=dict)


class NoExampleError(Exception):
    """The recipes find no configuration and example that the model itself runs on."""


# -- which architectures there are -------------------------------------------------------------


def entries(family: str) -> list[Entry]:
    """Return all architectures of a family, in the order of their names."""
    return sorted(_LISTS[family](), key=lambda entry: entry.name)


def _timm() -> Iterable[Entry]:
    import timm

    for group in timm.list_modules():
        for name in timm.list_models(module=group):
            yield Entry(name, group)


def _torchvision() -> Iterable[Entry]:
    import torchvision

    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        yield Entry(name, builder.__module__.removeprefix("torchvision.models."))


def _transformers() -> Iterable[Entry]:
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    mappings = [name for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")]
    mappings.remove("CONFIG_MAPPING_NAMES")
    for mapping in ["MODEL_MAPPING_NAMES", *mappings]:
        for group, classes in getattr(modeling_auto, mapping).items():
            for name in classes if isinstance(classes, (list, tuple)) else [classes]:
                found.setdefault(name, group)
    return [Entry(name, group) for name, group in found.items()]


_LISTS = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}
FAMILIES = tuple(_LISTS)


def select(all_: list[Entry], pattern: str = "*", sample: int | None = None) -> list[Entry]:
    """Return the entries that `pattern` matches, or so many of them from as many groups.

    A sample is the same every time: groups and their members are shuffled with a fixed seed, and
    one member of each group is taken after the other. A larger sample begins with a smaller one.
    """
    matching = [entry for entry in all_ if fnmatch(entry.name, pattern)]
    if sample is None:
        return matching
    shuffled = random.Random(0).sample(matching, len(matching))
    rounds: dict[str, list[Entry]] = {}
    for entry in shuffled:
        rounds.setdefault(entry.group, []).append(entry)
    depth = max(map(len, rounds.values()), default=0)
    by_round = [group[i] for i in range(depth) for group in rounds.values() if i < len(group)]
    return by_round[:sample]


# -- making one --------------------------------------------------------------------------------


def make(family: str, entry: Entry) -> Made:
    """Return the model of `entry` in evaluation mode, and an example.

    Raises NoExampleError where no recipe of `zoo_tiny` gives a model of transformers that runs.
    """
    if family == "transformers":
        import zoo_tiny

        return zoo_tiny.make(entry.name)
    if family == "timm":
        spec, group = f"timm:{entry.name}", entry.name
    else:
        import torchvision

        builder = torchvision.models.get_model_builder(entry.name)
        spec, group = f"{builder.__module__}:{builder.__name__}", entry.group.partition(".")[0]
    # Detection chooses among boxes by their values, so its weights have some.
    model = load_model(spec, _arguments(entry.group), fake=group != "detection").eval()
    return Made(model, _EXAMPLES.get(group, _default)(model))


def _arguments(group: str) -> dict[str, Any]:
    """Return what torchvision's builder has to be told so that it downloads nothing."""
    if group.startswith(("detection", "segmentation")):
        return {"weights": None, "weights_backbone": None}
    return {"init_weights": False} if group in ("googlenet", "inception") else {}


def _default(model: nn.Module) -> Any:
    return make_example((), model)


def _images(model: nn.Module) -> Any:
    return (([torch.rand(3, 320, 320)],), {})


def _two_frames(model: nn.Module) -> Any:
    frame = torch.rand(1, 3, 128, 128)
    return ((frame, frame.clone()), {})


def _clip(model: nn.Module) -> Any:
    return ((torch.rand(1, 3, 16, 224, 224),), {})


_EXAMPLES = {"detection": _images, "optical_flow": _two_frames, "video": _clip}
"""Examples of torchvision's models that take no single image."""
