"""Finds out which of the conditions that torch took for granted matter to a symbolic graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from .errors import AtlasError
from .expressions import condition, symbol
from .graph import ModelGraph, in_order
from .schema import NODE_FIELDS, Symbol, TensorMeta
from .sums import SUMMED
from .transforms.bind import bind

Sizes = dict[str, int]


def settle(
    graph: ModelGraph,
    sizes: Mapping[str, int],
    assumptions: Iterable[str],
    capture: Callable[[Sizes], ModelGraph],
) -> None:
    """Check a symbolic graph against captures at its smallest sizes; write what it holds for.

    Torch reasons as if no size were 1, and no result of a division either, so that the graph
    might not hold for the smallest sizes. For each symbol, and for all at once, `capture` shows
    what is true there: where it agrees, the assumptions that the sizes break are dropped, and
    elsewhere they join the bounds and constraints. `sizes` are those of the symbolic capture.
    """
    lowest: Sizes = {}
    for name in sizes:
        lowest[name] = _first_valid(graph, sizes, name, capture)
    whole = [text for text in assumptions if _holds(text, lowest)]
    open_ = [text for text in assumptions if text not in whole]
    whole = [text for text in whole if not _stays(text)]
    sure: Sizes = {}
    refuted: list[str] = []
    for name in sizes:
        point = {**sizes, name: lowest[name]}
        broken = [text for text in open_ if not _holds(text, point)]
        if not broken or _agrees(graph, point, capture):
            sure[name] = lowest[name]
        else:
            refuted += [text for text in broken if text not in refuted]
    together = {**sizes, **sure}
    if len(sure) > 1 and open_ and not _agrees(graph, together, capture):
        refuted.append(_not_all(sure))
    _write(graph, [*whole, *refuted, *(f"{name} >= {low}" for name, low in lowest.items())])


def _first_valid(
    graph: ModelGraph, sizes: Mapping[str, int], name: str, capture: Callable[[Sizes], ModelGraph]
) -> int:
    """Return a size for `name`, as small as may be, at which the model can be captured."""
    size = _lowest(graph, sizes, name)
    while size < sizes[name]:
        try:
            capture({**sizes, name: size})
        except AtlasError:
            size *= 2
        else:
            return size
    return sizes[name]


def _lowest(graph: ModelGraph, sizes: Mapping[str, int], name: str) -> int:
    """Return the least size for `name` that the graph allows, with the others at `sizes`."""
    known: Symbol = graph.graph["symbols"][name]
    steps = range(known.min, sizes[name] + 1, known.multiple_of)
    return next((n for n in steps if _allowed(graph, {**sizes, name: n})), sizes[name])


def _allowed(graph: ModelGraph, sizes: Sizes) -> bool:
    return all(_holds(text, sizes) for text in graph.graph.get("constraints", ()))


def _holds(text: str, sizes: Mapping[str, int]) -> bool:
    import sympy

    values = {symbol(name): sympy.Integer(size) for name, size in sizes.items()}
    try:
        return bool(condition(text).xreplace(values) == sympy.true)
    except ZeroDivisionError:  # the remainder of a division by a size that is 0 here
        return False


def _stays(text: str) -> bool:
    """Say whether a condition that holds at some sizes holds at all larger ones as well.

    >>> _stays("floor(height/8) > 1"), _stays("Max(1, floor(height/8)) != 1")
    (True, True)
    >>> _stays("Mod(height, 8) != 1"), _stays("height > width")
    (False, False)
    """
    import sympy

    relation = condition(text)
    if isinstance(relation, sympy.Ne):  # such as that a size is not 0, or not 1: it is larger
        small, large = sorted(relation.args, key=lambda side: len(side.free_symbols))
        return small in (0, 1) and _grows(large)
    if isinstance(relation, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return bool(relation.lts.is_number) and _grows(relation.gts)
    return False


def _grows(expression: Any) -> bool:
    """Say whether an expression never falls when a symbol grows."""
    import sympy

    if expression.is_Symbol or (expression.is_number and expression.is_nonnegative):
        return True
    if isinstance(expression, sympy.Add):
        return all(part.is_number or _grows(part) for part in expression.args)
    rising = sympy.Mul | sympy.floor | sympy.ceiling | sympy.Max | sympy.Min
    return isinstance(expression, rising) and all(map(_grows, expression.args))


def _agrees(graph: ModelGraph, sizes: Sizes, capture: Callable[[Sizes], ModelGraph]) -> bool:
    """Say whether a fresh capture at `sizes` has the shapes and costs that `graph` says."""
    try:
        fresh, bound = capture(sizes), bind(graph, **sizes)
    except AtlasError:
        return False
    return _comparable(fresh) == _comparable(bound)


_COMPARED = (*SUMMED, *(key for key in ("live_bytes",) if key in NODE_FIELDS))


def _comparable(graph: ModelGraph) -> list[Any]:
    """Return what is to agree: all but views, which cost nothing and may be left out at a size."""
    return [
        (node["op"], tuple(map(_shape, node["outputs"])), [node.get(k) for k in _COMPARED])
        for _, node in in_order(graph)
        if "view" not in node.get("tags", ())
    ]


def _shape(meta: TensorMeta | None) -> Any:
    return None if meta is None else (meta.shape, meta.dtype, meta.device)


def _not_all(point: Mapping[str, int]) -> str:
    """Return the condition that not every symbol is at its least.

    >>> _not_all({"batch": 1, "seq": 1}), _not_all({"batch": 1, "height": 8})
    ('Max(batch - 1, seq - 1) > 0', 'Max(batch - 1, height - 8) > 0')
    """
    return f"Max({', '.join(f'{name} - {size}' for name, size in point.items())}) > 0"


def _write(graph: ModelGraph, texts: Iterable[str]) -> None:
    """Make conditions part of the graph: of a symbol's bounds where they are that simple."""
    symbols: dict[str, Symbol] = dict(graph.graph["symbols"])
    constraints = list(graph.graph.get("constraints", ()))
    for text in texts:
        name, _, least = text.partition(" >= ")
        if name in symbols and least.isdecimal():
            factor = symbols[name].multiple_of
            low = max(symbols[name].min, -(-int(least) // factor) * factor)
            symbols[name] = replace(symbols[name], min=low)
        elif text not in constraints:
            constraints.append(text)
    graph.graph["symbols"] = symbols
    if constraints:
        graph.graph["constraints"] = tuple(constraints)
