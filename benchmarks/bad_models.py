"""Three models that break a run over a zoo: one raises, one is killed, one hangs for ever.

torchatlas bench --zoo timm,benchmarks/bad_models.py:zoo --filter "test_*,bad_*" --timeout 60
"""

from __future__ import annotations

import os
import signal
import time

import torch
from torch import nn


class Raises(nn.Module):
    """A model that cannot be run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raise ValueError."""
        raise ValueError("no luck today")


class Dies(nn.Module):
    """A model that takes its process with it, as the out-of-memory killer does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Kill the process."""
        os.kill(os.getpid(), signal.SIGKILL)
        return x


def hangs() -> tuple[nn.Module, torch.Tensor]:
    """Wait for ever; only a signal that cannot be ignored ends that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(600)


zoo = {
    "bad_dies": lambda: (Dies(), torch.randn(2, 8)),
    "bad_hangs": hangs,
    "bad_raises": lambda: (Raises(), torch.randn(2, 8)),
}
