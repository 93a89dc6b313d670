"""The nodes as a table: data frames, CSV and Markdown.

One row is a node and one column a key; a key that no node has, has no column. Counts are numbers
where all of a column are, and text where one of them is symbolic. What is not known is missing.
"""

from __future__ import annotations

import csv as csv_module
import io
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingExtraError, UsageError
from ..graph import ModelGraph, in_order
from ..modules import Row, module_tree, shape_text
from ..names import clean, path_to_id
from ..schema import NODE_FIELDS, is_dim
from ..sums import totals
from ..text import decisions_line, number, symbols_line, totals_line

if TYPE_CHECKING:
    import pandas
    import polars

Node = Mapping[str, Any]
Columns = dict[str, list[Any]]

_LARGEST = 2**63 - 1
_LEFT_OUT = ("source",)
_COUNTED = ("contains", "uncounted")


def columns(nodes: Mapping[str, Node]) -> Columns:
    """Return the table of `nodes` column by column, the ids in the first one.

    The shapes and data types of all outputs stand after each other in one text each. A column
    holds whole numbers, or floats, or text, and None where a node has no value.
    """
    table: Columns = {"id": list(nodes)}
    keys = {key for node in nodes.values() for key in node}
    for key in NODE_FIELDS:
        if key == "outputs":
            made = [[out for out in node["outputs"] if out is not None] for node in nodes.values()]
            table["shape"] = ["; ".join(map(shape_text, outs)) or None for outs in made]
            table["dtype"] = [
                "; ".join(dict.fromkeys(out.dtype for out in outs)) or None for outs in made
            ]
        elif key in keys and key not in _LEFT_OUT:
            values = [_value(key, node.get(key)) for node in nodes.values()]
            if any(value is not None for value in values) or _is_number(key, nodes):
                table[key] = _uniform(values)
    return table


def _value(key: str, value: Any) -> Any:
    """Return `value` as one field of a table holds it; None where that is no plain value."""
    if key in _COUNTED and value:
        return ", ".join(f"{op} x{count}" for op, count in value.items())
    if isinstance(value, str):
        return value or None
    if isinstance(value, int | float) or is_dim(value):
        return value
    return None


def _is_number(key: str, nodes: Mapping[str, Node]) -> bool:
    """Say whether `key` was computed and is unknown everywhere: its column stays, and is empty."""
    return any(key in node and node[key] is None for node in nodes.values())


