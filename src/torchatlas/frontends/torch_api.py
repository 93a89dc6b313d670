"""The one place that touches private parts of torch; `tests/test_torch_api.py` pins them."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar
from types import CodeType, FunctionType
from typing import Any, NamedTuple, Protocol, TextIO, cast

import torch
from torch._decomp import decomposition_table
from torch._dispatch.python import enable_pre_dispatch, enable_python_dispatcher
from torch._guards import CompileContext
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.export import ExportedProgram
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

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
    text = str(error).replace("FakeTensor(", "")  # a tensor that the message shows
    # How 2.11 says that tensors lie on different devices, which is the model's or the example's.
    return "Device Propagation" not in text and any(words in text for words in _FAKE_WORDS)


_FAKE_WORDS = (
    "FakeTensor",
    "data pointer",
    "meta tensor",
    "tensor subclasses",  # `.numpy()`
    "NestedTensorImpl",
    "shape_env must not be None",  # nested tensors again, in the jagged layout
    "ignore_fresh_unbacked_symbols",  # a while_loop
    "Expected inputs of BF16 type but got mat_a",  # torch 2.11's grouped product, which runs
)


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
    ops: list[Any] = [getattr(torch.ops.aten, name).input for name in _RECURRENT]
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


class BackwardStep(NamedTuple):
    """The node of the autograd graph whose backward is running."""

    number: int
    """The number that it got when the forward operator ran."""
    parameter: torch.Tensor | None
    """The parameter to whose gradient the node adds, if it does that."""
    custom: bool
    """Whether it is that of a `torch.autograd.Function`."""


def backward_step() -> BackwardStep | None:
    """Return the autograd node whose backward is running, None outside of one."""
    node: Any = torch._C._current_autograd_node()
    if node is None:
        return None
    custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    return BackwardStep(int(node._sequence_nr()), getattr(node, "variable", None), custom)


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
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) or (
        type(tensor) is FakeTensor and tensor.fake_mode is mode
    )
    if not plain or not tensor.is_leaf or tensor.layout is not torch.strided or tensor.is_quantized:
        return mode.from_tensor(tensor)
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    if not whole or tensor.is_conj() or tensor.is_neg() or tensor.is_nested:
        return mode.from_tensor(tensor)
    with no_dispatch():
        made = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        ).requires_grad_(tensor.requires_grad)
        return FakeTensor(mode, made, tensor.device)


Modes = tuple[bool, tuple[tuple[str, torch.dtype], ...]]
"""Whether gradients are asked for, and the data type of autocast by device where it is on."""

_AUTOCAST = ("cpu", "cuda")


def modes() -> Modes:
    """Return the modes that an operator runs in and that change what it does."""
    autocast = tuple(
        (kind, torch.get_autocast_dtype(kind))
        for kind in _AUTOCAST
        if torch.is_autocast_enabled(kind)
    )
    return torch.is_grad_enabled(), autocast


@contextmanager
def in_modes(wanted: Modes | None) -> Iterator[None]:
    """Run the block in the modes `wanted`, or as it is where that is None."""
    with ExitStack() as stack:
        if wanted is not None:
            grad, autocast = wanted
            stack.enter_context(torch.set_grad_enabled(grad))
            for kind, dtype in autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
        yield


def fake_result(like: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor like `like`, on memory of its own, as an operator returns it.

    Where `like` asks for a gradient it does too, and is no leaf.
    """
    assert isinstance(like, FakeTensor)
    if like.requires_grad and torch.is_grad_enabled():
        with torch.enable_grad():
            made: torch.Tensor = _Result.apply(_ASKING, like)
            return made
    return _empty_like(like)


def _empty_like(like: FakeTensor) -> torch.Tensor:
    with no_dispatch():
        made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
        return FakeTensor(like.fake_mode, made, like.device)


_ASKING = torch.empty(0, requires_grad=True)


class _Result(torch.autograd.Function):
    """Stands for what made a tensor, in the eyes of autograd."""

    @staticmethod
    def forward(ctx: Any, asking: torch.Tensor, like: FakeTensor) -> torch.Tensor:
        """Return a tensor like `like`."""
        return _empty_like(like)


