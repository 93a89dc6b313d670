"""What `import torchatlas` offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .annotations import annotate
from .collection import without_collection
from .graph import ModelGraph, build
from .records import with_bodies
from .text import progress

if TYPE_CHECKING:
    from .frontends import Capture, Source


def capture(
    model: Any,
    example: Any = None,
    *,
    mode: Literal["forward", "inference", "training"] = "forward",
    loss: Callable[[Any], Any] | None = None,
    optimizer: Any = None,
    frontend: str = "auto",
    include_source: bool = False,
    dynamic: Mapping[str, Mapping[int, str] | Sequence[str | None]] | Sequence[str] | None = None,
    replay: bool = True,
    device: Any = None,
) -> ModelGraph:
    """Capture `model` into an annotated graph.

    `model` is an `nn.Module`, a function, an `ExportedProgram` or an `fx.GraphModule`.
    `example` is one input, a tuple of positional arguments, a mapping of keyword arguments, or
    a pair of both; its tensors may be real, fake, or on the meta device, and only their shapes,
    data types and devices matter. `frontend` is ``"auto"`` or one of
    `torchatlas.frontends.FRONTENDS`; the graph's keys ``frontend`` and ``attempts`` say which
    one served and why others did not. `include_source` keeps the line of code that called each
    op (``file:line``, relative) on the graph, and so in every file written from it.

    With ``mode="training"`` the graph is one training step: forward, loss, backward and, where
    one is given, the optimizer's step; the key ``phase`` of a node says which. It holds the
    operators that run below autograd, in eager order, and an output node ``gradient/NAME`` for
    each parameter's gradient. `loss` makes a tensor of one element of what the model returns; by
    default it is the output's own ``loss``, or else the sum of what the model returns.
    `optimizer` is a `torch.optim.Optimizer` of the model's parameters, or a function that makes
    one of a list of parameters; its state exists already, as after a first step. The model's own
    parameters, buffers and mode (``train()`` or ``eval()``) stay as they are.

    With ``mode="inference"`` it holds the operators that run below autograd too, but of a forward
    pass that asks for no gradient. Both are recorded as they run, so that it is known how long
    every piece of memory is in use.

    `dynamic` makes sizes symbolic: shapes and costs are then sympy expressions over names, and
    `bind` puts numbers in their place. It says for an input, called by its argument or by the id
    of its node (``batch/ids``), the name of a dimension: ``{"x": {0: "batch", 2: "height"}}``,
    or of one after the other, None for a fixed one: ``{"x": ["batch", None, "height"]}``. Names
    alone, ``["batch", "seq"]``, go to the leading dimensions of every input tensor that has that
    many. One name in several places says that the sizes are equal. What the model demands of a
    name stands in the graph's keys ``symbols`` and ``constraints``. The sizes of the example
    matter where the model branches on one: its branch is captured, and kept as a constraint.

    With `replay` a module that is called like an earlier one (of the same structure, attributes
    and arguments, reading nothing that has changed) is not run again: what was recorded of the
    first call is repeated under its own path and with its own parameters. The graph is the same;
    ``replay=False`` runs everything.

    `device` places the model and the example on a device that need not exist: ``"cuda"``,
    ``"cuda:1"``, ``"cpu"``, a `torch.device`, or a CUDA device's number. Parameters, buffers and
    inputs of the graph lie there, and what the model makes of them where it says. A map from the
    paths of modules to devices, ``{"": "cuda:1", "layer1": "cuda:0"}``, splits a model: the
    longest path that leads to a tensor says where that lies, inputs are where ``""`` says, and a
    module with tensors gets its arguments moved to where it is, by an op inside of it. The model
    and the example themselves stay where they are. `transfers` finds what crosses devices.

    Raises InputError where the model itself raises on the example, naming the module, the op
    and the shapes, or takes no other size for a name than one, and CaptureError where no front
    end can capture it.
    """
    from .errors import UsageError
    from .frontends import record, record_inference, record_training

    training, plain = mode == "training", mode == "forward"
    if mode not in ("forward", "inference", "training"):
        raise UsageError(f"there is no mode {mode!r}", hint="choose forward, inference or training")
    if not plain and frontend != "auto":
        raise UsageError(f"mode {mode!r} has a front end of its own", hint="leave frontend out")
    if not training and (loss is not None or optimizer is not None):
        raise UsageError("a loss or an optimizer needs a training step", hint='mode="training"')
    if not plain and dynamic is not None:
        raise UsageError(f"mode {mode!r} has no symbolic sizes", hint="leave `dynamic` out")
    if training and device is not None:
        raise UsageError(
            "a backward pass runs on no device that may not exist",
            hint="leave `device` out, or mode='inference' for a forward pass",
        )
    with progress(f"capturing {type(model).__name__}"), without_collection():
        if training:
            found, source = record_training(model, example, loss=loss, optimizer=optimizer)
        elif not plain:
            found, source = record_inference(model, example, device=device)
        else:
            found, source = record(
                model, example, frontend=frontend, dynamic=dynamic, replay=replay, device=device
            )
            source.export = lambda: capture(model, example, frontend="export")
        graph = _graph(found, source, include_source)
        if dynamic is not None:
            _settle(graph, found, model, example, dynamic, device)
        return graph


def _graph(found: Capture, source: Source, include_source: bool = False) -> ModelGraph:
    if not include_source:
        for op in with_bodies(found.records):
            op.source = ""
    graph, source.ids = build(found.records, **found.attrs)
    graph.source = source
    return annotate(graph)


def _settle(
    graph: ModelGraph, found: Capture, model: Any, example: Any, dynamic: Any, device: Any
) -> None:
    from .assumptions import settle
    from .frontends import record_at

    made: dict[tuple[int, ...], ModelGraph] = {}

    def fresh(sizes: Mapping[str, int]) -> ModelGraph:
        key = tuple(sizes.values())
        if key not in made:
            made[key] = _graph(*record_at(model, example, dynamic, sizes, device))
        return made[key]

    settle(graph, found.sizes, found.assumptions, fresh)
