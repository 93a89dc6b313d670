"""The table of devices, how its rows are found, and devices in files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from torchatlas import devices
from torchatlas.devices import DEVICES, Device
from torchatlas.errors import FormatError, UsageError

BY_NAME = {device.name: device for device in DEVICES}

REPORTED = {
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
    "NVIDIA A100-SXM4-40GB": "A100 SXM 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80GB",
    "NVIDIA A100-PCIE-40GB": "A100 PCIe 40GB",
    "A100-SXM4-40GB": "A100 SXM 40GB",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100 SXM2 16GB",
    "Tesla V100-SXM2-32GB": "V100 SXM2 32GB",
    "Tesla V100-PCIE-16GB": "V100 PCIe 16GB",
    "NVIDIA A10": "A10",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "AMD Instinct MI300X": "MI300X",
    "AMD Instinct MI250X": "MI250X",
    "cpu": "CPU",
    # what people write
    "nvidia h200": "H200",
    "h100 sxm": "H100 SXM",
    "GeForce RTX4090": "RTX 4090",
    "4090": "RTX 4090",
    "a100 sxm 80 gb": "A100 SXM 80GB",
    "  mi300x ": "MI300X",
}


@pytest.mark.parametrize("name", REPORTED)
def test_names_that_drivers_report_are_found(name):
    assert devices.find(name).name == REPORTED[name]
    assert devices.find(name.upper()) is devices.find(name.lower()) is devices.find(name)


def test_every_device_is_found_by_each_of_its_names():
    for device in DEVICES:
        for name in (device.name, *device.names):
            assert devices.find(name) is device


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("H100", "may be H100 PCIe, H100 SXM or H100 NVL", "say which"),
        ("A100 80GB", "may be A100 PCIe 80GB or A100 SXM 80GB", "say which"),
        ("NVIDIA GeForce RTX 4080", "is not known", "near it: RTX 3090, RTX 4090, RTX 5090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "is not known", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "is not known", "H100 SXM"),
        ("MI300", "is not known", "near it: MI300X"),
        ("NVIDIA", "is not known", "known: T4, "),
        ("", "is not known", "known: T4, "),
        ("Quantum 9000", "is not known", "known: T4, "),
    ],
)
def test_other_names_say_what_is_near_and_how_to_calibrate(name, problem, hint):
    with pytest.raises(UsageError, match="`torchatlas calibrate`") as caught:
        devices.find(name)
    assert repr(name) in caught.value.problem and problem in caught.value.problem
    assert hint in caught.value.hint and "devices.Device" in caught.value.hint


def test_the_table_has_every_device_that_is_promised():
    promised = "T4, V100 SXM2 16GB, V100 PCIe 16GB, A10, A100 PCIe 40GB, A100 PCIe 80GB"
    promised += ", A100 SXM 40GB, A100 SXM 80GB, L4, L40S, H100 PCIe, H100 SXM, H200, B200, GB200"
    promised += ", RTX 3090, RTX 4090, RTX 5090, MI250X, MI300X, CPU"
    assert BY_NAME.keys() >= set(promised.split(", "))
    assert len(BY_NAME) == len(DEVICES)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_every_number_is_positive_and_has_a_source(device):
    numbers = [*device.matrix.values(), *device.vector.values(), device.bandwidth]
    numbers += [device.launch_us, *([device.memory] if device.memory is not None else [])]
    assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert device.source and device.launch_source
    assert device.url.startswith("https://") and " " not in device.url
    assert set(device.vector) <= {"float64", "float32"} and "float32" in device.vector
    assert device.memory is not None or device.name == "CPU"


ORDER = ("float32", "tf32", "bfloat16", "float8")


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_rates_are_dense_and_stand_in_known_ratios(device):
    rates = device.matrix
    known = [rates[kind] for kind in ORDER if kind in rates]
    assert known == sorted(known)
    assert rates.get("bfloat16", rates["float16"]) == rates["float16"]
    for kind in ("float64", "float32"):
        assert device.vector.get(kind, 0) <= rates.get(kind, math.inf)
    # Half the bits, twice the rate at most: a figure with sparsity would be four times.
    for wide, narrow in (("tf32", "float16"), ("bfloat16", "float8"), ("float16", "int8")):
        most = 4.1 if device.name.startswith("RTX") and narrow == "int8" else 2.1
        if wide in rates and narrow in rates:
            assert rates[narrow] <= most * rates[wide]


def test_the_table_in_the_documentation_is_this_one():
    text = (Path(__file__).parents[1] / "docs" / "roofline.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    shown = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}
    kinds = ("float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8")
    for device in DEVICES:
        rates = [device.matrix.get(kind) for kind in kinds] + [device.vector["float32"]]
        cells = ["" if rate is None else f"{rate / 1e12:.4g}" for rate in rates]
        memory = "" if device.memory is None else str(device.memory // 2**30)
        assert shown[device.name] == [*cells, f"{device.bandwidth / 1e9:g}", memory]


def test_numbers_of_data_sheets_that_are_known_by_heart():
    assert BY_NAME["H100 SXM"].matrix["bfloat16"] == 989.4e12
    assert BY_NAME["A100 SXM 80GB"].matrix["float16"] == 312e12
    assert BY_NAME["A100 SXM 80GB"].bandwidth == 2039e9
    assert BY_NAME["A100 SXM 80GB"].memory == 80 * 2**30
    assert BY_NAME["T4"].matrix["float16"] == 65e12
    assert (
        "bfloat16" not in BY_NAME["T4"].matrix
        and "bfloat16" not in BY_NAME["V100 SXM2 16GB"].matrix
    )
    assert "float8" not in BY_NAME["A100 SXM 80GB"].matrix
    assert BY_NAME["MI250X"].matrix["float16"] * 2 == 383e12
    # Two multiply-adds of eight float32 each a clock, on 16 cores at 2.5 GHz; four channels.
    assert BY_NAME["CPU"].vector["float32"] == 16 * 2.5e9 * 2 * 8 * 2
    assert BY_NAME["CPU"].bandwidth == 4 * 8 * 3200e6


MINE = Device("mine", {"float32": 2e12, "int8": 1}, {"float32": 1e12}, 1e11, names=("Mine 1",))


def test_rates_by_data_type():
    h100 = BY_NAME["H100 SXM"]
    assert h100.matrix_rate("float8_e5m2") == h100.matrix_rate("quint8") == 1978.9e12
    assert h100.matrix_rate("float32") == 66.9e12
    assert h100.matrix_rate("float32", tf32=True) == 494.7e12
    assert h100.matrix_rate("bfloat16", tf32=True) == 989.4e12
    assert h100.matrix_rate("complex128") == 66.9e12 / 4
    assert h100.matrix_rate("int64") is None
    assert MINE.matrix_rate("float32", tf32=True) == 2e12  # it has no TF32
    assert MINE.matrix_rate("complex128") is None
    assert MINE.vector_rate("bfloat16") == MINE.vector_rate("int64") == 1e12
    assert MINE.vector_rate("complex64") == 0.5e12
    assert MINE.vector_rate("float64") is None


@pytest.mark.parametrize(
    "change",
    [
        {"matrix": {"float33": 1.0}},
        {"matrix": {"float32": 0}},
        {"vector": {"float32": -1.0}},
        {"bandwidth": math.nan},
        {"bandwidth": math.inf},
        {"bandwidth": "1e9"},
        {"memory": 0},
        {"launch_us": -1},
        {"launch_us": True},
    ],
    ids=str,
)
def test_a_device_with_impossible_numbers_is_refused(change):
    good = {"name": "x", "matrix": {"float32": 1.0}, "vector": {}, "bandwidth": 1.0}
    with pytest.raises(UsageError, match="the device 'x' has"):
        Device(**{**good, **change})


def test_a_device_keeps_its_own_copy_and_is_hashable():
    rates = {"float32": 1.0}
    device = Device("x", rates, rates, 1.0)
    rates["float32"] = 2.0
    assert device.matrix == device.vector == {"float32": 1.0}
    assert len({device, device, MINE}) == 2


@pytest.mark.parametrize("device", [*DEVICES[:2], MINE, BY_NAME["CPU"]], ids=lambda d: d.name)
def test_files_give_the_same_device(device, tmp_path):
    devices.save(device, tmp_path / "one.json")
    assert devices.load(tmp_path / "one.json") == device
    assert devices.resolve(str(tmp_path / "one.json")) == device
    assert devices.resolve(tmp_path / "one.json") == device
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_resolve_takes_a_device_as_it_is():
    assert devices.resolve(MINE) is MINE
    assert devices.resolve("NVIDIA H200") is BY_NAME["H200"]


GOOD = {"format": "torchatlas device", "name": "x", "matrix": {}, "vector": {}, "bandwidth": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\x80\x04K\x01.", "malformed|decode"),
        (b"[]", "does not say"),
        (b"{}", "does not say"),
        (json.dumps({**GOOD, "bandwidth": "__import__('os')"}).encode(), "Expected `float`"),
        (json.dumps({**GOOD, "bandwidth": -1}).encode(), "bandwidth = -1"),
        (json.dumps({**GOOD, "matrix": {"float33": 1}}).encode(), "float33"),
        (json.dumps({**GOOD, "other": 1}).encode(), "unknown key 'other'"),
        (json.dumps({**GOOD, "names": "mine"}).encode(), "Expected `array`"),
        (b'{"format":"torchatlas device","bandwidth":1e999}', "range|required"),
        (b"[" * 100_000, "recursion|nested|malformed|truncated"),
    ],
)
def test_bad_files_are_refused(content, message, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(FormatError, match=f"(?s)bad.json' is no device: .*({message})"):
        devices.load(tmp_path / "bad.json")


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FormatError, match="cannot read"):
        devices.load(tmp_path / "none.json")
    with pytest.raises(FormatError, match="cannot write"):
        devices.save(MINE, tmp_path / "no folder" / "one.json")
