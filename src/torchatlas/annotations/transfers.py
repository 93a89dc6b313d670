"""Which tensors go from one device to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..graph import ModelGraph, bodies, in_order
from ..names import join_body
from ..schema import SCALARS, Dim, TensorMeta
from ..sums import add_up


class Transfer(NamedTuple):
    """An edge along which a node reads from another device than it writes to."""

    source: str
    target: str
    from_device: str
    to_device: str
    bytes: Dim
    """Bytes of the tensors that cross, each once."""


def transfers(graph: ModelGraph) -> list[Transfer]:
    """Return the edges of `graph` whose tensors lie elsewhere than what their target makes of them.

    In the order of execution, those inside the bodies of control flow after the others, and once
    however often a loop runs. That may be a copy (``x.to("cuda:1")``) or an op that takes a
    number or an index from the CPU. A tensor that two nodes fetch crosses twice. An edge to an
    output of the graph is none: the tensor stays where it is.

    >>> import torch
    >>> class Split(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)
    ...     def forward(self, x):
    ...         return self.head(self.body(x).to("cuda:1"))
    >>> import torchatlas as ta
    >>> graph = ta.capture(Split(), torch.ones(4, 8), device={"": "cuda:0", "head": "cuda:1"})
    >>> for transfer in ta.transfers(graph):
    ...     print(*transfer)
    body/linear to cuda:0 cuda:1 256
    """
    found = list(_transfers(graph, None))
    for name, body in bodies(graph):
        found += _transfers(body, name)
    return found


def _transfers(graph: ModelGraph, body: str | None) -> Iterator[Transfer]:
    def whole(name: str) -> str:
        return name if body is None else join_body(body, name)

    for target, node in in_order(graph):
        here = _devices(node)
        for source, _, edge in graph.in_edges(target, data=True) if here else ():
            outputs = graph.nodes[source]["outputs"]
            flowing = sorted({use.output for use in edge["uses"] if use.output is not None})
            apart: dict[str, list[Dim]] = {}
            for meta in (outputs[i] for i in flowing):
                if _has_place(meta) and meta.device not in here:
                    apart.setdefault(meta.device, []).append(meta.nbytes)
            for device, amounts in apart.items():
                yield Transfer(whole(source), whole(target), device, here[0], add_up(amounts))


def _devices(node: Any) -> list[str]:
    """Return the devices of what a node produces, in order."""
    return list(dict.fromkeys(meta.device for meta in node["outputs"] if _has_place(meta)))


def _has_place(meta: TensorMeta | None) -> bool:
    return meta is not None and bool(meta.device) and meta.dtype not in SCALARS
