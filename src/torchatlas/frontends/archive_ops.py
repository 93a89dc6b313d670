"""What operators do, by their names in a `.pt2` file: what they write, what their results share.

Where torch is installed its schema of the operator tells, looked up by name, which runs nothing.
Without torch, and for operators that are not registered, the name alone has to do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ..names import clean
from ..records import RecordArg


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator, as far as its name tells."""

    op: str
    overload: str = ""
    arguments: tuple[str, ...] = ()
    """Names of what it takes by position, where the file leaves them out."""
    writes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    returns: tuple[str | None, ...] = ()
    """For each result the argument whose memory it may share; the last stands for all others."""


_NAME = re.compile(r"[A-Za-z_]\w*")


@cache
def operator(target: str) -> Operator:
    """Describe the operator that a node's target names.

    >>> operator("torch.ops.aten.add_.Tensor").writes, operator("_operator.mul").op
    (('self',), 'operator.mul')
    """
    if target.startswith("torch.ops."):
        parts = target.split(".")[2:]
        if len(parts) in (2, 3) and all(_NAME.fullmatch(part) for part in parts):
            return _registered(parts) or _by_name(parts)
    namespace, _, name = target.replace("#", "").replace(":", ".").rpartition(".")
    module = (namespace or "python").lstrip("_").partition(".")[0]
    return Operator(f"{clean(module)}.{clean(name)}")


def _registered(parts: Sequence[str]) -> Operator | None:
    try:
        from . import metadata, torch_api
    except ImportError:  # no torch
        return None
    found = torch_api.find_operator(parts)
    if found is None:
        return None
    info = metadata.op_info(found)
    schema_less = parts[0] == "higher_order"
    return Operator(
        op=info.op,
        overload=info.overload,
        arguments=info.arguments if schema_less else (),
        writes=info.writes,
        tags=info.tags,
        returns=() if schema_less else torch_api.shared_arguments(found),
    )


def _by_name(parts: Sequence[str]) -> Operator:
    namespace, name, *overload = parts
    own = name.strip("_")
    in_place = namespace == "aten" and name.endswith("_") and not name.endswith("__")
    written = ("out",) if overload and re.fullmatch(r"(.*_)?out", overload[0]) else ()
    viewed = ("self",) if namespace == "aten" and own in _VIEWS | _MAY_VIEW else ()
    return Operator(
        op=clean(f"{namespace}.{name}"),
        overload=clean(overload[0]) if overload else "",
        arguments=HIGHER_ORDER.get(name, ()) if namespace == "higher_order" else (),
        writes=("self",) if in_place else written,
        returns=("self",) if in_place else written or viewed,
    )


HIGHER_ORDER = {
    "associative_scan": ("combine_fn", "xs", "additional_inputs"),
    "cond": ("pred", "true_fn", "false_fn", "operands"),
    "map_impl": ("f", "xs", "pos_args"),
    "scan": ("combine_fn", "init", "xs", "additional_inputs"),
    "while_loop": ("cond_fn", "body_fn", "carried_inputs", "additional_inputs"),
}
"""What control flow operators take by position, which a file does not say."""

_VIEWS = frozenset(
    (
        "adjoint",
        "alias",
        "as_strided",
        "broadcast_to",
        "chunk",
        "conj",
        "detach",
        "diagonal",
        "dsplit",
        "expand",
        "expand_as",
        "hsplit",
        "imag",
        "linalg_diagonal",
        "lift_fresh",
        "mH",
        "mT",
        "matrix_H",
        "moveaxis",
        "movedim",
        "narrow",
        "numpy_T",
        "permute",
        "positive",
        "real",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "swapaxes",
        "swapdims",
        "t",
        "tensor_split",
        "transpose",
        "unbind",
        "unflatten",
        "unfold",
        "unsqueeze",
        "view",
        "view_as",
        "view_as_complex",
        "view_as_real",
        "vsplit",
    )
)
_MAY_VIEW = frozenset(
    (
        "_autocast_to_full_precision",
        "_autocast_to_reduced_precision",
        "contiguous",
        "flatten",
        "ravel",
        "reshape",
        "reshape_as",
        "resolve_conj",
        "resolve_neg",
        "to",
    )
)

UNDECLARED_WRITES = {
    **dict.fromkeys(
        (
            "aten.batch_norm",
            "aten.cudnn_batch_norm",
            "aten.miopen_batch_norm",
            "aten.native_batch_norm",
        ),
        ("training", ("running_mean", "running_var")),
    ),
    "aten.instance_norm": ("use_input_stats", ("running_mean", "running_var")),
}
"""Ops that write statistics in place although their schema does not say so, as `fx_graph` has it;
that module cannot be imported without torch."""


def written(op: Operator, args: Mapping[str, RecordArg]) -> tuple[str, ...]:
    """Return the names of the arguments that a call of `op` writes in place."""
    flag, names = UNDECLARED_WRITES.get(op.op, ("", ()))
    declared = op.writes + (names if flag and args.get(flag) is True else ())
    return tuple(name for name in declared if args.get(name) is not None)
