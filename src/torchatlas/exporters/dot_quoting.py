"""What Graphviz and Netron both read as text, and as nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..names import REPLACEMENT, UniqueNames, clean

LONGEST = 500
"""Characters of one value; Graphviz reads no string of more than 16 kB."""

_RESERVED = ("node", "edge", "graph", "subgraph")  # keywords to Netron, even in quotes


def _full_width(characters: str) -> dict[int, str]:
    return {ord(c): chr(ord(c) + 0xFEE0) for c in characters}


# Netron does not know `\"` and splits labels at every `|`; Graphviz keeps `\\` as two, and
# writes `&#27;` into an SVG as it is. The last two are no characters, and no XML may hold them.
_IN_STRING = _full_width('"\\&|') | {0xFFFE: REPLACEMENT, 0xFFFF: REPLACEMENT}
_IN_NAME, _IN_OP_CODE = _full_width("%"), _full_width("=")
_IN_FACT = {ord(":"): "\N{RATIO}"}


def quote(*lines: str) -> str:
    r"""Return `lines` as one DOT string that means the same to Graphviz and to Netron.

    >>> print(quote("layer1/0/conv1/conv2d"), quote("<b>"), quote("conv2d", "64×56×56"))
    "layer1/0/conv1/conv2d" "<b>" "conv2d\n64×56×56"
    >>> print(quote('a"b|c'), quote("ends in \\"), quote("&#27;"))
    "a＂b｜c" "ends in ＼" "＆#27;"
    """
    # Graphviz 14.1 crashes on a label of several lines whose first is empty.
    empty = " " if len(lines) > 1 else ""
    return '"' + r"\n".join(_escape(line) or empty for line in lines) + '"'


def _escape(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    printable = text if text.isprintable() else "".join(map(clean, text))
    return printable.translate(_IN_STRING)


def quote_name(name: str) -> str:
    """Return the name of a graph or a node as a DOT string.

    >>> print(quote_name("fc/linear"), quote_name("%2F"))
    "fc/linear" "％2F"
    """
    # To Graphviz a leading `%` means that the thing has no name.
    return quote(name[:1].translate(_IN_NAME) + name[1:])


def quote_names(names: Collection[str]) -> dict[str, str]:
    """Return each name as a DOT string that is unlike all others, and most as they are.

    >>> quote_names(["fc/linear", "node", 'a"', "a＂"])
    {'fc/linear': '"fc/linear"', 'node': '"node_1"', 'a"': '"a＂_1"', 'a＂': '"a＂"'}
    """
    quoted = {name: quote_name(name) for name in names}
    kept = {name for name in names if quoted[name] == f'"{name}"'} - {*_RESERVED}
    unique = UniqueNames()
    for name in (*_RESERVED, *kept):
        unique.take(name)
    for name in (name for name in names if name not in kept):
        quoted[name] = f'"{unique.take(quoted[name][1:-1])}"'
    return quoted


def record(name: str, op: str, facts: Mapping[str, str]) -> str:
    r"""Return a node's label for Netron, which shows `op` as its type and `facts` in a list.

    `name` is the node's name as it is quoted in the file.

    >>> print(record('"relu"', "aten.relu", {"flops": "(n + 1)**2", "device": "cuda:0"}))
    "{relu|op_code=aten.relu|flops: = (n + 1)**2\ldevice: cuda∶0\l}"
    """
    # Netron folds away, or parses further, the bare words that torch's own DOT files use.
    safe = "." in op and not op.startswith("get_parameter")
    op_code = _escape(op if safe else f"op.{op}").translate(_IN_OP_CODE)
    lines = "".join(f"{key}: {_fact(value)}" + r"\l" for key, value in facts.items())
    return f'"{{{name[1:-1]}|op_code={op_code}|{lines}}}"'


def _fact(value: str) -> str:
    # Netron drops a line with a second colon, and reads one in parentheses as JSON.
    text = _escape(value).translate(_IN_FACT)
    return f"= {text}" if text.lstrip().startswith("(") else text
