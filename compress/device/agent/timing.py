"""Time calls until their median is known well enough."""

import gc
import time
from typing import Any, Callable, List

from .order_statistics import median_interval, quantile
from .values import Json

MS = 1000.0
WITHIN = 0.02  # stop when the 95 % interval of the median lies within 2 % of it
FEWEST_CALLS = 30
CHUNK_SECONDS = 0.25  # calls between two looks at the interval, the temperature and the power


def time_calls(run: Callable[[Any], object], feed: object, count: int, times: List[float]) -> None:
    """Append the seconds of `count` calls to `times`. Nothing but the call stands between the two clock readings."""
    clock = time.perf_counter
    for _ in range(count):
        start = clock()
        run(feed)
        times.append(clock() - start)


def warm_up(run: Callable[[Any], object], feed: object, seconds: float) -> List[float]:
    """Call until the time of a call has settled: at least 3 calls, then until `seconds` or 50 calls are spent."""
    times: List[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() < deadline):
        time_calls(run, feed, 1, times)
    return times


def measure(
    run: Callable[[Any], object], feed: object, seconds: float, watch: Callable[[], None] = lambda: None
) -> Json:
    """Call until the interval of the median is within 2 % or `seconds` are spent; a dict of milliseconds.

    `watch` is called between chunks of calls, never inside a timed one.
    """
    warm = warm_up(run, feed, min(2.0, seconds / 4))
    chunk = max(1, int(CHUNK_SECONDS / max(min(warm), 1e-6)))
    times: List[float] = []
    started = time.perf_counter()
    gc.collect()
    gc.disable()  # a collection inside a timed call would be charged to the model
    try:
        while True:
            time_calls(run, feed, chunk, times)
            watch()
            ordered = sorted(times)
            middle, (low, high) = quantile(ordered, 0.5), median_interval(ordered)
            settled = len(times) >= FEWEST_CALLS and max(high - middle, middle - low) <= WITHIN * middle
            if settled or (time.perf_counter() - started >= seconds and len(times) >= 3):
                break
    finally:
        gc.enable()
    return {
        "median_ms": middle * MS,
        "low_ms": low * MS,
        "high_ms": high * MS,
        "p90_ms": quantile(ordered, 0.9) * MS,
        "p99_ms": quantile(ordered, 0.99) * MS,
        "min_ms": ordered[0] * MS,
        "runs": len(times),
        "warmup": len(warm),
        "settled": settled,
    }
