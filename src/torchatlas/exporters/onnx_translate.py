"""Calls `torch.onnx` quietly, and gives it an opaque node for every op that it cannot translate."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .onnx_structure import DOMAIN

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

STRUCTURAL = "the format 'onnx-structure' shows any graph, to be looked at and not to be run"
"""What to do where a model cannot be executable."""

_INT64 = 7
"""ONNX's number for the data type of sizes."""

_FAILED = re.compile(r"Error when translating node .*?\[target=([^\]]+)\]", re.DOTALL)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep warnings, log records and prints of the packages below away from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def translate(program: ExportedProgram) -> tuple[ONNXProgram, tuple[str, ...]]:
    """Return `program` as an unoptimised ONNX program, and the ops that became opaque nodes.

    Raises FormatError where `torch.onnx` fails for another reason than an op it does not know.
    """
    import torch

    table: dict[Any, Callable[..., Any]] = {}
    again = True
    while True:
        try:
            # torch runs the program once without gradients and once as they are set here; where
            # attention then chooses another kernel, strides differ and views become impossible.
            with quietly(), torch.no_grad():
                translated = torch.onnx.export(
                    program,
                    dynamo=True,
                    verbose=False,
                    optimize=False,
                    custom_translation_table=dict(table),
                )
        except Exception as error:
            target = _failed_target(error)
            if target is None and again:
                # A second translation of one program trips over sizes that the first left
                # pending, and by failing clears them away.
                again = False
                continue
            if target is None or target in table:
                raise FormatError(
                    f"torch.onnx cannot translate this model: {_reason(error)}",
                    hint=STRUCTURAL,
                ) from error
            table[target] = _round if target is round else _opaque(target, program)
        else:
            assert translated is not None
            return translated, tuple(sorted(_name(op) for op in table if op is not round))


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _failed_target(error: BaseException | None) -> Any:
    """Return the op at which the translation failed, None where it failed elsewhere."""
    while error is not None:
        if found := _FAILED.match(str(error)):
            return _resolve(found[1])
        error = error.__cause__
    return None


def _resolve(name: str) -> Any:
    """Return the op or function of that qualified name.

    >>> _resolve("operator.mul")(2, 3)
    6
    """
    root, *parts = name.split(".")
    found: Any = import_module(root)
    for part in parts:
        found = getattr(found, part, None)
    return found


def _name(target: Any) -> str:
    schema = getattr(target, "_schema", None)
    if schema is not None:
        return str(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}".lstrip("._")


def _round(number: Any, digits: int | None = None) -> Any:
    """Translate Python's `round` of a symbolic number, which torch 2.15 has no translation of."""
    from onnxscript import opset18

    if digits is not None:
        raise NotImplementedError("rounding to a number of digits")
    # Both round a half to the even neighbour.
    return opset18.Cast(opset18.Round(number), to=_INT64)


def _opaque(target: Any, program: ExportedProgram) -> Callable[..., Any]:
    """Return a translation of `target` to one node of our own domain, which no runtime knows."""
    schema = getattr(target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    counts = [_outputs(node) for node in program.graph.nodes if node.target == target]
    last = counts[-1] if counts else len(schema.returns) if schema is not None else 1
    calls = iter(counts)

    def call(*args: Any, **kwargs: Any) -> Any:
        from onnxscript import values

        named = {names[i] if i < len(names) else f"arg_{i}": arg for i, arg in enumerate(args)}
        tensors, attributes = [], {}
        for name, arg in {**named, **kwargs}.items():
            found = [part for part in (arg if isinstance(arg, list) else [arg]) if _is_value(part)]
            tensors += found
            if not found and arg is not None:
                attributes[name] = _literal(arg)
        definition = _schema(_name(target), attributes, next(calls, last))
        op = values.Op(values.Opset(DOMAIN, 1), _name(target), definition)
        return op(*tensors, **attributes)

    return call


def _outputs(node: Any) -> int:
    value = node.meta.get("val")
    return len(value) if isinstance(value, list | tuple) else 1


def _is_value(arg: Any) -> bool:
    import onnx_ir

    return isinstance(arg, onnx_ir.Value)


def _literal(arg: Any) -> Any:
    return int(arg) if isinstance(arg, int) else arg if isinstance(arg, float) else str(arg)


def _schema(name: str, attributes: dict[str, Any], outputs: int) -> Any:
    from onnx.defs import OpSchema

    parameter, kinds = OpSchema.FormalParameter, OpSchema.AttrType
    types = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING}
    variadic = OpSchema.FormalParameterOption.Variadic
    return OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[parameter("inputs", "T", param_option=variadic, is_homogeneous=False, min_arity=0)],
        outputs=[parameter(f"output_{i}", "T") for i in range(outputs)],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            OpSchema.Attribute(key, types[type(value)], required=False)
            for key, value in attributes.items()
        ],
    )
