"""Names in TensorBoard, which folds nodes by the slashes in their names and has no other id."""

from __future__ import annotations

import re

from ..graph import ModelGraph, in_order
from ..names import UniqueNames
from ..schema import WEIGHTS
from .scopes import Scope, scopes

# The page reads the text form of the graph line by line and unescapes nothing, takes a colon for
# the output of a node and a caret for an edge that only orders.
_FULL_WIDTH = str.maketrans({c: chr(ord(c) + 0xFEE0) for c in '"\\:^'} | {"'": "\N{PRIME}"})

# Names that every JavaScript object has: the page looks nodes up in plain objects.
_OF_OBJECTS = frozenset(
    {
        "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString",
        "toString", "valueOf", "__proto__", "__defineGetter__", "__defineSetter__",
        "__lookupGetter__", "__lookupSetter__", "__root__", "__function_library__",
    }
)  # fmt: skip


def escape(name: str) -> str:
    r"""Return a name as TensorBoard can show it; most are left as they are.

    >>> escape("layer1/0/conv1/conv2d"), escape('a"b:0')
    ('layer1/0/conv1/conv2d', 'a＂b：0')
    >>> escape("constructor/x"), escape("a//b")
    ('constructor_/x', 'a/_/b')
    """
    name = name.translate(_FULL_WIDTH)
    if "//" in name or name[:1] in "/ " or name[-1:] in "/ " or "/ " in name:
        name = "/".join(part if part.strip() else "_" for part in name.split("/"))
    top, slash, rest = name.partition("/")
    return f"{top}_{slash}{rest}" if top in _OF_OBJECTS else name


class Names:
    """The names of the nodes of a flat graph, in the order of execution.

    A name is the id, with the phase before it where that is not the forward pass, so that the
    search, which looks for a part of a name, finds the id. In a module that is called again the
    scope is that of the call: there the id is the name of an `alias`.
    """

    def __init__(self, graph: ModelGraph, *, parameters: bool = True) -> None:
        unique = UniqueNames()
        self._names: dict[str, str] = {}
        self._aliases: dict[str, str] = {}
        found = scopes(graph)
        nodes = [n for n, k in in_order(graph) if parameters or k["kind"] not in WEIGHTS]
        for name in nodes:
            self._names[name] = unique.take(escape(_name(name, found[name])))
        for name in nodes:
            if found[name].again:
                self._aliases[name] = unique.take(escape(name))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> str:
        return self._names[name]

    def alias(self, name: str) -> str | None:
        """Return the second name under which the search finds a node; None if it needs none."""
        return self._aliases.get(name)


def _name(name: str, scope: Scope) -> str:
    leaf = name.rpartition("/")[2]
    return "/".join(filter(None, (str(scope), leaf))) if scope.again or scope.phase else name


def device_name(device: str) -> str:
    """Return a device in TensorFlow's terms, by which the page colours nodes.

    >>> device_name("cuda:1"), device_name("cpu")
    ('/device:cuda:1', '/device:cpu:0')
    """
    kind, _, index = device.partition(":")
    kind = re.sub(r"[^\w.\-]", "_", kind)
    return f"/device:{kind}:{index if index.isdecimal() else 0}"
