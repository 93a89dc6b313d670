"""Read ONNX files that others wrote: ONNX's own node tests, and models by four ways of export.

    python benchmarks/onnx_files.py --markdown benchmarks/results/onnx_files.md

Every node test of ONNX (a model, its inputs, and what it computes) is read twice, as it is and
without the declared shapes of its results: nothing may raise, and every shape must be that of
the real result. Then models of the test set are exported by torchatlas, by torch.onnx, by its
predecessor that goes through TorchScript, optimised and quantised by ONNX Runtime; their
multiply-adds must be those of the captured model.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import onnx
import onnxruntime
import torch

import models
import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.exporters import render
from torchatlas.frontends import onnx_file
from torchatlas.graph import build, inputs_of, op_nodes
from torchatlas.sums import totals

MODELS = ("resnet18", "mobilenet_v3_large", "vit_b_16", "swin_t", "bert", "gpt2", "t5", "lstm")


def read(content: bytes, name: str) -> ta.ModelGraph:
    records, attrs = onnx_file.read(content, name)
    graph, _ = build(records, **attrs)
    annotate(graph)
    ta.validate(graph)
    return graph


# -- ONNX's node tests -------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the node tests."""

    cases: int = 0
    raised: list[str] = field(default_factory=list)
    exact: int = 0
    symbolic: int = 0
    wrong: list[str] = field(default_factory=list)
    ops: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


def results(graph: ta.ModelGraph) -> Iterator[Any]:
    """Yield what is known of each output of a graph."""
    for name, node in graph.nodes(data=True):
        if node["kind"] == "output":
            ((source, output),) = inputs_of(graph, name).values()
            yield graph.nodes[source]["outputs"][output]


def compare(case: Any, model: onnx.ModelProto, tally: Tally) -> None:
    tally.cases += 1
    try:
        graph = read(model.SerializeToString(), case.name)
    except Exception as error:  # a benchmark lists whatever was raised
        tally.raised.append(f"{case.name}: {type(error).__name__}: {error}")
        return
    tally.ops.update(node["op"] for _, node in op_nodes(graph))
    tally.unknown.update(totals(graph).unknown)
    for meta, value in zip(results(graph), case.data_sets[0][1], strict=True):
        is_tensor = isinstance(value, onnx.TensorProto | np.ndarray | np.generic)
        shape = tuple(getattr(value, "dims", np.shape(value))) if is_tensor else None
        if meta is None or shape is None:
            tally.wrong += [case.name] if (meta is None) != (shape is None) else []
            continue
        known = [n for n in meta.shape if isinstance(n, int)]
        if len(known) == len(meta.shape):
            tally.exact += 1
            tally.wrong += [case.name] if meta.shape != shape else []
        else:
            tally.symbolic += 1
            unranked = str(meta.shape[0]).startswith("elements")
            pairs = zip(meta.shape, shape, strict=False)
            fits = len(meta.shape) == len(shape) and all(
                n == m for n, m in pairs if isinstance(n, int)
            )
            tally.wrong += [] if unranked or fits else [case.name]


def node_tests() -> tuple[Tally, Tally]:
    """Read all node tests, as they are and without the shapes of their results."""
    from onnx.backend.test.case.node import collect_testcases

    told, untold = Tally(), Tally()
    with np.errstate(all="ignore"):
        cases = collect_testcases(None)
    for case in cases:
        compare(case, case.model, told)
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for result in model.graph.output:
            if result.type.HasField("tensor_type"):
                result.type.tensor_type.ClearField("shape")
        compare(case, model, untold)
    return told, untold


# -- models ------------------------------------------------------------------------------------


@dataclass
class Row:
    """One file, read."""

    model: str
    way: str
    megabytes: float
    seconds: float
    ops: int
    macs: Any
    captured: int
    unknown: dict[str, int]
    """Ops that are not counted, with how many there are."""

    @property
    def is_equal(self) -> bool:
        """Whether the file costs what the model does."""
        return bool(self.macs == self.captured)


class Positional(torch.nn.Module):
    """Calls a model by position, and returns the tensors in its result."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return all tensors of the model's result, so that no exporter leaves one out."""
        called = dict(zip(self.names, tensors, strict=True)) if self.names else {}
        found = self.model(**called) if called else self.model(*tensors)
        return tuple(leaves(found))


def leaves(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict | tuple | list):
        for item in found.values() if isinstance(found, dict) else found:
            yield from leaves(item)


