"""From torch's values to plain ones: tensors to `TensorMeta`, calls to names and literals."""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import sympy
import torch
from torch import fx

from ..expressions import symbol
from ..names import clean
from ..schema import Dim, Module, TensorMeta
from . import torch_api

_KEPT_TAGS = ("pointwise", "reduction")


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What a torch operator says of itself."""

    op: str
    overload: str = ""
    arguments: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@cache
def op_info(target: Any) -> OpInfo:
    """Describe the target of a call: an operator, or a Python function.

    >>> op_info(torch.ops.aten.add_.Tensor)
    OpInfo(op='aten.add_', overload='Tensor', arguments=('self', 'other', 'alpha'), \
writes=('self',), tags=('pointwise',))
    >>> import operator
    >>> op_info(operator.mul).op
    'operator.mul'
    """
    if isinstance(target, torch._ops.OpOverload):
        op, overload = torch_api.overload_parts(target)
        arguments = torch_api.schema_arguments(target)
        tags = torch_api.tag_names(target)
        return OpInfo(
            op=clean(op),
            overload=overload,
            arguments=tuple(name for name, _ in arguments),
            writes=tuple(name for name, written in arguments if written),
            tags=tuple(tag for tag in _KEPT_TAGS if tag in tags),
        )
    if isinstance(target, torch._ops.HigherOrderOperator):
        return OpInfo(f"higher_order.{clean(target.__name__)}", arguments=_call_arguments(target))
    module = (getattr(target, "__module__", None) or "python").lstrip("_").partition(".")[0]
    return OpInfo(op=f"{module}.{clean(getattr(target, '__name__', type(target).__name__))}")


def _call_arguments(target: Any) -> tuple[str, ...]:
    """Return the names of the arguments that calling `target` takes by position."""
    parameters = list(inspect.signature(type(target).__call__).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = tuple(p.name for p in parameters if p.kind in kinds)
    return names or _UNNAMED.get(target.__name__, ())


_UNNAMED = {"map_impl": ("f", "xs", "pos_args")}
"""Arguments of operators that torch 2.11 does not name."""


def dim(size: Any) -> Dim:
    """Return a size as a number, or as a sympy expression where it is symbolic."""
    if isinstance(size, int):
        return size
    return plain(size.node.expr)


def known_scalar(value: Any) -> Any:
    """Return a number that is computed from sizes of the inputs as an expression over them.

    None for anything else: a number that depends on the values of tensors is the result of ops.
    """
    if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return None
    expr = value.node.expr
    if any(s.name.startswith(_UNBACKED) for s in expr.free_symbols):
        return None
    if isinstance(value, torch.SymBool):
        return str(plain(expr))
    return plain(expr)


_UNBACKED = ("u", "zuf")
"""How torch's symbols begin that stand for the values of tensors."""


@lru_cache(maxsize=65536)
def plain(expr: Any) -> Any:
    """Return torch's expression in sympy's own functions, over plain positive integer symbols.

    A size comes back as an int or an expression, a condition as a sympy relation.
    """
    if expr.is_Integer:
        return int(expr)
    found = expr.xreplace({s: symbol(s.name) for s in expr.free_symbols})
    for name, change in _TORCH_FUNCTIONS.items():
        found = found.replace(lambda e, n=name: type(e).__name__ == n, change)
    if found.has(sympy.Float):  # h * 2.0, as interpolation computes it
        found = sympy.nsimplify(found, rational=True)
    return int(found) if found.is_Integer else found


