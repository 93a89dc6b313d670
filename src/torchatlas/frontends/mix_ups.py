"""Tensors of different devices in one operator: which, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import getitem
from typing import Any

import torch
from torch import fx

from ..errors import InputError
from ..graph import clean_path
from ..names import clean, join_id, op_leaf
from . import metadata, torch_api
from .segments import Segment

HINT = (
    "move the example and the model to one device, make tensors with device=x.device, and "
    "register constants as buffers"
)
"""What to do about it."""


def is_mix_up(error: BaseException) -> bool:
    """Say whether torch raised `error` because tensors lie on different devices."""
    # How 2.15 and 2.11 say it of tensors without values, and kernels of those with values.
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "tensors to be on the same device" in text or "found two different devices" in text
    )


def describe(
    graph: fx.Graph,
    func: Any,
    operands: tuple[tuple[Any, ...], Mapping[str, Any]],
    module: tuple[str, str],
) -> InputError:
    """Return an error for the operator `func`, which was to be added to `graph` and raised.

    `operands` are nodes and literals, by position and by name; `module` is the path and the class
    of the innermost module that is running.
    """
    info = metadata.op_info(func)
    path, kind = module
    named = metadata.named_arguments(info, *operands)
    told = ", ".join(
        f"{name}: {_tensor(node)}" for name, arg in named.items() for node in _nodes(arg)
    )
    where = f"in module {clean(path)!r} ({kind})" if path else f"in {kind} itself"
    return InputError(
        f"{info.op} gets tensors of different devices {where}\n  {told}",
        node=_next_id(graph, path, info.op),
        hint=HINT,
    )


def _nodes(arg: Any) -> Iterator[fx.Node]:
    for leaf in torch_api.tree_leaves(arg):
        if isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), torch.Tensor):
            yield leaf


def _tensor(node: fx.Node) -> str:
    """Say what a tensor is, where it lies, and what made it."""
    meta = metadata.tensor_meta(node.meta["val"])
    if node.op == "placeholder":
        made = f"given as {clean(node.name)}"
    elif node.op == "get_attr":
        made = "which is no parameter, buffer or input"
    else:
        maker: Any = node.args[0] if node.target is getitem else node
        made = f"made by {metadata.op_info(maker.target).op}"
    return f"{meta} on {meta.device}, {made}"


def _next_id(graph: fx.Graph, path: str, op: str) -> str:
    """Return the node id that the next op of this name in the module at `path` would get."""
    same = 0
    for node in graph.nodes:
        if node.op != "call_function" or isinstance(node.target, Segment):
            continue
        around = node.meta.get("nn_module_stack") or {"": None}
        if next(reversed(around)) == path:
            same += op_leaf(metadata.op_info(node.target).op) == op_leaf(op)
    name = join_id(clean_path(path), clean(op_leaf(op)))
    return f"{name}_{same}" if same else name
