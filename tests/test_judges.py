"""Models that others wrote: torch's export examples and module database, timm, transformers.

`benchmarks/judges.py` and `benchmarks/zoo.py` run all of them; here are the examples, every third
module of the database with its first samples, and some architectures.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import OrderedDict

import pytest
import torch
from torch import nn

import torchatlas as ta

pytest.importorskip("expecttest", reason="torch's module database needs it")
judges = pytest.importorskip("judges")
zoo = pytest.importorskip("zoo")
zoo_compare = pytest.importorskip("zoo_compare")
zoo_models = pytest.importorskip("zoo_models")
zoo_report = pytest.importorskip("zoo_report")


# -- torch's examples and modules --------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(judges.all_examples()))
def test_export_examples(name):
    verdict = judges.judge_example(name)
    assert verdict.faults == []
    assert verdict.captures >= 2


MODULES = {info.name: info for info in judges.module_db}
DATA_DEPENDENT = ("nn.BatchNorm1d", "nn.CTCLoss", "nn.GaussianNLLLoss", "nn.LazyConv1d")
CHOSEN = sorted({*list(MODULES)[::3], *DATA_DEPENDENT})


@pytest.mark.parametrize("name", CHOSEN)
def test_modules(name):
    verdict = judges.judge_module(MODULES[name], limit=4)
    assert verdict.faults == []
    assert verdict.captures
    assert not verdict.unknown


class Wrong(nn.Module):
    def forward(self, x):
        return x + 1


def test_a_wrong_result_is_a_fault(monkeypatch):
    verdict = judges.Verdict("wrong")
    monkeypatch.setattr(judges, "returned_in", lambda graph: [((3,), "float32")])
    judges.try_capture(verdict, Wrong(), ((torch.zeros(2),), {}), "trace", "case")
    ((label, text),) = verdict.faults
    assert label == "case, trace" and "not [((2,), 'float32')]" in text


# -- timm and transformers ---------------------------------------------------------------------

TIMM = (
    "convnext_atto",
    "levit_128s",
    "mixer_s32_224",
    "mobilenetv4_conv_small",
    "pit_ti_224",
    "regnetx_002",
    "resnet18",
    "vit_tiny_patch16_224",
)
TRANSFORMERS = (
    "BertForMaskedLM",
    "DistilBertForTokenClassification",
    "GPT2ForQuestionAnswering",
    "MistralForCausalLM",
    "OlmoeForCausalLM",
    "PatchTSTForClassification",
    "T5EncoderModel",
    "ViTModel",
)


def _made(family, name):
    pytest.importorskip(family)
    (entry,) = zoo_models.select(zoo_models.entries(family), name)
    return zoo_models.make(family, entry)


ARCHITECTURES = [("timm", name) for name in TIMM] + [("transformers", n) for n in TRANSFORMERS]


@pytest.mark.parametrize(("family", "name"), ARCHITECTURES)
def test_trace_beside_export_and_replay(family, name):
    made = _made(family, name)
    beside_export = zoo_compare.compare_export(made)
    assert beside_export["status"] in ("equal", "explained"), beside_export
    assert family == "transformers" or beside_export["text_equal"]
    replayed = zoo_compare.compare_replay(made)
    assert replayed["status"] == "equal" and "gave_up" not in replayed


def test_a_model_that_asks_whether_it_is_exported():
    class Asks(nn.Module):
        def forward(self, x):
            return x.sin() if torch.compiler.is_exporting() else x.cos().cos()

    result = zoo_compare.compare_export(zoo_models.Made(Asks(), torch.zeros(2)))
    assert (result["status"], result["because"]) == ("explained", zoo_compare.ASKS)
    assert result["totals"]["ops"] == ["2", "1"]
    assert result["differences"] == 2


def test_modules_are_compared_by_their_first_path():
    inner = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": inner, "b": inner})
    names = zoo_compare.first_names(model)
    assert names == {"": "", "a": "a", "b": "a"}
    one, two = (
        ta.capture(nn.Sequential(OrderedDict({name: inner})), torch.zeros(1, 2)) for name in "ab"
    )
    assert zoo_compare.differences(one, two)["ops"]
    assert not zoo_compare.differences(one, two, names)["ops"]


def test_a_difference_is_named():
    one = ta.capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(1, 3))
    two = ta.capture(nn.Sequential(nn.Linear(3, 3), nn.GELU()), torch.zeros(1, 3))
    assert zoo_compare.differences(one, two) == {
        "ops": {"1: aten.gelu": [0, 1], "1: aten.relu": [1, 0]},
        "totals": {},
    }


# -- the zoo's processes and results -----------------------------------------------------------


def _run(monkeypatch, examine, names, timeout=60.0):
    monkeypatch.setattr(zoo, "examine", examine)
    entries = [zoo_models.Entry(name, "group") for name in names]
    options = zoo.argparse.Namespace(jobs=2, frontend="auto", compare=None, timeout=timeout)
    return {result["name"]: result for result in zoo.run("timm", entries, options)}


needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


@needs_fork
def test_a_crash_or_a_hang_is_a_result(monkeypatch):
    def examine(family, entry, frontend, compare):
        if entry.name == "crashes":
            os.kill(os.getpid(), signal.SIGKILL)
        if entry.name == "hangs":
            time.sleep(600)
        return {"status": "captured"}

    begin = time.perf_counter()
    results = _run(monkeypatch, examine, ["crashes", "hangs", "fine"], timeout=1.0)
    assert time.perf_counter() - begin < 30
    assert {name: result["status"] for name, result in results.items()} == {
        "crashes": "crashed",
        "hangs": "timeout",
        "fine": "captured",
    }
    assert results["crashes"]["error"] == "exit code -9"


def test_errors_are_results():
    missing = zoo_models.Entry("no_such_model", "none")
    result = zoo.examine("timm", missing, "auto", None)
    assert result["status"] == "not made" and "no_such_model" in result["error"]


def test_results_are_read_again(tmp_path):
    path = tmp_path / "zoo.jsonl"
    first = {"family": "timm", "name": "a", "status": "failed"}
    second = {**first, "status": "captured"}
    path.write_text(f'{json.dumps(first)}\n{json.dumps(second)}\n{{"family": "ti')
    assert zoo.read(path) == [second]
    assert zoo.read(tmp_path / "none") == []


def test_a_sample_is_spread_over_groups():
    entries = [zoo_models.Entry(f"{group}{i}", group) for group in "abc" for i in range(5)]
    sample = zoo_models.select(entries, sample=6)
    assert sorted(entry.group for entry in sample) == ["a", "a", "b", "b", "c", "c"]
    assert zoo_models.select(entries, sample=4) == sample[:4]
    assert [entry.name for entry in zoo_models.select(entries, "b[01]")] == ["b0", "b1"]


def test_the_page_names_what_failed():
    fine = {"family": "timm", "name": "a", "group": "g", "status": "captured", "frontend": "trace"}
    fine |= {"specialised": False, "nodes": 3, "ops": 1, "unknown": {}, "capture_s": 0.5}
    bad = {
        "family": "timm",
        "name": "b|c",
        "group": "g",
        "status": "crashed",
        "error": "exit code 1",
    }
    text = zoo_report.page("timm", [fine, bad], "python zoo.py", [], 9)
    assert "2 of the 9 that timm has" in text
    assert "Of 2 that have an example, 1 as they should be (50.00 %)." in text
    assert "| b\\|c | crashed | exit code 1 |" in text
