"""How fast a device runs thin products and convolutions, which are other kernels than square ones.

The grids are geometric, in steps of four, and hold no layer of any particular model. Two things set
the rate of such a kernel: how thin it is, for a loaded number is used so many times; and how much
there is to do, for a small one does not fill the device, and has its weights to lay out first. So
each class of `torchatlas.devices.SHAPES` has rates by both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch.nn.functional import conv2d, linear

Points = tuple[tuple[float, float, float], ...]
"""Width, FLOP, FLOP/s; see `torchatlas.devices.Device.shape_rate`."""

_ROWS = (1, 4, 16, 64, 256)
WIDE = 4.0 * _ROWS[-1]
"""The width from which on a product counts as a square one."""

_FEATURES = {"cpu": (256, 1024), "cuda": (1024, 4096)}
"""Sizes of the square weights that so many rows are multiplied with."""

_CHANNELS = (16, 64, 256, 1024)
_SIDES = (1, 4, 16, 64)
"""Of images; at 1 a convolution is what comes after global pooling, bound by its weights."""

_KERNELS = {"pointwise": 1, "spatial": 3}
_DEPTHWISE = (3, 5, 7)
_DEPTHWISE_CHANNELS = 256

_BATCH = {"cpu": 1, "cuda": 16}
"""Images at once, so that a GPU is filled where models fill it."""

_IN_A_ROW, _MOST_IN_A_ROW = 2e9, 100
"""FLOP, and kernels, that a GPU is given together, so that it does not wait for the next."""

_PATIENCE = 8
"""How many times its share of the time a kernel may take; larger ones are left out."""

_Case = tuple[float, float, Callable[[], Callable[[], object]]]
"""Width, FLOP, and what makes the operands and returns what is timed."""


def rates_by_shape(
    dtype: torch.dtype,
    place: torch.device,
    seconds: float,
    least: Callable[[Callable[[], object], float], float],
) -> dict[str, Points]:
    """Return the rates of every class in `dtype`, each class measured for about `seconds`.

    `least` returns the seconds of the fastest run of a function, tried for so many seconds. Images
    are laid out channels last, as compilers do, and weights as models hold them. Cases that take
    too long are left out, and so is what torch does not have in this data type.
    """
    kind = "cuda" if place.type == "cuda" else "cpu"
    classes = {"product": list(_products(dtype, place, kind))}
    for name, kernel in _KERNELS.items():
        classes[name] = list(_dense(dtype, place, kind, kernel))
    classes["depthwise"] = list(_depthwise(dtype, place, kind))
    found = {name: _rates(cases, kind, seconds, least) for name, cases in classes.items()}
    return {name: rates for name, rates in found.items() if rates}


def _rates(
    cases: Sequence[_Case],
    kind: str,
    seconds: float,
    least: Callable[[Callable[[], object], float], float],
) -> Points:
    each = seconds / len(cases)
    found: list[tuple[float, float, float]] = []
    for _, row in groupby(cases, key=lambda case: case[0]):
        for width, flops, make in row:
            # By the best rate so far: the first of a row may be slow because it is small.
            best = max((rate for _, _, rate in found), default=math.inf)
            if flops / best > _PATIENCE * each:
                break
            many = min(_MOST_IN_A_ROW, max(1, round(_IN_A_ROW / flops))) if kind == "cuda" else 1
            try:
                time = least(_repeated(make(), many), each)
            except RuntimeError:  # not implemented for this data type, or not enough memory
                break
            found.append((width, flops, flops * many / time))
    return tuple(found)


def _repeated(run: Callable[[], object], many: int) -> Callable[[], object]:
    def runs() -> None:
        for _ in range(many):
            run()

    return runs


def _products(dtype: torch.dtype, place: torch.device, kind: str) -> Iterator[_Case]:
    for rows in _ROWS:
        for features in _FEATURES[kind]:
            shapes = (rows, features), (features, features)
            yield float(rows), 2.0 * rows * features**2, _linear(dtype, place, shapes)


def _linear(
    dtype: torch.dtype, place: torch.device, shapes: Iterable[tuple[int, ...]]
) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        x, weight = (torch.rand(shape, device=place).to(dtype) for shape in shapes)
        return lambda: linear(x, weight)

    return make


def _dense(dtype: torch.dtype, place: torch.device, kind: str, kernel: int) -> Iterator[_Case]:
    for channels in _CHANNELS:
        for side in _SIDES:
            image = _BATCH[kind], channels, side, side
            flops = 2.0 * _BATCH[kind] * side**2 * channels**2 * kernel**2
            weight = channels, channels, kernel, kernel
            yield float(channels), flops, _convolution(dtype, place, image, weight, 1)


def _depthwise(dtype: torch.dtype, place: torch.device, kind: str) -> Iterator[_Case]:
    channels = _DEPTHWISE_CHANNELS
    for kernel in _DEPTHWISE:
        for side in _SIDES:
            image = _BATCH[kind], channels, side, side
            flops = 2.0 * _BATCH[kind] * side**2 * channels * kernel**2
            weight = channels, 1, kernel, kernel
            yield float(kernel**2), flops, _convolution(dtype, place, image, weight, channels)


def _convolution(
    dtype: torch.dtype,
    place: torch.device,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    groups: int,
) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        x = torch.rand(image, device=place).to(dtype).to(memory_format=torch.channels_last)
        weight = torch.rand(kernel, device=place).to(dtype)
        padding = kernel[-1] // 2
        return lambda: conv2d(x, weight, padding=padding, groups=groups)

    return make