def is_data_dependent(op: Any, args: Sequence[Any]) -> bool:
    """Say whether what `op` makes of `args`, or its shape, is taken from the values of tensors."""
    if not isinstance(op, torch._ops.OpOverload):
        return False
    name = op._schema.name
    if name in ("aten::index", "aten::index_put", "aten::index_put_"):
        indices = tree_leaves(list(args[1]))
        masks = (x.dtype in (torch.bool, torch.uint8) for x in indices if x is not None)
        return name == "aten::index" and any(masks)
    tags = tag_names(op)
    marked = "data_dependent_output" in tags or "dynamic_output_shape" in tags
    return marked or name in _OF_VALUES


_OF_VALUES = frozenset(
    {
        "aten::_unique2",
        "aten::is_nonzero",
        "aten::nonzero_numpy",
        "aten::unique_consecutive",
        "aten::unique_dim",
        "torchvision::nms",
    }
)
"""Operators whose result, or its shape, depends on values, but which lack the tag."""


def function_modes() -> int:
    """Return how many modes intercept torch's functions right now."""
    return int(torch._C._len_torch_function_stack())


def has_module_hooks() -> bool:
    """Say whether hooks are registered that run around the calls of all modules."""
    hooks = torch.nn.modules.module
    names = [
        name for name in vars(hooks) if name.startswith("_global_") and "registration" not in name
    ]
    return any(isinstance(held, dict) and bool(held) for held in map(vars(hooks).get, names))


Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Takes an operator with its arguments, runs it, and returns its result."""


class _Below(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let control flow compile its bodies, and see the calls that come of it."""
        return True

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
    _announce()
    with enable_python_dispatcher(), enable_pre_dispatch(), _Before(handle):
        yield


def is_registered(value: Any) -> bool:
    """Say whether torch's pytree knows how to take `value` apart."""
    return pytree._get_node_type(value) in pytree.SUPPORTED_NODES


def take_apart(value: Any) -> tuple[list[str], list[Any], Callable[[list[Any]], Any]] | None:
    """Return what the container `value` holds: names, items, and how to make it of other items.

    None for a leaf. Only one level is taken off.
    """
    kind = pytree._get_node_type(value)
    if kind not in pytree.SUPPORTED_NODES:
        return None
    node = pytree.SUPPORTED_NODES[kind]
    children, context = node.flatten_fn(value)
    paths, _ = pytree.tree_flatten_with_path(value, is_leaf=lambda part: part is not value)
    names = [_key_name(path[0]) for path, _ in paths]
    return names, children, lambda items: node.unflatten_fn(items, context)


def uncompiled(function: Any) -> Any:
    """Return the function that `torch.compile` made `function` of, or `function` itself."""
    return getattr(function, "_torchdynamo_orig_callable", function)


# -- torch.compile -------------------------------------------------------------------------


class CompiledFrame(NamedTuple):
    """A call that `torch.compile` is at work on."""

    code: CodeType
    locals: Mapping[str, Any]
    globals: Mapping[str, Any]

    @property
    def module(self) -> torch.nn.Module | None:
        """The module of torch's own that is called: torch wraps such in a function."""
        wrapped = self.code.co_qualname == "wrap_inline.<locals>.inner"
        found = self.locals.get("fn") if wrapped else None
        return found if isinstance(found, torch.nn.Module) else None


def _frame(calling: Any) -> CompiledFrame:
    return CompiledFrame(calling.f_code, calling.f_locals, calling.f_globals)


class CompileWatcher(Protocol):
    """Is told what `torch.compile` does in the context in which it watches."""

    def compiling(self, program: torch.fx.GraphModule) -> Callable[[], None]:
        """Look at a graph before its backend does; what is returned is called once it has."""

    def broke(self, error: Exception, frame: CompiledFrame, skipped: bool) -> None:
        """Hear why a graph ends before its call does, and whether the rest is skipped."""

    def recompiling(self, guards: list[str], frame: CompiledFrame) -> None:
        """Hear which guard failed of each graph that the code of a call has already."""


_watchers: ContextVar[tuple[CompileWatcher, ...]] = ContextVar("watchers", default=())


@contextmanager
def watching_compiles(watcher: CompileWatcher) -> Iterator[None]:
    """Tell `watcher` what `torch.compile` does inside the block, in this thread.

    Three functions of torch report while anybody watches, and are put back afterwards. Who
    watches already is not told twice.
    """
    if watcher in _watchers.get():
        yield
        return
    with _reports():
        _watchers.set((*_watchers.get(), watcher))
        try:
            yield
        finally:  # not `reset`: blocks may end in another order than the reverse
            _watchers.set(tuple(w for w in _watchers.get() if w is not watcher))


