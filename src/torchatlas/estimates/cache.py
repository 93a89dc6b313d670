"""What a kernel moves, and how much of that is still in a cache."""

from __future__ import annotations

from collections.abc import Mapping

from ..devices import Device


class Memory:
    """The memory of a device, and what of it lies in the cache in front while kernels run.

    What was read or written is in the cache until as many other bytes have gone through it. What
    is written goes to the cache if it fits: the next that needs the same place finds it there. A
    device without a cache has everything in memory. Run the same kernels twice: the second time,
    small models find their weights in the cache, as they do in one run after another.

    >>> cached = Device("c", {}, {}, bandwidth=1.0, cache=10, cache_bandwidth=10.0)
    >>> memory = Memory(cached)
    >>> memory.seconds({"x": 4}, {"y": 4}, 8)  # x from memory at 1 B/s, y to the cache at 10
    4.4
    >>> memory.seconds({"x": 4}, {}, 4), memory.seconds({"z": 8}, {}, 8)
    (0.4, 8.0)
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._gone_through = 0
        self._last: dict[str, int] = {}

    def seconds(self, reads: Mapping[str, int], writes: Mapping[str, int], nbytes: int) -> float:
        """Return how long `nbytes` take, which go to what is read and written by its size."""
        device = self._device
        whole = sum(reads.values()) + sum(writes.values())
        if device.cache is None or device.cache_bandwidth is None or whole == 0:
            return nbytes / device.bandwidth
        part = nbytes / whole
        near = 0.0
        for name, size in reads.items():
            near += size if self._is_near(name, int(part * size)) else 0
        for name, size in writes.items():
            self._touch(name, int(part * size))
            near += size if part * size <= device.cache else 0
        near *= part
        return near / device.cache_bandwidth + (nbytes - near) / device.bandwidth

    def _is_near(self, name: str, nbytes: int) -> bool:
        before = self._last.get(name)
        since = None if before is None else self._gone_through - before
        self._touch(name, nbytes)
        return since is not None and since + nbytes <= (self._device.cache or 0)

    def _touch(self, name: str, nbytes: int) -> None:
        self._gone_through += nbytes
        self._last[name] = self._gone_through