def _uniform(values: list[Any]) -> list[Any]:
    """Return `values` with one type: text if one is symbolic, floats if one is or is too large."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, int) and -_LARGEST <= value <= _LARGEST for value in known):
        return values
    kind: Any = float if all(isinstance(value, int | float) for value in known) else str
    return [None if value is None else kind(value) for value in values]


def frame(
    graph: ModelGraph, library: Literal["pandas", "polars"] | None = None
) -> pandas.DataFrame | polars.DataFrame:
    """Return the nodes in the order of execution as a data frame, one row a node.

    The index of a frame of pandas is ``id``, which is the first column of one of polars. Without
    `library` it is pandas if that is installed, and else polars. Ops inside the bodies of control
    flow have no rows, since the op that runs them has their costs. Raises UsageError for another
    library, and MissingExtraError where it is not installed.
    """
    if library not in (None, "pandas", "polars"):
        raise UsageError(f"there is no library {library!r}", hint="choose pandas or polars")
    table = columns(dict(in_order(graph)))
    for name, make in (("pandas", _pandas), ("polars", _polars)):
        if library in (None, name):
            try:
                return make(table)
            except ImportError:
                continue
    raise MissingExtraError(library or "pandas", extra="tables")


def _pandas(table: Columns) -> pandas.DataFrame:
    import pandas

    kinds = {int: "Int64", float: "Float64", bool: "boolean", str: "string"}
    made = {key: pandas.array(values, dtype=kinds[_kind(values)]) for key, values in table.items()}
    return pandas.DataFrame(made).set_index("id")


def _polars(table: Columns) -> polars.DataFrame:
    import polars

    kinds = {int: polars.Int64, float: polars.Float64, bool: polars.Boolean, str: polars.String}
    return polars.DataFrame(table, schema={key: kinds[_kind(v)] for key, v in table.items()})


def _kind(values: list[Any]) -> type:
    return next((type(value) for value in values if value is not None), int)


# -- CSV ---------------------------------------------------------------------------------------


def csv(graph: ModelGraph) -> bytes:
    """Return the nodes in the order of execution as CSV, in UTF-8, with a line of column names.

    A missing value is an empty field. A text that a spreadsheet would take for a formula has an
    apostrophe in front.
    """
    table = columns(dict(in_order(graph)))
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_field(value) for value in row] for row in zip(*table.values(), strict=True))
    return file.getvalue().encode()


def _field(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = _printable(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(map(clean, text))


# -- Markdown ----------------------------------------------------------------------------------

_MODULES = ("module", "type", "output shape", "ops", "params", "FLOPs", "bytes")
_NODES = ("id", "op", "output shape", "dtype", "device", "params", "FLOPs")


def markdown(graph: ModelGraph, *, depth: int = 2, nodes: bool = True) -> bytes:
    """Return totals, the module tree down to `depth` and, unless ``nodes=False``, all nodes.

    The tables are those of GitHub's Markdown. ``+?`` marks sums that miss an op whose cost is
    unknown.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise UsageError(f"depth={depth!r} is no depth", hint="0 is the model, 1 what it holds, …")
    root = module_tree(graph)
    lines = (totals_line(totals(graph)), symbols_line(graph), decisions_line(graph))
    parts = [f"# {_code(str(graph.graph['name']))}", *(_prose(line) for line in lines if line)]
    parts.append(_table(_MODULES, _module_rows(root, str(graph.graph["name"]), depth)))
    if nodes:
        parts.append(_table(_NODES, _node_rows(graph)))
    return ("\n\n".join(parts) + "\n").encode()


def _module_rows(row: Row, name: str, depth: int) -> Iterator[list[str]]:
    more = " +?" if row.unknown else ""
    yield [
        _code(path_to_id(row.path) or name),
        _code(row.type.rpartition(".")[2]),
        row.shape,
        str(row.ops),
        number(row.sums["params"]),
        number(row.sums["flops"], "FLOP") + more,
        number(row.sums["bytes"], "B"),
    ]
    if depth:
        for child in row.children.values():
            yield from _module_rows(child, name, depth - 1)


def _node_rows(graph: ModelGraph) -> Iterator[list[str]]:
    for name, node in in_order(graph):
        made = [out for out in node["outputs"] if out is not None]
        yield [
            _code(name),
            _code(node["op"] or node["kind"]),
            "; ".join(map(shape_text, made)),
            ", ".join(dict.fromkeys(out.dtype for out in made)),
            node.get("device", ""),
            number(node["params"]) if "params" in node else "",
            number(node["flops"], "FLOP") if "flops" in node else "",
        ]


def _table(head: tuple[str, ...], rows: Iterator[list[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(_one_line, line))} |" for line in lines)


def _one_line(text: str) -> str:
    return _printable(text).replace("|", "\N{FULLWIDTH VERTICAL LINE}")


def _prose(text: str) -> str:
    r"""Return `text` with a backslash before what means something to Markdown or HTML.

    >>> print(_prose("unknown: my_lib.<b> x1"))
    unknown: my\_lib.\<b\> x1
    """
    return re.sub(r"([\\`*_{}\[\]<>#|&!~$@])", r"\\\1", _printable(text))


def _code(text: str) -> str:
    """Return `text` as code, in which Markdown finds no links, no HTML and no emphasis.

    >>> _code("layer1/0/batch_norm"), _code("a`b|c"), _code("")
    ('`layer1/0/batch_norm`', '`a｀b｜c`', '')
    """
    inner = _one_line(text).replace("`", "\N{FULLWIDTH GRAVE ACCENT}")
    return f"`{inner}`" if inner.strip() else ""
