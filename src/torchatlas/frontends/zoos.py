"""Zoos: which models they have, and how each is made, with an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import CaptureError, UsageError
from ..names import clean
from .loading import find, load_model, make_example

BUILT_IN = ("torchvision", "timm")
"""Zoos that are packages; any other is a dict of a user."""

Maker = Callable[..., Any]
"""Makes a model and an example of it; a parameter `batch` is given the batch size."""


def zoo_names(zoo: str) -> list[str]:
    """Return the names of the models that a zoo has, sorted.

    `zoo` is ``timm``, ``torchvision``, or ``module:NAME`` or ``path/to/file.py:NAME`` for a dict
    from names to functions that each return a model and an example.

    Raises UsageError for what is no zoo, and MissingExtraError for a package that is missing.
    """
    if zoo == "timm":
        return sorted(find("timm", "list_models")())
    if zoo == "torchvision":
        return sorted(find("torchvision.models", "list_models")())
    return sorted(_own(zoo))


def zoo_versions(zoo: str) -> dict[str, str]:
    """Return the versions of the packages that decide what the models of a zoo are."""
    return {zoo: metadata.version(zoo)} if zoo in BUILT_IN else {}


def make_of_zoo(
    zoo: str, name: str, batch: int | None = None, seed: int = 0
) -> tuple[nn.Module, Any]:
    """Return a model of a zoo in evaluation mode, and an example of `batch` samples.

    Its weights and the example are random, the same each time with the same `seed`; nothing is
    downloaded. By default an example has one sample, and a user's model its own.

    Raises UsageError for a name that the zoo does not have, and CaptureError where the model
    cannot be made.
    """
    torch.manual_seed(seed)
    if zoo == "timm":
        model, example = _timm(name, batch or 1)
    elif zoo == "torchvision":
        model, example = _torchvision(name, batch or 1)
    else:
        model, example = _of_user(zoo, name, batch)
    return model.eval(), example


def _timm(name: str, batch: int) -> tuple[nn.Module, Any]:
    model = load_model(f"timm:{name}")
    (image,), _ = make_example((), model)
    return model, ((torch.randn(batch, *image.shape[1:]),), {})


# -- torchvision -------------------------------------------------------------------------------


def _torchvision(name: str, batch: int) -> tuple[nn.Module, Any]:
    builder = find("torchvision.models", "get_model_builder")(name)
    group = builder.__module__.removeprefix("torchvision.models.")
    model = load_model(f"{builder.__module__}:{builder.__name__}", _without_weights(group))
    return model, (_EXAMPLES.get(group.partition(".")[0], _image)(batch), {})


def _without_weights(group: str) -> dict[str, Any]:
    """Return what a builder has to be told so that it downloads nothing, and starts at once."""
    if group.startswith(("detection", "segmentation")):
        return {"weights": None, "weights_backbone": None}
    return {"init_weights": False} if group in ("googlenet", "inception") else {}


def _image(batch: int) -> tuple[Any, ...]:
    return (torch.randn(batch, 3, 224, 224),)


def _images(batch: int) -> tuple[Any, ...]:
    return ([torch.rand(3, 320, 320) for _ in range(batch)],)


def _two_frames(batch: int) -> tuple[Any, ...]:
    return tuple(torch.rand(batch, 3, 128, 128) for _ in range(2))


def _clip(batch: int) -> tuple[Any, ...]:
    return (torch.rand(batch, 3, 16, 224, 224),)


_EXAMPLES = {"detection": _images, "optical_flow": _two_frames, "video": _clip}
"""Examples of torchvision's models that take no single image."""


# -- a user's own ------------------------------------------------------------------------------


def _own(zoo: str) -> Mapping[str, Maker]:
    place, _, name = zoo.rpartition(":")
    if not place or not name:
        raise UsageError(
            f"there is no zoo {zoo!r}",
            hint=f"write {', '.join(BUILT_IN)}, module:NAME or path/to/file.py:NAME",
        )
    found = find(place, name)
    fine = isinstance(found, Mapping) and all(
        isinstance(key, str) and callable(maker) for key, maker in found.items()
    )
    if not fine:
        raise UsageError(
            f"{zoo!r} is no zoo",
            hint="a zoo is a dict: name -> function that returns (model, example)",
        )
    return cast("Mapping[str, Maker]", found)


def _of_user(zoo: str, name: str, batch: int | None) -> tuple[nn.Module, Any]:
    makers = _own(zoo)
    if name not in makers:
        raise UsageError(f"{zoo!r} has no {name!r}", hint="list its models with --list")
    takes = _takes_batch(makers[name])
    try:
        made = makers[name](batch=batch) if takes and batch is not None else makers[name]()
    except Exception as error:
        raise CaptureError(
            f"{name} could not be made: {type(error).__name__}: {clean(str(error))}",
            hint="call its function in Python to see the whole reason",
        ) from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise UsageError(
            f"{name!r} of {zoo!r} makes a {type(made).__name__}, not a model and an example",
            hint="return a tuple: (model, example)",
        )
    model, example = made
    return model, example if takes or batch is None else batched(example, batch)


def _takes_batch(maker: Maker) -> bool:
    try:
        return "batch" in inspect.signature(maker).parameters
    except (TypeError, ValueError):
        return False


def batched(example: Any, batch: int) -> Any:
    """Return `example` with its samples repeated, or cut, to `batch` of them.

    The leading size of the first tensor is its batch size; tensors that lead with another one
    are left as they are.

    >>> first, second = batched((torch.zeros(2, 3), torch.zeros(7)), 5)
    >>> first.shape, second.shape
    (torch.Size([5, 3]), torch.Size([7]))

    Raises UsageError where no tensor has a leading size.
    """
    leaves, spec = pytree.tree_flatten(example)
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not sizes or not sizes[0]:
        raise UsageError(
            "the example has no samples that a batch could be made of",
            hint="give the function that makes it a parameter batch",
        )
    places = torch.arange(batch) % sizes[0]

    def repeated(leaf: Any) -> Any:
        counted = isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == sizes[0]
        return leaf[places] if counted else leaf

    return pytree.tree_unflatten(map(repeated, leaves), spec)
