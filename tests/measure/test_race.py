"""Races between artifacts."""

from __future__ import annotations

import torch
from torch import nn

from compress.measure import race as racing
from compress.measure.race import race
from compress.types import Artifact, Format, InputSpec, Precision


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
