"""What the graphs nested in ONNX's control flow stand for, and how often they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..records import RecordArg, Value
from ..schema import Dim, TensorMeta
from .onnx_functions import domain
from .onnx_proto import graphs

if TYPE_CHECKING:
    from onnx import NodeProto

_ENDLESS = 2**31
"""A limit of a loop that stands for none."""


def _keeps_its_condition(node: NodeProto) -> bool:
    """Say whether the body of a Loop cannot end it: it hands the condition on, or says true."""
    (body,) = [graph for a in node.attribute for graph in graphs(a)] or [None]
    if body is None or len(body.input) < 2 or not body.output:
        return False
    name = body.output[0].name
    made = {result: inner for inner in body.node for result in inner.output}
    while name in made and made[name].op_type in ("Identity", "Cast"):
        name = made.pop(name).input[0]
    is_constant = name in made and made[name].op_type == "Constant"
    return is_constant or name == body.input[1].name or name in {t.name for t in body.initializer}


def body_argument(node: NodeProto, position: int) -> str:
    """Return the path of the argument that an input of a body stands for, empty for none."""
    if node.op_type == "Loop":
        return ("", "cond")[position] if position < 2 else f"v_initial/{position - 2}"
    if node.op_type == "Scan":
        return f"initial_state_and_scan_inputs/{position}"
    return ""


def trips(
    node: NodeProto,
    args: Mapping[str, RecordArg],
    meta: Callable[[Value], TensorMeta | None],
    version: int,
) -> Dim | None:
    """Return how often a node runs its body: None where only the values of tensors say.

    `version` is that of ONNX's own operators.
    """
    if domain(node.domain) or node.op_type not in ("Loop", "Scan", "SequenceMap"):
        return 1
    if node.op_type == "Scan":
        return _scanned(args, meta, version)
    limit = args.get("M")
    is_number = isinstance(limit, int) and 0 <= limit < _ENDLESS
    return limit if is_number and _keeps_its_condition(node) else None


def _scanned(
    args: Mapping[str, RecordArg], meta: Callable[[Value], TensorMeta | None], version: int
) -> Dim | None:
    operands, count = args.get("initial_state_and_scan_inputs"), args.get("num_scan_inputs")
    if not isinstance(operands, tuple) or not isinstance(count, int):
        return None
    axes = args.get("scan_input_axes")
    axis = axes[0] if isinstance(axes, tuple) and axes else int(version < 9)
    first = operands[-count] if 1 <= count <= len(operands) else None
    found = meta(first) if isinstance(first, Value) else None
    if found is None or not isinstance(axis, int):
        return None
    return found.shape[axis] if -len(found.shape) <= axis < len(found.shape) else None