def made(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """Return a model of tensors by position, in the form that every exporter takes."""
    model, example = models.make(name)
    names = [*example] if isinstance(example, dict) else []
    args = tuple(example.values()) if names else (example,)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    return Positional(model, names).eval(), args


def by_torch(name: str, *, dynamo: bool) -> bytes:
    model, args = made(name)
    file = io.BytesIO()
    found = torch.onnx.export(model, args, file, dynamo=dynamo, verbose=False)
    return file.getvalue() if found is None else found.model_proto.SerializeToString()


def by_runtime(content: bytes, *, quantise: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(content)
        if quantise:
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(before, after)
        else:
            options = onnxruntime.SessionOptions()
            level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.graph_optimization_level = level
            options.optimized_model_filepath = str(after)
            options.log_severity_level = 4
            providers = ["CPUExecutionProvider"]
            onnxruntime.InferenceSession(str(before), options, providers=providers)
        return after.read_bytes()


def files(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield a model as each exporter writes it."""
    graph = ta.capture(*made(name), frontend="export")
    yield "torchatlas, executable", render(graph, "onnx")[0]
    yield "torchatlas, structure", render(graph, "onnx-structure")[0]
    dynamo = by_torch(name, dynamo=True)
    yield "torch.onnx", dynamo
    script = by_torch(name, dynamo=False)
    yield "TorchScript", script
    yield "TorchScript, ONNX Runtime", by_runtime(script, quantise=False)
    yield "TorchScript, 8 bits", by_runtime(script, quantise=True)


def measure(name: str) -> Iterator[Row]:
    captured = totals(ta.capture(*made(name))).macs
    assert isinstance(captured, int)
    ways = files(name)
    while True:
        try:
            way, content = next(ways)
        except StopIteration:
            return
        except Exception as error:  # of the exporter: the row says so
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            return
        began = time.perf_counter()
        graph = read(content, f"{name}.onnx")
        seconds = time.perf_counter() - began
        found = totals(graph)
        yield Row(
            name, way, len(content) / 1e6, seconds, found.ops, found.macs, captured,
            dict(found.unknown),
        )  # fmt: skip


# -- the page ----------------------------------------------------------------------------------


def tally_lines(name: str, tally: Tally) -> list[str]:
    total, unknown = sum(tally.ops.values()), sum(tally.unknown.values())
    return [
        f"| {name} | {tally.cases:,} | {len(tally.raised)} | {tally.exact:,} | "
        f"{tally.symbolic} | {len(tally.wrong)} | {total:,} | {1 - unknown / total:.2%} |"
    ]


def _number(count: Any) -> str:
    return f"{count:,}" if isinstance(count, int) else str(count)[:60]


def page(told: Tally, untold: Tally, rows: list[Row]) -> str:
    unknown = ", ".join(f"`{op}` x{n}" for op, n in told.unknown.most_common())
    lines = [
        "# ONNX files that others wrote",
        "",
        f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}.",
        "",
        "## ONNX's node tests",
        "",
        "| read | cases | raised | exact shapes | symbolic | wrong | ops | counted |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *tally_lines("as they are", told),
        *tally_lines("without the results' shapes", untold),
        "",
        f"{len(told.ops)} operators. Not counted: {unknown or 'none'}.",
        "",
        *(f"- raised: {line}" for line in told.raised + untold.raised),
        *(f"- wrong shape: {name}" for name in told.wrong + untold.wrong),
    ]
    if rows:
        lines += [
            "",
            "## Models",
            "",
            "Multiply-adds of the file as read, beside those of the captured model.",
            "",
            "| model | written by | MB | seconds to read | ops | MACs | captured | |",
            "|---|---|--:|--:|--:|--:|--:|---|",
            *(
                f"| {r.model} | {r.way} | {r.megabytes:.2f} | {r.seconds:.2f} | {r.ops} | "
                f"{_number(r.macs)} | {r.captured:,} | "
                f"{'equal' if r.is_equal else '**different**'}"
                f"{'' if not r.unknown else f', unknown: {r.unknown}'} |"
                for r in rows
            ),
        ]
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(models.ALL))
    parser.add_argument("--markdown", type=Path, help="write the page here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    told, untold = node_tests()
    rows = []
    for name in options.models:
        for row in measure(name):
            rows.append(row)
            print(f"{name:20} {row.way:28} {row.macs} of {row.captured}", file=sys.stderr)
    text = page(told, untold, rows)
    if options.markdown:
        options.markdown.write_text(text)
    sys.stdout.write(text)
    failed = told.raised or untold.raised or told.wrong or untold.wrong
    return 1 if failed or not all(row.is_equal for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
