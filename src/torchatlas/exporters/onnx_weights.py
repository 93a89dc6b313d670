"""What becomes of the weights of an executable ONNX model: kept, moved beside it, or left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import FormatError

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

LIMIT = 2**31 - 2**27
"""Bytes of weights that one file can hold: protobuf ends at 2 GiB, and the graph needs room."""

_SMALL = 1024
_ALIGNMENT = 64


def check_values(program: ExportedProgram) -> None:
    """Raise FormatError where a weight has no values: a fake one, or one on the meta device."""
    tensors: Mapping[str, Any] = {**program.state_dict, **program.constants}
    for name, tensor in tensors.items():
        if getattr(tensor, "is_meta", False) or hasattr(tensor, "fake_mode"):
            raise FormatError(
                f"the weight {name!r} has no values to write",
                hint="weights='none' writes the model without them",
            )


def to_inputs(model: ir.Model, program: ExportedProgram) -> None:
    """Make every weight an input of the model, so that the file has no value of it."""
    names = {*program.state_dict, *program.constants}
    for name in [name for name in model.graph.initializers if name in names]:
        weight = model.graph.initializers.pop(name)
        weight.const_value = None
        model.graph.inputs.append(weight)


def size(model: ir.Model) -> int:
    """Return the bytes of all weights that the model holds."""
    return sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )


def move_out(model: ir.Model, location: str) -> bytearray:
    """Let the model refer to its weights in the file `location`; return that file's content.

    Weights up to a kilobyte, among them the shapes that ops take as inputs, stay in the model.
    """
    import onnx_ir as ir

    content = bytearray()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SMALL or value.name is None:
            continue
        content.extend(bytes(-len(content) % _ALIGNMENT))
        data = tensor.tobytes()
        value.const_value = ir.ExternalTensor(
            location,
            len(content),
            len(data),
            tensor.dtype,
            shape=ir.Shape(tensor.shape),
            name=value.name,
        )
        content += data
    return content