_TORCH_FUNCTIONS: dict[str, Callable[[sympy.Expr], sympy.Expr]] = {
    "FloorDiv": lambda e: sympy.floor(e.args[0] / e.args[1]),
    "CleanDiv": lambda e: sympy.floor(e.args[0] / e.args[1]),
    "Mod": lambda e: sympy.Mod(*e.args),
    "PythonMod": lambda e: sympy.Mod(*e.args),
    "ToFloat": lambda e: e.args[0],
    "IntTrueDiv": lambda e: e.args[0] / e.args[1],
    "FloatTrueDiv": lambda e: e.args[0] / e.args[1],
    "PowByNatural": lambda e: e.args[0] ** e.args[1],
    "TruncToInt": lambda e: sympy.floor(e.args[0]),
    "FloorToInt": lambda e: sympy.floor(e.args[0]),
    "CeilToInt": lambda e: sympy.ceiling(e.args[0]),
    "Max": lambda e: sympy.Max(*e.args),
    "Min": lambda e: sympy.Min(*e.args),
}


_DTYPES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    name = _DTYPES.get(dtype)
    if name is None:
        name = _DTYPES[dtype] = str(dtype).removeprefix("torch.")
    return name


_DEVICES: dict[torch.device, str] = {}


def _device_name(device: torch.device) -> str:
    name = _DEVICES.get(device)
    if name is None:
        name = _DEVICES[device] = str(device)
    return name


def tensor_meta(tensor: torch.Tensor) -> TensorMeta:
    """Describe `tensor` without its values.

    >>> print(tensor_meta(torch.zeros(2, 3, dtype=torch.bfloat16)))
    bfloat16[2, 3]
    """
    strided = tensor.layout is torch.strided and not tensor.is_nested
    shape = tuple(map(dim, tensor.shape)) if not tensor.is_nested else nested_shape(tensor)
    return TensorMeta(
        shape,
        dtype_name(tensor.dtype),
        _device_name(tensor.device),
        tuple(map(dim, tensor.stride())) if strided else None,
    )


def stored_elements(tensor: Any) -> int | None:
    """Return how many elements a real sparse tensor stores; None for anything else.

    >>> stored_elements(torch.eye(3).to_sparse()), stored_elements(torch.eye(3).to_sparse_csr())
    (3, 3)
    """
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, torch_api.FakeTensor):
        return None  # a tensor without values does not know
    if tensor.layout is torch.sparse_coo:
        return tensor._values().numel()
    compressed = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
    return tensor.values().numel() if tensor.layout in compressed else None


def nested_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return a nested tensor's shape with the ragged dimension at its longest."""
    parts = [part.shape for part in tensor.unbind()]
    return (len(parts), *(max(sizes) for sizes in zip(*parts, strict=True)))


_SCALARS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bool, torch.SymBool), "SymBool"),
    ((int, torch.SymInt), "SymInt"),
    ((float, torch.SymFloat), "SymFloat"),
)


def value_meta(value: Any) -> TensorMeta | None:
    """Describe a tensor or a number that flows; None for anything else."""
    if isinstance(value, torch.Tensor):
        return tensor_meta(value)
    if isinstance(value, torch.ScriptObject) and hasattr(value, "unpack"):
        return tensor_meta(value.unpack()[0])  # the packed weight of a quantised layer
    for kinds, name in _SCALARS:
        if isinstance(value, kinds):
            return TensorMeta((), name, "", ())
    return None


def is_constant(value: Any) -> bool:
    """Say whether `value` is a plain Python value, which a graph holds as a literal."""
    return value is None or isinstance(value, bool | int | float | str)


def storage(value: Any) -> Hashable | None:
    """Identify the memory behind a tensor; None for anything else."""
    return torch_api.storage_of(value) if isinstance(value, torch.Tensor) else None


