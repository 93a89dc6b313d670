"""Families of ops, and the colours that every drawing gives them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..names import op_leaf

_WORDS = {
    "pooling": "pool pooling upsample interpolate",
    "contraction": """
        conv convolution linear bilinear matmul mm bmm addmm addbmm baddbmm mv addmv dot tensordot
        einsum outer attention lstm gru rnn
    """,
    "norm": "norm",
    "activation": """
        relu prelu rrelu elu selu celu gelu silu mish glu sigmoid logsigmoid tanh softmax softmin
        softplus hardsigmoid hardswish hardtanh threshold
    """,
    "shape": """
        view reshape flatten unflatten permute transpose t expand squeeze unsqueeze cat stack split
        chunk unbind slice select narrow index gather scatter embedding pad repeat tile roll flip
        clone copy contiguous to
    """,
}
"""Family to the words in an op's name that tell of it. Where two fit, the first one is taken."""

_BY_WORD = {word: family for family, words in _WORDS.items() for word in words.split()}
_BY_TAG = {"view": "shape", "pointwise": "pointwise", "reduction": "reduction"}
_PRECEDENCE = (*_WORDS, *_BY_TAG.values())

COLOURS = {
    "contraction": ("#cfe3fb", "#1f5fa8"),
    "activation": ("#ffd8c7", "#b3471d"),
    "norm": ("#d5efd2", "#2f7d32"),
    "pooling": ("#e5d9f6", "#6b3fa0"),
    "pointwise": ("#fff0b3", "#8a6d00"),
    "reduction": ("#c9eceb", "#1a7472"),
    "shape": ("#e9ecef", "#6c757d"),
    "op": ("#ffffff", "#57606a"),
    "module": ("#dde5f0", "#3d5a80"),
    "input": ("#32383f", "#32383f"),
    "output": ("#32383f", "#32383f"),
    "parameter": ("#f6f8fa", "#b8bfc7"),
    "buffer": ("#f6f8fa", "#b8bfc7"),
    "constant": ("#f6f8fa", "#b8bfc7"),
}
"""Family to its fill and its line: dark text on each, but white on inputs and outputs."""


def family(node: Mapping[str, Any]) -> str:
    """Return the kind of `node`, or for an op the family that its name or its tags tell of.

    >>> [family({"kind": "op", "op": f"aten.{op}"}) for op in ("conv2d", "relu_", "svd")]
    ['contraction', 'activation', 'op']
    >>> family({"kind": "op", "op": "aten.add", "tags": ("pointwise",)}), family({"kind": "input"})
    ('pointwise', 'input')

    A collapsed module is of the family of what computes in it, where that is one only.

    >>> family({"kind": "op", "op": "module.Linear", "contains": {"aten.t": 1, "aten.addmm": 1}})
    'contraction'
    >>> family({"kind": "op", "op": "module.Block", "contains": {"aten.mm": 2, "aten.relu": 1}})
    'module'
    """
    if node["kind"] != "op":
        return str(node["kind"])
    if "contains" in node:
        return _of_module(node)
    words = re.findall(r"[a-z]+", op_leaf(node["op"]).lower())
    return _first({_BY_WORD.get(w) for w in words} | {_BY_TAG.get(t) for t in node.get("tags", ())})


def _first(found: Collection[str | None]) -> str:
    return next((family for family in _PRECEDENCE if family in found), "op")


def _of_module(node: Mapping[str, Any]) -> str:
    found = {family({"kind": "op", "op": op}) for op in node["contains"]}
    if not (telling := found.difference(("op", "shape"))):
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", op_leaf(node["op"]))
        telling = {_first({_BY_WORD.get(word.lower()) for word in words})} - {"op"} or found
    return telling.pop() if len(telling) == 1 else "module"
