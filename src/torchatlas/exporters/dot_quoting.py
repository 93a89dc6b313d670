"""The syntax of DOT: strings that Graphviz and Netron both read as text, and statements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

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


def quote(*lines: str, left: bool = False) -> str:
    r"""Return `lines` as one DOT string that means the same to Graphviz and to Netron.

    Several lines of a label are centred, or begin at the `left`.

    >>> print(quote("layer1/0/conv1/conv2d"), quote("<b>"), quote("conv2d", "64×56×56"))
    "layer1/0/conv1/conv2d" "<b>" "conv2d\n64×56×56"
    >>> print(quote('a"b|c'), quote("ends in \\"), quote("&#27;"))
    "a＂b｜c" "ends in ＼" "＆#27;"
    """
    # Graphviz 14.1 crashes on a label of several lines whose first is empty.
    empty = " " if len(lines) > 1 else ""
    escaped = (_escape(line) or empty for line in lines)
    if left and empty:
        return '"' + "".join(rf"{line}\l" for line in escaped) + '"'
    return '"' + r"\n".join(escaped) + '"'


def _escape(text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    printable = text if text.isprintable() else "".join(map(clean, text))
    return printable.translate(_IN_STRING)


def quote_html(text: str) -> str:
    """Return `text` as it stands in a label of HTML's kind, where it can be nothing but text.

    >>> quote_html("</TD> & co"), quote_html("")
    ('&lt;/TD&gt; ＆ co', ' ')
    """
    return _escape(text).replace("<", "&lt;").replace(">", "&gt;") or " "


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


class Block:
    """A graph or a subgraph: statements in braces. All that it is given is quoted already."""

    def __init__(self, name: str, attributes: Mapping[str, str], *, kind: str = "subgraph") -> None:
        self.name, self.attributes = name, attributes
        self._kind = kind
        self.parts: list[tuple[tuple[str, ...], Mapping[str, str]] | Block] = []
        """What was added: blocks, and what edges lead from and to, or nodes, with attributes."""

    def add(self, name: str, attributes: Mapping[str, str]) -> None:
        """Add a node or defaults."""
        self.parts.append(((name,), attributes))

    def edge(self, source: str, target: str, attributes: Mapping[str, str]) -> None:
        """Add an edge."""
        self.parts.append(((source, target), attributes))

    def block(self, name: str, attributes: Mapping[str, str]) -> Block:
        """Add a subgraph and return it."""
        inner = Block(name, attributes)
        self.parts.append(inner)
        return inner

    def lines(self, indent: str = "") -> Iterator[str]:
        """Yield the lines of the file, those inside indented by one space more.

        >>> file = Block("net", {"rankdir": quote("LR")}, kind="digraph")
        >>> file.block("picture", {}).add(quote("a"), {"label": quote("A")})
        >>> print(*file.lines(), sep="|")
        digraph net {| rankdir="LR";| subgraph picture {|  "a" [label="A"];| }|}
        """
        yield f"{indent}{self._kind} {self.name} {{"
        for key, value in self.attributes.items():
            yield f"{indent} {key}={value};"
        for part in self.parts:
            if isinstance(part, Block):
                yield from part.lines(f"{indent} ")
                continue
            names, attributes = part
            listed = ", ".join([f"{key}={value}" for key, value in attributes.items()])
            what = " -> ".join(names)
            yield f"{indent} {what} [{listed}];" if listed else f"{indent} {what};"
        yield f"{indent}}}"
