"""What a front end hands over, and what the graph keeps of it in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..records import OpRecord


@dataclass(slots=True)
class Capture:
    """Records, what the graph should say of itself, and the program that they were read from."""

    records: list[OpRecord]
    attrs: dict[str, Any]
    program: Any
    """The ExportedProgram or GraphModule whose node names are the records' keys."""
    placeholders: dict[str, Any]
    """What the program's placeholders stand for: parameters, buffers, constants, the example."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The sizes that symbols had while the model was captured."""
    assumptions: tuple[str, ...] = ()
    """Conditions on symbols that torch took for granted, and that may not matter."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step was captured with, besides the model."""

    args: Any
    loss: Any = None
    optimizer: Any = None
    """A `torch.optim.Optimizer`, or a function that makes one; None for a step without."""


@dataclass(slots=True)
class Source:
    """What a graph was captured from; kept in memory, never pickled or written to a file.

    `ids` leads from the names of the program's nodes to those of the graph. A name inside a
    ``no_grad`` or ``autocast`` region stands after the region's own: ``wrap/mul``.
    """

    frontend: str
    program: Any
    placeholders: dict[str, Any]
    model: Any = None
    ids: dict[str, str] = field(default_factory=dict)
    args: Any = None
    """The arguments that `model` was captured on, by position and by name; None if not known."""
    export: Callable[[], Any] | None = None
    """Makes the graph of the same model and example that has an exported program behind it."""
    step: Step | None = None
    """The training step that was captured; None for a model that is only called."""

    def run(self) -> dict[str, Any]:
        """Run the captured graph on copies of the model's state and the example.

        Returns values by node id: those of the output nodes, a training step's ``gradient/NAME``
        among them, and what stands in parameters, buffers and inputs at the end. Raises
        CaptureError where the model or the example has no values.
        """
        from .replay import replay

        return replay(self)

    def decompose(self, node: str) -> list[dict[str, Any]]:
        """Return the ops that torch takes the composite op at `node` apart into.

        Each has the keys of an op node. There are none where the op is no composite, or where
        torch cannot take it apart on tensors without values.
        """
        from .decomposition import decompose

        return decompose(self, node)
