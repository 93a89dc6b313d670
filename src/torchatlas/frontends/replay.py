"""Re-runs a captured graph on real tensors, node by node, with a hook for what each one makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..errors import CaptureError
from . import torch_api
from .capture import Source

Hook = Callable[[str, list[Any]], None]


def replay(source: Source, hook: Hook) -> None:
    """Run the program of `source` on its example; call ``hook(node id, values)`` after each op.

    The values are the op's outputs in the order of the node's ``outputs``. What the program
    writes in place is a copy, so that the model and the example stay as they are.

    Raises CaptureError where the state or the example has no values to run on.
    """
    inputs = {name: _real(name, value) for name, value in source.placeholders.items()}

    def call(key: str, result: Any) -> None:
        if key in source.ids:
            hook(source.ids[key], torch_api.tree_leaves(result))

    module = getattr(source.program, "graph_module", source.program)
    placeholders = module.graph.find_nodes(op="placeholder")
    _Replay(module, call).run(*(inputs.get(node.name) for node in placeholders))


def _real(name: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(value, torch_api.FakeTensor) or value.is_meta:
        raise CaptureError(
            f"{name!r} has no values to run on",
            hint="capture a model with real weights, on a real example",
        )
    # Which kernel attention takes, and so its strides, depends on whether gradients are asked for.
    return value.detach().clone().requires_grad_(value.requires_grad)


class _Replay(fx.Interpreter):
    def __init__(
        self, module: fx.GraphModule, call: Callable[[str, Any], None], prefix: str = ""
    ) -> None:
        super().__init__(module)
        self._call, self._prefix = call, prefix

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        found = torch_api.region(n.target)
        if found is not None:
            position, context = found
            args, _ = self.fetch_args_kwargs_from_env(n)
            inner = _Replay(args[position], self._call, f"{self._prefix}{n.name}/")
            with context(*args[:position]):
                return inner.run(*args[position + 1 :])
        result = super().run_node(n)
        self._call(self._prefix + n.name, result)
        return result
