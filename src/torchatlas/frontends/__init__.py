"""Front ends turn a model and an example into records; `record` chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import AtlasError, CaptureError, InputError, UsageError
from ..names import clean
from .capture import Capture, Source, Step

if TYPE_CHECKING:
    from torch import nn

    from .example import Args

__all__ = ["FRONTENDS", "Capture", "Source", "record", "record_inference", "record_training"]

_ON_VALUES = "trace, on values"
FRONTENDS = ("trace", "export", "fx")
"""The front ends in the order in which ``auto`` tries them."""


def record(
    model: Any,
    example: Any = None,
    *,
    frontend: str = "auto",
    dynamic: Any = None,
    replay: bool = True,
    device: Any = None,
) -> tuple[Capture, Source]:
    """Turn `model` into records with the first front end that can.

    `dynamic` makes sizes symbolic, `replay` repeats modules that are called alike, and `device`
    places the model, as `torchatlas.capture` has it. Raises InputError where the model itself
    raises on the example, CaptureError where no front end serves, and UsageError for a front end
    or a device that does not exist.
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
    if device is not None:
        from . import placing

        frontend = placing.frontend_for(device, frontend, dynamic)
        return placing.record_on(
            device,
            model,
            example,
            lambda module, args, alike: record(
                module, args, frontend=frontend, dynamic=dynamic, replay=replay and alike
            ),
        )
    if _is_program(model):
        return _read_program(model)
    module, name = as_module(model)
    check_structure(module)
    args = to_fake(module, to_meta(module, arguments(module, example)))
    with quiet():
        if dynamic is None:
            found, served, attempts = _first(module, args, _order(module, frontend), replay=replay)
        else:
            found, served, attempts = _symbolic(module, args, dynamic)
    _say(found, served, attempts, name)
    return found, Source(served, found.program, found.placeholders, module, args=args)


def record_training(
    model: Any, example: Any = None, *, loss: Any = None, optimizer: Any = None
) -> tuple[Capture, Source]:
    """Turn one training step of `model` into records: forward, loss, backward, optimizer.

    Raises InputError where the model raises on the example or gives no loss, and CaptureError
    where the step cannot run on tensors without values.
    """
    from . import lightning, training
    from .example import arguments, as_module, to_meta
    from .state import check_structure

    if _is_program(model):
        raise UsageError(
            "an exported program is captured as it is", hint="pass the module that was exported"
        )
    module, name = as_module(model)
    check_structure(module)
    if optimizer == "configured":
        optimizer = lightning.configured_optimizer(module)
    if loss is None and lightning.is_lightning(module):
        module, args = lightning.training_step(module, example)
    else:
        args = arguments(module, example)
    args = to_meta(module, args)
    found = _run(
        module,
        args,
        f"a training step of {type(module).__name__}",
        lambda on_values: training.capture(module, args, loss, optimizer, on_values=on_values),
    )
    _say(found, "training", [], name)
    step = Step(args, loss, optimizer)
    return found, Source("training", found.program, found.placeholders, module, step=step)


def record_inference(
    model: Any, example: Any = None, *, device: Any = None
) -> tuple[Capture, Source]:
    """Turn a run of `model` without gradients into records: what kernels do, in eager order.

    `device` places the model, as `torchatlas.capture` has it.

    Raises InputError where the model raises on the example, and CaptureError where it cannot run
    on tensors without values, and has none itself.
    """
    from . import inference
    from .example import arguments, as_module, to_meta
    from .state import check_structure

    if device is not None:
        from . import placing

        return placing.record_on(
            device, model, example, lambda module, args, _: record_inference(module, args)
        )
    if _is_program(model):
        raise UsageError(
            "an exported program is captured as it is", hint="pass the module that was exported"
        )
    module, name = as_module(model)
    check_structure(module)
    args = to_meta(module, arguments(module, example))
    found = _run(
        module,
        args,
        type(module).__name__,
        lambda on_values: inference.capture(module, args, on_values=on_values),
    )
    _say(found, "inference", [], name)
    return found, Source("inference", found.program, found.placeholders, module, args=args)


def _run(module: nn.Module, args: Args, what: str, capture: Callable[[bool], Capture]) -> Capture:
    """Capture a run without values or, where it looks at them, with those of the example."""
    from .diagnosis import blamed, input_error
    from .surroundings import surroundings
    from .torch_api import is_fake_limitation, quiet

    with quiet():
        try:
            with surroundings(module):
                return capture(False)
        except AtlasError as error:
            if isinstance(error, InputError) and error.node is not None:
                raise blamed(module, args, error) from error.__cause__
            raise
        except Exception as error:
            if (fault := input_error(module, args)) is not None:
                raise fault from fault.__cause__
            tried, cause = f"  {_line(error)}", error
        if is_fake_limitation(cause):
            try:
                with surroundings(module):
                    return capture(True)
            except Exception as error:
                tried, cause = f"{tried}\n  {_ON_VALUES}: {_line(error)}", error
    raise CaptureError(
        f"{what} could not be captured\n{tried}",
        hint="branching on tensor values is the usual reason",
    ) from cause


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
    model: Any, example: Any, wanted: Any, sizes: Mapping[str, int], device: Any = None
) -> tuple[Capture, Source]:
    """Turn `model` into records with numbers for the sizes that `wanted` names."""
    from .torch_api import whole_recurrent

    with whole_recurrent():
        resized = resize(model, example, wanted, sizes)
        return record(model, resized, frontend="export", device=device)


def _order(module: nn.Module, frontend: str) -> tuple[str, ...]:
    from torch import fx

    if frontend != "auto":
        return (frontend,)
    return ("fx", "trace", "export") if isinstance(module, fx.GraphModule) else FRONTENDS


def _first(
    module: nn.Module,
    args: Args,
    order: tuple[str, ...],
    marks: Sequence[Any] | None = None,
    replay: bool = True,
) -> tuple[Capture, str, list[str]]:
    from .diagnosis import blamed, hint, input_error
    from .surroundings import surroundings
    from .torch_api import is_fake_limitation

    attempts: list[str] = []
    causes: list[Exception] = []
    for frontend in order:
        for step, capture in _steps(frontend, marks, replay):
            if step == _ON_VALUES and not is_fake_limitation(causes[-1]):
                continue
            try:
                with surroundings(module):
                    return capture(module, args), frontend, attempts
            except Exception as error:
                if not causes and isinstance(error, InputError) and error.node is not None:
                    raise blamed(module, args, error) from error.__cause__
                if not causes and (fault := input_error(module, args)) is not None:
                    raise fault from fault.__cause__
                causes.append(error)
                attempts.append(f"{step}: {_line(error)}")
    tried = "\n  ".join(attempts)
    raise CaptureError(
        f"no front end could capture {type(module).__name__}\n  {tried}",
        hint=hint(args, causes),
    ) from causes[0]


def _steps(
    frontend: str, marks: Sequence[Any] | None, replay: bool
) -> list[tuple[str, Callable[[nn.Module, Args], Capture]]]:
    from . import exported, symbolic, traced

    if frontend == "trace":
        return [
            ("trace", lambda m, args: traced.capture(m, args, replay=replay)),
            (_ON_VALUES, traced.capture_on_values),
        ]
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
