"""Compare our FLOP counts, and those of other counters, with numbers derived by hand.

    python benchmarks/flops_accuracy.py --output benchmarks/results/flops_accuracy

The truth is arithmetic: for networks the closed forms of `tests/truth.py`, which know nothing of
torchatlas; for single operations the table of `tests/annotations/test_flops_by_hand.py`. It
counts 2 FLOPs per multiply-add of a contraction. Every counter runs in its most favourable
documented use (`PEERS` says which), in a process of its own for each case, after one run that is
not timed; its seconds are the median of three further runs, which take turns with
`torchatlas.capture` on the same model. A counter that raises, or takes more than `--timeout`,
is shown as an error. Needs `pip install torchatlas[bench,test]`, and a system that can fork.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import torch
from torch import Tensor, nn

import torchatlas
from flops_cases import MODELS, TRAINED, Case, operations
from flops_counters import PEERS, Counts, Peer, count_ours, passes_by_torch, passes_by_us

Result = dict[str, Any]
REPEAT = 3
SLOW = 20.0
"""Seconds above which a counter runs only once."""

# -- one counter on one case, in a process of its own ------------------------------------------


def _seconds(run: Callable[..., Counts], model: nn.Module, args: tuple[Tensor, ...]) -> float:
    begin = time.perf_counter()
    run(model, args)
    return time.perf_counter() - begin


def _count(peer: Peer, case: Case, timed: bool) -> Result:
    """Run a counter on a case, and if `timed` take its time beside ours."""
    torch.manual_seed(0)
    model, args = case.make()
    model.train(case.training)
    with torch.no_grad() if case.no_grad else contextlib.nullcontext():
        begin = time.perf_counter()
        counts = peer.run(model, args)
        first = time.perf_counter() - begin
        nearest = min(counts, key=lambda count: abs(count - 2 * case.macs))
        found: Result = {"count": int(nearest), "total": int(counts[1])}
        if not timed:
            return found
        count_ours(model.train(case.training), args)
        theirs, ours = [first] if first > SLOW else [], []
        for _ in range(REPEAT):
            ours.append(_seconds(count_ours, model.train(case.training), args))
            if first <= SLOW:
                theirs.append(_seconds(peer.run, model.train(case.training), args))
    return found | {"seconds": statistics.median(theirs), "ours": statistics.median(ours)}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def _answer(pipe: Any, peer: Peer, case: Case, timed: bool) -> None:
    try:
        found = _count(peer, case, timed)
    except (Exception, SystemExit) as error:
        found = {"error": _reason(error)}
    pipe.send(found)


def _guarded(peer: Peer, case: Case, timed: bool, timeout: float) -> Result:
    """Count in a child, so that neither a crash nor a patched torch reaches the next case."""
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    child = fork.Process(target=_answer, args=(send, peer, case, timed))
    child.start()
    send.close()
    try:
        if not receive.poll(timeout):
            return {"error": f"takes more than {timeout:.0f} s"}
        return receive.recv()
    except EOFError:
        child.join()
        return {"error": f"the process ended with {child.exitcode}"}
    finally:
        child.kill()
        child.join()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send what is written to stdout and stderr nowhere, C libraries included."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)


def _all_cases(pipe: Any, peer: Peer, cases: dict[str, Case], timed: bool, limit: float) -> None:
    """Warm up, so that no import counts, and count every case."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with _silence():
        tiny = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.zeros(1, 4),)
        with contextlib.suppress(Exception, SystemExit):
            torchatlas.capture(*tiny)
            peer.run(*tiny)
        for name, case in cases.items():
            pipe.send((name, _guarded(peer, case, timed, limit)))
    pipe.send(None)


def measure(peer: Peer, cases: dict[str, Case], timed: bool, limit: float) -> dict[str, Result]:
    """Run one counter on `cases`; it is imported in a process of its own."""
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    child = fork.Process(target=_all_cases, args=(send, peer, cases, timed, limit))
    child.start()
    send.close()
    found: dict[str, Result] = {}
    with contextlib.suppress(EOFError):
        while (row := receive.recv()) is not None:
            found[row[0]] = row[1]
    child.join()
    missing = {"error": f"the process ended with {child.exitcode}"}
    return {name: found.get(name, missing) for name in cases}


# -- forward and backward ----------------------------------------------------------------------


def _train(name: str) -> Result:
    """Count both passes of a network in its training mode."""
    model, args = MODELS[name].make()
    model.train()
    args = (torch.cat([args[0]] * 2),)  # batch norm at 1 x 1 needs more than one image
    rows: Result = {"truth": TRAINED[name]}
    rows["FlopCounterMode"] = passes_by_torch(model, args)
    try:
        rows["torchatlas"] = passes_by_us(model, args)
    except Exception as error:
        rows["torchatlas"] = _reason(error)
    return rows


# -- report ------------------------------------------------------------------------------------


def _off(result: Result, flops: int) -> str:
    """Say how far a count is from the truth."""
    if "error" in result:
        return "error"
    count = result["count"]
    if count == flops:
        return "exact"
    if count == 0:
        return "**0**"
    if flops == 0:
        return f"{count} for 0"
    percent = 100 * (count - flops) / flops
    digits = 1 if abs(percent) >= 0.1 else 3 if abs(percent) >= 0.001 else 6
    return f"{percent:+.{digits}f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    marks = "|".join(["---", *["--:"] * (len(head) - 1)])
    first, *others = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return [first, f"|{marks}|", *others, ""]


def _errors(found: dict[str, dict[str, Result]]) -> list[str]:
    raised: dict[tuple[str, str], list[str]] = {}
    for peer, results in found.items():
        for name, result in results.items():
            if "error" in result:
                raised.setdefault((peer, result["error"]), []).append(name)
    if not raised:
        return []
    lines = [f"- {peer} on {', '.join(names)}: {why}" for (peer, why), names in raised.items()]
    return ["error:", "", *lines, ""]


def _models_page(found: dict[str, dict[str, Result]], cases: dict[str, Case]) -> list[str]:
    peers = list(found)
    lines = ["## Models", "", "Percent off the truth.", ""]
    lines += _table(
        ["model", "true GFLOP", *peers],
        [
            [name, f"{2 * case.macs / 1e9:.3f}"]
            + [_off(found[peer][name], 2 * case.macs) for peer in peers]
            for name, case in cases.items()
        ],
    )
    lines += [*_errors(found), *(f"- {name}: {case.about}" for name, case in cases.items()), ""]
    own = {peer: f for peer, f in found.items() if any(_own(result) for result in f.values())}
    if own:
        lines += ["### The total that a counter itself gives, in percent off the same truth", ""]
        lines += _table(
            ["model", *own],
            [
                [name, *(_off(_headline(own[peer][name]), 2 * case.macs) for peer in own)]
                for name, case in cases.items()
            ],
        )
    return lines + _times_page(found, cases)


def _own(result: Result) -> bool:
    return "error" not in result and result["count"] != result["total"]


def _headline(result: Result) -> Result:
    return result if "error" in result else {"count": result["total"]}


def _times_page(found: dict[str, dict[str, Result]], cases: dict[str, Case]) -> list[str]:
    def ratio(result: Result) -> str:
        if "error" in result:
            return "error"
        return f"{result['seconds'] / result['ours']:.2f}"

    def ours(name: str) -> str:
        seconds = [f[name]["ours"] for f in found.values() if "ours" in f[name]]
        return f"{statistics.median(seconds):.2f}" if seconds else "?"

    peers = [peer for peer in found if peer != "torchatlas"]
    return [
        "### Times",
        "",
        "Our seconds for `capture`, annotations included, and for every counter its seconds",
        "divided by ours: below 1 it is the faster. Ours alone never runs the model, and gives a",
        "graph.",
        "",
        *_table(
            ["model", "torchatlas, s", *peers],
            [[name, ours(name), *(ratio(found[peer][name]) for peer in peers)] for name in cases],
        ),
    ]


def _ops_page(found: dict[str, dict[str, Result]], cases: dict[str, Case]) -> list[str]:
    tally = []
    for peer, results in found.items():
        cells = [_off(results[name], 2 * case.macs) for name, case in cases.items()]
        exact, zero, error = (cells.count(word) for word in ("exact", "**0**", "error"))
        off = len(cells) - exact - zero - error
        tally.append([peer, f"{exact} / {len(cells)}", *map(str, (off, zero, error))])
    return [
        "## Single operations",
        "",
        *_table(["counter", "exact", "another number", "0, but should not be", "error"], tally),
        *_table(
            ["operation", "true FLOPs", *found],
            [
                [name, str(2 * case.macs)]
                + [_off(results[name], 2 * case.macs) for results in found.values()]
                for name, case in cases.items()
            ],
        ),
        *_errors(found),
    ]


def _training_page(found: dict[str, Result]) -> list[str]:
    rows = []
    for name, counts in found.items():
        for who, count in counts.items():
            if isinstance(count, str):
                rows.append([name, who, f"error: {count}", "", "", "", ""])
                continue
            forward, backward = count
            ratio = f"{backward / forward:.2f}" if forward else "?"
            off = [
                _off({"count": own}, true) for own, true in zip(count, counts["truth"], strict=True)
            ]
            sums = [f"{flops / 1e9:.3f}" for flops in count]
            rows.append([name, who, *sums, ratio, *(["", ""] if who == "truth" else off)])
    return [
        "## Forward and backward",
        "",
        "In training mode, for two images. The truth of the backward pass is twice the forward",
        "one, less the gradient of the image, for which nobody asks. FlopCounterMode multiplies",
        "the weight gradient of a grouped convolution by the number of groups (pytorch#183405).",
        "",
        *_table(
            [
                "model",
                "counter",
                "forward GFLOP",
                "backward GFLOP",
                "ratio",
                "forward, % off",
                "backward, % off",
            ],
            rows,
        ),
    ]


HEAD = """\
# FLOP counts beside the truth

{about}.

The truth counts 2 FLOPs per multiply-add of a contraction, derived by hand from the sizes:
`tests/truth.py` for networks, `tests/annotations/test_flops_by_hand.py` for single operations.
"exact" is exactly that integer. Counters without a way to leave out what is not a contraction
(ptflops, thop) are a few percent above it by their convention, which is no fault.

Seconds are those of one machine, on one thread, with whatever else it was doing: compare ratios
within a row, and those only roughly (medians of {repeat} runs that take turns).

How each counter ran, and how its number became FLOPs:

{docs}
"""


def page(results: Result) -> str:
    """Return the results in Markdown."""
    about = results["about"]
    versions = [f"{name} {version}" for name, version in about["versions"].items()]
    facts = ", ".join([about["cpu"], f"Python {about['python']}", *versions])
    docs = "\n".join(f"- **{name}**: {PEERS[name].doc}." for name in results["peers"])
    lines = [HEAD.format(about=facts, repeat=REPEAT, docs=docs)]
    for part, show, cases in (
        ("models", _models_page, MODELS),
        ("ops", _ops_page, results["ops"] and operations()),
    ):
        if results[part]:
            names = next(iter(results[part].values()))
            lines += show(results[part], {name: cases[name] for name in names})
    if results["training"]:
        lines += _training_page(results["training"])
    return "\n".join(lines).rstrip() + "\n"


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions(peers: list[str]) -> dict[str, str]:
    packages = ["torch", "torchatlas", "torchvision", "timm", "transformers"]
    packages += [PEERS[peer].package for peer in peers]
    found = {}
    for name in dict.fromkeys(packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def options() -> argparse.Namespace:
    doc = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", action="store_true", help="only the models")
    parser.add_argument("--ops", action="store_true", help="only the single operations")
    parser.add_argument("--training", action="store_true", help="only forward and backward")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER",
                        help=f"default: {', '.join(PEERS)}")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME",
                        help="only what has one of these in its name")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=180, metavar="S",
                        help="seconds that a counter may take for one case (180)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="OUT",
                        help="write OUT.md and OUT.json")  # fmt: skip
    return parser.parse_args()


def _wanted(name: str, texts: list[str]) -> bool:
    return any(text in name for text in texts)


def run(chosen: argparse.Namespace) -> Result:
    """Measure what the command line asks for."""
    everything = not (chosen.models or chosen.ops or chosen.training)
    about = {"cpu": _cpu(), "python": platform.python_version()}
    about |= {"versions": _versions(chosen.peers)}
    results: Result = {"about": about, "peers": chosen.peers, "truth": {}}
    results |= {"models": {}, "ops": {}}
    parts = [("models", MODELS)] if chosen.models or everything else []
    parts += [("ops", operations())] if chosen.ops or everything else []
    for part, known in parts:
        cases = {name: case for name, case in known.items() if _wanted(name, chosen.only)}
        results["truth"] |= {name: 2 * case.macs for name, case in cases.items()}
        for peer in chosen.peers if cases else ():
            print(f"{part}: {peer} …", file=sys.stderr, flush=True)
            results[part][peer] = measure(PEERS[peer], cases, part == "models", chosen.timeout)
    trains = chosen.training or everything
    names = [name for name in TRAINED if trains and _wanted(name, chosen.only)]
    results["training"] = {name: _train(name) for name in names}
    return results


def _all_exact(results: Result) -> bool:
    """Say whether every count of ours is the truth."""
    ours = results["models"].get("torchatlas", {}) | results["ops"].get("torchatlas", {})
    counted = all(row.get("count") == results["truth"][name] for name, row in ours.items())
    trained = results["training"].values()
    return counted and all(row["torchatlas"] == row["truth"] for row in trained)


def main() -> int:
    """Print the tables; return 1 where a count of ours is not exact."""
    chosen = options()
    results = run(chosen)
    print(page(results))
    if chosen.output:
        chosen.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        chosen.output.with_suffix(".md").write_text(page(results))
    return 0 if _all_exact(results) else 1


if __name__ == "__main__":
    sys.exit(main())
