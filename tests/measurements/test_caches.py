"""Cold caches: how large they are, and that what goes through them drives out what was in them."""

from __future__ import annotations

import os
from time import perf_counter_ns

import pytest
import torch

from torchatlas.frontends.set_up import threads
from torchatlas.measurements import caches

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose caches are written down as Linux does it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)

    def add(cpu, index, kind, level, size, shared):
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        told = {"type": kind, "level": level, "size": size, "shared_cpu_list": shared}
        for name, value in told.items():
            (folder / name).write_text(f"{value}\n")

    return tmp_path, add


def test_caches_are_added_up_and_shared_ones_counted_once(machine):
    folder, add = machine
    for cpu in (0, 1):
        add(cpu, 0, "Data", 1, "32K", cpu)
        add(cpu, 1, "Instruction", 1, "64K", cpu)
        add(cpu, 2, "Unified", 2, "1M", cpu)
        add(cpu, 3, "Unified", 3, "16M", "0-1")
    assert caches.cache_bytes(folder) == 2 * (32 * 1024 + MIB) + 16 * MIB


def test_processors_of_others_do_not_count(machine):
    folder, add = machine
    add(0, 0, "Unified", 3, "16M", "0-3")
    add(7, 0, "Unified", 3, "32M", "4-7")
    assert caches.cache_bytes(folder) == 16 * MIB


def test_what_nobody_can_read_is_left_out(machine):
    folder, add = machine
    add(0, 0, "Unified", 3, "", "0")
    add(0, 1, "Unified", 2, "many", "0")
    assert caches.cache_bytes(folder) == 128 * MIB
    add(0, 2, "Unified", 1, "4096K", "0")
    assert caches.cache_bytes(folder) == 4 * MIB


def test_the_buffer_is_twice_as_large_as_the_caches(monkeypatch):
    monkeypatch.setattr(caches, "cache_bytes", lambda: 3 * MIB)
    made = []
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *a, **k: made.append(ones(*a, **k)) or made[-1])
    flush = caches.flusher("cpu")
    flush()
    (buffer,) = made
    assert buffer.untyped_storage().nbytes() == 6 * MIB and torch.equal(buffer, ones(786432))


def test_reading_takes_longer_after_it():
    """By the minima, which other programs disturb the least."""
    flush, tensor = caches.flusher("cpu"), torch.ones(2**18)
    warm, cold = [], []
    with threads(1):
        for _ in range(15):
            for times, before in ((warm, tensor.sum), (cold, flush)):
                before()
                start = perf_counter_ns()
                tensor.sum()
                times.append(perf_counter_ns() - start)
    assert min(cold) > 1.5 * min(warm)


def test_on_a_gpu_zeros_are_written_to_twice_the_level_2_cache(monkeypatch):
    class Properties:
        L2_cache_size = 5 * MIB

    class Buffer:
        zeroed = 0

        def zero_(self):
            self.zeroed += 1

    buffer, asked = Buffer(), []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: Properties)
    monkeypatch.setattr(torch, "empty", lambda size, **told: asked.append((size, told)) or buffer)
    flush = caches.flusher("cuda:1")
    assert asked == [(10 * MIB, {"dtype": torch.int8, "device": torch.device("cuda:1")})]
    assert buffer.zeroed == 0
    flush()
    flush()
    assert buffer.zeroed == 2


@pytest.mark.cuda
def test_a_gpu_is_slower_after_it():
    flush = caches.flusher("cuda")
    size = torch.cuda.get_device_properties("cuda").L2_cache_size // 16
    tensor = torch.ones(size, device="cuda")

    def least(before):
        found = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before()
            begin.record()
            tensor.sum()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end))
        return min(found)

    assert least(flush) > least(tensor.sum)
