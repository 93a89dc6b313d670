"""What a model would take on a device that need not be there: time, memory, throughput."""

from .build import estimate
from .result import Estimate, Step

__all__ = ["Estimate", "Step", "estimate"]
