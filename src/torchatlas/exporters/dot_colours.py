"""What the colours of a picture mean: families of ops, or the values of any key of the nodes."""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import UsageError
from ..schema import NODE_FIELDS, is_dim
from ..text import number
from .families import COLOURS, family

Node = Mapping[str, Any]

UNKNOWN = "unknown"
_DARK, _LIGHT = "#1b1f24", "#ffffff"
_SCALE = ("#fff7e0", "#fee391", "#fdbb4f", "#f08a24", "#c8541a", "#86330f", "#4d1d0a")
"""From little to much: yellow to brown, whose lightness falls evenly, for every kind of eye."""

_DISTINCT = (
    "#a6cee3", "#fdbf6f", "#b2df8a", "#cab2d6", "#ffe873", "#f4a6a6", "#8dd3c7", "#d9c3a5",
    "#7fb1d6", "#d98cb3",
)  # fmt: skip
_SHOWN = 12
"""Values that a legend names; the rest is counted."""

_DECADES = 100
"""Ratio of the largest to the smallest value from which on the scale is logarithmic."""


class Look(NamedTuple):
    """The fill, line and text colours of a node; `told` is False where there is no value."""

    fill: str
    line: str
    text: str
    told: bool = True


class Entry(NamedTuple):
    """One field of a legend."""

    look: Look
    text: str


class Families:
    """Colours ops by family."""

    title = ""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._found = {family(node) for node in nodes.values() if node["kind"] == "op"}

    def look(self, node: Node) -> Look:
        """Return the colours of `node`."""
        return _family_look(family(node))

    @property
    def legend(self) -> list[Entry]:
        """The families that there are; nothing to tell of a single one."""
        shown = [name for name in COLOURS if name in self._found]
        names = {"op": "other ops", "shape": "shape and memory", "module": "several kinds"}
        found = [Entry(_family_look(name), names.get(name, name)) for name in shown]
        return found if len(found) > 1 else []


def _family_look(name: str) -> Look:
    fill, line = COLOURS[name]
    return Look(fill, line, _LIGHT if name in ("input", "output") else _DARK)


def colouring(nodes: Mapping[str, Node], key: str | None) -> Families | Scale | Categories:
    """Return what colours nodes by `key`: numbers on a scale, anything else one by one.

    Raises UsageError where no node can have the key, or its values are neither.
    """
    if key is None:
        return Families(nodes)
    if key != "dtype" and key not in NODE_FIELDS:
        raise UsageError(
            f"a node has no key {key!r} to colour by",
            hint=f"choose among dtype, {', '.join(NODE_FIELDS)}",
        )
    told = {name: value for name, node in nodes.items() if (value := _value(node, key)) is not None}
    if all(isinstance(value, str | bool) for value in told.values()):
        return Categories(key, {name: str(value) for name, value in told.items()})
    if all(isinstance(value, float) or is_dim(value) for value in told.values()):
        return Scale(key, told)
    raise UsageError(
        f"the values of {key!r} are no numbers and no names", hint="choose another key"
    )


def _value(node: Node, key: str) -> Any:
    if key == "dtype":
        return next((out.dtype for out in node["outputs"] if out is not None), None)
    return node.get(key) if node.get(key) != "" else None


