"""Names that come from a model are data: made printable, cut, and joined into node ids."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

MAX_NAME = 200
"""Characters that one name may keep; a longer one is cut and marked with a digest."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _is_unsafe(character: str) -> bool:
    # The last two code points of each plane are no characters, and XML may not hold them.
    return unicodedata.category(character) in _INVISIBLE or ord(character) & 0xFFFE == 0xFFFE


@lru_cache(maxsize=65536)
def clean(name: str) -> str:
    """Return `name` with control and direction characters replaced, and cut to `MAX_NAME`.

    >>> clean("conv1"), clean("a" + chr(27) + "[31mb") == f"a{REPLACEMENT}[31mb"
    ('conv1', True)
    >>> len(clean("x" * 100_000))
    200
    """
    if not (name.isascii() and name.isprintable()):
        name = "".join(REPLACEMENT if _is_unsafe(c) else c for c in name)
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}~{digest}"
    return name


def path_to_id(path: str) -> str:
    """Turn a dotted module path into the front part of a node id.

    A slash inside a module's own name would forge a level, so it is written ``%2F``.

    >>> path_to_id("layer1.0.conv1"), path_to_id("a/b.c")
    ('layer1/0/conv1', 'a%2Fb/c')
    """
    return path.replace("/", "%2F").replace(".", "/")


def join_id(path: str, leaf: str) -> str:
    """Join a dotted module path and the name of what stands in it.

    >>> join_id("layer1.0.conv1", "conv2d"), join_id("", "add")
    ('layer1/0/conv1/conv2d', 'add')
    """
    return f"{path_to_id(path)}/{leaf}" if path else leaf


def body_id(node: str, body: str) -> str:
    """Return the name of a body of `node`.

    >>> body_id("encoder/cond", "true")
    'encoder/cond#true'
    """
    return f"{node}#{body}"


def join_body(body: str, node: str) -> str:
    """Return the name, in the whole graph, of a node of the graph called `body`.

    >>> join_body("encoder/cond#true", "linear")
    'encoder/cond#true/linear'
    """
    return f"{body}/{node}"


def op_leaf(op: str) -> str:
    """Return the part of an op's name that ends a node id; the in-place mark is left out.

    >>> op_leaf("aten.conv2d"), op_leaf("aten.relu_"), op_leaf("aten.__and__")
    ('conv2d', 'relu', 'and')
    """
    leaf = op.rpartition(".")[2]
    return leaf.strip("_") or leaf


class UniqueNames:
    """Hand out names that were not handed out before: ``add``, ``add_1``, ``add_2``.

    >>> names = UniqueNames()
    >>> [names.take("add"), names.take("add"), names.take("add_1"), names.take("add")]
    ['add', 'add_1', 'add_1_1', 'add_2']
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """Return `name`, or `name` with the first free number after it."""
        candidate, k = name, self._next.get(name, 0)
        while candidate in self._taken:
            k += 1
            candidate = f"{name}_{k}"
        self._next[name] = k
        self._taken.add(candidate)
        return candidate
