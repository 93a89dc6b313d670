"""The table of devices, how its rows are found, and devices in files."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from torchatlas import devices
from torchatlas.devices import DEVICES, Device
from torchatlas.errors import FormatError, UsageError
from torchatlas.measurements import calibration

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
    "AMD Instinct MI300X VF": "MI300X",
    "AMD Instinct MI250X": "MI250X",
    "AMD Instinct MI250X / MI250": "MI250X",
    "A100-SXM-80GB": "A100 SXM 80GB",
    "NVIDIA A100-PCIE-80GB": "A100 PCIe 80GB",
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
        ("80GB", "is not known", "near it: A100 PCIe 80GB"),
        ("HBM3", "is not known", "near it: H100 SXM"),
        ("SXM", "is not known", "A100 SXM 80GB"),
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


OTHERS = [
    "NVIDIA A10G",
    "NVIDIA A10M",
    "NVIDIA T4G",
    "NVIDIA L40",
    "NVIDIA H20",
    "NVIDIA H800",
    "NVIDIA H100 96GB HBM3",
    "NVIDIA GH200 480GB",
    "NVIDIA GH200 144G HBM3e",
    "NVIDIA B300",
    "NVIDIA GB300",
    "NVIDIA A800-SXM4-80GB",
    "NVIDIA A100-SXM-64GB",
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "NVIDIA H200 MIG 1g.18gb",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 5090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 5090 Laptop GPU",
    "Tesla V100S-PCIE-32GB",
    "Tesla V100-SXM3-32GB",
    "Tesla V100-FHHL-16GB",
    "GRID T4-16Q",
    "NVIDIA A10-8Q",
    "AMD Instinct MI250",
    "AMD Instinct MI300A",
    "AMD Instinct MI325X",
    "AMD EPYC",
    "RTX",
    "generic",
]
"""Other products, slices and generic words, however near their names are to one of the table."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_are_not_taken_for_one_of_the_table(name):
    with pytest.raises(UsageError, match="is not known"):
        devices.find(name)


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


def documented_rows():
    text = (Path(__file__).parents[1] / "docs" / "roofline.md").read_text()
    return [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]


def test_the_documentation_says_of_every_row_what_it_was_compared_with():
    rows = [cells for cells in documented_rows() if len(cells) == 2 and "`" not in cells[0]]
    named = [name.strip() for cells in rows[1:] for name in cells[0].split(",")]
    assert sorted(named) == sorted(BY_NAME)


