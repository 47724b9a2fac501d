"""Peak memory sees what was mapped and gone inside."""

from __future__ import annotations

import mmap
import time

import psutil
import pytest

from compress.measure.memory import PeakMemory

MIB = 1 << 20


def test_sees_a_peak_that_is_gone_at_the_end():
    before = psutil.Process().memory_info().rss
    # Mapped, not allocated: malloc may hand out what was freed earlier and is still resident, which adds nothing.
    with PeakMemory() as memory, mmap.mmap(-1, 100 * MIB) as block:
        for page in range(0, 100 * MIB, mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.5)  # a sample every 10 ms, also where the other cores are taken
    assert 95 * MIB < memory.peak_bytes - before < 200 * MIB


def test_stops_its_thread_when_the_work_fails():
    memory = PeakMemory()
    with pytest.raises(RuntimeError, match="work"), memory:
        raise RuntimeError("work failed")
    assert not memory._thread.is_alive()
    assert memory.peak_bytes > 0
