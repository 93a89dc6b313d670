"""The one place that touches private parts of torch; `tests/test_torch_api.py` pins them."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO, cast

import torch
from torch._decomp import decomposition_table
from torch._dispatch.python import enable_pre_dispatch, enable_python_dispatcher
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

TESTED_VERSIONS = ("2.11", "2.15")
"""Versions of torch on which these private names were checked."""

AUTO = torch.export.Dim.AUTO
"""Marks a dimension that `torch.export` makes a symbol of where the model lets it."""

tree_leaves: Callable[[Any], list[Any]] = pytree.tree_leaves
tree_map: Callable[[Callable[[Any], Any], Any], Any] = pytree.tree_map


class _WithoutTorch:
    """A stream that drops what torch itself prints to it: half-made graphs, when it fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text` unless the code that prints it is torch's."""
        printing = str(sys._getframe(1).f_globals.get("__name__"))
        if printing.startswith("torch."):
            return len(text)
        return self._stream.write(text)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging, warning and printing about failures that the caller handles."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        without_torch = cast(TextIO, _WithoutTorch(sys.stderr))
        with warnings.catch_warnings(), redirect_stderr(without_torch):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


_LOGGERS = (
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental.symbolic_shapes",
    "torch.fx.experimental.recording",
    "torch._dynamo",
    "torch._dynamo.convert_frame",
    "torch.export",
    "torch.export._trace",
)

_FAKE_LIMITATIONS = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedMutationAliasingException,
    fake_tensor.UnsupportedOperatorException,
    GuardOnDataDependentSymNode,
    NotImplementedError,
)


def is_fake_limitation(error: BaseException) -> bool:
    """Say whether `error` comes of tensors that have no values, and not of the model."""
    if isinstance(error, _FAKE_LIMITATIONS):
        return True
    return any(words in str(error) for words in ("FakeTensor", "data pointer", "meta tensor"))


def shape_guards(program: ExportedProgram) -> list[tuple[Any, str]]:
    """Return the conditions on sizes that an export relied on, each with the place it came from.

    Conditions are sympy relations over torch's symbols; a place reads as a line of a traceback.
    """
    environments = (getattr(mode, "shape_env", None) for mode in _fake_modes(program))
    env = next((found for found in environments if found is not None), None)
    guards = getattr(env, "guards", None) or ()
    known = getattr(env, "replacements", None) or {}
    return [(_replaced(guard.expr, known), _place(guard)) for guard in guards]


def _replaced(expr: Any, known: Mapping[Any, Any]) -> Any:
    for _ in range(8):  # replacements may lead to others
        found = expr.xreplace({k: v for k, v in known.items() if not v.is_Integer})
        if found == expr:
            break
        expr = found
    return expr


def _fake_modes(program: ExportedProgram) -> Iterator[FakeTensorMode]:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            yield value.fake_mode


def _place(guard: Any) -> str:
    frame: Any = getattr(getattr(guard, "sloc", None), "framework_loc", None)
    name = getattr(frame, "filename", None)
    return f'File "{name}", line {frame.lineno}' if name else ""


def _recurrent(
    input: torch.Tensor, hx: Any, params: Any, has_biases: bool, layers: int, *flags: Any
) -> tuple[torch.Tensor, ...]:
    """Return what a recurrent layer produces, as far as shapes, data types and strides go."""
    states = list(hx) if isinstance(hx, list | tuple) else [hx]
    *_, bidirectional, batch_first = flags
    first, second = input.shape[:2]
    length, batch = (second, first) if batch_first else (first, second)
    width = states[0].shape[2] * (2 if bidirectional else 1)
    out = input.new_empty((length, batch, width))
    return (
        out.transpose(0, 1) if batch_first else out,
        *(input.new_empty(state.shape) for state in states),
    )


@contextmanager
def whole_recurrent() -> Iterator[None]:
    """Keep torch from running recurrent layers step by step, which fixes the sequence's length.

    Their results then have shapes, but tensors must not hold values. Not safe for threads.
    """
    names = ("lstm", "gru", "rnn_tanh", "rnn_relu")
    ops: list[Any] = [getattr(torch.ops.aten, name).input for name in names]
    before = [dict(op.py_kernels) for op in ops]
    try:
        for op in ops:
            op.py_kernels.update(dict.fromkeys(op.py_kernels, _recurrent))
            op._dispatch_cache.clear()
        yield
    finally:
        for op, kernels in zip(ops, before, strict=True):
            op.py_kernels.update(kernels)
            op._dispatch_cache.clear()


def storage_of(tensor: torch.Tensor) -> int | None:
    """Return a number that tensors on the same memory share, while both are alive."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other layouts have no storage
        return None


def schema_arguments(op: torch._ops.OpOverload) -> list[tuple[str, bool]]:
    """Return the name of each argument of `op`, and whether `op` writes it in place."""
    return [
        (arg.name, bool(arg.alias_info and arg.alias_info.is_write)) for arg in op._schema.arguments
    ]


def overload_parts(op: torch._ops.OpOverload) -> tuple[str, str]:
    """Return the canonical name and the overload: ``("aten.add", "Tensor")``."""
    namespace, _, name = op._schema.name.partition("::")
    return f"{namespace}.{name}", op._overloadname


def tag_names(op: torch._ops.OpOverload) -> frozenset[str]:
    """Return the names of the tags that torch gives `op`."""
    return frozenset(tag.name for tag in op.tags)


_REGIONS: dict[Any, int] = {wrap_with_set_grad_enabled: 1, wrap_with_autocast: 4}


def region(target: Any) -> tuple[int, Callable[..., Any]] | None:
    """Describe a ``no_grad`` or ``autocast`` region, or return None for another op.

    The first item is the position of the region's graph among the arguments; the second makes
    the context manager from the arguments that stand before it.
    """
    position = _REGIONS.get(target)
    if position is None:
        return None
    return position, torch.set_grad_enabled if position == 1 else _autocast


def _autocast(device: str, dtype: torch.dtype | None, enabled: bool, cache: bool | None) -> Any:
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache)


def is_output_type_error(error: BaseException) -> bool:
    """Say whether an export failed because it cannot take apart what the model returns."""
    text = str(error)
    return (
        "register_dataclass" in text
        or "register_pytree_node" in text
        or ("output" in text and "pytree" in text)
    )


def is_registered(kind: type) -> bool:
    """Say whether torch's pytree knows how to take values of `kind` apart."""
    return kind in pytree.SUPPORTED_NODES


def tree_flatten_with_names(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Return each leaf of `tree` with the keys that lead to it."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [(tuple(map(_key_name, path)), leaf) for path, leaf in leaves]


def key_names(spec: Any) -> list[tuple[str, ...]]:
    """Return the keys that lead to each leaf of a tree with the structure `spec`."""
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return [path for path, _ in tree_flatten_with_names(tree)]


def _key_name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key).strip("[].'\"")


def trace_before_dispatch(function: Callable[..., Any], *args: Any) -> torch.fx.GraphModule:
    """Record the ops that `function` calls, before autograd and autocast take them apart."""
    return make_fx(function, pre_dispatch=True)(*args)


def is_composite(target: Any) -> bool:
    """Say whether torch has a decomposition of the operator `target` into other operators."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target._can_decompose() or target in decomposition_table


def trace_decomposed(target: Any, args: Any, kwargs: Any) -> torch.fx.GraphModule:
    """Record what the composite operator `target` runs on fake `args`, one level down."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    modes = [leaf.fake_mode for leaf in leaves if isinstance(leaf, FakeTensor)]
    rule = decomposition_table.get(target, target)

    def run(*tensors: torch.Tensor) -> Any:
        given = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            given[place] = tensor
        inner_args, inner_kwargs = pytree.tree_unflatten(given, spec)
        # The table holds torch's reference in Python, which leads to `prims` rather than `aten`.
        own = target._can_decompose()
        found = target.decompose(*inner_args, **inner_kwargs) if own else NotImplemented
        return rule(*inner_args, **inner_kwargs) if found is NotImplemented else found

    with modes[0] if modes else FakeTensorMode(allow_non_fake_inputs=True):
        return make_fx(run)(*(leaves[place] for place in places))


def forward_step() -> int:
    """Return the number of the autograd node that the running forward operator belongs to."""
    return int(torch._C._autograd._get_sequence_nr()) - 1


def backward_step() -> tuple[int, torch.Tensor | None] | None:
    """Return the number of the autograd node whose backward is running, None outside of one.

    Where the node adds to a parameter's gradient, the second item is the parameter.
    """
    node: Any = torch._C._current_autograd_node()
    if node is None:
        return None
    return int(node._sequence_nr()), getattr(node, "variable", None)


def triton_kernel(target: Any, kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the name of the Triton kernel that a call launches, and its arguments.

    None where `target` launches none.
    """
    if getattr(target, "__name__", "") not in _TRITON:
        return None
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    kernel: Any = kernel_side_table.get_kernel(kwargs["kernel_idx"])
    while not hasattr(kernel, "__name__") and hasattr(kernel, "fn"):
        kernel = kernel.fn  # an autotuner, or a heuristic, around the kernel
    constants = kernel_side_table.get_constant_args(kwargs["constant_args_idx"])
    return str(getattr(kernel, "__name__", "kernel")), {**kwargs["kwargs"], **constants}


_TRITON = ("triton_kernel_wrapper_functional", "triton_kernel_wrapper_mutation")


def fake_like(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor like `tensor`, which shares its memory with no other one.

    Many times faster than `FakeTensorMode.from_tensor`, which serves where a tensor is a view,
    of a class of its own, or not strided.
    """
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.is_leaf
    if not plain or tensor.layout is not torch.strided or tensor.is_quantized:
        return mode.from_tensor(tensor)
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    if not whole or tensor.is_conj() or tensor.is_neg() or tensor.is_nested:
        return mode.from_tensor(tensor)
    with no_dispatch():
        made = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        ).requires_grad_(tensor.requires_grad)
        return FakeTensor(mode, made, tensor.device)


Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Takes an operator with its arguments, runs it, and returns its result."""


class _Below(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, handle: Handler) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._handle = handle

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._handle(func, args, kwargs or {})


class _Before(ProxyTorchDispatchMode):
    # Only modes of a few classes may stand before dispatch; of this one nothing else is used.
    def __init__(self, handle: Handler) -> None:
        super().__init__(cast(Any, None), "fake", pre_dispatch=True)
        self._handle = handle

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._handle(func, args, kwargs or {})

    def __enter__(self) -> Any:
        return TorchDispatchMode.__enter__(self)  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> Any:
        return TorchDispatchMode.__exit__(self, *error)  # type: ignore[no-untyped-call]


@contextmanager
def below_autograd(handle: Handler) -> Iterator[None]:
    """Hand every operator that runs inside the block to `handle`, forward and backward."""
    with _Below(handle):
        yield


@contextmanager
def before_dispatch(handle: Handler) -> Iterator[None]:
    """Hand every operator that is called inside the block to `handle`, composites whole."""
    with enable_python_dispatcher(), enable_pre_dispatch(), _Before(handle):
        yield
