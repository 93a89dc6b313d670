"""Devices by the names that drivers report."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator

from ..errors import UsageError
from .files import load
from .limits import Device
from .table import DEVICES

_CALIBRATE = "measure it with `torchatlas calibrate`, or pass a torchatlas.devices.Device"


def resolve(device: str | os.PathLike[str] | Device) -> Device:
    """Return `device` itself, what `load` reads from a ``.json`` file, or what `find` finds."""
    if isinstance(device, Device):
        return device
    if isinstance(device, os.PathLike) or device.lower().endswith(".json"):
        return load(device)
    return find(device)


def find(name: str) -> Device:
    """Return the device of the table that `name` means: what a driver reports, or less.

    Case, punctuation, and the words that say nothing (NVIDIA, AMD, Tesla, GeForce, Instinct) do
    not matter; a part of a name will do where it has the model in it and means one device only.
    A word that the table does not know means another product: a slice of a GPU (MIG), a laptop's
    chip, a variant such as the A10G.

    >>> find("NVIDIA H100 80GB HBM3").name, find("tesla v100-sxm2-16gb").name, find("4090").name
    ('H100 SXM', 'V100 SXM2 16GB', 'RTX 4090')

    Raises UsageError for a name that means none of them, or several.
    """
    words = _words(name)
    for device in DEVICES:
        if any(words == _words(known) for known in (device.name, *device.names)):
            return device
    found = [d for d in DEVICES if words <= _vocabulary(d) and words & _model(d)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"the device {name!r} may be {_either(found)}",
            hint=f"say which; or {_CALIBRATE}",
        )
    near = ", ".join(_near(name))
    known = f"near it: {near}" if near else f"known: {', '.join(d.name for d in DEVICES)}"
    raise UsageError(f"the device {name!r} is not known", hint=f"{known}; or {_CALIBRATE}")


_NOISE = frozenset({"nvidia", "amd", "tesla", "geforce", "instinct", "gpu", "r", "tm"})


def _words(name: str) -> frozenset[str]:
    """Return the words of a device's name that tell it from others.

    >>> sorted(_words("NVIDIA A100-SXM4-80GB")), sorted(_words("NVIDIA H100 80 GB HBM3"))
    (['80gb', 'a100', 'sxm4'], ['80gb', 'h100', 'hbm3'])
    """
    joined = re.sub(r"(\d+) gb\b", r"\1gb", name.lower())
    return frozenset(re.findall(r"rtx|[a-z0-9]+", joined)) - _NOISE


def _vocabulary(device: Device) -> frozenset[str]:
    # A name with a stroke is that of two products, and a part of it may mean the other.
    names = (name for name in device.names if "/" not in name)
    return frozenset().union(*map(_words, (device.name, *names)))


_FORM = re.compile(r"sxm\d*|pcie|nvl|oam|vf|rtx|hbm\w*|\d+gb|generic")
"""Words that stand in the names of several products: the form, the memory."""


def _model(device: Device) -> frozenset[str]:
    """Return the words that name the product itself.

    >>> sorted(_model(find("H100 SXM"))), sorted(_model(find("4090")))
    (['h100'], ['4090'])
    """
    return frozenset(word for word in _vocabulary(device) if not _FORM.fullmatch(word))


def _either(devices: list[Device]) -> str:
    *first, last = (device.name for device in devices)
    return f"{', '.join(first)} or {last}"


def _near(name: str) -> Iterator[str]:
    words = _words(name)
    sharing = [device.name for device in DEVICES if words & _vocabulary(device)]
    spelled = {known.lower(): known for known in (device.name for device in DEVICES)}
    plain = " ".join(w for w in re.findall(r"[a-z0-9]+", name.lower()) if w not in _NOISE)
    close = difflib.get_close_matches(plain, list(spelled), n=3, cutoff=0.5)
    yield from dict.fromkeys([*sharing, *(spelled[known] for known in close)])
