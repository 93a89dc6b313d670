"""An atlas of your model: every operation with its shape, its cost and its place, in any viewer.

A tour. Capture a model, read it, and hand it on:

>>> import torch, torchatlas as ta
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
>>> graph = ta.capture(model, torch.randn(4, 8))
>>> print(graph)
ModelGraph('Sequential': 3 ops, 9 nodes, 8 edges)

It is a networkx `DiGraph` whose node ids are paths, and whose keys are plain Python:

>>> graph.nodes["0/linear"]["flops"]
2048
>>> import networkx as nx
>>> nx.shortest_path(graph, "input", "output")
['input', '0/linear', '1/relu', '2/linear', 'output']
>>> ta.totals(graph).macs
1280

``graph.summary()`` is the module tree as a table, and ``graph.export("model.onnx")``, ``.dot``
and ``.json`` write files; `load` reads a ``.json`` back, and ``.pt2`` and ``.onnx`` files too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .annotations import Cost, annotate, critical_path, flop_formula
    from .annotations.transfers import transfers
    from .api import capture
    from .compiled import recorded, recording
    from .devices import Device
    from .errors import AtlasError
    from .estimates import estimate
    from .exporters import export
    from .exporters.dot_pydot import to_pydot
    from .exporters.tensorboard_events import add_graph
    from .graph import ModelGraph, validate
    from .measurements import measure
    from .reading import load
    from .sums import totals
    from .text import summary, to_text
    from .transforms.bind import bind
    from .transforms.collapse import collapse
    from .viewing import view

__all__ = [
    "AtlasError",
    "Cost",
    "Device",
    "ModelGraph",
    "__version__",
    "add_graph",
    "annotate",
    "bind",
    "capture",
    "collapse",
    "critical_path",
    "estimate",
    "export",
    "flop_formula",
    "load",
    "measure",
    "recorded",
    "recording",
    "summary",
    "to_pydot",
    "to_text",
    "totals",
    "transfers",
    "validate",
    "view",
]

_HOMES = {
    "AtlasError": "errors",
    "Cost": "annotations",
    "Device": "devices",
    "ModelGraph": "graph",
    "add_graph": "exporters.tensorboard_events",
    "annotate": "annotations",
    "bind": "transforms",
    "capture": "api",
    "collapse": "transforms",
    "critical_path": "annotations",
    "estimate": "estimates",
    "export": "exporters",
    "flop_formula": "annotations",
    "load": "reading",
    "measure": "measurements",
    "recorded": "compiled",
    "recording": "compiled",
    "summary": "text",
    "to_pydot": "exporters.dot_pydot",
    "to_text": "text",
    "totals": "sums",
    "transfers": "annotations.transfers",
    "validate": "graph",
    "view": "viewing",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used, so that `import torchatlas` and the command line stay fast.
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
