"""A graph whose names attack the syntax of whatever it is written in."""

from __future__ import annotations

import models
from torchatlas.annotations import annotate
from torchatlas.graph import ModelGraph, build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta

KEYWORDS = ("node", "edge", "graph", "subgraph", "digraph", "strict", "cluster", "picture")
PARTS = (
    *models.HOSTILE,
    "<b>bold</b>",
    "<img src=x onerror=alert(1)>",
    "<",
    ">{a|b}",
    "ends in \\",
    "\\N\\G\\l",
    "a -> b; c",
    "//",
    "/* no end",
    "# no comment",
    "%2F",
    "&lt;script&gt;",
    "&#27;&#x202e;&#0;",
    "\ufffe\uffff",
    "(1, 2",
    "(evil)",
    "k: v: w",
    "x=y",
    "7",
    "-1",
    ".5",
    "a+b",
    "名前 é 🙂",
    "a\N{FULLWIDTH QUOTATION MARK}b",
    " ",
    "__proto__",
    "constructor",
    "call_module",
    "get_parameter",
    "buffer",
    "Constant",
    'x", image="/etc/passwd", URL="javascript:alert(1)',
    "]; evil [label=x",
)


def graph() -> ModelGraph:
    """Return a chain of ops: inputs called by keywords, then two ops and a buffer a name."""
    out = TensorMeta((2, 4), device="cuda:0")
    records = [OpRecord(word, "input", target=word, outputs=(out,)) for word in KEYWORDS]
    before = [Value(word) for word in KEYWORDS]
    for i, name in enumerate(PARTS):
        stack = (Module("", "Net"), Module(name.replace(".", "·"), f"hostile.{name}"))
        buffer = OpRecord(f"b{i}", "buffer", target=f"m{i}.{name}", outputs=(out,), stack=stack)
        args = {"tensors": tuple(before), name: Value(buffer.key)}
        first = OpRecord(f"f{i}", "op", op=f"aten.{name}", args=args, outputs=(out,), stack=stack)
        second = OpRecord(
            f"s{i}", "op", op=name, args={"x": Value(first.key)}, outputs=(out,), stack=stack
        )
        records += [buffer, first, second]
        before = [Value(second.key)]
    records.append(OpRecord("end", "output", target="output", args={"value": before[0]}))
    return annotate(build(records, name='</title><script>alert(1)</script>"\\')[0])
