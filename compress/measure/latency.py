"""Time of single inference calls, and fair comparison of two runners on a machine that is never quite idle."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.artifact import InputSpec
from compress.core.intervals import median_interval
from compress.core.measurement import Latency
from compress.formats.runner import Runner
from compress.support.quiet import undisturbed

__all__ = ["PairedLatency", "latency", "one_sample", "paired_latency", "summarize"]

_FEWEST_RUNS = 3
_FEWEST_PAIRS = 6  # fewer have no 95 % order-statistic interval: 2 * 0.5**5 > 0.05
_NANOSECONDS_PER_MS = 1e6


@dataclass(frozen=True)
class PairedLatency:
    """Two runners timed in turn on the same input.

    Attributes:
        ratio: median over pairs of time(first) / time(second); below 1 means the first is faster.
        low, high: 95 % order-statistic interval of that median.
        pairs: number of pairs.
        times_ns: of each pair, in order.
        cpu_ns: processor time of this process during the calls of each pair, in the same order.
    """

    ratio: float
    low: float
    high: float
    pairs: int
    first: Latency
    second: Latency
    times_ns: tuple[tuple[int, int], ...] = ()
    cpu_ns: tuple[tuple[int, int], ...] = ()


def latency(
    run: Runner,
    images: NDArray[np.float32],
    *,
    runs: int,
    warmup: int,
    seconds: float,
    threads: int,
    device: str,
) -> Latency:
    """Time `run(images)`: warm up, then call until `runs` calls or `seconds` are spent (but at least 3 calls).

    Warm-up stops after `warmup` calls or `seconds / 2`, and makes at least one call.

    Args:
        images: float32 `[N, C, H, W]`; N is the batch that is reported.
        threads: what `run` was loaded with; reported, not set here.
        device: the machine's name, as reported.
    """
    with undisturbed(), _no_garbage_collection():
        warmed = _warm_up([run], images, warmup, seconds / 2)
        times = [_spent(run, images).wall_ns for _ in _until(runs, seconds, fewest=_FEWEST_RUNS)]
    return summarize(times, warmup=warmed, threads=threads, batch=len(images), device=device)


def paired_latency(
    first: Runner,
    second: Runner,
    images: NDArray[np.float32],
    *,
    runs: int,
    warmup: int,
    seconds: float,
    threads: int,
    device: str,
) -> PairedLatency:
    """Time two runners in turn, swapping who goes first, so that drift and load of the machine hit both alike.

    `seconds` limits both together; at least 6 pairs are timed.
    """
    pairs: list[tuple[_Spent, _Spent]] = []
    with undisturbed(), _no_garbage_collection():
        warmed = _warm_up([first, second], images, warmup, seconds / 2)
        for index in _until(runs, seconds, fewest=_FEWEST_PAIRS):
            if index % 2:
                late, early = _spent(second, images), _spent(first, images)
                pairs.append((early, late))
            else:
                pairs.append((_spent(first, images), _spent(second, images)))
    times = tuple((one.wall_ns, other.wall_ns) for one, other in pairs)
    ratios = [one / other for one, other in times]
    low, high = median_interval(ratios)
    one, other = (
        summarize(own, warmup=warmed, threads=threads, batch=len(images), device=device)
        for own in zip(*times, strict=True)
    )
    cpu = tuple((one.cpu_ns, other.cpu_ns) for one, other in pairs)
    return PairedLatency(float(np.median(ratios)), low, high, len(times), one, other, times, cpu)


def one_sample(spec: InputSpec) -> NDArray[np.float32]:
    """A normal-looking image `[1, C, H, W]`: zeros would meet denormals and sparse fast paths that photos do not."""
    return np.random.default_rng(0).standard_normal((1, *spec.shape), dtype=np.float32)


def summarize(times_ns: Sequence[int], *, warmup: int, threads: int, batch: int, device: str) -> Latency:
    """Median, 90th and 99th percentile (linear interpolation) and minimum of call times in nanoseconds."""
    times_ms = np.asarray(times_ns, dtype=np.float64) / _NANOSECONDS_PER_MS
    median, p90, p99 = np.percentile(times_ms, (50, 90, 99))
    return Latency(
        median_ms=float(median),
        p90_ms=float(p90),
        p99_ms=float(p99),
        min_ms=float(times_ms.min()),
        runs=len(times_ms),
        warmup=warmup,
        threads=threads,
        batch=batch,
        device=device,
    )


def _warm_up(runners: Sequence[Runner], images: NDArray[np.float32], calls: int, seconds: float) -> int:
    done = 0
    for _ in _until(calls, seconds, fewest=1):
        for run in runners:
            run(images)
        done += 1
    return done


def _until(count: int, seconds: float, *, fewest: int) -> Iterator[int]:
    """0, 1, 2, ... until `count` or until `seconds` have passed, but at least `fewest`."""
    start = time.perf_counter()
    index = 0
    while index < fewest or (index < count and time.perf_counter() - start < seconds):
        yield index
        index += 1


@dataclass(frozen=True)
class _Spent:
    """Time spent on one call."""

    wall_ns: int
    cpu_ns: int


def _spent(run: Callable[[NDArray[np.float32]], object], images: NDArray[np.float32]) -> _Spent:
    cpu, start = time.process_time_ns(), time.perf_counter_ns()
    run(images)
    stop = time.perf_counter_ns()
    return _Spent(stop - start, time.process_time_ns() - cpu)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection inside a timed call would be charged to the model."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
