"""Timing: counts, limits, order statistics, and the paired ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.core.intervals import median_interval
from compress.measure import latency as timing
from compress.measure.latency import latency, paired_latency, summarize

IMAGES = np.zeros((1, 1, 2, 2), np.float32)
MACHINE = {"threads": 1, "device": "test host"}


class Clock:
    """Stands still while nothing works: a busy machine changes no reading."""

    def __init__(self):
        self.now_ns = 0

    def perf_counter_ns(self):
        return self.now_ns

    def process_time_ns(self):
        return self.now_ns

    def perf_counter(self):
        return self.now_ns / 1e9


@pytest.fixture
def sleeper(monkeypatch):
    """Makes models that take exactly so many seconds."""
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)

    class Sleeper:
        name = "sleeper"

        def __init__(self, seconds):
            self.seconds, self.calls = seconds, 0

        def __call__(self, images):
            self.calls += 1
            clock.now_ns += round(self.seconds * 1e9)
            return np.zeros((len(images), 2), np.float32)

    return Sleeper


def test_summary_in_milliseconds():
    result = summarize([int(ms * 1e6) for ms in range(1, 102)], warmup=4, threads=2, batch=1, device="x")
    assert (result.median_ms, result.p90_ms, result.p99_ms, result.min_ms) == (51, 91, 100, 1)
    assert (result.runs, result.warmup, result.threads, result.batch, result.device) == (101, 4, 2, 1, "x")


def test_counts_calls_and_reports_them(sleeper):
    model = sleeper(0)
    result = latency(model, IMAGES, runs=20, warmup=5, seconds=5, **MACHINE)
    assert (result.runs, result.warmup, model.calls) == (20, 5, 25)


def test_stops_by_time_but_never_below_three_runs(sleeper):
    result = latency(sleeper(0.01), IMAGES, runs=10_000, warmup=10_000, seconds=0.095, **MACHINE)
    assert result.runs == 10
    assert 1 <= result.warmup <= 6
    assert result.min_ms == result.median_ms == 10
    slow = latency(sleeper(0.02), IMAGES, runs=100, warmup=0, seconds=0.001, **MACHINE)
    assert (slow.runs, slow.warmup) == (3, 1)


def test_paired_ratio_finds_the_faster_one_with_an_interval(sleeper):
    result = paired_latency(sleeper(0.002), sleeper(0.006), IMAGES, runs=15, warmup=1, seconds=5, **MACHINE)
    assert result.pairs == 15
    assert result.low == result.ratio == result.high == pytest.approx(1 / 3)
    assert (result.first.median_ms, result.second.median_ms) == (2, 6)


@pytest.mark.parametrize(
    ("count", "ranks"),
    # Conover 1999, table A3 / R's binom: 1-based ranks of the 95 % interval of a median.
    [(5, (1, 5)), (6, (1, 6)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61)), (2000, (956, 1045))],
)
def test_median_interval_ranks(count, ranks):
    assert median_interval(list(range(1, count + 1))) == ranks


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_law_the_interval_holds_the_median(values):
    low, high = median_interval(values)
    assert low <= np.median(values) * (1 + 1e-12)
    assert np.median(values) <= high * (1 + 1e-12)
