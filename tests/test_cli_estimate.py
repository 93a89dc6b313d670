"""`torchatlas estimate`, `devices` and `summary --roofline`, as a person uses them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import torchatlas as ta
from torchatlas import devices
from torchatlas.cli import _run
from torchatlas.cli.application import app
from torchatlas.measurements import calibration

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4096):
        super().__init__(nn.Linear(1024, width), nn.GELU(), nn.Linear(width, 1024))
"""

A100 = devices.find("A100 SXM 80GB")
FLOP = 2 * 8192 * 1024 * 4096
"""Of each of the two products, with 8192 rows."""
GELU = 2 * 8192 * 4096
"""Elements that it reads and writes."""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return f"{path}:Net"


@pytest.fixture
def run(capsys):
    """Run a command line; return its status, output and errors."""

    def invoke(*args: object) -> tuple[int, str, str]:
        status = _run(lambda: app(list(map(str, args)), standalone_mode=False) or None)
        done = capsys.readouterr()
        return status, done.out, done.err

    return invoke


def micro(seconds: float) -> float:
    return pytest.approx(seconds * 1e6)


def test_an_estimate_of_a_model_prints_what_the_function_says(run, net):
    sized = ("--input", "2x1024", "--batch", 8192, "--dtype", "bfloat16", "--fake")
    status, said, errors = run("estimate", net, *sized, "--on", "NVIDIA A100-SXM4-80GB")
    assert (status, errors) == (0, "")
    assert said.startswith("Net on A100 SXM 80GB (batch=8192, bfloat16)\ntime    506 µs, ")
    assert "slowest kernels" in said and "assumes that" in said


def test_numbers_go_to_a_file(run, net, tmp_path):
    out = tmp_path / "numbers.json"
    sized = ("--input", "2x1024", "--batch", 8192, "--fake")
    status, said, _ = run(
        "estimate", net, *sized, "--on", "A100 SXM 80GB", "--on", "T4", "--json", out
    )
    assert status == 0 and said.endswith(f"wrote {out}\n")
    content = json.loads(out.read_bytes())
    assert content["format"] == "torchatlas estimates"
    first, second = content["estimates"]
    assert first["us"] == micro(2 * FLOP / 19.5e12 + 4 * GELU / 2039e9)
    assert second["us"] == micro(2 * FLOP / 8.1e12 + 4 * GELU / 320e9)
    assert first["device"]["name"] == "A100 SXM 80GB" and first["device"]["memory"] == 80 * 2**30
    assert first["fits"] is True and first["throughput"] == pytest.approx(8192e6 / first["us"])
    assert first["bounds"].keys() == {"compute", "memory"}
    assert [step["nodes"] for step in first["steps"]] == [["0/linear"], ["1/gelu"], ["2/linear"]]
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


def test_several_devices_are_rows_of_a_table(run, net):
    sized = ("--input", "2x1024", "--batch", 8192, "--dtype", "float16", "--fake")
    names = ("H200", "NVIDIA A100-SXM4-80GB", "Tesla T4")
    on = [part for name in names for part in ("--on", name)]
    status, said, _ = run("estimate", net, *sized, *on)
    assert status == 0
    title, head, *rows = said.splitlines()
    assert title == "Net (batch=8192, float16)"
    assert head.split()[:4] == ["device", "time", "samples/s", "unfused"]
    assert head.split()[4:] == ["memory", "of", "fits", "bound"]
    assert [row.split("  ")[0] for row in rows[:3]] == ["H200", "A100 SXM 80GB", "T4"]
    assert "506 µs" in rows[1] and "85.9 GB  yes" in rows[1]
    assert "- products of float32 run in float32" in said


def test_a_model_that_fits_on_one_device_only_says_so(run, net):
    sized = ("--input", "2x1024", "--batch", 2**20, "--fake")
    _, said, _ = run("estimate", net, *sized, "--on", "T4", "--on", "A100 SXM 80GB", "--on", "cpu")
    fits = [line.split()[-3 if "100%" in line else -5] for line in said.splitlines()[2:5]]
    assert fits == ["no", "yes", "?"]


def test_what_has_no_time_is_counted(run, net):
    sized = ("--input", "2x1024", "--fake", "--dtype", "bfloat16")
    _, said, _ = run("estimate", net, *sized, "--on", "T4", "--on", "A100 SXM 80GB")
    assert "2 ops have no time" in said.splitlines()[2]
    assert "no time" not in said.splitlines()[3]


def test_a_saved_graph_with_symbols_takes_sizes(run, net, tmp_path):
    made = ("--input", "input=2x1024", "--dynamic", "input=batch,_", "--format", "json", "--fake")
    assert run("capture", net, *made, "--out", tmp_path)[0] == 0
    file = tmp_path / "Net.json"
    _, by_batch, _ = run("estimate", file, "--on", "4090", "--batch", 512)
    _, by_name, _ = run("estimate", file, "--on", "4090", "--at", "batch=512")
    assert by_batch == by_name == f"{ta.estimate(ta.load(file), '4090', batch=512)}\n"


def test_limits_that_were_measured_take_part(run, net, tmp_path):
    mine = tmp_path / "mine.json"
    devices.save(ta.Device("mine", {"float32": 1e12}, {"float32": 1e12}, bandwidth=1e12), mine)
    sized = ("--input", "8192x1024", "--fake")
    _, said, _ = run("estimate", net, *sized, "--limits", mine)
    assert said.startswith("Net on mine\n")
    assert run("estimate", net, *sized, "--on", mine)[1] == said
    _, both, _ = run("estimate", net, *sized, "--on", "T4", "--limits", mine)
    assert [line.split()[0] for line in both.splitlines()[2:4]] == ["T4", "mine"]


