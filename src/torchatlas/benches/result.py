"""What a benchmark of one model found, and the file that keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import AtlasError, FormatError
from ..exporters import write_file
from ..schema import Bound, Way

FORMAT = "torchatlas benchmark"
SCHEMA = 1
"""Version of the files, raised when a key changes its meaning."""


@dataclass(frozen=True, slots=True)
class Run:
    """How long the whole model takes in one way to run it; times in microseconds.

    The times are None where the way does not work; `error` says why. `mfu` is None also where the
    limits of the device are not known.
    """

    way: Literal["eager"] | Way
    median_us: float | None
    iqr_us: float | None = None
    p90_us: float | None = None
    samples: int = 0
    stable: bool = False
    """Whether the interquartile range is within a tenth of the median, and nothing drifted."""
    throughput: float | None = None
    """Samples per second: the batch size by the median."""
    speedup: float | None = None
    """How many times faster than ``eager``."""
    mfu: float | None = None
    """Model FLOPs utilisation, 0 to 1: the least time of all contractions by the median."""
    error: str = ""
    note: str = ""
    """What to know of the times: that Python runs between several compiled graphs, say."""


@dataclass(frozen=True, slots=True)
class TopNode:
    """One of the ops that take longest."""

    id: str
    op: str
    latency_us: float
    share: float
    """Of the latencies of all ops together, 0 to 1."""
    stable: bool
    bound: Bound | None = None
    """What sets its least time on the device; None where limits are not known."""
    roofline_share: float | None = None
    """Its least time by its latency: 1 at the limit."""
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopModule:
    """One of the modules that take longest, with all that runs inside of it.

    Modules of one class that differ in numbers only stand together: ``layers.*.mlp``. Where a
    module stands beside its own children, `own` says that only its own ops are meant.
    """

    path: str
    type: str
    count: int
    """How many modules of the model it stands for."""
    own: bool
    ops: int
    latency_us: float
    share: float
    """Of the latencies of all ops together, 0 to 1."""
    roofline_share: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device could do at most, beside what the model achieved when called as it is.

    Shares are 0 to 1, times in microseconds; what depends on an op of `untimed` is None.
    """

    device: str
    """As the table of devices or the calibrated file calls it."""
    roofline_us: float | None
    """The least time of all ops, one after the other."""
    roofline_share: float | None
    """`roofline_us` by the median of ``eager``: 1 at the limit."""
    mfu: float | None
    bandwidth_share: float
    """Bytes that ops read and write per second; above 1 where caches helped."""
    flops_per_second: float | None
    bounds: dict[str, float]
    """What sets the least time of ops -> microseconds of that time."""
    untimed: dict[str, int]
    """Ops without a known least time -> how many."""
    tf32: bool = False
    """Whether they are those of TF32 where float32 is multiplied."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one model is and how long it takes on a device; JSON with the same keys.

    Counts are of one run, and None where they depend on values. `batch` is the leading size of the
    first input tensor that has a dimension, 1 where none has: throughput counts runs then. `dtype`
    is the data type of most bytes of parameters, or of the first input where there are none.
    """

    model: str
    device: str
    """As torch calls it."""
    device_name: str
    torch: str
    threads: int
    mode: str
    """``no_grad``, a forward pass without gradients, or ``training``, with loss and backward."""
    cache: str
    dtype: str
    batch: int
    ops: int
    params: int | None
    param_bytes: int | None
    flops: int | None
    """Of contractions, two for a multiply-add; leaves out the ops of `uncounted`."""
    coverage: float
    """The share of ops whose costs are known, 0 to 1."""
    uncounted: dict[str, int]
    """Ops whose costs are not known -> how many."""
    runs: tuple[Run, ...]
    """``eager`` first: the model called as it is, without anything that watches it."""
    sum_us: float
    """Microseconds of all ops together, each measured by itself."""
    residual_us: float
    """The median of ``eager`` less `sum_us`."""
    drift: float
    """Change of the model's time while it was measured, as a part of it."""
    launches: int | None
    """Kernels, copies and fills that one run launches; None where nothing is launched."""
    peak_bytes: int | None
    """The most memory of the device that one run allocates; None where it does not say."""
    predicted_peak_bytes: int | None
    """The same as the graph says."""
    critical_path_us: float | None
    """Latencies along the longest chain of ops that depend on each other."""
    limits: Limits | None
    """None where the limits of the device are not known."""
    nodes: tuple[TopNode, ...]
    """Longest first."""
    modules: tuple[TopModule, ...]
    """Longest first; no op is in two of them."""
    unstable: int = 0
    """Ops whose interquartile range is more than a tenth of their median."""
    phases: dict[str, float] = field(default_factory=dict)
    """Of a training step: part -> microseconds of its ops."""
    notes: tuple[str, ...] = ()
    """What else a reader has to know, a sentence each."""

    @property
    def eager(self) -> Run:
        """The run of the model as it is called."""
        return self.runs[0]


def to_json(found: Benchmark) -> bytes:
    """Return a benchmark as JSON."""
    content = {"format": FORMAT, "schema": SCHEMA, **asdict(found)}
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def write(found: Benchmark, path: Path) -> None:
    """Write a benchmark to `path` as JSON, to a temporary name that is then renamed.

    Raises FormatError where the file cannot be written.
    """
    write_file(path, to_json(found))


def from_json(content: bytes) -> Benchmark:
    """Return the benchmark that `to_json` turned into `content`.

    Raises FormatError for anything else.
    """
    try:
        told: Any = msgspec.json.decode(content)
        if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
            raise ValueError(f"it does not say that it is a {FORMAT}")
        version = told.pop("schema", None)
        if version != SCHEMA:
            raise ValueError(f"it is of version {version}, and this reads {SCHEMA}")
        return msgspec.convert(told, Benchmark)
    except (msgspec.MsgspecError, ValueError, RecursionError, AtlasError) as error:
        raise FormatError(
            f"this is no benchmark: {str(error)[:300]}",
            hint="`torchatlas bench --json` writes such files",
        ) from error
