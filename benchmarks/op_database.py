"""Count every operator of torch's own operator database, and say which have no rule.

For every operator of `op_db` (torch.testing._internal.common_methods_invocations) and every
sample input that it makes, the call is run on tensors without values and recorded twice: as it is
called (the ops before dispatch, as in an exported graph), and as it is executed, with its backward
pass where it has one (the ops below autograd, as in a training graph). Both graphs are built and
annotated. Wanted are no op without a rule, no exception, and no count that is not a non-negative
integer; a symbolic count (of an op whose result's size depends on values) is to be one for every
size. Samples that torch itself cannot run without values are left out, and listed; products of
sparse matrices, whose cost no shape tells, stay unknown on purpose, and are listed too.

Besides the samples in float32 (or the first data type that an operator has) a few are run in
complex64 and int64.

    python benchmarks/op_database.py --filter linalg --verbose
    python benchmarks/op_database.py --jobs 2 --markdown benchmarks/results/op_database.md
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import platform
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.testing._internal.common_methods_invocations import op_db

import torchatlas as ta
from torchatlas.annotations import annotate
from torchatlas.frontends import torch_api
from torchatlas.frontends.capture import Source
from torchatlas.frontends.fx_graph import read_trace
from torchatlas.graph import ModelGraph, build, op_nodes

COUNTS = ("macs", "flops", "flops_other", "flops_effective", "int_ops", "bytes_read")
EXTRA_DTYPES = (torch.complex64, torch.int64)
EXTRA_SAMPLES = 3

BEFORE, AFTER = "as called", "as executed"

UNTOLD = frozenset({"aten._sparse_sparse_matmul"})
"""Products of two sparse matrices: which elements meet depends on where they are stored, which
nothing but the run tells, so they are left unknown on purpose."""


@dataclass
class Report:
    """What became of the samples of one operator, or of all."""

    samples: int = 0
    operators: set[str] = field(default_factory=set)
    unsupported: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples that torch cannot run without values, by operator and reason."""
    without_backward: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples whose backward pass torch cannot run without values; their forward pass counts."""
    unknown: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Ops without a rule: when, the op, the operator of the database."""
    untold: Counter[str] = field(default_factory=Counter)
    """Ops of `UNTOLD`."""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Exceptions that torchatlas raised, by operator."""
    wrong: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Counts that are no non-negative integers: op, key and value, operator."""
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Ops by when and `cost_source`."""
    ops: set[tuple[str, str]] = field(default_factory=set)
    """Names of the ops met, by when."""

    def add(self, other: Report) -> None:
        """Take in what `other` found."""
        self.samples += other.samples
        self.operators |= other.operators
        self.ops |= other.ops
        for name, found in vars(other).items():
            if isinstance(found, Counter):
                getattr(self, name).update(found)

    @property
    def clean(self) -> bool:
        """Say whether every op had a rule and every count was right in kind."""
        return not (self.unknown or self.errors or self.wrong)


# -- from a call to an annotated graph ---------------------------------------------------------


@dataclass
class Call:
    """One operator with one sample: a function of the sample's tensors, which are fake."""

    mode: torch_api.FakeTensorMode
    function: Callable[..., Any]
    tensors: list[torch.Tensor]
    wanted: list[bool]
    """For each tensor, whether the sample asks for its gradient."""
    real: list[torch.Tensor]
    """The sample's own tensors."""


def prepare(operator: Any, sample: Any) -> Call:
    """Return the call of `operator` on fake copies of the tensors of `sample`."""
    environment = ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    mode = torch_api.FakeTensorMode(shape_env=environment)
    given = (sample.input, sample.args, sample.kwargs)
    leaves, spec = torch.utils._pytree.tree_flatten(given)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def function(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = torch.utils._pytree.tree_unflatten(filled, spec)
        found = operator(first, *args, **kwargs)
        return [leaf for leaf in torch_api.tree_leaves(found) if leaf is not None]

    tensors = [mode.from_tensor(leaves[place].detach(), static_shapes=True) for place in places]
    real = [leaves[place] for place in places]
    return Call(mode, function, tensors, [tensor.requires_grad for tensor in real], real)


def with_backward(call: Call) -> Callable[..., Any]:
    """Return a function that also takes the gradients of the sum of what `call` returns."""

    def both(*tensors: torch.Tensor) -> Any:
        leaves = [
            t.detach().requires_grad_() if wanted else t
            for t, wanted in zip(tensors, call.wanted, strict=True)
        ]
        results = [out for out in call.function(*leaves) if isinstance(out, torch.Tensor)]
        wanted = [t for t in leaves if t.requires_grad]
        reached = [out for out in results if out.requires_grad]
        grads = torch.autograd.grad(
            reached, wanted, list(map(torch.ones_like, reached)), allow_unused=True
        )
        return [*results, *(grad for grad in grads if grad is not None)]

    return both


def graph_of(call: Call, function: Callable[..., Any], *, dispatched: bool) -> ModelGraph:
    """Trace `function` on the tensors of `call` and return its graph, not yet annotated.

    Errors of torch come as `UnsupportedError`, all others as they are.
    """
    try:
        with torch_api.quiet(), call.mode:
            program = make_fx(function, pre_dispatch=not dispatched)(*call.tensors)
    except Exception as error:
        raise UnsupportedError(reason(error)) from error
    placeholders = program.graph.find_nodes(op="placeholder")
    real = dict(zip((node.name for node in placeholders), call.real, strict=True))
    graph, ids = build(read_trace(program, real), name="")
    graph.source = Source("trace", program, {}, ids=ids)
    return graph


class UnsupportedError(Exception):
    """Torch cannot run a sample on tensors without values."""


def reason(error: BaseException) -> str:
    """Return the first line of an error, cut to a readable length."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:70]}"


# -- one operator ------------------------------------------------------------------------------


def samples(operator: Any, dtype: torch.dtype) -> Iterator[Any]:
    """Yield the sample inputs of `operator`, the same ones every time."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from operator.sample_inputs(
            "cpu", dtype, requires_grad=_differentiable(operator, dtype)
        )


