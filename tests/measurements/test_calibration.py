"""What a device is measured to do can be used at once, and be kept."""

from __future__ import annotations

import pytest
import torch

import torchatlas as ta
from torchatlas import devices
from torchatlas.errors import UsageError
from torchatlas.measurements.calibration import calibrate


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


def test_tf32_is_left_as_it_was():
    before = torch.backends.cuda.matmul.allow_tf32
    calibrate(seconds=0.005)
    assert torch.backends.cuda.matmul.allow_tf32 == before


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
