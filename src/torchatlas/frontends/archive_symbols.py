"""The symbolic sizes of a `.pt2` archive: what they were in the example, and may be elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import FormatError
from ..names import clean
from ..records import OpRecord
from ..schema import Dim
from . import archive_format as form
from . import archive_sizes
from .capture import Capture


def hints(graph: form.Graph) -> dict[str, int]:
    """Return the value that each symbol had in the example, as far as tensors show it."""
    found: dict[str, int] = {}
    for tensor in graph.tensor_values.values():
        for number in tensor.sizes:
            if isinstance(number.as_expr, form.Expression):
                hint = number.as_expr.hint
                name = _symbol(number.as_expr.expr_str)
                if name is not None and hint is not None and isinstance(hint.as_int, int):
                    found.setdefault(name, hint.as_int)
    return found


def _symbol(text: str) -> str | None:
    try:
        return getattr(archive_sizes.size(text), "name", None)
    except FormatError:
        return None  # whoever needs the tensor's shape says what is wrong with it


def describe(records: Sequence[OpRecord], attrs: dict[str, Any], program: form.Program) -> None:
    """Add what the symbols may stand for, and what else has to hold of them, to `attrs`.

    Of the conditions in the file those are kept that the grammar of `archive_sizes` can read.
    """
    sizes = _input_sizes(records)
    if all(isinstance(size, int) for size in sizes.values()):
        return
    from .guards import describe_symbols

    found = Capture(list(records), attrs, None, {})
    ranges = {name: (r.min_val, r.max_val) for name, r in program.range_constraints.items()}
    describe_symbols(found, list(_guards(program.guards_code, sizes)), ranges)


def _input_sizes(records: Sequence[OpRecord]) -> dict[tuple[str, int], Dim]:
    return {
        (clean(record.target), i): n
        for record in records
        if record.kind == "input" and record.outputs and record.outputs[0] is not None
        for i, n in enumerate(record.outputs[0].shape)
    }


def _guards(
    texts: Sequence[str], sizes: Mapping[tuple[str, int], Dim]
) -> Iterator[tuple[Any, str]]:
    for text in texts:
        try:
            yield archive_sizes.guard(text, sizes), ""
        except FormatError:
            continue
