"""Measure what annotating a graph costs per node, and whether that grows linearly.

    python benchmarks/annotate.py --markdown benchmarks/results/annotate.md

The graphs are those of a transformer of as many blocks as it takes (each 16 parameters and 24
ops: norms, linear layers, views, attention, residuals), made by `torchatlas.graph.build` without
a model. In one variant every block is like the one before it, as in most networks; in the other
every block sees one token less than the one before, so that no op of a block has the sizes of an
op of another, and nothing counted once can be used again. Every run annotates a fresh graph.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import platform
import re
import statistics
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torchatlas.annotations import DEFAULT
from torchatlas.graph import ModelGraph, build
from torchatlas.records import OpRecord, Value
from torchatlas.schema import Module, TensorMeta

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
LIMIT = 30.0
"""Microseconds per node that annotating may take."""

WIDTH, HEADS, INNER, TOKENS = 256, 4, 1024, 1_000_000
PARAMETERS = {
    "norm1": ((WIDTH,), (WIDTH,)),
    **dict.fromkeys(("query", "key", "value", "out"), ((WIDTH, WIDTH), (WIDTH,))),
    "norm2": ((WIDTH,), (WIDTH,)),
    "wide": ((INNER, WIDTH), (INNER,)),
    "narrow": ((WIDTH, INNER), (WIDTH,)),
}


def _meta(*shape: int) -> TensorMeta:
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * size)
    return TensorMeta(shape, "float32", "cpu", tuple(reversed(steps)))


@dataclass
class Writer:
    """Writes the records of a transformer, block after block."""

    records: list[OpRecord] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    stack: tuple[Module, ...] = ()

    def add(self, kind: Any, shape: tuple[int, ...], **parts: Any) -> Value:
        """Add a record with one output; `base` is whose memory that shares."""
        key, base = f"r{len(self.records)}", parts.pop("base", None)
        self.memory[key] = self.memory[base.key] if base else key
        outputs, storages = (_meta(*shape),), (self.memory[key],)
        self.records.append(
            OpRecord(key, kind, outputs=outputs, storages=storages, stack=self.stack, **parts)
        )
        return Value(key)

    def op(self, op: str, shape: tuple[int, ...], tag: str = "", /, **args: Any) -> Value:
        """Add an op; a view shares the memory of its first argument."""
        tags = (tag,) if tag else ()
        base = next(iter(args.values())) if tag == "view" else None
        return self.add("op", shape, op=f"aten.{op}", tags=tags, base=base, args=args)

    def weights(self, path: str) -> dict[str, dict[str, Value]]:
        """Add the parameters of a block; return them by layer."""
        return {
            layer: {
                name: self.add("parameter", shape, target=f"{path}.{layer}.{name}")
                for name, shape in zip(("weight", "bias"), shapes, strict=True)
            }
            for layer, shapes in PARAMETERS.items()
        }

    def block(self, index: int, x: Value, tokens: int) -> Value:
        """Add a block that sees `tokens` tokens; return its result."""
        path = f"layers.{index}"
        self.stack = (Module("", "Model"), Module(path, "Block"))
        layers, whole = self.weights(path), (1, tokens, WIDTH)
        x = self.op("slice", whole, "view", self=x, dim=1, start=0, end=tokens, step=1)
        normed = self._norm(x, layers["norm1"], whole)
        parts = {name: self._head(normed, layers[name], tokens) for name in PARAMETERS
                 if name in ("query", "key", "value")}  # fmt: skip
        split = (1, HEADS, tokens, WIDTH // HEADS)
        mixed = self.op("scaled_dot_product_attention", split, **parts)
        rows = (1, tokens, HEADS, WIDTH // HEADS)
        mixed = self.op("transpose", rows, "view", self=mixed, dim0=1, dim1=2)
        mixed = self.op("reshape", whole, self=mixed, shape=whole)
        out = self.op("linear", whole, input=mixed, **layers["out"])
        out = self.op("dropout", whole, "view", input=out, p=0.1, train=False)
        x = self.op("add", whole, "pointwise", self=x, other=out)
        normed = self._norm(x, layers["norm2"], whole)
        inner = (1, tokens, INNER)
        wide = self.op("linear", inner, input=normed, **layers["wide"])
        wide = self.op("gelu", inner, "pointwise", self=wide)
        narrow = self.op("linear", whole, input=wide, **layers["narrow"])
        narrow = self.op("dropout", whole, "view", input=narrow, p=0.1, train=False)
        return self.op("add", whole, "pointwise", self=x, other=narrow)

    def _norm(self, x: Value, weights: dict[str, Value], shape: tuple[int, ...]) -> Value:
        return self.op("layer_norm", shape, input=x, normalized_shape=(WIDTH,), **weights)

    def _head(self, x: Value, weights: dict[str, Value], tokens: int) -> Value:
        whole, rows = (1, tokens, WIDTH), (1, tokens, HEADS, WIDTH // HEADS)
        made = self.op("linear", whole, input=x, **weights)
        made = self.op("view", rows, "view", self=made, size=rows)
        split = (1, HEADS, tokens, WIDTH // HEADS)
        return self.op("transpose", split, "view", self=made, dim0=1, dim1=2)


def transformer(nodes: int, distinct: bool) -> ModelGraph:
    """Make a graph of about `nodes` nodes whose blocks are `distinct` or alike."""
    writer = Writer()
    x = writer.add("input", (1, TOKENS, WIDTH), target="x")
    index = 0
    while len(writer.records) < nodes:
        x = writer.block(index, x, TOKENS - index if distinct else TOKENS)
        index += 1
    graph, _ = build(writer.records, name="Transformer")
    return graph


@dataclass(frozen=True)
class Row:
    """What annotating graphs of one size took: seconds of every run, by annotation."""

    nodes: int
    runs: tuple[dict[str, float], ...]

    @property
    def seconds(self) -> float:
        """Median of the whole over the runs."""
        return statistics.median(sum(run.values()) for run in self.runs)

    @property
    def each(self) -> float:
        """Microseconds per node."""
        return 1e6 * self.seconds / self.nodes

    @property
    def least(self) -> float:
        """Microseconds per node in the fastest run."""
        return 1e6 * min(sum(run.values()) for run in self.runs) / self.nodes

    def part(self, name: str) -> float:
        """Return the microseconds per node of one annotation."""
        return 1e6 * statistics.median(run[name] for run in self.runs) / self.nodes


def _run(graph: ModelGraph) -> dict[str, float]:
    """Annotate a graph as `torchatlas.annotate` does; return the seconds of each annotation."""
    gc.collect()
    found = {}
    for annotation in DEFAULT:
        begin = time.process_time()
        annotation(graph)
        found[annotation.__name__] = time.process_time() - begin
    return found


def measure(sizes: list[int], distinct: bool, repeat: int) -> list[Row]:
    _run(transformer(sizes[0], distinct))  # fills caches
    rows = []
    for size in sizes:
        graphs = (transformer(size, distinct) for _ in range(repeat))
        found = [(len(graph), _run(graph)) for graph in graphs]
        rows.append(Row(found[0][0], tuple(run for _, run in found)))
    return rows


def _growth(rows: list[Row]) -> str:
    """Say by which power of the nodes the time grows."""
    small, large = rows[0], rows[-1]
    if small.nodes == large.nodes:
        return ""
    time_ratio, node_ratio = large.seconds / small.seconds, large.nodes / small.nodes
    power = math.log(time_ratio) / math.log(node_ratio)
    return (
        f"From {small.nodes:,} to {large.nodes:,} nodes the time grows {time_ratio:.1f} times "
        f"for {node_ratio:.1f} times the nodes (power {power:.2f}; linear is 1)."
    )


def _section(title: str, rows: list[Row]) -> list[str]:
    worst = max(row.each for row in rows)
    verdict = "within" if worst <= LIMIT else "ABOVE"
    names = [annotation.__name__ for annotation in DEFAULT]
    head = ["nodes", "seconds", "µs per node", "at best", *names]
    cells = (
        [f"{row.nodes:,}", f"{row.seconds:.4f}", f"{row.each:.1f}", f"{row.least:.1f}"]
        + [f"{row.part(name):.1f}" for name in names]
        for row in rows
    )
    return [
        f"## {title}",
        "",
        f"| {' | '.join(head)} |",
        f"|{'--:|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
        f"At most {worst:.1f} µs per node: **{verdict}** the limit of {LIMIT:.0f}. {_growth(rows)}",
        "",
    ]


def _about(repeat: int) -> list[str]:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        cpu = found[1].strip() if found else cpu
    version = metadata.version("torchatlas")
    return [
        "# What annotating costs",
        "",
        f"{cpu}, Python {platform.python_version()}, torchatlas {version}.",
        "",
        f"Seconds of processor time, the median of {repeat} runs of what `annotate` runs, each on",
        "a fresh graph, with the garbage collector at work; nodes include parameters. The last",
        "columns are the microseconds per node of each annotation. The machine did other things",
        "too.",
        "",
    ]


def options() -> argparse.Namespace:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=list(SIZES), metavar="N",
                        help=f"default: {' '.join(map(str, SIZES))}")  # fmt: skip
    parser.add_argument("--repeat", type=int, default=5, help="runs for each size (5)")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="also write the page here")
    return parser.parse_args()


def main() -> None:
    """Measure both variants and print the page."""
    chosen = options()
    lines = _about(chosen.repeat)
    variants = {"Every block alike": False, "Every block of other sizes": True}
    for title, distinct in variants.items():
        lines += _section(title, measure(chosen.nodes, distinct, chosen.repeat))
    page = "\n".join(lines).rstrip() + "\n"
    print(page)
    if chosen.markdown:
        chosen.markdown.write_text(page)


if __name__ == "__main__":
    main()
