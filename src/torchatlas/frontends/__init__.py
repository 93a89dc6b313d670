"""Front ends turn a model and an example into records; `record` chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AtlasError, CaptureError, UsageError
from ..names import clean
from .capture import Capture, Source

if TYPE_CHECKING:
    from torch import nn

    from .example import Args

__all__ = ["FRONTENDS", "Capture", "Source", "record", "record_training"]

FRONTENDS = ("export", "fx", "trace")
"""The front ends in the order in which ``auto`` tries them."""


def record(
    model: Any, example: Any = None, *, frontend: str = "auto", dynamic: Any = None
) -> tuple[Capture, Source]:
    """Turn `model` into records with the first front end that can.

    `dynamic` makes sizes symbolic, as `torchatlas.capture` has it. Raises InputError where the
    model itself raises on the example, CaptureError where no front end serves, and UsageError
    for a front end that does not exist.
    """
    from .example import arguments, as_module, to_fake, to_meta
    from .state import check_structure
    from .torch_api import quiet

    if frontend not in ("auto", *FRONTENDS):
        raise UsageError(
            f"there is no front end {frontend!r}", hint=f"choose auto, {', '.join(FRONTENDS)}"
        )
    if dynamic is not None and (frontend in ("fx", "trace") or _is_program(model)):
        raise UsageError(
            "only the front end 'export' makes sizes symbolic, and not of an exported program",
            hint="pass the module, and leave `frontend` out",
        )
    if _is_program(model):
        return _read_program(model)
    module, name = as_module(model)
    check_structure(module)
    args = to_fake(module, to_meta(module, arguments(module, example)))
    with quiet():
        if dynamic is None:
            found, served, attempts = _first(module, args, _order(module, frontend))
        else:
            found, served, attempts = _symbolic(module, args, dynamic)
    _say(found, served, attempts, name)
    return found, Source(served, found.program, found.placeholders, module)


def record_training(
    model: Any, example: Any = None, *, loss: Any = None, optimizer: Any = None
) -> tuple[Capture, Source]:
    """Turn one training step of `model` into records: forward, loss, backward, optimizer.

    Raises InputError where the model raises on the example or gives no loss, and CaptureError
    where the step cannot run on tensors without values.
    """
    from . import training
    from .diagnosis import input_error
    from .example import arguments, as_module, to_meta
    from .state import check_structure
    from .torch_api import quiet

    if _is_program(model):
        raise UsageError(
            "an exported program is captured as it is", hint="pass the module that was exported"
        )
    module, name = as_module(model)
    check_structure(module)
    args = to_meta(module, arguments(module, example))
    with quiet():
        try:
            found = training.capture(module, args, loss, optimizer)
        except AtlasError:
            raise
        except Exception as error:
            if (fault := input_error(module, args)) is not None:
                raise fault from fault.__cause__
            raise CaptureError(
                f"a training step of {type(module).__name__} could not be captured\n"
                f"  {_line(error)}",
                hint="branching on tensor values is the usual reason",
            ) from error
    _say(found, "training", [], name)
    return found, Source("training", found.program, found.placeholders, module)


def _say(found: Capture, served: str, attempts: list[str], name: str) -> None:
    import torch

    version = torch.__version__.partition("+")[0]
    found.attrs.update(
        name=clean(name),
        frontend=served,
        attempts=tuple(map(clean, attempts)),
        torch=version,
        dropped={op: count for op, count in found.attrs["dropped"].items() if count},
    )


def _is_program(model: Any) -> bool:
    from torch.export import ExportedProgram

    return isinstance(model, ExportedProgram)


def _read_program(program: Any) -> tuple[Capture, Source]:
    from . import exported
    from .guards import keep_symbols

    found = exported.read(program)
    keep_symbols(found)
    _say(found, "export", [], found.attrs["name"])
    return found, Source("export", program, found.placeholders)


def _symbolic(module: nn.Module, args: Args, wanted: Any) -> tuple[Capture, str, list[str]]:
    from . import dynamic

    return dynamic.capture(
        module,
        args,
        dynamic.plan(module, args, wanted),
        lambda resized, marks: _first(module, resized, ("export",), marks),
    )


def resize(model: Any, example: Any, wanted: Any, sizes: Mapping[str, int]) -> Args:
    """Return the example with the dimensions that `wanted` names at other sizes."""
    from . import dynamic
    from .example import arguments, as_module

    module, _ = as_module(model)
    args = arguments(module, example)
    return dynamic.plan(module, args, wanted).resize(module, args, sizes)


def record_at(
    model: Any, example: Any, wanted: Any, sizes: Mapping[str, int]
) -> tuple[Capture, Source]:
    """Turn `model` into records with numbers for the sizes that `wanted` names."""
    from .torch_api import whole_recurrent

    with whole_recurrent():
        return record(model, resize(model, example, wanted, sizes), frontend="export")


def _order(module: nn.Module, frontend: str) -> tuple[str, ...]:
    from torch import fx

    if frontend != "auto":
        return (frontend,)
    return ("fx", "export", "trace") if isinstance(module, fx.GraphModule) else FRONTENDS


def _first(
    module: nn.Module, args: Args, order: tuple[str, ...], marks: Sequence[Any] | None = None
) -> tuple[Capture, str, list[str]]:
    from .diagnosis import input_error

    attempts: list[str] = []
    causes: list[Exception] = []
    for frontend in order:
        for step, capture in _steps(frontend, marks):
            try:
                return capture(module, args), frontend, attempts
            except Exception as error:
                if not causes and (fault := input_error(module, args)) is not None:
                    raise fault from fault.__cause__
                causes.append(error)
                attempts.append(f"{step}: {_line(error)}")
    tried = "\n  ".join(attempts)
    raise CaptureError(
        f"no front end could capture {type(module).__name__}\n  {tried}",
        hint="branching on tensor values and unregistered input types are the usual reasons",
    ) from causes[0]


def _steps(
    frontend: str, marks: Sequence[Any] | None = None
) -> list[tuple[str, Callable[[nn.Module, Args], Capture]]]:
    from . import exported, symbolic, traced

    if frontend == "trace":
        return [("trace", traced.capture)]
    if frontend == "fx":
        return [("fx", lambda m, args: symbolic.read(symbolic.trace(m), args, m))]
    return [
        ("export", lambda m, args: exported.capture(m, args, strict=False, dynamic=marks)),
        ("export, strict", lambda m, args: exported.capture(m, args, strict=True, dynamic=marks)),
    ]


def _line(error: Exception) -> str:
    from .metadata import raising_line

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = raising_line(error)
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
    return f"{reason} (at {where})" if where else reason
