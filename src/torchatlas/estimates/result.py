"""The result of an estimate, and how it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..devices import Device
from ..schema import Bound
from ..text import duration, number

_SHOWN = 10
"""Rows of each table that `Estimate` prints."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel, or what takes the place of one: the nodes that it runs and its least time.

    `node` is the last of `nodes`, which others read. `us` is in microseconds, and None where it
    is not known; `bound` is None there and for control flow, whose bodies run many kernels.
    """

    node: str
    nodes: tuple[str, ...]
    us: float | None
    bound: Bound | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model would take on a device at least; prints as tables with its assumptions."""

    model: str
    device: Device
    dtype: str | None
    """The type that floating-point tensors were put in; None for their own."""
    sizes: Mapping[str, int]
    us: float
    """Microseconds of all steps, one after the other; leaves out those of `untimed`."""
    unfused_us: float
    """The same with every op as a kernel of its own."""
    steps: tuple[Step, ...]
    modules: Mapping[str, float]
    """Path to microseconds of what runs inside; ``""`` is the whole model. A step counts for the
    modules around its last op."""
    peak_bytes: int | None
    """The most memory that an eager run needs at once."""
    untimed: Mapping[str, int]
    """Op to how many of them have no time: no rule counts them, or no rate is known."""
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool | None:
        """Whether the device's memory is enough; None where either is not known."""
        if self.peak_bytes is None or self.device.memory is None:
            return None
        return self.peak_bytes <= self.device.memory

    @property
    def throughput(self) -> float | None:
        """Runs per second; of a graph with the size ``batch``, samples. None if nothing runs."""
        return self.sizes.get("batch", 1) * 1e6 / self.us if self.us else None

    @property
    def bounds(self) -> dict[str, float]:
        """Microseconds by what sets them: ``compute``, ``memory``, ``launch``."""
        found: dict[str, float] = {}
        for step in self.steps:
            if step.us and step.bound is not None:
                found[step.bound] = found.get(step.bound, 0.0) + step.us
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold, times in microseconds."""
        told = ("throughput", "fits", "bounds")
        return asdict(self) | {name: getattr(self, name) for name in told}

    def __str__(self) -> str:
        steps = sorted((s for s in self.steps if s.us), key=lambda s: -(s.us or 0.0))
        slowest = [(_label(step), step.us or 0.0, step.bound or "") for step in steps[:_SHOWN]]
        tables = (
            self._head(),
            _table("module", [(path, us, "") for path, us in self._top_modules()], self.us),
            _table("slowest kernels", slowest, self.us),
            ["assumes that", *(f"- {text}" for text in self.assumptions)],
        )
        return "\n\n".join("\n".join(lines) for lines in tables)

    def _head(self) -> list[str]:
        how = [f"{name}={size}" for name, size in self.sizes.items()]
        how += [self.dtype] if self.dtype is not None else []
        rate = self.throughput
        unit = "samples/s" if "batch" in self.sizes else "runs/s"
        total = sum(self.bounds.values())
        shares = ", ".join(f"{bound} {us / total:.0%}" for bound, us in self.bounds.items())
        memory = number(self.peak_bytes, "B")
        if self.fits is not None:
            verdict = "fits" if self.fits else "does not fit"
            memory += f", of {number(self.device.memory, 'B')}: {verdict}"
        unknown = ", ".join(f"{op} x{count}" for op, count in sorted(self.untimed.items()))
        return [
            f"{self.model} on {self.device.name}" + (f" ({', '.join(how)})" if how else ""),
            f"time    {duration(self.us)}" + (f", {rate:,.0f} {unit}" if rate else ""),
            f"unfused {duration(self.unfused_us)}",
            f"bound   {shares or 'by nothing'}",
            f"memory  {memory}",
            *([f"without {unknown}"] if unknown else []),
        ]

    def _top_modules(self) -> Iterator[tuple[str, float]]:
        """Yield the modules two levels down that take a hundredth of the time, in order."""
        for path, us in self.modules.items():
            if path and path.count(".") < 2 and us > 0.01 * self.us:
                yield path, us


def _label(step: Step) -> str:
    others = len(step.nodes) - 1
    return f"{step.node} (and {others} before it)" if others else step.node


def _table(head: str, rows: Sequence[tuple[str, float, str]], whole: float) -> list[str]:
    width = max([len(head), *(len(name) for name, _, _ in rows)])
    lines = [
        f"{name:<{width}}  {duration(us):>8}  {us / whole:>4.0%}  {note}".rstrip()
        for name, us, note in rows
    ]
    return [f"{head:<{width}}  {'time':>8}  {'':>3}%", *lines]
