"""Capture what others wrote to judge with: torch's export examples and its module database.

Every example of `torch._export.db` is captured; where one is labelled unsupported, an error that
torchatlas raises on purpose is right too. Where torch's own example names dynamic sizes, it is
captured with these as well. Every module of torch's `module_db`
(torch.testing._internal.common_modules) is captured with each of its sample inputs, in training
and in evaluation mode where the two differ, by the front end that serves and by `trace`. The
tensors that a graph returns are to have the shapes and data types of those that the model returns.

    python benchmarks/judges.py --filter cond
    python benchmarks/judges.py --markdown benchmarks/results/judges.md

Needs `pip install torchatlas[test]`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._export.db.case import SupportLevel
from torch._export.db.examples import all_examples
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.common_modules import module_db
from torch.utils._pytree import tree_map_only

import torchatlas as ta
from torchatlas.errors import AtlasError
from torchatlas.schema import TensorMeta

FRONTENDS = ("auto", "trace")
Returned = list[tuple[tuple[Any, ...], str]]


@dataclass
class Verdict:
    """What became of one case: of one example, or of one module with all its samples."""

    name: str
    captures: int = 0
    served: Counter[str] = field(default_factory=Counter)
    """The front ends that served, where `auto` chose."""
    specialised: int = 0
    """Captures that hold for the values of the sample alone."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Ops without a rule for their cost."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Wrong results, and errors where none was allowed: in which capture, and what."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """Errors that were allowed, and what the model or torch itself does not do."""


# -- one capture -------------------------------------------------------------------------------


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a model returns, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, f.name) for f in dataclasses.fields(value)])
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def returned_by(value: Any) -> Returned:
    """Return the shape and the data type of each tensor that a model returned."""
    return [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors(value)]


def returned_in(graph: ta.ModelGraph) -> Returned:
    """Return the shape and the data type of each tensor that a graph says is returned."""
    outputs = [node for name, node in graph.nodes(data=True) if node["kind"] == "output"]
    metas = [
        node["args"].get("value")
        for node in sorted(outputs, key=lambda node: node["index"])
        if not node["target"].startswith("output/mutated")
    ]
    return [(meta.shape, meta.dtype) for meta in metas if isinstance(meta, TensorMeta)]


def agree(graph: Returned, eager: Returned) -> bool:
    """Say whether shapes and data types are equal; a size that values decide may be a symbol.

    >>> agree([((3, 2), "float32")], [((3, 2), "float32")])
    True
    >>> agree([((3, 2), "float32")], [((3, 4), "float32")])
    False
    """
    return len(graph) == len(eager) and all(
        ours == theirs
        and len(shape) == len(sizes)
        and all(not isinstance(a, int) or a == b for a, b in zip(shape, sizes, strict=True))
        for (shape, ours), (sizes, theirs) in zip(graph, eager, strict=True)
    )


def try_capture(verdict: Verdict, model: nn.Module, args: Any, frontend: str, label: str) -> None:
    """Capture `model` and compare what the graph returns with what the model returns.

    Where the model itself raises, an error that torchatlas raises on purpose is right.
    """
    label = f"{label}, {frontend}"
    eager, raised = run(model, args)
    try:
        graph = ta.capture(copy.deepcopy(model), copy.deepcopy(args), frontend=frontend)
        ta.validate(graph)
    except Exception as error:
        if raised is not None and isinstance(error, AtlasError):
            verdict.notes.append((label, f"the model itself raises: {_line(raised)}"))
        else:
            verdict.faults.append((label, _line(error)))
        return
    verdict.captures += 1
    verdict.unknown.update(ta.totals(graph).unknown)
    verdict.specialised += bool(graph.graph.get("specialised"))
    if frontend == "auto":
        verdict.served[graph.graph["frontend"]] += 1
    if raised is not None:
        verdict.faults.append((label, f"captured, but the model raises: {_line(raised)}"))
    elif not agree(returned_in(graph), eager):
        text = f"returns {returned_in(graph)}, not {eager}"
        if agree(returned_in(graph), run(model, args, fake=True)[0]):
            verdict.notes.append((label, f"{text}: so say torch's own fake tensors"))
        else:
            verdict.faults.append((label, text))


def run(model: nn.Module, args: Any, *, fake: bool = False) -> tuple[Returned, Exception | None]:
    """Return what a copy of `model` returns on the example, or what it raises."""
    positional, named = copy.deepcopy(args)
    torch.manual_seed(0)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()
    if fake:
        positional, named = tree_map_only(torch.Tensor, mode.from_tensor, (positional, named))
    try:
        with torch.no_grad(), mode:
            return returned_by(copy.deepcopy(model)(*positional, **named)), None
    except Exception as error:
        return [], error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' | '.join(str(error).splitlines())[:300]}"


# -- torch's export examples -------------------------------------------------------------------


def judge_example(name: str) -> Verdict:
    """Capture one example of `torch._export.db` with every front end, and with dynamic sizes."""
    case = all_examples()[name]
    verdict = Verdict(name)
    args = (tuple(case.example_args), dict(case.example_kwargs))
    for frontend in FRONTENDS:
        try_capture(verdict, case.model, args, frontend, "as it is")
    if case.dynamic_shapes:
        _with_dynamic_sizes(verdict, case, args)
    return verdict


def _with_dynamic_sizes(verdict: Verdict, case: Any, args: Any) -> None:
    sizes = {
        argument: {dim: f"{argument}_{dim}" for dim in dims}
        for argument, dims in case.dynamic_shapes.items()
        if dims
    }
    try:
        graph = ta.capture(copy.deepcopy(case.model), copy.deepcopy(args), dynamic=sizes)
        ta.validate(graph)
    except Exception as error:
        allowed = case.support_level != SupportLevel.SUPPORTED and isinstance(error, AtlasError)
        found = verdict.notes if allowed else verdict.faults
        found.append(("dynamic, unsupported by torch" if allowed else "dynamic", _line(error)))
    else:
        verdict.captures += 1
        verdict.notes.append(("dynamic", ", ".join(graph.graph.get("symbols", ()))))


# -- torch's module database -------------------------------------------------------------------


def judge_module(info: Any, limit: int | None = None) -> Verdict:
    """Capture one module of `module_db` with each of its samples, or the first `limit`."""
    verdict = Verdict(info.name)
    for training in (False, True) if info.train_and_eval_differ else (False,):
        for label, model, args in itertools.islice(_cases(info, training), limit):
            if info.is_lazy:
                _judge_lazy(verdict, model, args, label)
            for frontend in FRONTENDS:
                try_capture(verdict, model, args, frontend, label)
    return verdict


def _cases(info: Any, training: bool) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield the samples of a module: in float32, or in float64 where it runs in that alone."""
    singles, doubles = (_samples(info, training, dtype) for dtype in (torch.float32, torch.float64))
    for number, (single, double) in enumerate(zip(singles, doubles, strict=True)):
        model, args = _made(info, single, training)
        if not info.is_lazy and run(model, args)[1] is not None:
            model, args = _made(info, double, training)
        label = f"sample {number} {single.desc}".rstrip()
        yield label + (", training" if training else ""), model, args