def _differentiable(operator: Any, dtype: torch.dtype) -> bool:
    return operator.supports_autograd and dtype in operator.supported_backward_dtypes("cpu")


def plan(operator: Any, limit: int | None) -> list[tuple[torch.dtype, int | None]]:
    """Return the data types to try and how many samples of each: float32 or the first, and two."""
    supported = sorted(operator.supported_dtypes("cpu"), key=str)
    if not supported:
        return []
    first = torch.float32 if torch.float32 in supported else supported[0]
    others = (dtype for dtype in EXTRA_DTYPES if dtype in supported and dtype != first)
    fewer = EXTRA_SAMPLES if limit is None else min(limit, EXTRA_SAMPLES)
    return [(first, limit), *((dtype, fewer) for dtype in others)]


def title(operator: Any) -> str:
    """Return the name of `operator` in the database."""
    return f"{operator.name}.{operator.variant_test_name}".rstrip(".")


def check(operator: Any, limit: int | None = None) -> Report:
    """Count `operator` on its samples, at most `limit` of the first data type."""
    report = Report()
    planned = plan(operator, limit)
    if not planned:
        report.unsupported[title(operator), "no data type on a CPU"] += 1
    for dtype, most in planned:
        try:
            chosen = list(itertools.islice(samples(operator, dtype), most))
        except Exception as error:  # torch cannot make the samples
            report.unsupported[title(operator), f"no samples: {reason(error)}"] += 1
            continue
        for sample in chosen:
            with _without_collection():
                check_sample(operator, sample, report)
    return report


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from ending torch's half-read sample generators while a call is traced.

    They hold a ``no_grad``, and leaving that would be recorded.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def check_sample(operator: Any, sample: Any, report: Report) -> None:
    """Record, build and annotate one sample twice, and add what was found to `report`."""
    name = title(operator)
    try:
        call = prepare(operator, sample)
        count(graph_of(call, call.function, dispatched=False), BEFORE, name, report)
    except UnsupportedError as error:
        report.unsupported[name, str(error)] += 1
        return
    except Exception as error:
        report.errors[name, place(error)] += 1
        return
    report.samples += 1
    report.operators.add(name)
    try:
        count(executed(operator, sample, report), AFTER, name, report)
    except UnsupportedError as error:
        report.unsupported[name, f"{AFTER}: {error}"] += 1
    except Exception as error:
        report.errors[name, place(error)] += 1


def executed(operator: Any, sample: Any, report: Report) -> ModelGraph:
    """Return the graph of the ops below autograd, with the backward pass where there is one."""
    call = prepare(operator, sample)
    if any(call.wanted):
        try:
            return graph_of(call, with_backward(call), dispatched=True)
        except UnsupportedError as error:
            report.without_backward[title(operator), str(error)] += 1
            call = prepare(operator, sample)
    return graph_of(call, call.function, dispatched=True)


def count(graph: ModelGraph, when: str, operator: str, report: Report) -> None:
    """Annotate `graph` and add its ops to `report`."""
    annotate(graph)
    for _, node in op_nodes(graph):
        op = node["op"]
        report.ops.add((when, op))
        report.sources[when, node["cost_source"]] += 1
        if node["flops"] is None:
            if op in UNTOLD:
                report.untold[op] += 1
            else:
                report.unknown[when, op, operator] += 1
            continue
        for key in COUNTS:
            if not is_count(node[key]):
                report.wrong[op, f"{key} {node[key]}", operator] += 1


def is_count(value: Any) -> bool:
    """Say whether `value` is a non-negative integer, for a symbolic one at every size tried.

    >>> is_count(3), is_count(3.0), is_count(-1)
    (True, False, False)
    >>> n = sympy.Symbol("n", integer=True, positive=True)
    >>> is_count(n * (n - 1) / 2), is_count(n / 2), is_count(n - 6)
    (True, False, False)
    """
    if isinstance(value, sympy.Expr):
        tried = (value.subs(dict.fromkeys(value.free_symbols, n)) for n in (1, 5, 12))
        return all(v.is_Integer and v >= 0 for v in tried)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def place(error: BaseException) -> str:
    """Describe an error of torchatlas with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{reason(error)} ({Path(frame.filename).name}:{frame.lineno})"


# -- the whole database ------------------------------------------------------------------------


def check_at(index: int, limit: int | None) -> Report:
    """Check one operator by its place in the database (which a worker process has too)."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    report = check(op_db[index], limit)
    taken = time.perf_counter() - begin
    if taken > SLOW:
        print(f"{title(op_db[index])}: {taken:.0f} s", file=sys.stderr, flush=True)
    return report


