"""The checks behind `torchatlas.validate`: one predicate for each type that the schema uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import networkx as nx

from .errors import GraphError
from .schema import (
    BOUNDS,
    KINDS,
    Decision,
    Field,
    Measured,
    Module,
    Symbol,
    TensorMeta,
    Use,
    is_dim,
)


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_cost(value: object) -> bool:
    return value is None or is_dim(value)


def _all(kind: type | tuple[type, ...]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(isinstance(v, kind) for v in value)


def _is_body(item: tuple[object, object]) -> bool:
    name, graph = item
    return isinstance(name, str) and isinstance(graph, nx.DiGraph)


def _all_indices(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_index, value))


def _is_count(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(op, str) and _is_index(count) and count for op, count in value.items()
    )


def _is_duration(value: object) -> bool:
    return isinstance(value, float) and 0 <= value < float("inf")


_NODE_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("op", "overload", "target", "module", "module_type", "source", "device", "cost_source"),
        _is_str,
    ),
    **dict.fromkeys(
        ("differentiates", "recomputes", "gradient", "gradient_of", "state_of"), _is_str
    ),
    **dict.fromkeys(("macs", "flops", "flops_other", "flops_effective", "int_ops"), _is_cost),
    **dict.fromkeys(
        (
            "params",
            "param_bytes",
            "bytes_read",
            "bytes_written",
            "comm_bytes",
            "live_bytes",
            "saved_bytes",
            "trips",
        ),
        is_dim,
    ),
    **dict.fromkeys(("aliases", "tags", "writes", "kernels"), _all(str)),
    **dict.fromkeys(("index", "first_use", "last_use", "peak_bytes", "launches"), _is_index),
    **dict.fromkeys(("storages", "frees", "saved"), _all_indices),
    **dict.fromkeys(("contains", "uncounted"), _is_count),
    **dict.fromkeys(("latency_us", "latency_iqr_us"), _is_duration),
    "roofline_us": lambda value: value is None or _is_duration(value),
    "bound": BOUNDS.__contains__,
    "kind": KINDS.__contains__,
    "phase": ("forward", "backward", "optimizer").__contains__,
    "module_stack": _all(Module),
    "args": lambda value: isinstance(value, Mapping),
    "outputs": _all((TensorMeta, type(None))),
    "subgraphs": lambda value: isinstance(value, Mapping) and all(map(_is_body, value.items())),
}


def check_keys(
    attrs: Mapping[str, Any],
    fields: Mapping[str, Field],
    required: Collection[str],
    where: str | None,
) -> None:
    """Raise GraphError for a key that is missing from `attrs` or not declared in `fields`."""
    for key in required:
        if key not in attrs:
            raise GraphError(f"the key {key!r} is missing", node=where, hint=fields[key].doc)
    for key in attrs:
        if key not in fields:
            raise GraphError(
                f"the key {key!r} is not in the schema",
                node=where,
                hint=f"the declared keys are {', '.join(fields)}",
            )


def check_graph(attrs: Mapping[str, Any]) -> None:
    """Raise GraphError for symbols, constraints or decisions that are not of their key's type.

    Also for what measurements say of the whole.
    """
    whole, confirmed = attrs.get("measured"), attrs.get("confirmed", 0)
    known = isinstance(whole, Measured | None) and _is_index(confirmed)
    if not known or not _all(str)(attrs.get("contradicted", ())):
        raise GraphError(
            "'measured', 'confirmed' or 'contradicted' does not fit the schema",
            hint="see torchatlas.schema.GraphAttrs",
        )
    special, decisions = attrs.get("specialised", False), attrs.get("decisions", ())
    if type(special) is not bool or not _all(Decision)(decisions):
        raise GraphError(
            "'specialised' or 'decisions' does not fit the schema",
            hint="see torchatlas.schema.GraphAttrs",
        )
    symbols, constraints = attrs.get("symbols", {}), attrs.get("constraints", ())
    described = isinstance(symbols, Mapping) and all(
        isinstance(name, str) and isinstance(known, Symbol) for name, known in symbols.items()
    )
    if not described or not _all(str)(constraints):
        raise GraphError(
            "'symbols' or 'constraints' does not fit the schema",
            hint="see torchatlas.schema.GraphAttrs",
        )


def check_node(name: str, node: Mapping[str, Any]) -> None:
    """Raise GraphError for a value that is not of its key's type."""
    for key, value in node.items():
        if not _NODE_CHECKS[key](value):
            raise GraphError(
                f"{key!r} has the value {value!r}, which does not fit the schema",
                node=name,
                hint="see torchatlas.schema.NodeAttrs",
            )


def check_edge(
    source: str,
    source_node: Mapping[str, Any],
    target: str,
    target_node: Mapping[str, Any],
    edge: Mapping[str, Any],
) -> None:
    """Raise GraphError where an edge runs backwards, or takes an output that is not there."""
    if source_node["index"] >= target_node["index"]:
        raise GraphError(
            f"the edge from {source!r} runs against the order of execution",
            node=target,
            hint="a source must have the smaller 'index'",
        )
    if not is_dim(edge["bytes"]) or not _all(Use)(edge["uses"]) or not edge["uses"]:
        raise GraphError(
            f"the edge from {source!r} has no uses, or bytes that are no size",
            node=target,
            hint="see torchatlas.schema.EdgeAttrs",
        )
    for use in edge["uses"]:
        if use.output is not None and use.output >= len(source_node["outputs"]):
            raise GraphError(
                f"the edge from {source!r} takes its output {use.output}, which it does not have",
                node=target,
                hint=f"it has {len(source_node['outputs'])}",
            )