def is_watched() -> bool:
    """Say whether somebody watches what `torch.compile` does in this thread."""
    return bool(_watchers.get())


Watchers = Callable[[], tuple[CompileWatcher, ...]]


def _reporting_graphs(original: Callable[..., Any], watchers: Watchers) -> Callable[..., Any]:
    @functools.wraps(original)
    def call_user_compiler(self: Any, gm: Any, *args: Any, **kwargs: Any) -> Any:
        done = [watcher.compiling(gm) for watcher in (() if self.export else watchers())]
        compiled = original(self, gm, *args, **kwargs)
        for tell in done:
            tell()
        return compiled

    return call_user_compiler


def _reporting_breaks(original: Callable[..., Any], watchers: Watchers) -> Callable[..., Any]:
    @functools.wraps(original)
    def log_graph_break(self: Any, code_options: Any, reason: str, exc: Any) -> Any:
        for watcher in () if exc.logged else watchers():
            watcher.broke(exc, _frame(self), "skipping the" in reason.lower())
        return original(self, code_options, reason, exc)

    return log_graph_break


def _reporting_guards(original: Callable[..., Any], watchers: Watchers) -> Callable[..., Any]:
    @functools.wraps(original)
    def reasons(entries: Any, frame: Any, backend: Any, skip_logging: bool = False) -> Any:
        found = original(entries, frame, backend, skip_logging)
        for watcher in () if skip_logging else watchers():
            watcher.recompiling(found, _frame(frame))
        return found

    return reasons


_reports_lock = threading.Lock()
_reports_wanted = 0
_reports_undo = ExitStack()


@contextmanager
def _reports() -> Iterator[None]:
    global _reports_wanted
    with _reports_lock:
        if _reports_wanted == 0:
            from torch._dynamo import convert_frame
            from torch._dynamo.output_graph import OutputGraph
            from torch._dynamo.symbolic_convert import InstructionTranslatorBase

            guards = "get_and_maybe_log_recompilation_reasons"
            _replace(OutputGraph, "call_user_compiler", _reporting_graphs)
            _replace(InstructionTranslatorBase, "log_graph_break", _reporting_breaks)
            _replace(convert_frame, guards, _reporting_guards)
        _reports_wanted += 1
    try:
        yield
    finally:
        with _reports_lock:
            _reports_wanted -= 1
            if _reports_wanted == 0:
                _reports_undo.close()


def _replace(owner: Any, name: str, make: Callable[[Any, Watchers], Any]) -> None:
    original, wanted = getattr(owner, name), True
    ours = make(original, lambda: _watchers.get() if wanted else ())

    def undo() -> None:
        nonlocal wanted
        wanted = False
        if getattr(owner, name) is ours:  # else somebody has put theirs around ours
            setattr(owner, name, original)

    setattr(owner, name, ours)
    _reports_undo.callback(undo)


def compiled_frame() -> CompiledFrame:
    """Return the call that `torch.compile` is at work on; only inside a backend."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    return _frame(InstructionTranslator.current_tx())


def compile_id() -> str:
    """Return torch's number for the running compilation, ``frame/attempt``, '' outside of one."""
    found = CompileContext.current_compile_id()
    return "" if found is None else str(found)


def lifted_from(placeholder: torch.fx.Node) -> tuple[str, Any]:
    """Return where the value of a compiled graph's placeholder stands, and the value itself.

    The place is Python text over the call's locals ``L['x']`` and globals ``G['x']``; the
    value is the tensor of the call, or None.
    """
    argument: Any = placeholder.meta.get("grapharg")
    source: Any = getattr(placeholder, "_dynamo_source", None)
    source = argument.source if source is None and argument is not None else source
    if source is None:
        return "", None
    text = source.name if isinstance(source.name, str) else source.name()
    return text, None if argument is None else argument.example


def example_value(node: torch.fx.Node) -> Any:
    """Return what `torch.compile` ran a graph's `node` to: a fake tensor, a symbolic size, …."""
    return node.meta.get("example_value")


class Ending(NamedTuple):
    """Why a compiled graph ends before its code does."""

    reason: str
    """In torch's words; the first line is the reason, also where it had further consequences."""
    stack: list[tuple[str, int, str]]
    """Where: file, line and function of each call, the innermost last."""


