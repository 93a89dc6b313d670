"""The values in the graph of a `.pt2` archive: tensors, numbers, literals, and their names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..errors import FormatError
from ..names import clean
from ..records import RecordArg
from ..schema import Dim, TensorMeta
from . import archive_format as form
from . import archive_sizes

_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
_STRIDED = 7
_LAYOUTS = {
    1: "sparse_coo",
    2: "sparse_csr",
    3: "sparse_csc",
    4: "sparse_bsr",
    5: "sparse_bsc",
    6: "_mkldnn",
    _STRIDED: "strided",
}
_MEMORY_FORMATS = {
    1: "contiguous_format",
    2: "channels_last",
    3: "channels_last_3d",
    4: "preserve_format",
}
_DAMAGED = "the file is damaged or forged"


# -- tensors and numbers -----------------------------------------------------------------------


def tensor_meta(tensor: form.Tensor, name: str) -> TensorMeta:
    """Describe the tensor called `name`."""
    where = f"the tensor {name[:80]!r}"
    dense = tensor.layout == _STRIDED
    if dense and len(tensor.sizes) != len(tensor.strides):
        raise FormatError(f"{where} has not one stride for each size", hint=_DAMAGED)
    return TensorMeta(
        tuple(_size(n, where) for n in tensor.sizes),
        _enumerated(_DTYPES, tensor.dtype, f"the data type of {where}"),
        _device(tensor.device),
        tuple(_size(n, where) for n in tensor.strides) if dense else None,
    )


def _size(number: form.SymNumber, where: str) -> Dim:
    kind, value = form.only(number, f"a size of {where}")
    if kind == "as_int" and value >= 0:
        return int(value)
    if kind == "as_expr":
        return _parsed(archive_sizes.size, value.expr_str, where)
    raise FormatError(f"a size of {where} is {value!r}", hint=_DAMAGED)


def _parsed(read: Callable[[str], Any], text: str, where: str) -> Any:
    try:
        return read(text)
    except FormatError as error:
        raise FormatError(f"{where}: {error.problem}", hint=error.hint) from error


def _enumerated(names: Mapping[int, str], number: int, where: str) -> str:
    if number not in names:
        raise FormatError(
            f"{where} has the unknown number {number}",
            hint="trust=True reads the file with the torch that is installed, if you trust it",
        )
    return names[number]


def _device(device: form.Device) -> str:
    return clean(device.type) + ("" if device.index is None else f":{device.index}")


def _float(value: float | str) -> float | str:
    """Return a float; infinities and NaN as text, as JSON has no word for them."""
    if isinstance(value, str):
        names = {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}
        if value not in names:
            raise FormatError(f"{value[:40]!r} is no float", hint=_DAMAGED)
        return names[value]
    return float(value) if math.isfinite(value) else str(value)


# -- names -------------------------------------------------------------------------------------


class Scope:
    """The names of one graph: what is known of each, and what it stands for so far."""

    def __init__(self, graph: form.Graph, prefix: str = "") -> None:
        """Begin with nothing bound; `prefix` comes before the keys of the graph's records."""
        self.prefix = prefix
        self._graph = graph
        self._bound: dict[str, Any] = {}

    def bind(self, name: str, value: Any) -> None:
        """Let `name` stand for a `Value`, a literal, or a tree of them."""
        if name in self._bound:
            raise FormatError(f"the name {name[:80]!r} is given twice", hint=_DAMAGED)
        self._bound[name] = value

    def knows(self, name: str) -> bool:
        """Say whether `name` stands for something by now."""
        return name in self._bound

    def lookup(self, name: str, where: str) -> Any:
        """Return what `name` stands for."""
        if name not in self._bound:
            raise FormatError(
                f"{where} reads {name[:80]!r}, which nothing before it produces", hint=_DAMAGED
            )
        return self._bound[name]

    def tensor(self, name: str) -> TensorMeta:
        """Describe the tensor called `name`."""
        if name not in self._graph.tensor_values:
            raise FormatError(f"nothing is known of the tensor {name[:80]!r}", hint=_DAMAGED)
        return tensor_meta(self._graph.tensor_values[name], name)

    def scalar(self, name: str) -> TensorMeta:
        """Describe the number called `name`, as one that an op computes."""
        graph = self._graph
        tables = (graph.sym_int_values, graph.sym_float_values, graph.sym_bool_values)
        for kind, table in zip(("SymInt", "SymFloat", "SymBool"), tables, strict=True):
            if name in table:
                return TensorMeta((), kind, "", ())
        raise FormatError(f"nothing is known of the number {name[:80]!r}", hint=_DAMAGED)

    def computed(self, name: str) -> Any:
        """Return the number called `name` as an expression over sizes of the inputs.

        None where it depends on the values of tensors: then it is the result of an op.
        """
        graph = self._graph
        number = graph.sym_int_values.get(name) or graph.sym_float_values.get(name)
        read: Callable[[str], Any] = archive_sizes.size
        if number is None:
            number, read = graph.sym_bool_values.get(name), archive_sizes.truth
        if number is None or not isinstance(number.as_expr, form.Expression):
            return None
        text = number.as_expr.expr_str
        if _OF_VALUES.search(text):
            return None
        found = _parsed(read, text, f"the number {name[:80]!r}")
        return str(found) if read is archive_sizes.truth else found

    # -- arguments -------------------------------------------------------------------------

    def argument(self, arg: form.Argument, where: str) -> RecordArg:
        """Return an argument with `Value`s in place of names, and literals as plain data."""
        kind, value = form.only(arg, where)
        reader = _LITERALS.get(kind)
        if reader is not None:
            found: RecordArg = reader(value, where)
            return found
        return self._named(kind, value, where)

    def _named(self, kind: str, value: Any, where: str) -> RecordArg:
        read: Any = partial(self._one, where=where)
        match kind:
            case "as_tensors":
                return tuple(self.lookup(tensor.name, where) for tensor in value)
            case "as_nested_tensors":
                return tuple(tuple(self.lookup(t.name, where) for t in group) for group in value)
            case "as_optional_tensors" | "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return tuple(map(read, value))
            case "as_string_to_argument":
                return {clean(key): self.argument(item, where) for key, item in value.items()}
            case "as_custom_obj":
                known = self.knows(value.name)
                return self.lookup(value.name, where) if known else "<ScriptObject>"
        return read(value)

    def _one(self, value: Any, where: str) -> RecordArg:
        if isinstance(value, form.Name):
            return self.lookup(value.name, where)
        kind, inner = form.only(value, where)
        if kind in ("as_name", "as_tensor"):
            name = inner if isinstance(inner, str) else inner.name
            return self.lookup(name, where)
        return None if kind == "as_none" else _float(inner) if kind == "as_float" else inner


