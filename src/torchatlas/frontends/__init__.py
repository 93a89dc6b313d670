"""Front ends turn a model and an example into records; `record` chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import CaptureError, UsageError
from ..names import clean
from .capture import Capture, Source

if TYPE_CHECKING:
    from torch import nn

    from .example import Args

__all__ = ["FRONTENDS", "Capture", "Source", "record"]

FRONTENDS = ("export", "fx")
"""The front ends in the order in which ``auto`` tries them."""


def record(model: Any, example: Any = None, *, frontend: str = "auto") -> tuple[Capture, Source]:
    """Turn `model` into records with the first front end that can.

    Raises InputError where the model itself raises on the example, CaptureError where no front
    end serves, and UsageError for a front end that does not exist.
    """
    from .example import arguments, as_module, to_fake, to_meta
    from .state import check_structure
    from .torch_api import quiet

    if frontend not in ("auto", *FRONTENDS):
        raise UsageError(
            f"there is no front end {frontend!r}", hint=f"choose auto, {', '.join(FRONTENDS)}"
        )
    if _is_program(model):
        return _read_program(model)
    module, name = as_module(model)
    check_structure(module)
    args = to_fake(module, to_meta(module, arguments(module, example)))
    with quiet():
        found, served, attempts = _first(module, args, _order(module, frontend))
    _say(found, served, attempts, name)
    return found, Source(served, found.program, found.placeholders, module)


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

    found = exported.read(program)
    _say(found, "export", [], found.attrs["name"])
    return found, Source("export", program, found.placeholders)


def _order(module: nn.Module, frontend: str) -> tuple[str, ...]:
    from torch import fx

    if frontend != "auto":
        return (frontend,)
    return ("fx", "export") if isinstance(module, fx.GraphModule) else FRONTENDS


def _first(module: nn.Module, args: Args, order: tuple[str, ...]) -> tuple[Capture, str, list[str]]:
    from .diagnosis import input_error

    attempts: list[str] = []
    causes: list[Exception] = []
    for frontend in order:
        for step, capture in _steps(frontend):
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


def _steps(frontend: str) -> list[tuple[str, Callable[[nn.Module, Args], Capture]]]:
    from . import exported, symbolic

    if frontend == "fx":
        return [("fx", lambda m, args: symbolic.read(symbolic.trace(m), args, m))]
    return [
        ("export", lambda m, args: exported.capture(m, args, strict=False)),
        ("export, strict", lambda m, args: exported.capture(m, args, strict=True)),
    ]


def _line(error: Exception) -> str:
    from .metadata import raising_line

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = raising_line(error)
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
    return f"{reason} (at {where})" if where else reason
