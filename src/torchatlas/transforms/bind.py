"""From symbolic sizes to numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import GraphError, UsageError
from ..expressions import SizeMap, condition, condition_text, symbol
from ..graph import ModelGraph
from ..schema import Dim, Symbol


def bind(graph: ModelGraph, **sizes: int) -> ModelGraph:
    """Return `graph` with numbers in place of the symbols that `sizes` names.

    Shapes, strides, arguments, costs and the bytes of edges are evaluated exactly, also inside
    the bodies of control flow; symbols that are not named stay, and costs are then expressions
    over those. `graph` itself stays as it is. The result has no `source`: the program behind a
    symbolic graph is not one for these sizes, so an executable ONNX file comes from `graph`, or
    from a capture at these sizes.

    >>> import torch, torchatlas as ta
    >>> graph = ta.capture(torch.nn.Linear(8, 4), torch.zeros(2, 8), dynamic=["batch"])
    >>> ta.totals(graph).flops, ta.totals(ta.bind(graph, batch=3)).flops
    (64*batch, 192)

    Raises UsageError for a symbol that the graph does not have, for what is no positive integer,
    and for a size that breaks what the model demands: a multiple, a bound, a relation.
    """
    known = symbols_of(graph)
    for name, size in sizes.items():
        _check(name, size, known)
    constraints = _constraints(graph.graph.get("constraints", ()), sizes)
    values = {symbol(name): size for name, size in sizes.items()}
    change = SizeMap(lambda expression: _whole(expression, values))
    change_args = SizeMap(lambda expression: _value(expression, values))
    bound = _bound(graph, change, change_args)
    left = {name: kept for name, kept in known.items() if name not in sizes}
    for key, kept in (("symbols", left), ("constraints", constraints)):
        bound.graph.pop(key, None)
        if kept:
            bound.graph[key] = kept
    return bound


def _bound(graph: ModelGraph, change: SizeMap, change_args: SizeMap) -> ModelGraph:
    bound = ModelGraph(**graph.graph)
    for name, node in graph.nodes(data=True):
        others = {key: value for key, value in node.items() if key not in ("args", "subgraphs")}
        bound.add_node(name, **_changed(name, others, change))
        if "args" in node:
            bound.nodes[name]["args"] = change_args(node["args"])
        if "subgraphs" in node:
            bound.nodes[name]["subgraphs"] = {
                key: _bound(body, change, change_args) for key, body in node["subgraphs"].items()
            }
    for source, target, edge in graph.edges(data=True):
        bound.add_edge(source, target, **_changed(target, edge, change))
    return bound


def symbols_of(graph: ModelGraph) -> dict[str, Symbol]:
    """Return the symbols of `graph` with what each may stand for; none for a graph of numbers.

    >>> import torch, torchatlas as ta
    >>> symbols_of(ta.capture(torch.nn.ReLU(), torch.zeros(2, 8), dynamic=["batch"]))
    {'batch': Symbol(min=1, max=None, multiple_of=1)}
    """
    declared: Mapping[str, Symbol] = graph.graph.get("symbols", {})
    found: set[str] = set()

    def note(expression: Any) -> Any:
        found.update(s.name for s in expression.free_symbols)
        return expression

    look = SizeMap(note)
    _look(graph, look)
    return {**declared, **{name: Symbol() for name in sorted(found - declared.keys())}}


def _look(graph: ModelGraph, look: SizeMap) -> None:
    for _, node in graph.nodes(data=True):
        look(node["outputs"])
        if "subgraphs" in node:
            look(node.get("trips"))
            for body in node["subgraphs"].values():
                _look(body, look)


def _check(name: str, size: Any, known: Mapping[str, Symbol]) -> None:
    if name not in known:
        raise UsageError(
            f"the graph has no symbol {name!r}",
            hint=f"its symbols are {', '.join(known)}" if known else "all of its sizes are numbers",
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"{name}={size!r} is no size", hint="a size is a positive integer")
    allowed = known[name]
    if (
        size < allowed.min
        or size % allowed.multiple_of
        or (allowed.max is not None and size > allowed.max)
    ):
        raise UsageError(
            f"{name}={size} is not a size that this capture holds for",
            hint=f"{name} is {allowed}; for other sizes capture anew",
        )


def _constraints(texts: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the constraints that still ask something once `sizes` are known."""
    import sympy

    kept = []
    values = {symbol(name): sympy.Integer(size) for name, size in sizes.items()}
    for text in texts:
        try:
            left = condition(text).xreplace(values)
        except ZeroDivisionError:  # the remainder of a division by a size that is 0 here
            left = sympy.false
        if left == sympy.false:
            given = ", ".join(f"{name}={size}" for name, size in sizes.items() if name in text)
            raise UsageError(
                f"{given} breaks the constraint {text}",
                hint="the model, or torch's capture of it, is otherwise for such sizes: "
                "capture anew with them",
            )
        if left != sympy.true:
            kept.append(condition_text(left))
    return tuple(kept)


def _value(expression: Any, values: Mapping[Any, int]) -> Any:
    import sympy

    found = expression.xreplace({s: sympy.Integer(n) for s, n in values.items()})
    if found.is_Integer:
        return int(found)
    return float(found) if found.is_number else found


def _whole(expression: Any, values: Mapping[Any, int]) -> Dim:
    found: Any = _value(expression, values)
    if isinstance(found, float):
        raise GraphError(
            f"{str(expression)[:200]} is {found} and no whole number",
            hint="a constraint is missing: please report the model",
        )
    return found


def _changed(node: str, attrs: Mapping[str, Any], change: SizeMap) -> dict[str, Any]:
    try:
        return {key: change(value) for key, value in attrs.items()}
    except GraphError as error:
        raise GraphError(error.problem, node=node, hint=error.hint) from None