_OF_VALUES = re.compile(r"(?<![A-Za-z_])(u|zuf)\d")
"""How torch calls symbols that stand for the values of tensors, in an expression."""


def _each(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: tuple(read(item, where) for item in value)


def _plain(value: Any, where: str) -> Any:
    return value


def _number(value: float | str, where: str) -> float | str:
    return _float(value)


def _torch(names: Mapping[int, str], what: str) -> Callable[[int, str], str]:
    return lambda value, where: f"torch.{_enumerated(names, value, f'the {what} of {where}')}"


def _complex(value: form.Complex, where: str) -> str:
    real, imag = (float(_float(part)) for part in (value.real, value.imag))
    return str(complex(real, imag))


_LITERALS: dict[str, Callable[[Any, str], Any]] = {
    "as_none": lambda value, where: None,
    **dict.fromkeys(("as_int", "as_bool"), _plain),
    **dict.fromkeys(("as_ints", "as_bools"), _each(_plain)),
    "as_float": _number,
    "as_floats": _each(_number),
    "as_string": lambda value, where: clean(value),
    "as_strings": _each(lambda value, where: clean(value)),
    "as_int_lists": _each(_each(_plain)),
    "as_float_lists": _each(_each(_number)),
    "as_scalar_type": _torch(_DTYPES, "data type"),
    "as_layout": _torch(_LAYOUTS, "layout"),
    "as_memory_format": _torch(_MEMORY_FORMATS, "memory format"),
    "as_device": lambda value, where: _device(value),
    "as_complex": _complex,
    "as_operator": lambda value, where: "<OpOverload>",
    "as_graph": lambda value, where: f"<graph {clean(value.name)}>",
}


def names_in(graph: form.Graph) -> Iterator[str]:
    """Yield every name that a node or an output of `graph` reads."""
    for node in graph.nodes:
        for given in node.inputs:
            yield from _names(given.arg, f"the node {(node.name or node.target)[:80]!r}")
    for output in graph.outputs:
        yield from _names(output, "an output")


def _names(value: Any, where: str) -> Iterator[str]:
    match value:
        case form.Name(name=name):
            yield name
        case form.Argument() | form.SymArgument() | form.OptionalTensor():
            kind, inner = form.only(value, where)
            if kind == "as_name":
                yield inner
            elif kind != "as_graph":
                yield from _names(inner, where)
        case list():
            for item in value:
                yield from _names(item, where)
        case dict():
            for item in value.values():
                yield from _names(item, where)


def produced(arg: form.Argument, where: str) -> list[tuple[str, str | None]]:
    """Return what an output of a node consists of: ``tensor``, ``number`` or ``none``, and names.

    >>> produced(form.Argument(as_tensors=[form.Name("a"), form.Name("b")]), "split")
    [('tensor', 'a'), ('tensor', 'b')]
    """
    kind, value = form.only(arg, where)
    if kind == "as_none":
        return [("none", None)]
    if kind == "as_tensor":
        return [("tensor", value.name)]
    if kind == "as_tensors":
        return [("tensor", tensor.name) for tensor in value]
    several = value if isinstance(value, list) else [value]
    if all(isinstance(one, form.SymArgument) for one in several):
        names = [form.only(one, where) for one in several]
        if all(which == "as_name" for which, _ in names):
            return [("number", name) for _, name in names]
    if kind in ("as_int", "as_float", "as_bool", "as_custom_obj"):
        return [("none", None)]
    raise FormatError(f"{where} produces {kind}", hint="a later torch may have written it")
