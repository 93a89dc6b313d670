"""What a device is measured to do can be used at once, and be kept."""

from __future__ import annotations

import pytest
import torch

import torchatlas as ta
from torchatlas import devices
from torchatlas.errors import UsageError
from torchatlas.measurements import calibration, shapes
from torchatlas.measurements.calibration import calibrate


@pytest.fixture(autouse=True)
def one_thread():
    """Two would wait for each other, and for the tests that run beside this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_calibration_is_a_device_that_can_be_kept(tmp_path, captured):
    found = calibrate(seconds=0.02)
    assert {"float32", "float64"} <= found.matrix.keys() <= set(devices.RATES)
    assert found.vector["float32"] == found.matrix["float32"] > 1e7
    assert found.bandwidth > 1e7 and found.memory > 2**28 and 0 < found.launch_us < 1e4
    assert "measured" in found.source and torch.__version__ in found.source
    devices.save(found, tmp_path / "mine.json")
    assert devices.load(tmp_path / "mine.json") == found
    graph = ta.annotate(captured("tiny").copy(), roofline=tmp_path / "mine.json")
    conv = graph.nodes["conv/conv2d"]
    assert conv["roofline_us"] >= 1e6 * conv["flops"] / found.matrix["float32"]
    assert ta.estimate(captured("tiny"), tmp_path / "mine.json").us > 0


def test_thin_products_and_convolutions_are_measured_by_width_and_size():
    found = calibrate(seconds=0.005)
    assert found.by_shape.keys() == set(devices.SHAPES)
    for shape, widths in (
        ("product", {1, 4, 16, 64, 256, 1024}),
        ("pointwise", {16, 64, 256, 1024}),
        ("spatial", {16, 64, 256, 1024}),
        ("depthwise", {9, 25, 49}),
    ):
        points = found.by_shape[shape]["float32"]
        assert {width for width, _, _ in points} <= widths
        assert len({point[:2] for point in points}) == len(points)
        assert found.by_shape[shape].keys() <= {"float32", "bfloat16"}
    # As many operations of one channel at one place are far from filling a processor.
    (_, small, slow), *_ = found.by_shape["pointwise"]["float32"]
    assert small == 2 * 16 * 16 and slow < found.matrix["float32"] / 2
    wide = [p[1:] for p in found.by_shape["product"]["float32"] if p[0] == 1024]
    assert tuple(wide) == found.products["float32"]


def test_kernels_that_would_take_too_long_are_left_out():
    tried = []

    def least(run, seconds):
        tried.append(seconds)
        return 1e9  # however small it is

    found = shapes.rates_by_shape(torch.float32, torch.device("cpu"), 1.0, least)
    assert {name: len(points) for name, points in found.items()} == dict.fromkeys(found, 1)
    assert len(tried) == len(found) == 4


def test_a_gpu_is_given_small_kernels_in_a_row():
    place, calls = torch.device("cpu"), []

    def case(flops):
        return 16.0, flops, lambda: lambda: calls.append(flops)

    def least(run, seconds):
        run()
        return 1.0

    found = shapes._rates([case(1e6), case(1e9)], "cuda", 1e12, least)
    assert (calls.count(1e6), calls.count(1e9)) == (100, 2)  # 2 GFLOP, but no more than 100
    assert found == ((16.0, 1e6, 1e8), (16.0, 1e9, 2e9))
    (first, *_) = shapes._dense(torch.float32, place, "cuda", 3)
    width, flops, make = first
    assert (width, flops) == (16.0, 2 * 16 * 16 * 16 * 9)  # 16 images of one place
    assert make()().shape == (16, 16, 1, 1)


def test_of_two_rounds_the_faster_counts():
    slow, fast = (16.0, 1e6, 1e9), (16.0, 1e6, 2e9)
    assert calibration._best((fast, (4.0, 1e6, 5e9), slow)) == ((4.0, 1e6, 5e9), fast)


def test_what_torch_cannot_run_has_no_rates():
    def least(run, seconds):
        raise RuntimeError("not implemented for 'Half'")

    assert shapes.rates_by_shape(torch.float16, torch.device("cpu"), 1.0, least) == {}


def test_a_calibration_takes_seconds():
    """At most: the planned time of every figure at the default length, with what overruns it."""
    asked = []

    def least(run, seconds):
        asked.append(seconds)
        return 1e-3

    shapes.rates_by_shape(torch.float32, torch.device("cpu"), 0.5, least)
    assert sum(asked) <= 4 * 0.5 + 1e-9


def test_tf32_is_left_as_it_was():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for tf32 in (False, True):
        with calibration._float32(tf32=tf32):
            assert [flag.allow_tf32 for flag in flags] == [tf32, tf32]
        assert [flag.allow_tf32 for flag in flags] == before
    with pytest.raises(KeyError), calibration._float32(tf32=not before[0]):
        raise KeyError
    calibrate(seconds=0.005)
    assert [flag.allow_tf32 for flag in flags] == before


def test_flags_that_are_closed_to_assignments_are_no_obstacle(monkeypatch):
    monkeypatch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", False)
    assert calibrate(seconds=0.005).by_shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(UsageError, match="there is no device 'cuda' here"):
        calibrate("cuda")
    with pytest.raises(UsageError, match="there is no device 'nonsense'"):
        calibrate("nonsense")


@pytest.mark.cuda
def test_a_gpu_is_faster_in_narrow_types():
    found = calibrate("cuda", seconds=0.1)
    assert found.matrix["bfloat16"] > found.matrix["float32"]
    for rates in found.by_shape.values():
        assert rates.keys() == {"float32", "tf32", "float16", "bfloat16"}
