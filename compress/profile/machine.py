"""Limits of this machine: the two sides of the roofline (Williams, Waterman, Patterson 2009), measured.

Both figures are the best of several tries. A peak is what the machine can do, and neighbours on a shared one only ever
make it slower, so the best try is the one they disturbed least.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import ConfigError
from compress.core.roofline import Roofline
from compress.core.target import Target
from compress.measure.host import describe_host

__all__ = ["MachineLimits", "machine_name", "measured_limits", "published_limits"]

_COPY_BYTES = 64 << 20
"""Two arrays of this size are more than most last-level caches hold, so that the copy goes to memory."""

_MATRIX = 512
"""Rows and columns of the product: 1 MiB a matrix in float32, which the second-level cache feeds."""

_FEWEST_TRIES = 5
_SECONDS = 0.25
"""For one limit; quick calls are tried often, as their best varies more."""


@dataclass(frozen=True)
class MachineLimits:
    """Limits of a machine in each precision, and of the runtime on it.

    Attributes:
        gflops: arithmetic peak by precision, 10^9 operations a second, two for a MAC; FP32 stands in for others.
        bandwidth_gb_s: memory, 10^9 bytes a second, reads and writes together.
        launch_us: starting one layer, by the runtime that was profiled.
        source: measured here, or published for a target.
    """

    gflops: Mapping[Precision, float]
    bandwidth_gb_s: float
    launch_us: float
    source: Literal["measured", "published"]

    def peak(self, precision: Precision) -> float:
        """GFLOPS at a precision."""
        return self.gflops.get(precision, self.gflops[Precision.FP32])

    def roofline(self, precision: Precision) -> Roofline:
        """The two roofs at a precision."""
        return Roofline(1e9 * self.peak(precision), 1e9 * self.bandwidth_gb_s)


def machine_name() -> str:
    """Name of this machine, for what was found out about it."""
    host = describe_host()
    return f"{host.label}, {host.cores} cores"


def measured_limits(threads: int, launch_us: float) -> MachineLimits:
    """Limits of this machine with `threads` threads; about half a second the first time."""
    gflops, bandwidth = _limits(threads)
    return MachineLimits(gflops, bandwidth, launch_us, "measured")


def published_limits(target: Target, launch_us: float) -> MachineLimits:
    """Limits of a device as its profile states them; `launch_us` is still the runtime's here, nobody publishes it.

    Raises:
        ConfigError: the profile states no peak at all.
    """
    gflops = {precision: fact.value / 1e9 for precision, fact in target.peak_flops.items()}
    if not gflops:
        raise ConfigError(f"{target.title} states no peak arithmetic", fix="leave --target out to use this machine's")
    gflops.setdefault(Precision.FP32, min(gflops.values()))
    return MachineLimits(gflops, target.bandwidth_bytes_per_s.value / 1e9, launch_us, "published")


@functools.cache
def _limits(threads: int) -> tuple[Mapping[Precision, float], float]:
    gflops = {precision: _gemm_gflops(precision, threads) for precision in (Precision.FP32, Precision.INT8)}
    return gflops, _copy_gb_s(threads)


def _copy_gb_s(threads: int) -> float:
    """Bytes read plus bytes written while `threads` threads copy an array, each its own part (as STREAM's Copy)."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)  # written once before: the first touch of a page is the system's time, not memory's
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return 2 * _COPY_BYTES / seconds / 1e9


def _gemm_gflops(precision: Precision, threads: int) -> float:
    """Square matrix product in ONNX Runtime, with a constant right side, as weights are."""
    from compress.formats.onnx.runtime import open_session
    from compress.profile.small_graphs import matrix_product

    session = open_session(matrix_product(_MATRIX, precision), threads=threads)
    kind = np.uint8 if precision is Precision.INT8 else np.float32
    feeds = {"x": np.random.default_rng(0).integers(0, 2, (_MATRIX, _MATRIX)).astype(kind)}
    return 2 * _MATRIX**3 / _best(lambda: session.run(None, feeds)) / 1e9


def _best(call: Callable[[], object]) -> float:
    """Seconds of the quickest call."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _FEWEST_TRIES or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