def ending(error: Exception) -> Ending:
    """Return why an error of `torch.compile` ends a graph."""
    stack = getattr(error, "real_stack", None) or ()
    reason = str(getattr(error, "msg", error)).strip()
    return Ending(reason, [(frame.filename, frame.lineno, frame.name) for frame in stack])


def ending_of(program: torch.fx.GraphModule) -> Ending | None:
    """Return why a compiled graph ends before its code does; None where it does not."""
    found: Any = getattr(program, "compile_subgraph_reason", None)
    if found is None or not found.graph_break:
        return None
    reason = str(found.reason).strip()
    if reason.startswith("generic_jump"):
        reason = "Data-dependent branching"  # as an error says it
    stack = [(frame.filename, frame.lineno, frame.name) for frame in found.user_stack]
    return Ending(reason, stack)


def forget_compiled(codes: Iterable[CodeType], backend: Any, *, alone: bool) -> None:
    """Drop what `codes` were compiled to; with `alone` only where `backend` alone did so."""
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, reset_code

    for code in codes:
        entries = _debug_get_cache_entry_list(code)
        used = [getattr(entry.backend, "compiler_fn", entry.backend) for entry in entries]
        if not alone or all(one is backend for one in used):
            reset_code(code)


@contextmanager
def as_written(function: Any) -> Iterator[Any]:
    """Give what `torch.compile` made `function` of; a module compiled in place is so no more.

    After the block it is compiled again.
    """
    if not isinstance(function, torch.nn.Module):
        yield uncompiled(function)
        return
    module = function._modules.get("_orig_mod") or function
    kept = module._compiled_call_impl
    module._compiled_call_impl = None
    try:
        yield module
    finally:
        module._compiled_call_impl = kept


def is_checkpoint(target: Any) -> bool:
    """Say whether an op runs the graph that is its first argument on the others, no more."""
    return getattr(target, "__name__", "") in ("tag_activation_checkpoint", "wrap")


def switch_of(target: Any) -> str:
    """Say what a call of a graph does: ``enter`` or ``leave`` autocast, or switch ``gradients``.

    Empty for any other call.
    """
    mode: Any = torch.amp.autocast_mode
    names = {
        mode._enter_autocast: "enter",
        mode._exit_autocast: "leave",
        torch._C._set_grad_enabled: "gradients",
    }
    return names.get(target, "") if callable(target) else ""


def enter_autocast(*args: Any) -> Any:
    """Enter autocast so that no tracer sees it; return what leaves it again."""
    with torch._C.DisableTorchFunction():
        return torch.autocast(*args).__enter__()  # type: ignore[no-untyped-call]


def leave_autocast(mode: Any) -> None:
    """Leave autocast so that no tracer sees it."""
    with torch._C.DisableTorchFunction():
        mode.__exit__(None, None, None)


def switch_gradients(enabled: bool) -> None:
    """Switch the recording of gradients on or off so that no tracer sees it."""
    with torch._C.DisableTorchFunction():
        torch._C._set_grad_enabled(enabled)


def number_in(value: Any) -> Any:
    """Return the symbolic number that ``item()`` of a fake tensor gives; None where it has none."""
    return value.item_memo if isinstance(value, FakeTensor) else None


def put_number(tensor: Any, number: Any) -> None:
    """Let ``item()`` of a fake tensor give a symbolic number; None leaves it as it is."""
    if number is not None:
        tensor.item_memo = number


def shape_environment(value: Any) -> Any:
    """Return what knows the symbolic sizes of a fake tensor or of a size; None for others."""
    if isinstance(value, FakeTensor):
        return value.fake_mode.shape_env
    return value.node.shape_env if isinstance(value, torch.SymInt | torch.SymFloat) else None


def size_ranges(environment: Any) -> dict[str, tuple[int | None, int | None]]:
    """Return the least and the largest value of each symbolic size; None where there is none."""
    return {
        found.name: (
            int(bounds.lower) if bounds.lower.is_Integer else None,
            int(bounds.upper) if bounds.upper.is_Integer else None,
        )
        for found, bounds in environment.var_to_range.items()
    }


@contextmanager
def without_guards(environment: Any) -> Iterator[None]:
    """Run the block without adding to what a program is known to demand of its sizes."""
    if environment is None:
        yield
        return
    with environment.suppress_guards(), environment.ignore_fresh_unbacked_symbols():
        yield


class _BelowWhole(_Below):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True


