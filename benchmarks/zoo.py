"""Capture every architecture of timm, torchvision or transformers, and say what became of each.

    python benchmarks/zoo.py --family timm --sample 40
    python benchmarks/zoo.py --family timm --results zoo_timm.jsonl --markdown zoo_timm.md
    python benchmarks/zoo.py --family timm --sample 100 --compare export --results cmp.jsonl

Each architecture is captured in a process of its own, forked from this one after torch and the
package are imported: one that crashes, hangs or takes all memory is a result and not the end.
Every result is appended to ``--results`` as a line of JSON as soon as it is there, and a second
run goes on where the first one stopped (``--retry`` repeats what failed). timm's and
torchvision's models have no weights; transformers' are tiny, and only those count that run
without torchatlas: see `zoo_models.py`.

``--compare export`` captures with the front ends `trace` and `export` instead, and lists where
their ops per module or their totals differ; where they do, it says whether that is explained by a
module that stands under two paths, or by a model that asks whether it is exported.
``--compare replay`` compares `trace` with and without repeated modules being replayed, to the
letter. Needs `pip install torchatlas[zoo]` and a system that can fork.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import multiprocessing as mp
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import zoo_report
from zoo_models import FAMILIES, Entry, NoExampleError, entries, make, select
from zoo_report import CAPTURED

Result = dict[str, Any]
_FORK = mp.get_context("fork")


# -- one architecture, in a process of its own -------------------------------------------------


def examine(family: str, entry: Entry, frontend: str, compare: str | None) -> Result:
    """Make and capture one architecture, and return what became of it."""
    result: Result = {"family": family, "name": entry.name, "group": entry.group}
    if compare:
        result["compare"] = compare
    begin = time.perf_counter()
    try:
        made = make(family, entry)
    except NoExampleError as error:
        return {**result, "status": "no example", "error": str(error)}
    except Exception as error:
        return {**result, "status": "not made", "error": reason(error)}
    result.update(build_s=_since(begin), **made.notes)
    begin = time.perf_counter()
    try:
        if compare is None:
            result.update(_capture(made, frontend, begin))
        else:
            import zoo_compare

            result.update(zoo_compare.COMPARISONS[compare](made))
            result["capture_s"] = _since(begin)
    except Exception as error:
        result.update(status="failed", error=reason(error), capture_s=_since(begin))
    return result


def _capture(made: Any, frontend: str, begin: float) -> Result:
    import torchatlas as ta

    graph = ta.capture(made.model, made.example, frontend=frontend)
    seconds = _since(begin)
    ta.validate(graph)
    totals = ta.totals(graph)
    return {
        "status": "captured",
        "frontend": graph.graph["frontend"],
        "attempts": list(graph.graph["attempts"]),
        "specialised": bool(graph.graph.get("specialised")),
        "decisions": list(map(str, graph.graph.get("decisions", ())))[:5],
        "capture_s": seconds,
        "nodes": len(graph),
        "ops": totals.ops,
        "macs": number(totals.macs),
        "flops": number(totals.flops),
        "params": number(totals.params),
        "coverage": round(totals.coverage, 6),
        "unknown": dict(totals.unknown),
    }


def number(value: Any) -> int | str:
    """Return a count as it is, or as text if it is symbolic."""
    return value if isinstance(value, int) else str(value)


def _since(begin: float) -> float:
    return round(time.perf_counter() - begin, 3)


def reason(error: BaseException) -> str:
    """Return the kind and the first lines of an error and of what caused it."""
    causes = [error]
    while len(causes) < 3 and (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return " <- ".join(
        f"{type(e).__name__}: {' | '.join(str(e).splitlines())[:600]}" for e in causes
    )


# -- processes ---------------------------------------------------------------------------------


@dataclass
class Worker:
    """A process that examines one architecture, and when it has to be done."""

    entry: Entry
    process: Any
    pipe: Connection
    begin: float


def _work(pipe: Connection, task: tuple[Any, ...]) -> None:
    with contextlib.suppress(OSError):  # if memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("ignore")
    pipe.send(examine(*task))
    pipe.close()
    os._exit(0)  # nothing to tidy up, and much memory to free


def start(family: str, entry: Entry, frontend: str, compare: str | None) -> Worker:
    """Fork a process for one architecture."""
    mine, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(theirs, (family, entry, frontend, compare)))
    process.start()
    theirs.close()
    return Worker(entry, process, mine, time.perf_counter())


def finish(worker: Worker, timeout: float) -> Result | None:
    """Return what a worker found, or how it ended; None while it is at work."""
    seconds = time.perf_counter() - worker.begin
    result: Result = {}
    if worker.pipe.poll():
        try:
            result = worker.pipe.recv()
        except EOFError:
            worker.process.join()
            result = {"status": "crashed", "error": f"exit code {worker.process.exitcode}"}
    elif seconds > timeout:
        result = {"status": "timeout", "error": f"stopped after {timeout:.0f} s"}
    else:
        return None
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    return {**result, "wall_s": round(seconds, 3)}


def run(family: str, chosen: list[Entry], options: argparse.Namespace) -> Iterator[Result]:
    """Yield a result for each entry, `options.jobs` at a time."""
    waiting, at_work = list(reversed(chosen)), []
    try:
        while waiting or at_work:
            while waiting and len(at_work) < options.jobs:
                at_work.append(start(family, waiting.pop(), options.frontend, options.compare))
            wait([worker.pipe for worker in at_work], timeout=1)
            for worker in list(at_work):
                if (found := finish(worker, options.timeout)) is not None:
                    at_work.remove(worker)
                    known = {"family": family, "name": worker.entry.name}
                    yield {**known, "group": worker.entry.group, **found}
    finally:
        for worker in at_work:
            worker.process.kill()


def warm_up(family: str) -> None:
    """Import what every worker needs, so that it is paid for once; start no threads."""
    import torch

    import torchatlas as ta

    torch.set_num_threads(1)
    for frontend in ("trace", "export"):
        ta.capture(torch.nn.Linear(2, 2), torch.zeros(1, 2), frontend=frontend)
    __import__(family)
    if family == "transformers":
        from transformers import modeling_utils, pytorch_utils  # noqa: F401

        import zoo_tiny  # noqa: F401
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


# -- results -----------------------------------------------------------------------------------


def read(path: Path) -> list[Result]:
    """Return the results of earlier runs, the latest of each architecture.

    A last line that an interrupted run left half written is passed over.
    """
    found: dict[tuple[Any, ...], Result] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            result = json.loads(line)
            found[result["family"], result["name"], result.get("compare")] = result
    return list(found.values())


FINE = (*CAPTURED, "no example")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--filter", default="*", help="only names that this pattern matches")
    parser.add_argument("--sample", type=int, help="at most so many, from as many groups")
    parser.add_argument("--frontend", default="auto", help="the front end to capture with")
    parser.add_argument("--compare", choices=("export", "replay"), help="compare two captures")
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"), help="lines of JSON")
    parser.add_argument("--retry", action="store_true", help="repeat what failed before")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one architecture")
    parser.add_argument("--markdown", type=Path, help="also write a summary of the results here")
    return parser.parse_args()


def main() -> int:
    """Examine the architectures; return 1 if any was not captured."""
    options = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warm_up(options.family)
    chosen = select(entries(options.family), options.filter, options.sample)
    done = earlier(options, {entry.name for entry in chosen})
    left = [entry for entry in chosen if entry.name not in done]
    print(f"{options.family}: {len(chosen)} chosen, {len(left)} to do", flush=True)
    with options.results.open("a") as file:
        for count, result in enumerate(run(options.family, left, options), 1):
            if options.compare:
                result["compare"] = options.compare
            file.write(json.dumps(result) + "\n")
            file.flush()
            done[result["name"]] = result
            print(f"[{count}/{len(left)}] {zoo_report.line(result)}", flush=True)
    results = [done[entry.name] for entry in chosen]
    print(zoo_report.summary(results))
    if options.markdown is not None:
        options.markdown.write_text(report(options))
    return 0 if all(result["status"] in FINE for result in results) else 1


def earlier(options: argparse.Namespace, names: set[str]) -> dict[str, Result]:
    """Return the results that need not be made again, by name."""
    return {
        result["name"]: result
        for result in read(options.results)
        if result["family"] == options.family
        and result.get("compare") == options.compare
        and result["name"] in names
        and not (options.retry and result["status"] not in CAPTURED)
    }


def report(options: argparse.Namespace) -> str:
    """Return a page of all that the results hold of a family, comparisons too."""
    found = [result for result in read(options.results) if result["family"] == options.family]
    said = {"filter": "*", "sample": None, "frontend": "auto", "compare": None}
    chosen = {name: getattr(options, name) for name in said}
    flags = [f"--{name} {value}" for name, value in chosen.items() if value != said[name]]
    command = " ".join(["python benchmarks/zoo.py --family", options.family, *flags])
    return zoo_report.page(
        options.family,
        [result for result in found if "compare" not in result],
        command,
        [result for result in found if "compare" in result],
        len(entries(options.family)),
    )


if __name__ == "__main__":
    sys.exit(main())