def _made(info: Any, sample: Any, training: bool) -> tuple[nn.Module, Any]:
    made, given = sample.constructor_input, sample.forward_input
    model = info.module_cls(*made.args, **made.kwargs).train(training)
    return model, (tuple(given.args), dict(given.kwargs))


def _samples(info: Any, training: bool, dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    found: list[Any] = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=training
    )
    return [sample for sample in found if sample.forward_input is not None]


def _judge_lazy(verdict: Verdict, model: nn.Module, args: Any, label: str) -> None:
    """See that a module whose weights have no shape yet gives a named error, then give them one."""
    try:
        ta.capture(copy.deepcopy(model), args)
    except AtlasError as error:
        verdict.notes.append((f"{label}, before its first call", _line(error)))
    except Exception as error:
        verdict.faults.append((f"{label}, before its first call", _line(error)))
    model(*args[0], **args[1])


# -- printing ----------------------------------------------------------------------------------


def table(title: str, verdicts: list[Verdict], detailed: bool) -> list[str]:
    """Return the verdicts as lines of Markdown; without `detailed` only what is exceptional."""
    served = Counter[str]()
    for verdict in verdicts:
        served.update(verdict.served)
    good = sum(not verdict.faults for verdict in verdicts)
    lines = [
        f"## {title}",
        "",
        f"{good} of {len(verdicts)} as they should be, in"
        f" {sum(verdict.captures for verdict in verdicts)} captures."
        f" Chosen by `auto`: {', '.join(f'{k} {n}' for k, n in served.most_common())}."
        f" Specialised to the values of a sample: {sum(v.specialised for v in verdicts)}."
        f" Ops without a rule: {_unknown(verdicts)}.",
        "",
    ]
    shown = [v for v in verdicts if detailed or v.faults or v.notes or v.specialised]
    if shown:
        lines += ["| case | captures | specialised | served | notes |", "|---|--:|--:|---|---|"]
    for v in shown:
        said = [*(f"**{text}**" for text in _grouped(v.faults)), *_grouped(v.notes)]
        text = "<br>".join(said).replace("|", "\\|")
        count = v.specialised or ""
        lines.append(f"| {v.name} | {v.captures} | {count} | {', '.join(v.served)} | {text} |")
    return [*lines, ""]


def _grouped(remarks: list[tuple[str, str]]) -> list[str]:
    """Return each text once, with the first capture that it is about and how many more."""
    groups: dict[str, list[str]] = {}
    for label, text in remarks:
        groups.setdefault(text, []).append(label)
    more = {text: f" and {len(labels) - 1} more" for text, labels in groups.items()}
    return [
        f"{labels[0]}{more[text] if len(labels) > 1 else ''}: {text}"
        for text, labels in groups.items()
    ]


def _unknown(verdicts: list[Verdict]) -> str:
    found = Counter[str]()
    for verdict in verdicts:
        found.update(verdict.unknown)
    return ", ".join(f"{op} x{n}" for op, n in found.most_common()) or "none"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--judge", choices=("examples", "modules", "both"), default="both")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="also write the report here")
    return parser.parse_args()


def main() -> int:
    """Print the verdicts; return 1 unless all cases are as they should be."""
    options = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    begin = time.perf_counter()
    examples, modules = [], []
    if options.judge != "modules":
        names = [name for name in sorted(all_examples()) if options.filter in name]
        examples = [judge_example(name) for name in names]
    if options.judge != "examples":
        modules = [judge_module(info) for info in module_db if options.filter in info.name]
    lines = [
        "# Cases that others wrote",
        "",
        f"`python benchmarks/judges.py`, {platform.system()}, Python {platform.python_version()},"
        f" torch {torch.__version__}, torchatlas {ta.__version__};"
        f" {time.perf_counter() - begin:.0f} s.",
        "",
    ]
    if examples:
        lines += table("torch._export.db", examples, detailed=True)
    if modules:
        lines += table("module_db", modules, detailed=False)
    text = "\n".join(lines)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text)
    return 1 if any(verdict.faults for verdict in [*examples, *modules]) else 0


if __name__ == "__main__":
    sys.exit(main())
