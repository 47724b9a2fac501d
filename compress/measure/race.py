"""Two artifacts against each other in one runtime, opened anew for every round."""

from __future__ import annotations

import time

import numpy as np

from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, one_sample, paired_latency
from compress.runtimes import load
from compress.types import Artifact, LatencyRatio

__all__ = ["race"]

_WARMUP = 5
_RUNS = 200
_ROUNDS = 4
_FEWEST_ROUNDS = 2  # of slow models: one each way round


def race(first: Artifact, second: Artifact, *, threads: int, seconds: float) -> LatencyRatio:
    """Time of one image in `first` over that in `second`; takes about `seconds`, and at least 2 rounds of 6 pairs.

    Two sessions of one and the same file differ by up to 1.2 % for as long as they live (where their weights lie in
    memory), which no number of calls averages out. So every round opens new ones, in turn the other way round.

    Raises:
        StageError: one of them does not load or run.
    """
    rounds: list[PairedLatency] = []
    until = time.perf_counter() + seconds
    while len(rounds) < _FEWEST_ROUNDS or (len(rounds) < _ROUNDS and time.perf_counter() < until):
        rounds.append(_round(first, second, threads, seconds / _ROUNDS, swapped=bool(len(rounds) % 2)))
    return LatencyRatio(
        ratio=float(np.median([one.ratio for one in rounds])),
        low=min(one.low for one in rounds),
        high=max(one.high for one in rounds),
        pairs=sum(one.pairs for one in rounds),
    )


def _round(first: Artifact, second: Artifact, threads: int, seconds: float, *, swapped: bool) -> PairedLatency:
    order = (second, first) if swapped else (first, second)
    runners = [load(artifact, threads=threads) for artifact in order]
    return paired_latency(
        runners[swapped],
        runners[not swapped],
        one_sample(first.input),
        runs=_RUNS,
        warmup=_WARMUP,
        seconds=seconds,
        threads=threads,
        device=describe_host().label,
    )
