"""Time that ONNX Runtime takes to start a node, and that its profiler adds to a node's: measured on chains of them.

The profiler's clock for a node runs while it writes down the type and shape of every input and output
(onnxruntime/core/framework/sequential_executor.cc, KernelScope), which takes longer than many a node itself: 5 to 10 us
against 1 us for an addition of four numbers. On a quantized ResNet-20 that made the layers add up to 1.33 times the
call. The cost is linear in the number of tensors, so two chains give it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.measure.latency import PairedLatency, paired_latency
from compress.profile.layer import quickest
from compress.profile.ort_events import median_us, read_calls
from compress.profile.small_graphs import tiny_chain
from compress.support.scratch import scratch_folder

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["BoundSession", "ProfilerCost", "launch_us", "profiler_cost"]

_SHORT, _LONG = 40, 240
_TRIES = 60
_INPUTS = (2, 10)
_SMALLEST_US = 0.05
"""A node's time after the profiler's own part is taken off is never nothing."""


class BoundSession:
    """A session with its inputs at hand, in the shape of a `Runner`; the images it is called with are not looked at."""

    name = "onnxruntime"

    def __init__(self, session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[np.generic]]) -> None:
        self._session = session
        self._feeds = dict(feeds)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self._session.run(None, self._feeds)
        return images

    def end_profiling(self) -> Path:
        """The event file of a session that was opened with `profile`."""
        return Path(self._session.end_profiling())


@dataclass(frozen=True)
class ProfilerCost:
    """Microseconds that the profiler adds to a node: `fixed + per_tensor * (inputs + outputs)`."""

    fixed: float
    per_tensor: float

    def taken_off(self, seen_us: float, tensors: int) -> float:
        """A node's own time, from what the profiler says of it."""
        return max(_SMALLEST_US, seen_us - self.fixed - self.per_tensor * tensors)


def launch_us(threads: int, inputs: int = _INPUTS[0]) -> float:
    """Time by which a call grows with each sum of `inputs` times 4 numbers, one after the other."""
    pair = _in_turn(_chain(_LONG, inputs, threads), _chain(_SHORT, inputs, threads), threads)
    long = statistics.median(quickest([first for first, _ in pair.times_ns], float))
    short = statistics.median(quickest([second for _, second in pair.times_ns], float))
    return max(_SMALLEST_US, (long - short) / (_LONG - _SHORT) / 1000)


def profiler_cost(threads: int) -> ProfilerCost:
    """Time that the profiler adds on this machine, as busy as it is now: ask again for every recording."""
    few, many = (_seen_us(inputs, threads) - launch_us(threads, inputs) for inputs in _INPUTS)
    per_tensor = max(0.0, (many - few) / (_INPUTS[1] - _INPUTS[0]))
    return ProfilerCost(max(0.0, few - per_tensor * (_INPUTS[0] + 1)), per_tensor)


def _seen_us(inputs: int, threads: int) -> float:
    """Time of a node of the chain as the profiler gives it, taken as `readers.onnx` takes those of a model."""
    with scratch_folder() as folder:
        profiled = _chain(_SHORT, inputs, threads, profile=folder / "events")
        pair = _in_turn(profiled, _chain(_SHORT, inputs, threads), threads)
        calls = read_calls(profiled.end_profiling())[pair.first.warmup :]
    undisturbed = quickest(calls, lambda call: call.total_us)
    return median_us([node.dur for call in undisturbed for node in call.nodes])


def _in_turn(first: BoundSession, second: BoundSession, threads: int) -> PairedLatency:
    images = np.zeros((1, 1), np.float32)
    return paired_latency(first, second, images, runs=_TRIES, warmup=10, seconds=1.0, threads=threads, device="")


def _chain(length: int, inputs: int, threads: int, profile: Path | None = None) -> BoundSession:
    from compress.formats.onnx.runtime import open_session

    session = open_session(tiny_chain(length, inputs), threads=threads, profile=profile)
    return BoundSession(session, {"x": np.ones(4, np.float32)})
