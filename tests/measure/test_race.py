"""Races between artifacts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.measure import latency as timing
from compress.measure import race as racing
from compress.measure.latency import paired_latency
from compress.measure.race import race, settled


class Steps(nn.Module):
    """As many convolutions as asked for."""

    def __init__(self, count):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(count)))

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def network(count):
    torch.manual_seed(0)
    return Artifact(Format.TORCH, Steps(count).eval(), Precision.FP32, InputSpec((3, 16, 16)), True)


def test_thirty_layers_lose_against_one_whichever_way_round():
    found = race(network(30), network(1), threads=1, seconds=0.5)
    assert found.ratio > 1
    assert found.low <= found.ratio <= found.high
    back = race(network(1), network(30), threads=1, seconds=0.5)
    assert back.ratio < 1


def test_a_race_without_time_still_runs_both_ways_round(monkeypatch):
    opened = []

    def load(artifact, *, threads):
        opened.append(artifact)
        return racing_load(artifact, threads=threads)

    racing_load = racing.load
    monkeypatch.setattr(racing, "load", load)
    first, second = network(1), network(2)
    found = race(first, second, threads=1, seconds=1e-6)
    assert [artifact is first for artifact in opened] == [True, False, False, True]
    assert found.pairs == 12


class TwoClocks:
    """The wall's, which goes on while other processes have the core, and the processor's."""

    def __init__(self):
        self.wall_ns = self.cpu_ns = 0

    def perf_counter_ns(self):
        return self.wall_ns

    def perf_counter(self):
        return self.wall_ns / 1e9

    def process_time_ns(self):
        return self.cpu_ns


def rounds(monkeypatch, *, waiting, threads=1):
    """Two models of 21 and 10 ms; the first waits for `waiting` ms more in each call."""
    clock = TwoClocks()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(racing.os, "getloadavg", lambda: (0.5, 0.5, 0.5))

    def model(computes, waits):
        def run(images):
            clock.cpu_ns += round(computes * 1e6) * threads
            clock.wall_ns += round((computes + waits) * 1e6)

        return run

    images = np.zeros((1, 1, 1, 1), np.float32)
    options = {"runs": 10, "warmup": 1, "seconds": 60, "threads": threads, "device": ""}
    return [paired_latency(model(21, waiting), model(10, 0), images, **options) for _ in range(2)]


def test_a_quiet_machine_gives_the_ratio_of_the_clock_on_the_wall(monkeypatch):
    found = settled(rounds(monkeypatch, waiting=0.1), threads=1, on_cpu=True)
    assert found.ratio == pytest.approx(2.11)
    assert found.doubt == ""


def test_a_busy_machine_gives_the_ratio_of_processor_times_and_says_so(monkeypatch):
    found = settled(rounds(monkeypatch, waiting=33), threads=1, on_cpu=True)
    assert (found.low, found.ratio, found.high) == pytest.approx((2.1, 2.1, 2.1))
    assert "busy, this process computed 48% of the time" in found.doubt
    assert "2.10; by the clock on the wall 5.40" in found.doubt


def test_clocks_that_disagree_on_a_machine_that_seems_quiet_widen_the_interval(monkeypatch):
    found = settled(rounds(monkeypatch, waiting=2.5), threads=1, on_cpu=True)
    assert (found.low, found.ratio, found.high) == pytest.approx((2.1, 2.35, 2.35))
    assert "do not agree" in found.doubt


def test_with_several_threads_the_load_tells_and_the_interval_holds_both_clocks(monkeypatch):
    measured = rounds(monkeypatch, waiting=33, threads=2)
    monkeypatch.setattr(racing.os, "getloadavg", lambda: (99.0, 9.0, 9.0))
    found = settled(measured, threads=2, on_cpu=True)
    assert (found.low, found.ratio, found.high) == pytest.approx((2.1, 5.4, 5.4))
    assert "99.0 processes" in found.doubt


def test_an_accelerator_s_time_is_not_the_processor_s(monkeypatch):
    found = settled(rounds(monkeypatch, waiting=33), threads=1, on_cpu=False)
    assert found.ratio == pytest.approx(5.4)
    assert found.doubt == ""