def test_options_change_the_estimate(run, net, tmp_path):
    def us(*options: object) -> float:
        out = tmp_path / "one.json"
        sized = ("--input", "8192x1024", "--fake", "--on", "A100 SXM 80GB", "--json", out)
        assert run("estimate", net, *sized, *options)[0] == 0
        return json.loads(out.read_bytes())["estimates"][0]["us"]

    assert us() == micro(2 * FLOP / 19.5e12 + 4 * GELU / 2039e9)
    assert us("--tf32") == micro(2 * FLOP / 156e12 + 4 * GELU / 2039e9)
    assert us("--dtype", "bfloat16") == micro(2 * FLOP / 312e12 + 2 * GELU / 2039e9)
    assert us("--no-fuse") == us()  # there is no run of pointwise ops


FAILURES = [
    (("--input", "2x1024"), 2, ["--on", "--limits FILE"]),
    (("--input", "2x1024", "--on", "H100"), 2, ["may be H100 PCIe, H100 SXM or H100 NVL"]),
    (("--input", "2x1024", "--on", "NVIDIA A10G"), 2, ["is not known", "torchatlas calibrate"]),
    (("--input", "2x1024", "--on", "no.json"), 1, ["cannot read 'no.json'"]),
    (("--input", "2x1024", "--on", "T4", "--dtype", "int4"), 2, ["no estimate in 'int4'"]),
    (("--input", "2x1024", "--on", "T4", "--at", "seq=8"), 2, ["no symbol 'seq'"]),
    (("--input", "2x1024", "--on", "T4", "--at", "device=8"), 2, ["'device' is no size"]),
    (("--input", "2x1024", "--on", "T4", "--at", "seq"), 2, ["is no list of sizes"]),
    (
        ("--input", "2x1024", "--on", "T4", "--batch", "8", "--at", "batch=9"),
        2,
        ["give `batch` two sizes"],
    ),
    (("--input", "2x1024", "--on", "T4", "--json", "/no/such/x.json"), 1, ["/no/such"]),
]


@pytest.mark.parametrize(("options", "status", "said"), FAILURES, ids=lambda v: str(v)[:60])
def test_wrong_requests_say_what_to_do(options, status, said, run, net):
    got, out, errors = run("estimate", net, *options, "--fake")
    assert (got, out) == (status, "")
    for text in said:
        assert text in errors
    assert "fault of torchatlas" not in errors


def test_the_list_of_devices(run):
    _, short, _ = run("devices")
    rows = short.splitlines()
    assert rows[0].split() == ["device", "float32", "float16", "bfloat16", "GB/s", "GiB", "source"]
    named = [row for row in rows if row.startswith("H200 ")]
    assert named[0].split()[:6] == ["H200", "66.9", "989.4", "989.4", "4800", "141"]
    assert sum(row.startswith(tuple(d.name for d in devices.DEVICES)) for row in rows) == 25
    _, complete, _ = run("devices", "--all")
    for device in devices.DEVICES:
        assert device.url in complete and all(name in complete for name in device.names)
    head = next(line for line in complete.splitlines() if line.startswith("device"))
    assert head.split()[1:] == [*devices.RATES, "vector", "GB/s", "GiB"]


def test_a_summary_with_a_roofline(run, net):
    given = ("summary", net, "--input", "8192x1024", "--fake", "--depth", "1")
    _, plain, _ = run(*given)
    assert "roofline" not in plain
    _, said, _ = run(*given, "--roofline", "A100 SXM 80GB")
    assert said.splitlines()[0].split()[-1] == "roofline"
    # A product takes 3.52 ms, the function between two of them 132 µs.
    assert [line.split()[-2:] for line in said.splitlines()[2:5]] == [
        ["3.52", "ms"],
        ["132", "µs"],
        ["3.52", "ms"],
    ]
    assert "at the roofline" in said
    _, faster, _ = run(*given, "--roofline", "A100 SXM 80GB", "--tf32", "--columns", "roofline")
    assert faster.splitlines()[2].split() == ["0", "441", "µs"]  # 68.7 GFLOP at 156 TFLOP/s
    status, _, errors = run(*given, "--tf32")
    assert status == 2 and "--roofline DEVICE" in errors
    status, _, errors = run(*given, "--roofline", "H20")
    assert status == 2 and "is not known" in errors


def test_calibrate_prints_what_it_measured_and_writes_it(run, tmp_path, monkeypatch):
    rates = {"float32": 2e12, "bfloat16": 8e12}
    measured = ta.Device(
        "mine",
        rates,
        {"float32": 2e12},
        bandwidth=3e11,
        launch_us=2.5,
        special=1.25e9,
        cache=2**24,
        cache_bandwidth=6e11,
        products={"float32": ((1e6, 1e12), (1e9, 2e12))},
    )
    asked = []
    monkeypatch.setattr(calibration, "calibrate", lambda device: asked.append(device) or measured)
    out = tmp_path / "mine.json"
    status, said, _ = run("calibrate", "--device", "cuda:1", "--out", out)
    assert (status, asked) == (0, ["cuda:1"]) and devices.load(out) == measured
    assert [line.split() for line in said.splitlines()[:-1]] == [
        ["float32", "2.000", "TFLOP/s"],
        ["bfloat16", "8.000", "TFLOP/s"],
        ["copy", "300.0", "GB/s"],
        ["cache", "600.0", "GB/s,", "16", "MiB"],
        ["exp", "1.250", "G/s"],
        ["launch", "2.50", "us"],
    ]


def test_help_names_the_commands():
    said = CliRunner().invoke(app, ["--help"]).output
    assert "estimate" in said and "devices" in said and "calibrate" in said