def test_the_table_in_the_documentation_is_this_one():
    rows = [cells for cells in documented_rows() if len(cells) == 11]
    shown = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}
    kinds = ("float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8")
    for device in DEVICES:
        rates = [device.matrix.get(kind) for kind in kinds] + [device.vector["float32"]]
        cells = ["" if rate is None else f"{rate / 1e12:.4g}" for rate in rates]
        memory = "" if device.memory is None else str(device.memory // 2**30)
        assert shown[device.name] == [*cells, f"{device.bandwidth / 1e9:g}", memory]


def _tensor_cores(units: int, per_clock: int, mhz: float) -> float:
    """Return FLOP/s or OP/s: units that each do so many operations a clock."""
    return units * per_clock * mhz * 1e6


@pytest.mark.parametrize(
    ("name", "kind", "rate"),
    [
        # Streaming multiprocessors, multiply-adds twice, boost clock: the vendors' white papers.
        ("V100 SXM2 16GB", "float16", _tensor_cores(80, 8 * 64 * 2, 1530)),
        ("V100 SXM2 16GB", "float32", _tensor_cores(80, 64 * 2, 1530)),
        ("T4", "float16", _tensor_cores(40, 8 * 64 * 2, 1590)),
        ("T4", "int8", _tensor_cores(40, 8 * 128 * 2, 1590)),
        ("A10", "bfloat16", _tensor_cores(72, 4 * 128 * 2, 1695)),
        ("A100 SXM 40GB", "bfloat16", _tensor_cores(108, 4 * 256 * 2, 1410)),
        ("A100 SXM 40GB", "tf32", _tensor_cores(108, 4 * 128 * 2, 1410)),
        ("A100 SXM 40GB", "float32", _tensor_cores(108, 64 * 2, 1410)),
        ("H100 SXM", "bfloat16", _tensor_cores(132, 4 * 512 * 2, 1830)),
        ("H100 SXM", "float32", _tensor_cores(132, 128 * 2, 1980)),
        ("H100 PCIe", "bfloat16", _tensor_cores(114, 4 * 512 * 2, 1620)),
        ("L40S", "float32", _tensor_cores(142, 128 * 2, 2520)),
        ("L40S", "float8", _tensor_cores(142, 4 * 256 * 2, 2520)),
        ("RTX 3090", "bfloat16", _tensor_cores(82, 4 * 64 * 2, 1695)),
        ("RTX 3090", "int8", _tensor_cores(82, 4 * 256 * 2, 1695)),
        ("RTX 4090", "bfloat16", _tensor_cores(128, 4 * 64 * 2, 2520)),
        ("RTX 4090", "float8", _tensor_cores(128, 4 * 128 * 2, 2520)),
        ("RTX 5090", "bfloat16", _tensor_cores(170, 4 * 64 * 2, 2407)),
        ("RTX 5090", "int8", _tensor_cores(170, 4 * 256 * 2, 2407)),
        # Compute units: 1024 and 256 a clock stand in AMD's page on the MI250.
        ("MI250X", "bfloat16", _tensor_cores(110, 1024, 1700)),
        ("MI250X", "float64", _tensor_cores(110, 256, 1700)),
        ("MI300X", "bfloat16", _tensor_cores(304, 2048, 2100)),
        ("MI300X", "float32", _tensor_cores(304, 256, 2100)),
        ("MI300X", "int8", _tensor_cores(304, 4096, 2100)),
    ],
)
def test_rates_are_what_the_units_do_at_their_clock(name, kind, rate):
    assert BY_NAME[name].matrix[kind] == pytest.approx(rate, rel=0.005)


@pytest.mark.parametrize(
    ("name", "bits", "gbit_s"),
    [
        ("T4", 256, 10.0),
        ("A10", 384, 12.5),
        ("A100 SXM 40GB", 5120, 2.43),
        ("A100 SXM 80GB", 5120, 3.186),
        ("L4", 192, 12.5),
        ("L40S", 384, 18.0),
        ("H100 SXM", 5120, 5.238),
        ("RTX 3090", 384, 19.5),
        ("RTX 4090", 384, 21.0),
        ("RTX 5090", 512, 28.0),
        ("MI250X", 4096, 3.2),
        ("MI300X", 8192, 5.2),
    ],
)
def test_bandwidths_are_the_width_of_the_bus_at_its_rate(name, bits, gbit_s):
    assert BY_NAME[name].bandwidth == pytest.approx(bits / 8 * gbit_s * 1e9, rel=0.005)


SPARSE = {
    "A10": 250, "A100 SXM 80GB": 624, "A100 PCIe 40GB": 624, "L4": 242, "L40S": 733, "H100 SXM":
    1979, "H100 PCIe": 1513, "H100 NVL": 1671, "H200": 1979, "H200 NVL": 1671, "B200": 4500,
    "GB200": 5000, "RTX 3090": 142, "RTX 4090": 330.4, "RTX 5090": 419, "MI300X": 2614.9,
}  # fmt: skip
"""TFLOP/s of bfloat16 that are printed for matrices half of which are zeros."""


@pytest.mark.parametrize("name", SPARSE)
def test_rates_are_not_those_with_sparsity(name):
    assert BY_NAME[name].matrix["bfloat16"] * 2 == pytest.approx(SPARSE[name] * 1e12, rel=0.015)


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
        {"special": 0},
        {"cache": -1, "cache_bandwidth": 1.0},
        {"cache": 2**20},
        {"cache_bandwidth": 1e9},
        {"products": {"float33": [(1.0, 1.0)]}},
        {"products": {"float32": [(1.0, 0.0)]}},
        {"by_shape": {"round": {"float32": [(1.0, 1.0, 1.0)]}}},
        {"by_shape": {"pointwise": {"float33": [(1.0, 1.0, 1.0)]}}},
        {"by_shape": {"pointwise": {"float32": [(1.0, -1.0, 1.0)]}}},
        {"by_shape": {"pointwise": {"float32": [(0.0, 1.0, 1.0), (1.0, 1.0, 1.0)]}}},
        {"by_shape": {"pointwise": {"float32": [(1.0, 1.0)]}}},
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


def test_a_small_product_runs_at_the_rate_of_its_size():
    measured = {"float32": [(1e9, 4e12), (1e6, 1e12)]}  # in any order
    device = Device("x", {"float32": 4e12, "float16": 9e12}, {}, 1.0, products=measured)
    assert device.matrix_rate("float32") == 4e12
    assert device.matrix_rate("float32", flops=1) == 1e12
    assert device.matrix_rate("float32", flops=1e6) == pytest.approx(1e12)
    assert device.matrix_rate("float32", flops=1e9) == pytest.approx(4e12)
    assert device.matrix_rate("float32", flops=1e15) == 4e12
    # Halfway between the logarithms.
    assert device.matrix_rate("float32", flops=10**7.5) == pytest.approx(2e12)
    assert device.matrix_rate("float16", flops=1) == 9e12  # not measured by size
    assert device.matrix_rate("bfloat16", flops=1) is None


def test_a_thin_contraction_runs_at_the_rate_of_its_width_and_size():
    spatial = [(64, 1e8, 4e12), (16, 1e6, 1e11), (16, 1e8, 1e12)]  # in any order
    device = Device(
        "x", {"float32": 9e12, "tf32": 9e13}, {}, 1.0, by_shape={"spatial": {"float32": spatial}}
    )

    def rate(width, flops, **more):
        return device.shape_rate("float32", "spatial", width, flops, **more)

    assert rate(16, 1e6) == rate(8, 1.0) == pytest.approx(1e11)  # no thinner, no smaller ones
    assert rate(64, 1e8) == rate(500, 1e15) == pytest.approx(4e12)
    assert rate(16, 1e7) == pytest.approx(10**11.5)  # halfway between the logarithms
    assert rate(32, 1e8) == pytest.approx(2e12)
    assert rate(32, 1e7) == pytest.approx((10**11.5 * 4e12) ** 0.5)
    # Not measured: TF32, another type, another class.
    assert rate(32, 1e7, tf32=True) is None
    assert device.shape_rate("bfloat16", "spatial", 32, 1e7) is None
    assert device.shape_rate("float32", "depthwise", 9, 1e7) is None


MEASURED = Device(
    "measured",
    {"float32": 2e12},
    {"float32": 1e12},
    1e11,
    special=1e9,
    cache=2**24,
    cache_bandwidth=5e11,
    products={"float32": ((1e6, 1e12), (1e9, 2e12))},
    by_shape={"depthwise": {"float32": ((9.0, 1e6, 1e11), (25.0, 1e6, 2e11))}},
)


@pytest.mark.parametrize(
    "device", [*DEVICES[:2], MINE, MEASURED, BY_NAME["CPU"]], ids=lambda d: d.name
)
def test_files_give_the_same_device(device, tmp_path):
    devices.save(device, tmp_path / "one.json")
    assert devices.load(tmp_path / "one.json") == device
    assert devices.resolve(str(tmp_path / "one.json")) == device
    assert devices.resolve(tmp_path / "one.json") == device
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_resolve_takes_a_device_as_it_is():
    assert devices.resolve(MINE) is MINE
    assert devices.resolve("NVIDIA H200") is BY_NAME["H200"]


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({**GOOD, "launch_us": 2.0, "names": []}))
    old = devices.load(tmp_path / "old.json")
    assert (old.launch_us, old.cache, old.special, old.products) == (2.0, None, None, {})
    assert old.by_shape == {} and old.shape_rate("float32", "pointwise", 64, 1e9) is None