SLOW = 20.0
"""Seconds after which an operator is named while the benchmark runs."""


def sweep(chosen: list[int], jobs: int, limit: int | None = None) -> Report:
    """Check the operators at the places `chosen`."""
    total = Report()
    for report in _reports(chosen, jobs, limit):
        total.add(report)
    return total


def _reports(chosen: list[int], jobs: int, limit: int | None) -> Iterable[Report]:
    if jobs == 1:
        yield from (check_at(index, limit) for index in chosen)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        yield from pool.map(check_at, chosen, [limit] * len(chosen), chunksize=4)


# -- printing ----------------------------------------------------------------------------------


def show(report: Report, seconds: float, *, verbose: bool) -> str:
    """Return the report as Markdown."""
    nodes = sum(report.sources.values())
    lines = [
        "# Torch's operator database",
        "",
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__},"
        f" torchatlas {ta.__version__}.",
        "",
        f"- operators with a sample that runs without values: {len(report.operators)},"
        f" samples: {report.samples}",
        f"- of these without their backward pass, which torch cannot run without values:"
        f" {sum(report.without_backward.values())}",
        f"- ops recorded: {nodes} ({_distinct(report, BEFORE)} distinct {BEFORE},"
        f" {_distinct(report, AFTER)} {AFTER})",
        f"- ops with no rule: {len({op for _, op, _ in report.unknown})}",
        f"- ops whose count no shape tells, left unknown: {', '.join(sorted(report.untold)) or 0}",
        f"- exceptions: {sum(report.errors.values())}",
        f"- counts that are no non-negative integer: {sum(report.wrong.values())}",
        f"- seconds: {seconds:.0f}",
    ]
    lines += _sources(report)
    lines += _section("Ops with no rule", _by_op(report.unknown))
    lines += _section("Exceptions", [f"{op}: {text}" for op, text in sorted(report.errors)])
    lines += _section("Wrong counts", [" ".join(key) for key in sorted(report.wrong)])
    lines += _section("Samples that torch does not run without values", _grouped(report))
    if verbose:
        failed = [f"{n} x {op}: {why}" for (op, why), n in sorted(report.unsupported.items())]
        lines += _section("The same, one by one", failed)
        failed = [f"{n} x {op}: {why}" for (op, why), n in sorted(report.without_backward.items())]
        lines += _section("Backward passes, one by one", failed)
    return "\n".join(lines) + "\n"


def _distinct(report: Report, when: str) -> int:
    return sum(found == when for found, _ in report.ops)


def _sources(report: Report) -> list[str]:
    lines = ["", f"| counted by | {BEFORE} | {AFTER} |", "|---|--:|--:|"]
    whole = {
        when: sum(n for (w, _), n in report.sources.items() if w == when) or 1
        for when in (BEFORE, AFTER)
    }
    for source in sorted({source for _, source in report.sources}):
        shares = (f"{100 * report.sources[when, source] / n:.1f} %" for when, n in whole.items())
        lines.append(f"| {source} | {' | '.join(shares)} |")
    return lines


def _by_op(unknown: Counter[tuple[str, str, str]]) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for when, op, operator in sorted(unknown):
        found.setdefault((op, when), []).append(operator)
    return [f"{op} ({when}): {', '.join(names[:4])}" for (op, when), names in found.items()]


def _grouped(report: Report) -> list[str]:
    groups: dict[str, set[str]] = {}
    times: Counter[str] = Counter()
    for (operator, why), n in report.unsupported.items():
        groups.setdefault(why, set()).add(operator)
        times[why] += n
    return [
        f"{n} x {why} ({', '.join(sorted(groups[why])[:6])}{', …' if len(groups[why]) > 6 else ''})"
        for why, n in times.most_common()
    ]


def _section(heading: str, items: list[str]) -> list[str]:
    return ["", f"## {heading}", "", *(f"- {item}" for item in items or ["none"])]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--filter", default="", help="only operators whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="only every so many operators")
    parser.add_argument("--limit", type=int, help="at most so many samples of each operator")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="also write the report here")
    parser.add_argument("--verbose", action="store_true", help="list every sample that fails")
    return parser.parse_args()


def main() -> int:
    """Print the report; return 1 unless every op has a rule and every count is right in kind."""
    options = arguments()
    chosen = [i for i, operator in enumerate(op_db) if options.filter in title(operator)]
    begin = time.perf_counter()
    report = sweep(chosen[:: options.every], options.jobs, options.limit)
    seconds = time.perf_counter() - begin
    print(show(report, seconds, verbose=options.verbose))
    if options.markdown is not None:
        options.markdown.write_text(show(report, seconds, verbose=False))
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
