"""Families of ops, and the colours that every drawing gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
        softplus hardsigmoid hardswish hardtanh
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
    """
    if node["kind"] != "op":
        return str(node["kind"])
    words = re.findall(r"[a-z]+", op_leaf(node["op"]).lower())
    found = {_BY_WORD.get(word) for word in words} | {_BY_TAG.get(t) for t in node.get("tags", ())}
    return next((family for family in _PRECEDENCE if family in found), "op")