class Scale:
    """Colours nodes by a number, on a logarithmic scale where the numbers span decades."""

    def __init__(self, key: str, values: Mapping[str, Any]) -> None:
        self._key, self._unit = key, NODE_FIELDS[key].unit
        numbers = [v for v in values.values() if isinstance(v, int | float)]
        finite = [v for v in numbers if math.isfinite(v)]
        positive = [v for v in finite if v > 0]
        self._symbolic = any(not isinstance(v, int | float) for v in values.values())
        self._high = max(finite, default=0)
        self._low = min(finite, default=0)
        self._log = bool(positive) and self._high / min(positive) >= _DECADES
        if self._log:
            # What is smaller than a millionth of the largest is as good as nothing in a picture.
            self._low = max(min(positive), self._high / 1_000_000)
        self._missing = self._nothing = False

    @property
    def title(self) -> str:
        """What is coloured."""
        return f"{self._key}{', logarithmic' if self._log else ''}"

    def look(self, node: Node) -> Look:
        """Return the colours of `node`, plain ones for no op without a value."""
        value = _value(node, self._key)
        if isinstance(value, int | float) and math.isfinite(value):
            if self._log and value <= 0:
                self._nothing = True
                return _NOTHING
            return self._at(self._share(value))
        if node["kind"] != "op":
            return _family_look(family(node))
        self._missing = True
        return _UNTOLD

    def _share(self, value: float) -> float:
        if self._high <= self._low:
            return 0.0 if self._high <= 0 else 1.0
        if self._log:
            value = max(value, self._low)
            return math.log(value / self._low) / math.log(self._high / self._low)
        return (value - self._low) / (self._high - self._low)

    def _at(self, share: float) -> Look:
        place = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
        low = min(int(place), len(_SCALE) - 2)
        fill = _mix(_SCALE[low], _SCALE[low + 1], place - low)
        return Look(fill, _mix(fill, _DARK, 0.45), _DARK if _lightness(fill) > 0.45 else _LIGHT)

    @property
    def legend(self) -> list[Entry]:
        """Five values along the scale, and what has none. Ask after all nodes have their look."""
        found = []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0) if self._high > self._low else (1.0,):
            if self._log:
                value = self._low * (self._high / self._low) ** share
            else:
                value = self._low + (self._high - self._low) * share
            found.append(Entry(self._at(self._share(value)), self._text(value)))
        if self._nothing:
            found.insert(0, Entry(_NOTHING, self._text(0)))
        if self._missing:
            found.append(Entry(_UNTOLD, "depends on sizes" if self._symbolic else UNKNOWN))
        return found

    def _text(self, value: float) -> str:
        whole = abs(self._high) >= 10
        return number(round(value), self._unit) if whole else f"{value:.3g} {self._unit}".strip()


class Categories:
    """Colours nodes by a name, the most frequent ones with the clearest colours."""

    def __init__(self, key: str, values: Mapping[str, str]) -> None:
        self.title = key
        self._key = key
        self._counts = Counter(values.values())
        ranked = sorted(self._counts, key=lambda name: (-self._counts[name], name))
        self._looks = {name: _distinct(i) for i, name in enumerate(ranked)}
        self._missing = False

    def look(self, node: Node) -> Look:
        """Return the colours of `node`, plain ones for no op without a value."""
        value = _value(node, self._key)
        if value is not None:
            return self._looks[str(value)]
        if node["kind"] != "op":
            return _family_look(family(node))
        self._missing = True
        return _UNTOLD

    @property
    def legend(self) -> list[Entry]:
        """The values, most frequent first. Ask after all nodes have their look."""
        shown = list(self._looks.items())[:_SHOWN]
        short = {
            name: name.rpartition(".")[2] if "_type" in self._key else name for name, _ in shown
        }
        found = [Entry(look, short[name]) for name, look in shown]
        if more := len(self._looks) - len(shown):
            found.append(Entry(Look(_LIGHT, _DARK, _DARK), f"and {more} more"))
        return [*found, Entry(_UNTOLD, UNKNOWN)] if self._missing else found


_NOTHING = Look("#ffffff", "#b8bfc7", _DARK)
_UNTOLD = Look("#eceef0", "#8b949e", "#57606a", told=False)


def _distinct(i: int) -> Look:
    if i < len(_DISTINCT):
        fill = _DISTINCT[i]
    else:
        # Steps of the golden ratio around the circle of hues never come back to the same one.
        hue, light = i * 0.618034 % 1, 0.72 + 0.12 * (i % 3 - 1)
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.55)
        fill = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    return Look(fill, _mix(fill, _DARK, 0.5), _DARK)


def _mix(one: str, other: str, share: float) -> str:
    """Return the colour `share` of the way from `one` to `other`.

    >>> _mix("#000000", "#ffffff", 0.5)
    '#808080'
    """
    pairs = ((int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{math.floor(a + (b - a) * share + 0.5):02x}" for a, b in pairs)


def _lightness(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue
