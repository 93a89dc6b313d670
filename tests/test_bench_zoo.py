"""Benchmarks of zoos: processes that die in every way, results that stay, tables of them."""

from __future__ import annotations

import gc
import importlib
import io
import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from torchatlas.benches import processes, worker, zoo_table
from torchatlas.benches.ledger import Ledger, ZooResult, settings_of
from torchatlas.benches.model import Plan
from torchatlas.benches.processes import Workers
from torchatlas.benches.result import Benchmark, Limits, Run
from torchatlas.benches.zoo import ZooRun, list_zoo, run_zoo
from torchatlas.benches.zoo_progress import Progress
from torchatlas.errors import CaptureError, FormatError, UsageError
from torchatlas.frontends.zoos import batched, make_of_zoo, zoo_names

PLAN = Plan(steps=3, warmup=0, threads=1)

ZOO = """
import os, signal, subprocess, sys, time
from pathlib import Path
import torch
from torch import nn

def fine():
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU()), torch.randn(2, 8)

class Raises(nn.Module):
    def forward(self, x):
        print("on its way")
        raise ValueError("no luck today")

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

def hangs():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    helper = subprocess.Popen(["sleep", "600"])
    told = Path(os.environ["ZOO_PIDS"])
    told.with_suffix(".new").write_text(f"{os.getpid()} {helper.pid}")
    told.with_suffix(".new").rename(told)
    while True:
        time.sleep(600)

zoo = {
    "a_fine": fine,
    "b_raises": lambda: (Raises(), torch.randn(2, 8)),
    "c_dies": dies,
    "d_fine": fine,
    "e_hangs": hangs,
    "f_fine": fine,
}
no_zoo = [fine]
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_PIDS", str(tmp_path / "pids"))
    (tmp_path / "tiny.py").write_text(ZOO)
    return f"{tmp_path / 'tiny.py'}:zoo"


def gone(*pids, seconds=10):
    """Wait until processes have ended; a zombie has."""
    until = time.monotonic() + seconds
    while any(map(_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(_alive, pids))


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").is_dir()


def children(pid):
    """Return the processes that another has started, where the system tells."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has just ended
            continue
        found += [int(stat.parent.name)] if int(parent) == pid else []
    return found


def appears(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} is not written"
        time.sleep(0.02)
    return path.read_text()


# -- processes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers():
    # Every run in this process uses the server that the first one starts.
    return Workers(["torchatlas.benches.preloaded"])


def run(workers, code, timeout=60.0):
    return workers.call("builtins:exec", textwrap.dedent(code), timeout)


def test_what_is_returned_comes_back(workers):
    found = workers.call("builtins:sorted", ["b", "a"], 60)
    assert (found.status, found.value) == ("returned", ["a", "b"])


def test_what_is_raised_is_told_with_the_last_lines(workers):
    found = run(workers, "print('here'); raise KeyError('x\\ny')")
    assert (found.status, found.kind) == ("raised", "KeyError")
    assert found.error == "KeyError: 'x\\ny'"
    assert found.output.startswith("here") and "Traceback" in found.output


def test_what_json_does_not_have_cannot_be_returned(workers):
    found = workers.call("operator:attrgetter", "x", 60)
    assert (found.status, found.error) == ("ended", "ended with exit code 1")
    assert "attrgetter is not JSON serializable" in found.output


def test_an_error_of_ours_keeps_its_parts(workers):
    found = run(
        workers,
        """
        from torchatlas.errors import MeasurementError
        raise MeasurementError("slow\\nvery", hint="wait", node="fc/linear")
        """,
    )
    assert found.error == "MeasurementError: slow; very"
    assert (found.hint, found.node) == ("wait", "fc/linear")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL, out of memory?"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed", "SIGSEGV"),
        ("os._exit(3)", "ended", "ended with exit code 3"),
        ("os._exit(0)", "ended", "ended with exit code 0"),
        ("sys.exit('enough')", "raised", "SystemExit: enough"),
        ("os.killpg(0, signal.SIGKILL)", "killed", "SIGKILL, out of memory?"),
    ],
)
def test_ends(workers, code, status, error):
    found = run(workers, f"import os, signal, sys\n{code}")
    assert (found.status, found.error) == (status, error)


HANGS = """
import os, signal, subprocess, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
helper = subprocess.Popen(["sleep", "600"])
told = Path({path!r})
told.with_suffix(".new").write_text(f"{{os.getpid()}} {{helper.pid}}")
told.with_suffix(".new").rename(told)
{then}
while True:
    time.sleep(600)
"""


def hanging(path, then=""):
    return HANGS.format(path=str(path), then=then)


def test_what_hangs_is_killed_with_all_that_it_started(workers, tmp_path):
    found = run(workers, hanging(tmp_path / "pids"), timeout=2)
    assert (found.status, found.error) == ("timeout", "stopped after 2 s")
    assert 2 <= found.seconds < 10
    assert gone(*map(int, (tmp_path / "pids").read_text().split()), seconds=1)


def test_what_it_started_does_not_outlive_it(workers, tmp_path):
    found = run(workers, hanging(tmp_path / "pids", "os._exit(0)"))
    assert found.status == "ended"
    assert gone(*map(int, (tmp_path / "pids").read_text().split()), seconds=1)


def test_a_worker_that_kills_its_guardian_is_killed_too(workers, tmp_path):
    found = run(workers, hanging(tmp_path / "pids", "os.kill(os.getppid(), signal.SIGKILL)"))
    assert (found.status, found.error) == ("killed", "SIGKILL, out of memory?")
    assert gone(*map(int, (tmp_path / "pids").read_text().split()), seconds=1)


def test_only_the_last_of_much_output_is_kept(workers):
    found = run(workers, "for i in range(200_000): print(i, 'x' * 50)\nprint('y' * 100_000)\n1 / 0")
    assert found.error == "ZeroDivisionError: division by zero"
    assert len(found.output.splitlines()) <= processes.LINES
    assert max(map(len, found.output.splitlines())) <= processes.WIDTH


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_a_worker_goes_first_where_memory_runs_out(workers):
    code = "open('/proc/self/oom_score_adj').read().strip()"
    assert workers.call("builtins:eval", code, 60).value == "1000"


def _heeds_interrupts() -> None:
    """Undo what a shell does for a job in the background: that it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_process_that_asks(tmp_path, number):
    code = f"""
    from torchatlas.benches.processes import Workers
    if __name__ == "__main__":
        Workers().call("builtins:exec", {hanging(tmp_path / "pids")!r}, 600)
    """
    (tmp_path / "asks.py").write_text(textwrap.dedent(code))
    asking = subprocess.Popen(
        [sys.executable, tmp_path / "asks.py"], stderr=subprocess.PIPE, preexec_fn=_heeds_interrupts
    )
    pids = [int(pid) for pid in appears(tmp_path / "pids").split()]
    assert all(map(_alive, pids))
    asking.send_signal(number)
    error = asking.communicate(timeout=30)[1]
    assert (b"KeyboardInterrupt" in error) == (number == signal.SIGINT)
    assert gone(*pids)


def test_a_worker_has_the_environment_of_now(workers, monkeypatch):
    monkeypatch.setenv("ZOO_PIDS", "some")
    assert workers.call("os:getenv", "ZOO_PIDS", 60).value == "some"
    monkeypatch.delenv("ZOO_PIDS")
    assert workers.call("os:getenv", "ZOO_PIDS", 60).value is None


def test_a_new_interpreter_serves_where_there_is_no_server():
    found = Workers(method="spawn").call("builtins:eval", "1 / 0", 60)
    assert (found.status, found.error) == ("raised", "ZeroDivisionError: division by zero")


def test_what_the_server_imports_is_imported_there_only(workers):
    assert not any("multiprocessing.forkserver" in part for part in sys.orig_argv)
    preloaded = importlib.import_module("torchatlas.benches.preloaded")
    code = f"all(name in __import__('sys').modules for name in {preloaded.MODULES!r})"
    assert workers.call("builtins:eval", code, 60).value is True
    assert workers.call("builtins:eval", "__import__('gc').get_freeze_count() > 0", 60).value
    assert gc.get_freeze_count() == 0


def test_a_system_that_cannot_fork():
    mine, theirs = mp.get_context("spawn").Pipe()
    alone = mp.get_context("spawn").Process(
        target=processes._alone, args=(theirs, "builtins:eval", "print('unseen') or 6 * 7")
    )
    alone.start()
    assert mine.poll(60)
    assert json.loads(mine.recv_bytes()) == {"exit": 0, "answer": {"value": 42}}
    alone.join(60)
    assert alone.exitcode == 0


# -- a run -------------------------------------------------------------------------------------


def statuses(found):
    return {result.name: result.status for result in found.results}


def test_a_zoo_with_bad_models(zoo, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    found = run_zoo([zoo], PLAN, filter="a*,b*,c*,d*", timeout=120, out=out)
    assert statuses(found) == {
        "a_fine": "ok", "b_raises": "failed", "c_dies": "killed", "d_fine": "ok",
    }  # fmt: skip
    first = found.results[0].benchmark
    assert (first.model, first.params, first.flops, first.batch) == ("a_fine", 36, 128, 2)
    assert first.eager.samples == 3 and first.threads == 1
    assert found.results[1].error.startswith("InputError: the model raises")
    assert "no luck today" in found.results[1].error
    assert found.results[2].error == "SIGKILL, out of memory?"
    assert found.exit_code == 0 and not found.interrupted
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(" ")[0] for line in said.err.splitlines()] == [
        "[1/4]", "[2/4]", "[3/4]", "[4/4]",
    ]  # fmt: skip
    before = out.read_bytes()
    assert len(before.splitlines()) == 4

    # The next run has only what hangs to do.
    again = run_zoo([zoo], PLAN, filter="a*,b*,c*,d*,e*", timeout=5, out=out)
    assert again.results[:4] == found.results
    assert (again.results[4].status, again.results[4].error) == ("timeout", "stopped after 5 s")
    assert gone(*map(int, (tmp_path / "pids").read_text().split()), seconds=1)
    assert "4 of 5 were done before" in capsys.readouterr().err
    assert out.read_bytes().startswith(before) and len(out.read_bytes().splitlines()) == 5

    # Failures are repeated if that is asked for; other settings are other results.
    retried = run_zoo([zoo], PLAN, filter="a*,b*", out=out, retry=True, quiet=True)
    assert statuses(retried) == {"a_fine": "ok", "b_raises": "failed"}
    assert retried.results[0] == found.results[0] and retried.results[1] != found.results[1]
    other = run_zoo([zoo], PLAN, filter="a*", batch=5, out=out, quiet=True)
    assert other.results[0].benchmark.batch == 5
    assert len(out.read_bytes().splitlines()) == 7
    assert capsys.readouterr() == ("", "")


INTERRUPTED = """
import sys
from torchatlas.benches.model import Plan
from torchatlas.benches.zoo import run_zoo
if __name__ == "__main__":
    found = run_zoo([sys.argv[1]], Plan(steps=3, warmup=0, threads=1), filter="a*,e*,f*",
                    out=sys.argv[2], timeout=600)
    print("torch" in sys.modules, found.interrupted, found.exit_code, len(found.results))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on(zoo, tmp_path, number):
    out, script = tmp_path / "run.jsonl", tmp_path / "runs.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, script, zoo, out]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=_heeds_interrupts,
    )
    pids = [int(pid) for pid in appears(tmp_path / "pids").split()]
    finished = out.read_bytes()
    with pytest.raises(UsageError, match="another run is writing"):
        run_zoo([zoo], PLAN, out=out)
    servers = children(running.pid)
    assert servers or not Path("/proc").is_dir()
    running.send_signal(number)
    said = running.communicate(timeout=30)[0].decode().split()
    assert said == ([] if number == signal.SIGKILL else ["False", "True", "130", "1"])
    assert gone(*pids, *servers)
    assert out.read_bytes() == finished and json.loads(finished)["result"]["name"] == "a_fine"

    if number == signal.SIGKILL:  # what a kill in the middle of writing leaves
        out.write_bytes(finished + finished[: len(finished) // 2])
        found = run_zoo([zoo], PLAN, filter="a*,f*", timeout=120, out=out, quiet=True)
        assert statuses(found) == {"a_fine": "ok", "f_fine": "ok"}
        assert out.read_bytes().startswith(finished)
        assert [json.loads(line)["result"]["name"] for line in out.read_text().splitlines()] == [
            "a_fine", "f_fine",
        ]  # fmt: skip


class Detector(torch.nn.Module):
    def forward(self, images):
        return [image.sum() for image in images]


@pytest.mark.parametrize(("batch", "samples"), [(None, 1), (5, 5)])
def test_a_list_of_images_is_as_many_samples(monkeypatch, batch, samples):
    images = [torch.rand(3, 4, 4) for _ in range(samples)]
    monkeypatch.setattr(worker, "make_of_zoo", lambda *_: (Detector(), ((images,), {})))
    task = {"zoo": "torchvision", "name": "detector", "batch": batch, "plan": {"steps": 3}}
    found = worker.measure_model(task)
    (run,) = found["runs"]
    assert found["batch"] == samples
    assert run["throughput"] == pytest.approx(samples * 1e6 / run["median_us"])


def test_a_plan_says_whether_models_train(zoo):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).eval()
    for train in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "make_of_zoo", lambda *_: (model, torch.zeros(1, 2)))
            task = {"zoo": zoo, "name": "a", "batch": None, "plan": {"steps": 3, "train": train}}
            worker.measure_model(task)
        assert model.training == train


def test_listing(zoo):
    assert list_zoo([zoo], filter="?_fine") == ["a_fine", "d_fine", "f_fine"]
    assert list_zoo([zoo], sample=2) == ["a_fine", "d_fine"]
    with pytest.raises(UsageError, match=r"no model of .* matches 'x\*'"):
        list_zoo([zoo], filter="x*")
    with pytest.raises(UsageError, match="is no zoo"):
        list_zoo([zoo.replace(":zoo", ":no_zoo")])
    with pytest.raises(UsageError, match="there is no zoo 'tim'"):
        list_zoo(["tim"])
    with pytest.raises(UsageError, match="no zoo is named"):
        list_zoo([])


def test_what_cannot_be_run(zoo):
    with pytest.raises(UsageError, match="makes its models and examples itself"):
        run_zoo([zoo], replace(PLAN, inputs=("1x3",)))
    with pytest.raises(UsageError, match="have random weights"):
        run_zoo([zoo], replace(PLAN, fake=True))
    with pytest.raises(UsageError, match="0 models are too few"):
        run_zoo([zoo], PLAN, sample=0)
    with pytest.raises(UsageError, match="nothing is done in 0 seconds"):
        run_zoo([zoo], PLAN, timeout=0)
    with pytest.raises(UsageError, match="no column 'compile'"):
        run_zoo([zoo], PLAN, sort="compile")
    with pytest.raises(UsageError, match="there is no device 'gpu'"):
        run_zoo([zoo], replace(PLAN, device="gpu"))


# -- the file ----------------------------------------------------------------------------------

SETTINGS = settings_of(plan={"device": "cpu", "compare": ("compile",)}, batch=None)
OTHER = settings_of(plan={"device": "cpu", "compare": ()}, batch=None)


def result(name, status="failed", **more):
    return ZooResult("timm", name, status, 1.5, **more)


def written(path, *results):
    with Ledger(path) as ledger:
        for one in results:
            ledger.append(one, SETTINGS)
    return path.read_bytes()


def test_results_come_back_the_latest_of_each(tmp_path):
    path = tmp_path / "run.jsonl"
    written(path, result("a"), result("b", error="\u2028\n|"))
    written(path, result("a", "ok", benchmark=benchmark("a")))
    with Ledger(path) as ledger:
        found = ledger.results(SETTINGS)
        assert ledger.results(OTHER) == {}
    assert found["timm", "a"].benchmark == benchmark("a")
    assert found["timm", "b"].error == "\u2028\n|"


@pytest.mark.parametrize("keep", [1, 20, 40, 100, -1])
def test_a_last_line_that_was_cut_off_is_taken_away(tmp_path, keep):
    path = tmp_path / "run.jsonl"
    whole = written(path, result("a"))
    path.write_bytes(whole + whole[:-1][:keep])
    written(path, result("b"))
    with Ledger(path) as ledger:
        assert [name for _, name in ledger.results(SETTINGS)] == ["a", "b"]


def test_a_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "run.jsonl"
    whole = written(path, result("a"))
    path.write_bytes(whole[:-1])
    assert written(path, result("b")).startswith(whole)


@pytest.mark.parametrize("content", [b"# notes", b"{}\n", b"[" * 100_000, b"\0\0", b"a\n\n{"])
def test_another_file_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes.md"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"line 1 of .* is no result of a zoo run"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_result_that_lacks_something(tmp_path):
    path = tmp_path / "run.jsonl"
    line = {"format": "torchatlas zoo", "settings": SETTINGS, "result": {"name": 3}}
    path.write_text(json.dumps(line) + "\n")
    with Ledger(path) as ledger, pytest.raises(FormatError, match="has a result that is none"):
        ledger.results(SETTINGS)


def test_one_run_writes_at_a_time(tmp_path):
    path = tmp_path / "run.jsonl"
    with Ledger(path), pytest.raises(UsageError, match="another run is writing"):
        Ledger(path)
    Ledger(path).close()


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(FormatError, match="cannot write"):
        Ledger(tmp_path / "no" / "run.jsonl")


# -- tables and progress -----------------------------------------------------------------------


def benchmark(name, median=1000.0, compiled=None, **more):
    runs = [Run("eager", median, 20.0, 1100.0, 50, True, 1e6 / median)]
    if compiled is not None:
        factor = median / compiled
        runs.append(Run("compile", compiled, 9.0, 1.0, 50, False, 1e6 / compiled, factor))
    known = {
        "model": name, "device": "cpu", "device_name": "a CPU", "torch": "2.15.0", "threads": 2,
        "mode": "no_grad", "cache": "warm", "dtype": "float32", "batch": 1, "ops": 3,
        "params": 1_240_000, "param_bytes": 4_960_000, "flops": 698_000_000, "coverage": 1.0,
        "uncounted": {}, "runs": tuple(runs), "sum_us": 1.0, "residual_us": 0.0, "drift": 0.0,
        "launches": None, "peak_bytes": None, "predicted_peak_bytes": 10_200_000,
        "critical_path_us": None, "limits": None, "nodes": (), "modules": (),
    }  # fmt: skip
    return Benchmark(**{**known, **more})


LIMITS = Limits("H200", 300.0, 0.3, None, 0.5, None, {}, {})

PAGE_SETTINGS = settings_of(
    plan={"device": "cpu", "steps": 5, "dtype": None}, batch=8, versions={"torch": "2.15.0"}
)

RESULTS = (
    result("vgg|11", "ok", benchmark=benchmark("v", 2000.0, 500.0, limits=LIMITS)),
    result("bad", error="ValueError: <b>", node="fc/linear"),
    result("alex", "ok", benchmark=benchmark("a", 4000.0, 8000.0, uncounted={"aten.svd": 1})),
    result("slow", "timeout", error="stopped after 9 s"),
)


