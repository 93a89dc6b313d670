"""The graph's schema: every node, edge and graph key, declared once.

Labels, tables, hints, the JSON Schema and `validate` all derive from the three tables at the
end of this module: `NODE_FIELDS`, `EDGE_FIELDS` and `GRAPH_FIELDS`.
"""

# No `from __future__ import annotations` here: the tables are read off the live annotations.
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required, TypedDict, Union

if TYPE_CHECKING:
    import sympy

VERSION = 1
"""Version of the schema, written into every file; raised when a key changes its meaning."""

# A size: a number, or an expression over named symbols such as ``batch``. (Not `|`: the name
# in quotes keeps sympy from being imported, and a string does not support that operator.)
Dim = Union[int, "sympy.Expr"]
Kind = Literal["input", "parameter", "buffer", "constant", "op", "output"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
WEIGHTS: tuple[Kind, ...] = ("parameter", "buffer", "constant")
"""Kinds of nodes that hold a tensor of the model's own."""
Phase = Literal["forward", "backward", "optimizer"]
Way = Literal["compile", "cuda-graph"]
WAYS: tuple[Way, ...] = typing.get_args(Way)
"""Ways to run a whole model, beside calling it as it is (``eager``)."""
Bound = Literal["compute", "memory", "launch"]
BOUNDS: tuple[Bound, ...] = typing.get_args(Bound)

_BITS = {"bool": 8, "complex32": 32, "complex64": 64, "complex128": 128}
SCALARS = frozenset({"SymInt", "SymFloat", "SymBool"})
"""Data types of values that are Python numbers in the graph and take no memory of a device."""


@cache
def dtype_bytes(dtype: str) -> float:
    """Return the bytes that one element of `dtype` takes.

    >>> dtype_bytes("float32"), dtype_bytes("bfloat16"), dtype_bytes("float8_e4m3fn")
    (4.0, 2.0, 1.0)
    >>> dtype_bytes("uint4"), dtype_bytes("quint8"), dtype_bytes("SymInt")
    (0.5, 1.0, 0.0)
    """
    if dtype in SCALARS:
        return 0.0
    if dtype in _BITS:
        return _BITS[dtype] / 8
    digits = "".join(c if c.isdigit() else " " for c in dtype).split()
    return int(digits[0]) / 8 if digits else 0.0


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """What is known of a tensor without its values: shape, data type, device, strides.

    A Python number that flows through a graph has the shape ``()`` and a data type of `SCALARS`.

    >>> weight = TensorMeta((64, 3, 7, 7), "float32", "cpu", (147, 49, 7, 1))
    >>> weight.numel, weight.nbytes, str(weight)
    (9408, 37632, 'float32[64, 3, 7, 7]')
    """

    shape: tuple[Dim, ...]
    dtype: str = "float32"
    device: str = "cpu"
    stride: tuple[Dim, ...] | None = None
    """Elements between neighbours along each dimension; None where the layout has no strides."""
    nnz: Dim | None = None
    """Elements that a sparse tensor stores; None for a dense one, or where it is not known."""

    @property
    def numel(self) -> Dim:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes of all elements; of a sparse tensor, of those that it stores, without indices."""
        return _bytes(self.numel if self.nnz is None else self.nnz, self.dtype)

    @property
    def stored_bytes(self) -> Dim:
        """Bytes that reading every element touches: a broadcast (stride-0) dimension counts once.

        >>> TensorMeta((8, 4), "float32", stride=(0, 1)).stored_bytes
        16
        """
        if self.stride is None or 0 not in self.stride:
            return self.nbytes
        sizes = (n for n, step in zip(self.shape, self.stride, strict=True) if step != 0 or n == 0)
        return _bytes(math.prod(sizes), self.dtype)

    @property
    def extent_bytes(self) -> Dim:
        """Bytes from the first element to the last, gaps between them included.

        >>> TensorMeta((2, 3), stride=(8, 1)).extent_bytes
        44
        >>> TensorMeta((2, 3), stride=(0, 1)).extent_bytes
        12
        """
        if self.stride is None or 0 in self.shape:
            return self.nbytes
        reach: Dim = 1
        for n, step in zip(self.shape, self.stride, strict=True):
            reach += (n - 1) * step
        return _bytes(reach, self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def _bytes(numel: Dim, dtype: str) -> Dim:
    size = dtype_bytes(dtype)
    if size >= 1:
        return numel * int(size)
    return -(-numel * int(size * 8) // 8)


Arg = Union[
    None, bool, int, float, str, TensorMeta, "sympy.Expr", tuple["Arg", ...], Mapping[str, "Arg"]
]
"""An argument of an op: a literal, or the `TensorMeta` of a tensor that an edge brings."""


@dataclass(frozen=True, slots=True)
class Use:
    """One way in which an edge's source is used by its target.

    `output` is the index of the source's output and `argument` the path of the target's argument
    (``"input"``, ``"tensors.1"``). `output` is None where nothing flows and only the order
    matters: the target must run after the source, because one of them writes in place what the
    other reads; `argument` then is ``"after"``.
    """

    output: int | None
    argument: str


@dataclass(frozen=True, slots=True)
class Module:
    """A module call on the way to a node: its path, as `get_submodule` takes it, and its class."""

    path: str
    type: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """What a symbolic size may stand for: the multiples of a number from `min` to `max`.

    >>> print(Symbol(32, 512, 32)), print(Symbol())
    at least 32, at most 512, a multiple of 32
    at least 1
    (None, None)
    """

    min: int = 1
    max: int | None = None
    multiple_of: int = 1

    def __str__(self) -> str:
        parts = [f"at least {self.min}"]
        parts += [f"at most {self.max}"] if self.max is not None else []
        parts += [f"a multiple of {self.multiple_of}"] if self.multiple_of > 1 else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was read of the values of the example, so that the graph may hold for no other.

    `source` is the line of code (``file:line``, relative), `op` what read the value, and `value`
    what it was: a number, or the shape that came of it.
    """

    source: str
    op: str
    value: str

    def __str__(self) -> str:
        place = f"{self.source}: " if self.source else ""
        return f"{place}{self.op} -> {self.value}"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the whole model takes when it is run in another way than op by op from Python.

    The times are in microseconds, and None where that way does not work; `error` says why.
    """

    way: Way
    median_us: float | None
    iqr_us: float | None = None
    p90_us: float | None = None
    samples: int = 0
    error: str = ""
    note: str = ""
    """What to know of the times: that Python runs between several compiled graphs, say."""

    @property
    def stable(self) -> bool:
        """Whether the interquartile range of three samples or more is within a tenth."""
        if self.median_us is None or self.iqr_us is None:
            return False
        return self.iqr_us <= self.median_us / 10 and self.samples >= 3


@dataclass(frozen=True, slots=True)
class Measured:
    """How long the whole model took on a device, and how the nodes' latencies add up to that.

    >>> run = Measured("cpu", "a CPU", 1000.0, 20.0, 1030.0, 90.0, 100, 50)
    >>> run.sum_us, run.stable
    (910.0, True)
    """

    device: str
    device_name: str
    median_us: float
    """Microseconds that the model takes as it is called, without anything that watches it."""
    iqr_us: float
    """Between the first quartile of the samples and the third."""
    p90_us: float
    residual_us: float
    """`median_us` less the `latency_us` of all nodes: what runs between ops; below 0 where ops
    take longer one by one."""
    samples: int
    """Runs, or blocks of runs, of the whole model."""
    steps: int
    """Runs of the program with a timer around each op; `latency_us` is the median of them."""
    drift: float = 0.0
    """Change of the model's time from before those runs to after them, as a part of the former."""
    cache: Literal["warm", "cold"] = "warm"
    mode: Literal["no_grad", "training"] = "no_grad"
    threads: int = 1
    torch: str = ""
    unstable: tuple[str, ...] = ()
    """Nodes whose interquartile range is more than a tenth of their median."""
    by: Literal["timers", "profiler"] = "timers"
    """What took the nodes' latencies: a timer around each op, or the durations of its kernels."""
    launches: int | None = None
    """Kernels, copies and fills that one run of the program launches; None where none are."""
    peak_bytes: int | None = None
    """The most memory of the device that one run of the model allocates, weights and inputs
    with it; None where the device does not say."""
    others: tuple[Timing, ...] = ()
    """The model compiled, or as a CUDA graph, where that was asked for."""

    @property
    def sum_us(self) -> float:
        """Microseconds of all nodes together."""
        return self.median_us - self.residual_us

    @property
    def stable(self) -> bool:
        """Whether neither the spread of three samples or more nor the drift is above a tenth."""
        steady = self.iqr_us <= self.median_us / 10 and abs(self.drift) <= 0.1
        return steady and self.samples >= 3


@dataclass(frozen=True, slots=True)
class Field:
    """What one key means; `by` names the module that writes it."""

    doc: str
    by: str
    unit: str = ""


class NodeAttrs(TypedDict, total=False):
    """The keys of a node."""

    # identity
    kind: Annotated[Required[Kind], Field("what the node stands for", "frontends")]
    index: Annotated[Required[int], Field("position in the order of execution", "graph")]
    op: Annotated[
        Required[str], Field("canonical op, as aten.conv2d; '' unless kind is op", "frontends")
    ]
    overload: Annotated[str, Field("overload of the op, as Tensor", "frontends")]
    target: Annotated[
        str, Field("name in the model: of a parameter, a module or an argument", "frontends")
    ]
    aliases: Annotated[tuple[str, ...], Field("other names of a tied tensor", "frontends")]
    # provenance
    module: Annotated[
        Required[str], Field("path of the innermost module, '' for the root", "frontends")
    ]
    module_type: Annotated[str, Field("class of the innermost module", "frontends")]
    module_stack: Annotated[tuple[Module, ...], Field("modules from the root inwards", "frontends")]
    source: Annotated[str, Field("file:line that called the op", "frontends")]
    phase: Annotated[Phase, Field("part of a training step", "frontends")]
    # structure
    args: Annotated[Mapping[str, Arg], Field("arguments by name", "frontends")]
    outputs: Annotated[
        Required[tuple[TensorMeta | None, ...]], Field("tensors produced", "frontends")
    ]
    tags: Annotated[
        tuple[str, ...], Field("class of the op: pointwise, reduction, view", "frontends")
    ]
    writes: Annotated[tuple[str, ...], Field("arguments written in place", "frontends")]
    storages: Annotated[
        tuple[int, ...], Field("memory behind each output: equal numbers share it", "graph")
    ]
    frees: Annotated[
        tuple[int, ...],
        Field("memory that nobody held any more once the node had run, as recorded", "graph"),
    ]
    subgraphs: Annotated[
        Mapping[str, Any], Field("bodies of a control flow op: name -> ModelGraph", "graph")
    ]
    trips: Annotated[Dim, Field("how often a loop runs its body; absent for 1", "graph")]
    contains: Annotated[
        Mapping[str, int],
        Field("ops that a collapsed module stands for: op -> how many", "transforms.collapse"),
    ]
    uncounted: Annotated[
        Mapping[str, int],
        Field("those of them whose cost is unknown; costs leave them out", "transforms.collapse"),
    ]
    # training
    differentiates: Annotated[
        str, Field("forward op that an op of the backward pass differentiates", "frontends")
    ]
    recomputes: Annotated[
        str, Field("forward op that a checkpoint runs again in the backward pass", "frontends")
    ]
    saved: Annotated[
        tuple[int, ...], Field("outputs that autograd keeps for the backward pass", "frontends")
    ]
    gradient: Annotated[str, Field("output node with a parameter's gradient", "frontends")]
    gradient_of: Annotated[
        str, Field("parameter whose gradient an output is, or an op adds to", "frontends")
    ]
    state_of: Annotated[str, Field("parameter that state of an optimizer belongs to", "frontends")]
    # cost
    params: Annotated[Dim, Field("elements of a parameter", "annotations.params")]
    param_bytes: Annotated[Dim, Field("size of a parameter", "annotations.params", "B")]
    macs: Annotated[
        Dim | None,
        Field("multiply-adds of contractions; None if unknown", "annotations.flops", "MAC"),
    ]
    flops: Annotated[
        Dim | None,
        Field("2 x macs in floating point; None if unknown", "annotations.flops", "FLOP"),
    ]
    flops_other: Annotated[
        Dim | None, Field("operations outside contractions", "annotations.flops", "FLOP")
    ]
    flops_effective: Annotated[
        Dim | None,
        Field("flops less what a causal or window mask skips", "annotations.flops", "FLOP"),
    ]
    int_ops: Annotated[
        Dim | None, Field("2 x macs in integer arithmetic", "annotations.flops", "OP")
    ]
    comm_bytes: Annotated[Dim, Field("message of a collective", "annotations.flops", "B")]
    cost_source: Annotated[
        str,
        Field("formula, user, class:pointwise, decomposition, … or unknown", "annotations.flops"),
    ]
    bytes_read: Annotated[Dim, Field("memory read, each operand once", "annotations.traffic", "B")]
    bytes_written: Annotated[Dim, Field("memory written", "annotations.traffic", "B")]
    # limits
    roofline_us: Annotated[
        float | None,
        Field("least time on a device; None if unknown", "annotations.roofline", "µs"),
    ]
    bound: Annotated[
        Bound, Field("what sets it; absent where nothing is launched", "annotations.roofline")
    ]
    # memory
    first_use: Annotated[
        int, Field("index of the first node that reads the result", "annotations.liveness")
    ]
    last_use: Annotated[
        int, Field("index of the last node that needs the memory", "annotations.liveness")
    ]
    live_bytes: Annotated[
        Dim, Field("memory in use while the node runs", "annotations.liveness", "B")
    ]
    saved_bytes: Annotated[
        Dim,
        Field(
            "memory set aside in a collapsed module that autograd keeps",
            "transforms.collapse",
            "B",
        ),
    ]
    # place
    device: Annotated[str, Field("device of the first tensor produced", "annotations.placement")]
    # measured
    latency_us: Annotated[
        float, Field("time of the op on a device, median of several runs", "measurements", "µs")
    ]
    latency_iqr_us: Annotated[
        float, Field("interquartile range of these times", "measurements", "µs")
    ]
    peak_bytes: Annotated[
        int, Field("most memory allocated on the device while the op ran", "measurements", "B")
    ]
    kernels: Annotated[
        tuple[str, ...], Field("kernels that the op launches, each once", "measurements")
    ]
    launches: Annotated[
        int, Field("how many kernels, copies and fills it launches", "measurements")
    ]


class EdgeAttrs(TypedDict):
    """The keys of an edge."""

    uses: Annotated[tuple[Use, ...], Field("x * x is one edge with two uses", "graph")]
    bytes: Annotated[Dim, Field("size of the distinct tensors that flow", "graph", "B")]


class GraphAttrs(TypedDict, total=False):
    """The keys of the graph itself."""

    schema: Annotated[Required[int], Field("version of this schema", "graph")]
    name: Annotated[Required[str], Field("class of the model", "frontends")]
    frontend: Annotated[str, Field("front end that served", "frontends")]
    attempts: Annotated[
        tuple[str, ...], Field("front ends that failed before, and why", "frontends")
    ]
    modules: Annotated[Mapping[str, str], Field("path -> class of every module", "frontends")]
    dropped: Annotated[
        Mapping[str, int], Field("op -> how many were left out as noise", "frontends")
    ]
    specialised: Annotated[
        bool, Field("whether the graph was captured on the values of the example", "frontends")
    ]
    decisions: Annotated[
        tuple[Decision, ...], Field("what was read of those values, in order", "frontends")
    ]
    torch: Annotated[str, Field("version of torch that captured", "frontends")]
    roofline_device: Annotated[
        str, Field("device whose limits `roofline_us` holds for", "annotations.roofline")
    ]
    confirmed: Annotated[
        int, Field("ops of which a run on a device confirmed all tensors", "measurements")
    ]
    contradicted: Annotated[
        tuple[str, ...],
        Field("ops that made other tensors there than the graph says", "measurements"),
    ]
    measured: Annotated[
        Measured, Field("time of the whole model on a device, and how it was taken", "measurements")
    ]
    symbols: Annotated[
        Mapping[str, Symbol],
        Field("symbolic size -> what it may stand for", "frontends, transforms.bind"),
    ]
    constraints: Annotated[
        tuple[str, ...],
        Field("what else has to hold of the symbols: 'height != width'", "frontends"),
    ]


def _fields(attrs: type) -> dict[str, Field]:
    return {key: next(_annotations(hint)) for key, hint in attrs.__annotations__.items()}


def _annotations(hint: Any) -> Iterator[Field]:
    yield from (note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Field))
    for inner in typing.get_args(hint):
        yield from _annotations(inner)


NODE_FIELDS: dict[str, Field] = _fields(NodeAttrs)
EDGE_FIELDS: dict[str, Field] = _fields(EdgeAttrs)
GRAPH_FIELDS: dict[str, Field] = _fields(GraphAttrs)

REQUIRED_NODE_KEYS = frozenset({"kind", "index", "op", "module", "outputs"})


def is_dim(value: object) -> bool:
    """Say whether `value` is a size or a count: a non-negative integer or a symbolic expression.

    >>> is_dim(3), is_dim(-1), is_dim(True), is_dim(2.0)
    (True, False, False, False)
    """
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value >= 0
    return hasattr(value, "free_symbols")