# -- measured ------------------------------------------------------------------------------


def test_calibrating_a_processor_finds_numbers_that_hang_together(monkeypatch):
    monkeypatch.setattr(calibration, "_WORKING_SETS", (2**22, 2**20))
    found = calibration.calibrate("cpu", seconds=0.02)
    sizes = [flops for flops, _ in found.products["float32"]]
    assert sizes[0] == 2 * 64**3 and sizes == sorted(sizes)
    rates = [rate for _, rate in found.products["float32"]]
    assert found.matrix["float32"] == found.vector["float32"] == max(rates)
    assert found.special > 1e6 and found.launch_us > 0 and found.memory > 2**28
    assert found.source.startswith("measured by torchatlas")
    with pytest.raises(UsageError, match="no device 'cuda:99'"):
        calibration.calibrate("cuda:99")


@pytest.mark.parametrize(
    ("fast_up_to", "expected"), [(2**28, 2**27), (2**24, 2**24), (2**20, 2**20), (0, None)]
)
def test_the_cache_is_the_largest_working_set_that_is_copied_fast(
    fast_up_to, expected, monkeypatch
):
    def copied(place, nbytes, seconds, repeats):
        return 40e9 if 2 * nbytes <= fast_up_to else 22e9

    monkeypatch.setattr(calibration, "_bandwidth", copied)
    found = calibration._cache(torch.device("cpu"), 20e9, 0.01)
    assert found == ((expected, 40e9) if expected else (None, None))


def test_one_thread_is_timed_by_the_processor_and_several_by_the_clock():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert calibration._clock(torch.device("cpu")) is time.process_time
        assert calibration._clock(torch.device("cuda")) is time.perf_counter
        torch.set_num_threads(2)
        assert calibration._clock(torch.device("cpu")) is time.perf_counter
    finally:
        torch.set_num_threads(before)


@pytest.mark.cuda
def test_calibrating_a_gpu_comes_near_its_row_of_the_table():
    found = calibration.calibrate("cuda")
    assert found.matrix["bfloat16"] > found.matrix["float32"] and "tf32" in found.matrix
    assert found.products["bfloat16"][0][1] < found.matrix["bfloat16"]
    assert found.special is None
    try:
        row = devices.find(found.name)
    except UsageError:
        return  # a device that the table does not have
    assert 0.4 < found.matrix["bfloat16"] / row.matrix["bfloat16"] < 1.02
    assert 0.6 < found.bandwidth / row.bandwidth < 1.02


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