def test_rows():
    titles, *rows = zoo_table.rows(RESULTS)
    assert titles == [
        "model", "status", "params", "FLOPs", "eager", "compile", "speed-up", "samples/s",
        "roofline", "predicted peak",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["alex", "bad", "slow", "vgg|11"]
    assert rows[0][2:] == [
        "1.24 M", "698 M +?", "4 ms ± 20 µs", "~8 ms ± 9 µs", "0.50x", "250", "?", "10.2 MB",
    ]  # fmt: skip
    assert rows[3][4:9] == ["2 ms ± 20 µs", "~500 µs ± 9 µs", "4.00x", "2 k", "30%"]
    assert rows[1] == ["bad", "failed", *[""] * 8]


@pytest.mark.parametrize(
    ("sort", "first"),
    [("eager", "alex"), ("compile-speedup", "vgg|11"), ("throughput", "vgg|11"),
     ("roofline", "vgg|11")],
)  # fmt: skip
def test_sorted_by_a_column_what_failed_is_last(sort, first):
    zoo_table.check_sort(sort, ("compile",))
    names = [one.name for one in zoo_table.ordered(RESULTS, sort)]
    assert names[0] == first and names[2:] == ["bad", "slow"]


def test_measured_memory_and_several_zoos():
    found = replace(RESULTS[0], benchmark=benchmark("v", peak_bytes=1_000_000))
    titles, *rows = zoo_table.rows([found, replace(RESULTS[2], zoo="torchvision")])
    assert titles[-1] == "peak memory"
    assert [row[-1] for row in rows] == ["?", "1 MB"]
    assert [row[0] for row in rows] == ["torchvision:alex", "timm:vgg|11"]


def test_the_table_says_what_failed_and_why():
    text = str(zoo_table.table(RESULTS, PAGE_SETTINGS, left=5))
    assert text.startswith("a CPU (2 threads), torch 2.15.0, batch 8, 5 steps\nmodel ")
    assert "9 models: 2 ok, 1 failed, 1 timeout, 5 not run yet" in text
    assert "bad: failed: ValueError: <b> at 'fc/linear'" in text
    assert "slow: timeout: stopped after 9 s" in text
    broken = Run("compile", None, error="no compiler")
    found = benchmark("a", runs=(*benchmark("a").runs, broken))
    one = replace(RESULTS[2], benchmark=found)
    assert zoo_table.failures([one]) == "alex: compile: no compiler"
    assert zoo_table.rows([one])[1][5] == "failed"


def test_what_all_benchmarks_note_is_said_once():
    both = [
        replace(RESULTS[0], benchmark=benchmark("a", notes=("No limits.", "One."))),
        replace(RESULTS[2], benchmark=benchmark("b", notes=("Two.", "No limits."))),
    ]
    text = str(zoo_table.table(both, PAGE_SETTINGS))
    assert text.count("No limits.") == 1 and "One." not in text and "Two." not in text


def test_the_page():
    found = replace(RESULTS[0], finished="2026-11-21T20:00:00+00:00")
    page = ZooRun((found, *RESULTS[1:]), PAGE_SETTINGS).markdown()
    assert "\na CPU (2 threads), torch 2.15.0, batch 8, 5 steps, 2026-11-21.\n" in page
    assert "| vgg\\|11 | ok | 1.24 M | 698 M | 2 ms ± 20 µs | \\~500 µs ± 9 µs |" in page
    assert "* bad: failed: ValueError: \\<b\\> at 'fc/linear'" in page
    assert page.count("\n| ") == 6


@pytest.mark.parametrize(
    ("results", "interrupted", "code"),
    [(RESULTS, False, 0), (RESULTS, True, 130), (RESULTS[1:2], False, 1), ((), False, 1)],
)
def test_exit_code(results, interrupted, code):
    assert ZooRun(tuple(results), SETTINGS, interrupted=interrupted).exit_code == code


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(4, 1) as progress:
        progress.begin("resnet18")
        progress.end(RESULTS[1])
        progress.begin("[red]alex")
    shown = terminal.getvalue()
    assert "1 of 4 were done before" in shown
    assert "resnet18" in shown and "[red]alex" in shown
    assert "2/4" in shown and "1 failed" in shown and "left" in shown
    assert "bad: failed: ValueError: <b> at 'fc/linear'" in shown


# -- zoos --------------------------------------------------------------------------------------


def test_timm():
    assert {"resnet18", "vit_tiny_patch16_224"} <= set(zoo_names("timm"))
    model, ((image,), _) = make_of_zoo("timm", "test_vit", batch=2)
    assert image.shape == (2, 3, 160, 160) and not model.training
    torch.manual_seed(7)
    again, ((same,), _) = make_of_zoo("timm", "test_vit", batch=2)
    assert torch.equal(image, same)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    with pytest.raises(UsageError, match="timm has no 'resnet'"):
        make_of_zoo("timm", "resnet")


def test_torchvision():
    assert {"resnet18", "raft_small", "ssdlite320_mobilenet_v3_large"} <= set(
        zoo_names("torchvision")
    )
    _, ((image,), _) = make_of_zoo("torchvision", "squeezenet1_1", batch=3)
    assert image.shape == (3, 3, 224, 224)
    _, ((images,), _) = make_of_zoo("torchvision", "ssdlite320_mobilenet_v3_large", batch=2)
    assert [one.shape for one in images] == [(3, 320, 320)] * 2


def test_a_zoo_of_a_user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        def sized(batch=4):
            return nn.Linear(2, 2), torch.zeros(batch, 2)
        def fixed():
            return nn.Linear(2, 2).train(), (torch.arange(6.0).view(3, 2),)
        zoo = {"sized": sized, "fixed": fixed, "wrong": lambda: nn.Linear(2, 2),
               "breaks": lambda: 1 / 0}
        """)
    )
    mine = f"{path}:zoo"
    assert zoo_names(mine) == ["breaks", "fixed", "sized", "wrong"]
    assert make_of_zoo(mine, "sized")[1].shape == (4, 2)
    assert make_of_zoo(mine, "sized", batch=7)[1].shape == (7, 2)
    model, (example,) = make_of_zoo(mine, "fixed", batch=4)
    assert not model.training
    assert example.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]
    with pytest.raises(UsageError, match="makes a Linear, not a model and an example"):
        make_of_zoo(mine, "wrong")
    with pytest.raises(CaptureError, match="breaks could not be made: ZeroDivisionError"):
        make_of_zoo(mine, "breaks")
    with pytest.raises(UsageError, match="has no 'other'"):
        make_of_zoo(mine, "other")


def test_an_example_without_samples():
    with pytest.raises(UsageError, match="no samples"):
        batched((torch.tensor(3.0), "text"), 2)