@contextmanager
def below_autograd_whole(handle: Handler) -> Iterator[None]:
    """Hand every operator that runs inside the block to `handle`, control flow whole."""
    with _BelowWhole(handle):
        yield


def trace_below_autograd(
    function: Callable[..., Any], *args: Any, symbolic: bool = False
) -> torch.fx.GraphModule:
    """Record the ops that run below autograd while `function` runs, in place ones as they are."""
    with enable_python_dispatcher() if symbolic else nullcontext():
        return make_fx(function)(*args)


def saved_tensors(results: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield what autograd keeps in order to differentiate `results`.

    A tensor may come several times. What hooks put in a tensor's place, as a checkpoint does, is
    yielded where it is a tensor, and not turned back.
    """
    waiting = [tensor.grad_fn for tensor in results]
    seen: dict[int, Any] = {}  # holds on to the nodes, whose addresses would be used again
    while waiting:
        node: Any = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen[id(node)] = node
        waiting += [other for other, _ in node.next_functions]
        waiting.append(getattr(node, "_wrapped_node", None))  # of an operator in place on a view
        for name in dir(node):
            if name.startswith("_raw_saved_"):
                yield from _kept(node, name)


def _kept(node: Any, name: str) -> Iterator[torch.Tensor]:
    try:
        found = getattr(node, name)
    except RuntimeError:  # the backward pass of this part has run already
        return
    for saved in found if isinstance(found, list | tuple) else (found,):
        data = getattr(saved, "data", None)
        if isinstance(data, torch.Tensor):
            yield data


def moved_to(mode: FakeTensorMode, tensor: FakeTensor) -> torch.Tensor:
    """Return a fake tensor of `mode` like one of another mode."""
    with no_dispatch():
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        made.requires_grad_(tensor.requires_grad)
        return FakeTensor(mode, made, tensor.device)


@contextmanager
def without_autograd(trained: bool) -> Iterator[None]:
    """Run operators as below autograd; kernels see whether gradients are asked for, if `trained`.

    Some keep results for a backward pass then, as those of recurrent layers do.
    """
    with torch.set_grad_enabled(trained), torch._C._AutoDispatchBelowAutograd():
        yield


# -- operators by name (archives) ----------------------------------------------------------------


def find_operator(names: Sequence[str]) -> Any | None:
    """Return the operator that is registered under ``torch.ops`` and `names`, if there is one.

    It is looked up, and neither called nor imported.

    >>> str(find_operator(["aten", "add", "Tensor"])), find_operator(["aten", "no_such", "default"])
    ('aten.add.Tensor', None)
    """
    found: Any = torch.ops
    try:
        for name in names:
            found = getattr(found, name)
    except (AttributeError, RuntimeError):
        return None
    kinds = (torch._ops.OpOverload, torch._ops.HigherOrderOperator)
    return found if isinstance(found, kinds) else None


def shared_arguments(op: torch._ops.OpOverload) -> tuple[str | None, ...]:
    """Return, for each result of `op`, the argument whose memory its schema says it may share.

    >>> aten = torch.ops.aten
    >>> shared_arguments(aten.transpose.int), shared_arguments(aten.chunk.default)
    (('self',), ('self',))
    >>> shared_arguments(aten.topk.default)
    (None, None)
    """
    behind: dict[str, str] = {}
    spread: str | None = None
    for arg in op._schema.arguments:
        if arg.alias_info:
            behind.update(dict.fromkeys(arg.alias_info.before_set, arg.name))
            spread = arg.name if "*" in arg.alias_info.after_set else spread
    found: list[str | None] = []
    for result in op._schema.returns:
        sets = result.alias_info.before_set if result.alias_info else ()
        in_list = spread if isinstance(result.type, torch.ListType) else None
        found.append(next((behind[alias] for alias in sets if alias in behind), in_list))
    return tuple(found)


# -- control flow --------------------------------------------------------------------------


@contextmanager
def keeping_body_stacks() -> Iterator[None]:
    """Let an export keep the modules and lines of what runs inside the bodies of control flow."""
    with fx_traceback.preserve_node_meta():
        yield


def fake_mode(*, cached: bool = True) -> FakeTensorMode:
    """Return a new mode for tensors without values, in which real ones may stand too.

    Not `cached` where packed weights are arguments: they cannot be compared, as torch's cache of
    results does.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = mode.cache_enabled and cached
    return mode


_CONTROL_FLOW = ("torch._higher_order_ops.", "torch.nn.attention.flex_attention")
_REGION = "_invoke_subgraph_placeholder_wrapper"
_METHODS: dict[str, Any] = {
    name: getattr(torch.nn.Module, name) for name in ("__call__", "__getattr__")
}


def only_bodies(compile: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in for `compile`, torch's own, that compiles nothing but control flow.

    Operators such as `torch.cond` have the compiler find out what their bodies take from around
    them. It must then meet modules as torch made them: hooks around all calls, and whatever else
    a capture does to modules, are put aside meanwhile, and the stance too. It also has to forget
    what it met in earlier captures, or their modules and sizes would show. Not safe for threads.
    """

    def stand_in(model: Any = None, **options: Any) -> Any:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if not caller.startswith(_CONTROL_FLOW):
            return model if model is not None else lambda function: function
        if model.__name__ == _REGION:  # an export puts its body back in place, without modules
            return lambda function, args, kwargs=None: function(*args, **(kwargs or {}))

        def run(*args: Any, **kwargs: Any) -> Any:
            seen = sys.gettrace()
            sys.settrace(None)
            try:
                with _modules_as_they_are(), _without_memory():
                    return compile(_afresh(model), **options)(*args, **kwargs)
            finally:
                sys.settrace(seen)

        return run

    return stand_in


@contextmanager
def _modules_as_they_are() -> Iterator[None]:
    methods = {name: getattr(torch.nn.Module, name) for name in _METHODS}
    held = vars(torch.nn.modules.module)
    hooks = [found for name, found in held.items() if _is_global_hooks(name, found)]
    before = [dict(found) for found in hooks]
    try:
        for name, method in _METHODS.items():
            setattr(torch.nn.Module, name, method)
        for found in hooks:
            found.clear()
        yield
    finally:
        for name, method in methods.items():
            setattr(torch.nn.Module, name, method)
        for found, kept in zip(hooks, before, strict=True):
            found.update(kept)


@contextmanager
def _without_memory() -> Iterator[None]:
    config: Any = torch._dynamo.config
    with torch.compiler.set_stance("default"), config.patch(automatic_dynamic_shapes=False):
        yield


def _afresh(function: Any) -> Any:
    """Return a function that the compiler has not compiled, which it remembers by its code."""
    if not isinstance(function, FunctionType):
        return function
    code, names = function.__code__.replace(), function.__globals__
    made = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _is_global_hooks(name: str, found: Any) -> bool:
    return name.startswith("_global_") and isinstance(found, dict)


def is_plain(value: Any) -> bool:
    """Say whether `value` is a tensor with strides, fake or with values, and of no other class."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter, FakeTensor):
        return False
    return value.layout is torch.strided and not value.is_quantized and not value.is_nested


def fake_twin(mode: FakeTensorMode, tensor: torch.Tensor) -> FakeTensor:
    """Return a fake tensor like `tensor`, on memory of its own, which autograd knows nothing of."""
    with no_dispatch():
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(mode, made, tensor.device)


def gradient_hooks(tensor: torch.Tensor) -> list[Callable[[torch.Tensor], Any]]:
    """Return what was registered to run on the gradient of `tensor`."""
    return list((tensor._backward_hooks or {}).values())


def _announce() -> None:
    """Make every control flow operator hand its calls to `_Before` too."""
    for op in torch._ops._higher_order_ops.values():
        if _Before not in op.python_key_table:
            op.python_key_table[_Before] = functools.partial(_hand_on, op)


def _hand_on(op: Any, mode: _Before, *args: Any, **kwargs: Any) -> Any:
    return mode._handle(op, args, kwargs)


@contextmanager
def indexing_by_numbers_that_flow() -> Iterator[None]:
    """Let what flex attention does to a score index tensors by numbers that it computes."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    with TransformGetItemToIndex():
        yield


def inner_tensors(tensor: torch.Tensor) -> list[str]:
    """Return the attributes in which a tensor, such as a quantised one, has those it is made of.

    None for a plain tensor, and for a distributed one.
    """
    if not is_traceable_wrapper_subclass(tensor) or hasattr(tensor, "device_mesh"):
        return []
    names = tensor.__tensor_flatten__()[0]
    return [name for name in names if isinstance(getattr(tensor, name), torch.Tensor)]


def unbatched(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor whose batch dimensions `torch.vmap` hides; any other one as it is."""
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_random(target: Any) -> bool:
    """Say whether the operator `target` draws random numbers."""
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags


# -- measurements --------------------------------------------------------------------------------


def watchers() -> list[str]:
    """Return what watches the operators that run right now, and so makes them slower.

    A default device is none: `torch.set_default_device` stays in force for a whole program.
    """
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    functions: Any = _get_current_function_mode_stack
    found = [*_get_current_dispatch_mode_stack(), *functions()]
    names = [type(mode).__name__ for mode in found if not isinstance(mode, DeviceContext)]
    profiled = torch._C._autograd._profiler_enabled()
    return [*names, "a profiler"] if profiled else names


# -- placement -----------------------------------------------------------------------------


def fake_on(
    mode: FakeTensorMode,
    tensor: torch.Tensor,
    device: torch.device,
    memory: dict[Any, torch.UntypedStorage],
) -> torch.Tensor:
    """Return a fake tensor like `tensor` that claims to lie on `device`, which need not exist.

    Tensors on one memory share theirs through `memory`.
    """
    if not is_plain(tensor) or tensor.is_conj() or tensor.is_neg():
        with mode:
            moved = mode.from_tensor(tensor).detach().to(device)
        return moved.requires_grad_(tensor.requires_grad)
    key = storage_of(tensor), device
    with no_dispatch():
        if key not in memory:
            size = tensor.untyped_storage().nbytes()
            memory[key] = torch.empty(size, dtype=torch.uint8, device="meta").untyped_storage()
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        made = torch.empty(0, dtype=tensor.dtype, device="meta").set_(memory[key], *place)
        made.requires_grad_(tensor.requires_grad)
        return FakeTensor(mode, made, device)


@contextmanager
def as_if_on_cuda() -> Iterator[None]:
    """Let fake CUDA tensors run where no driver is, as far as that goes.

    Autocast for CUDA would switch itself off, recurrent layers ask cuDNN whether it takes them,
    and attention would take the slowest way, whose result is laid out otherwise. Not safe for
    threads.
    """
    if torch.cuda.is_available():
        yield
        return
    common: Any = torch.cuda.amp.common
    before = common.amp_definitely_not_available, torch.cuda.is_bf16_supported
    attention: Any = torch.ops.aten.scaled_dot_product_attention.default
    try:
        common.amp_definitely_not_available = lambda: False
        torch.cuda.is_bf16_supported = lambda including_emulation=True: True
        attention.py_kernels[_COMPOSITE] = _attention
        attention._dispatch_cache.clear()
        with _WithoutDriver():
            yield
    finally:
        common.amp_definitely_not_available, torch.cuda.is_bf16_supported = before
        attention.py_kernels.pop(_COMPOSITE, None)
        attention._dispatch_cache.clear()


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class _WithoutDriver(TorchFunctionMode):
    """Lets `_attention` serve below autograd too, and keeps recurrent layers from asking cuDNN."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        context: Any = nullcontext()
        if func is torch.nn.functional.scaled_dot_product_attention:
            context = enable_python_dispatcher()
        elif getattr(func, "__name__", "") in _RECURRENT:
            context = torch.backends.cudnn.flags(enabled=False)
        with context:
            return func(*args, **(kwargs or {}))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return what attention makes on a CUDA device of compute capability 8 or newer.

    That is the flash kernel for 16 bits without a mask, or else the memory-efficient one, where
    torch's ``sdp_utils.cpp`` lets them serve.
    """
    aten: Any = torch.ops.aten
    tensors = query, key, value
    if not _is_fused(tensors) or (attn_mask is not None and attn_mask.stride(-1) != 1):
        rest = attn_mask, dropout_p, is_causal
        options = {"scale": scale, "enable_gqa": enable_gqa}
        own = aten.scaled_dot_product_attention.default._op_dk
        found: torch.Tensor = own(_COMPOSITE, *tensors, *rest, **options)
        return found
    heads = len({tensor.shape[1] for tensor in tensors})
    wide = len({tensor.shape[-1] for tensor in tensors}) > 1 or query.shape[-1] > 256
    if attn_mask is None and query.element_size() == 2 and not wide:
        flash: torch.Tensor = aten._scaled_dot_product_flash_attention.default(
            *tensors, dropout_p, is_causal, scale=scale
        )[0]
        return flash
    if heads > 1:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            zeros = torch.zeros_like(attn_mask, dtype=query.dtype)
            attn_mask = zeros.masked_fill_(attn_mask.logical_not(), -float("inf"))
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    efficient: torch.Tensor = aten._scaled_dot_product_efficient_attention.default(
        query, key, value, attn_mask, asked, dropout_p, is_causal, scale=scale
    )[0]
    return efficient


def _is_fused(tensors: Sequence[torch.Tensor]) -> bool:
    """Say whether a fused kernel takes query, key and value."""
    query = tensors[0]
    by_dtype = {torch.float16: 8, torch.bfloat16: 8, torch.float32: 4}
    alignment = by_dtype.get(query.dtype)
    return alignment is not None and all(
        tensor.device.type == "cuda"
        and tensor.dtype == query.dtype
        and tensor.dim() == 4
        and tensor.stride(-1) == 1
        and tensor.shape[-1] % alignment == 0
        and 0 not in tensor.shape
        for tensor in tensors
    )


# -- compiled code that is timed -------------------------------------------------------------


class Compilations:
    """What torch compiled since this was made."""

    def __init__(self) -> None:
        from torch._dynamo.utils import counters

        self._counters: Any = counters
        self._before = self._now()

    def _now(self) -> tuple[int, int, int]:
        stats, frames = self._counters["stats"], self._counters["frames"]
        return stats["unique_graphs"], frames["total"], frames["ok"]

    @property
    def graphs(self) -> int:
        """Graphs that were compiled: one, or more where Python runs in between."""
        return self._now()[0] - self._before[0]

    @property
    def left(self) -> int:
        """Functions that torch gave up on, so that they run as they are written."""
        _, total, done = (a - b for a, b in zip(self._now(), self._before, strict=True))
        return total - done


@contextmanager
def compiling(function: Callable[..., Any]) -> Iterator[tuple[Callable[..., Any], Compilations]]:
    """Yield `function` compiled in the default mode, and what has been compiled of it.

    Nothing that was compiled before serves, counts against a limit or is forgotten: the compiler
    remembers functions by their code, and gets a copy of that. Where it has to give up a function
    and compile what that calls, it meets the model's own code, which must not fall back in
    silence to running as it is written: the limit on compilations is lifted, and what was
    compiled of such code is forgotten at the end, unless it had been met before. Sizes are those
    of the example, also where torch has met others. Worker processes that are started meanwhile
    end with the block. Not safe for threads.
    """
    with _muted("torch.utils.cpp_extension"):  # which says where it found no CUDA
        import torch._inductor.async_compile as workers
        import torch._inductor.compile_fx
        from torch._C._dynamo.eval_frame import reset_code
        from torch._dynamo import config, convert_frame

    options: Any = {
        "recompile_limit": sys.maxsize,
        "accumulated_recompile_limit": sys.maxsize,
        "fail_on_recompile_limit_hit": True,
        "suppress_errors": False,
        "automatic_dynamic_shapes": False,
    }
    compile: Any = torch.compile
    if "isolate_recompiles" in inspect.signature(compile).parameters:
        compile = functools.partial(compile, isolate_recompiles=True)
    running, met = bool(workers._pool_set), convert_frame.input_codes
    known = set(met.seen_ids)
    patched: Any = config.patch(**options)
    parts = "torch._dynamo", "torch._functorch", "torch._inductor", "torch.utils.cpp_extension"
    try:
        with torch.compiler.set_stance("default"), patched, quiet(), _muted(*parts):
            yield compile(_afresh(function)), Compilations()
    finally:
        new = [code for place in met.seen if (code := place()) and id(code) not in known]
        for code in new:
            reset_code(code)
        met.seen_ids.intersection_update(known)
        met.seen[:] = [place for place in met.seen if id(place()) in met.seen_ids]
        if not running:
            workers.shutdown_compile_workers()


@contextmanager
def _muted(*parts: str) -> Iterator[None]:
    """Keep the loggers of these parts of torch from saying anything."""
    names = {name for name in logging.root.manager.loggerDict if name.startswith(parts)}
    loggers = [logging.getLogger(name) for name in {*names, *parts}]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def compiler_error(error: BaseException) -> str:
    """Return in one line why torch could not compile something, or run what it compiled."""
    while isinstance(inner := getattr(error, "inner_exception", None), BaseException):
        error = inner
    if type(error).__name__ == "InvalidCxxCompiler":
        return "there is no C++ compiler that torch.compile could use: install g++, or set CXX"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300].rstrip(": ")