def literal(arg: Any, lookup: Callable[[fx.Node], Any] | None = None) -> Any:
    """Return an argument as plain Python data; `lookup` says what an fx node stands for.

    Data types, devices and the like become their names, and floats that JSON has no word for
    (infinities, NaN) become text.

    >>> literal([1, torch.float32, float("-inf")])
    (1, 'torch.float32', '-inf')
    """
    if isinstance(arg, fx.Node) and lookup is not None:
        return lookup(arg)
    if arg is None or isinstance(arg, bool | int):
        return arg
    if isinstance(arg, str):
        return clean(arg)
    if isinstance(arg, float):
        return arg if math.isfinite(arg) else str(arg)
    if isinstance(arg, list | tuple):
        return tuple(literal(item, lookup) for item in arg)
    if isinstance(arg, Mapping):
        return {clean(str(key)): literal(item, lookup) for key, item in arg.items()}
    if isinstance(arg, slice):
        return tuple(literal(part, lookup) for part in ("slice", arg.start, arg.stop, arg.step))
    if isinstance(arg, torch.SymInt):
        return dim(arg)
    if isinstance(arg, torch.dtype | torch.device | torch.layout | torch.memory_format | complex):
        return str(arg)
    return "..." if arg is Ellipsis else f"<{clean(type(arg).__name__)}>"


def named_arguments(info: OpInfo, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return positional and keyword arguments by the names of the operator's schema."""
    names = info.arguments
    named = {names[i] if i < len(names) else str(i): arg for i, arg in enumerate(args)}
    named.update(kwargs)
    return named


_SELF = re.compile(r"^L\['self'\]|^L__self__")
_BRACKETS = re.compile(r"\._modules\['([^']*)'\]")


def class_name(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


@lru_cache(maxsize=65536)
def module(path: str, kind: Hashable) -> Module:
    """Return the `Module` for one entry of torch's module stack, strict or not.

    >>> module("L['self']._modules['layer1'].conv", torch.nn.Conv2d)
    Module(path='layer1.conv', type='torch.nn.modules.conv.Conv2d')
    """
    name = class_name(kind) if isinstance(kind, type) else str(kind)
    return Module(plain_path(path), name)


@lru_cache(maxsize=65536)
def plain_path(path: str) -> str:
    """Return the path of a module as `get_submodule` takes it."""
    plain = _BRACKETS.sub(r".\1", "." + _SELF.sub("", path)).strip(".")
    return plain.partition("@")[0]


def module_stack(meta: Mapping[str, Any]) -> tuple[Module, ...]:
    """Return the modules that an fx node's metadata names, from the root inwards."""
    stack = meta.get("nn_module_stack")
    return tuple(module(path, kind) for path, kind in stack.values()) if stack else ()


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent) + os.sep


@lru_cache(maxsize=4096)
def source_line(trace: str | None) -> str:
    """Return ``file:line`` of the innermost frame outside torch, relative to where it is imported.

    >>> source_line('File "/a/site-packages/timm/layers/mlp.py", line 3, in forward')
    'timm/layers/mlp.py:3'
    """
    frames = _FRAME.findall(trace or "")
    for path, line in reversed(frames):
        if not path.startswith(_TORCH):
            return f"{_relative(path)}:{line}"
    return ""


_OURS = str(Path(__file__).parents[1]) + os.sep
_STANDARD = str(Path(os.__file__).parent) + os.sep


def raising_line(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame of a model's own code that `error` came through.

    Empty where there is none: no frame outside torch, torchatlas and the standard library.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        standard = name.startswith(_STANDARD) and "site-packages" not in name
        if not (standard or name.startswith((_TORCH, _OURS, "<"))):
            return f"{_relative(name)}:{frame.lineno}"
    return ""


def calling_line() -> str:
    """Return the innermost line of code outside torch that is running, as a traceback has it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, _OURS, "<")):
            return f'File "{name}", line {frame.f_lineno}'
        frame = frame.f_back
    return ""


@lru_cache(maxsize=1024)
def _relative(path: str) -> str:
    _, found, inside = path.rpartition("/site-packages/")
    if found:
        return clean(inside)
    roots = sorted((str(Path(root).absolute()) for root in sys.path), key=len, reverse=True)
    for root in roots:
        if path.startswith(root.rstrip("/") + "/"):
            return clean(os.path.relpath(path, root))
    return clean(Path(path).name)
