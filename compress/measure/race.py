"""Two artifacts against each other in one runtime, opened anew for every round.

Beside the clock on the wall runs that of the processor. Where other processes take turns with this one, the wall's
ratio says as much about them as about the files, and intervals of medians do not see it: what waits waits for long.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from compress.core.artifact import Artifact
from compress.core.intervals import median_interval
from compress.core.measurement import LatencyRatio
from compress.formats.registry import support_of
from compress.formats.runtimes import load
from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, one_sample, paired_latency

__all__ = ["race", "settled"]

_WARMUP = 5
_RUNS = 200
_ROUNDS = 4
_FEWEST_ROUNDS = 2  # of slow models: one each way round

_UNDISTURBED = 0.9
"""Share of the wall's time below which others had the core: a process alone computes nearly all of it."""

_APART = 0.03
"""By which two clocks may differ beyond the interval: each round alone is only good to 1.2 %."""


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
    return settled(rounds, threads=threads, on_cpu=not support_of(first.format).on_accelerator)


def settled(rounds: Sequence[PairedLatency], *, threads: int, on_cpu: bool) -> LatencyRatio:
    """The ratio of the wall's times; where the machine was busy that of the processor's, and where that says little, as
    with several threads, an interval that holds both.

    Args:
        on_cpu: processor time is what the models take.
    """
    wall = _joined(rounds, lambda one: one.times_ns)
    if not on_cpu or any(min(pair) <= 0 for one in rounds for pair in one.cpu_ns):  # a clock too coarse to say
        return wall
    cpu, share = _joined(rounds, lambda one: one.cpu_ns), _share_computed(rounds)
    busy = _busy(share, threads)
    agree = wall.low * (1 - _APART) <= cpu.ratio <= wall.high * (1 + _APART)
    if agree and not busy:
        return wall
    reason = busy or "processor time and the clock on the wall do not agree"
    if busy and threads == 1:
        text = f"{reason}: ratio of processor times, {cpu.ratio:.2f}; by the clock on the wall {wall.ratio:.2f}"
        return LatencyRatio(cpu.ratio, cpu.low, cpu.high, cpu.pairs, text)
    text = f"{reason}: the ratio is {wall.ratio:.2f} by the clock on the wall and {cpu.ratio:.2f} by processor time"
    return LatencyRatio(wall.ratio, min(wall.low, cpu.low), max(wall.high, cpu.high), wall.pairs, text)


def _joined(
    rounds: Sequence[PairedLatency], pairs: Callable[[PairedLatency], tuple[tuple[int, int], ...]]
) -> LatencyRatio:
    """Over all rounds, by one clock: the median round, and the widest interval."""
    ratios = [[one / other for one, other in pairs(part)] for part in rounds]
    intervals = [median_interval(part) for part in ratios]
    return LatencyRatio(
        ratio=float(np.median([np.median(part) for part in ratios])),
        low=min(low for low, _ in intervals),
        high=max(high for _, high in intervals),
        pairs=sum(map(len, ratios)),
    )


def _share_computed(rounds: Sequence[PairedLatency]) -> float:
    """Processor time over the wall's."""
    return sum(sum(pair) for one in rounds for pair in one.cpu_ns) / sum(
        sum(pair) for one in rounds for pair in one.times_ns
    )


def _busy(share: float, threads: int) -> str | None:
    """Describe what other processes took, in words. Threads that wait for a thread without a core compute, too, as it
    were: the load tells there."""
    if share < _UNDISTURBED:
        return f"the machine was busy, this process computed {share:.0%} of the time"
    load, cores = os.getloadavg()[0], describe_host().cores
    if threads > 1 and load > cores:
        return f"the machine was busy, {load:.1f} processes on {cores} cores"
    return None


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
