"""PyTorch modules by `torch.profiler`: a region for every leaf module, and for every call of torch outside of one.

Kernels that a module starts are inside its region, with the dispatch to them; that is what eager PyTorch costs. A call
outside of leaf modules (`x + y`, or any operator of a captured graph) is named after the parameter that it reads, else
after the function.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function
from torch.utils.flop_counter import FlopCounterMode

from compress.core.errors import ConfigError, StageError
from compress.formats.torch.runtime import inference
from compress.measure.host import describe_host
from compress.profile.layer import LayerTime, Recording, Settings, Source, Span, quickest
from compress.profile.torch_regions import LAYER, Counter, Marker, Work, watched
from compress.support.quiet import first_line, quiet_native

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

__all__ = ["launch_us", "record"]

_CALL = "edge-compress-call"
_BLOCK = 5
"""Calls of one kind in a row; starting the profiler costs more than a call."""

_WARM_UP = 3
_SMALLEST_US = 0.05
_CHAIN = 200


@dataclass(frozen=True)
class _Region:
    """One region in a profiled call, in microseconds of the profiler's clock."""

    name: str
    start_us: float
    duration_us: float
    events: int


@dataclass(frozen=True)
class _Cost:
    """Microseconds that the profiler adds to a region, and for each of the operators that PyTorch reports inside it.

    Without taking that off, the layers of a network of 1 ms add up to four times the call.
    """

    fixed: float = 0.0
    per_event: float = 0.0

    def taken_off(self, region: _Region) -> float:
        """A region's own time."""
        return max(_SMALLEST_US, region.duration_us - self.fixed - self.per_event * region.events)


class _Additions(nn.Module):
    """A layer of many operators that do next to nothing."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        total = value
        for _ in range(_CHAIN):
            total = total + value
        return total


def record(source: Source, settings: Settings) -> Recording:
    """Time every leaf module and every call of torch between them.

    Raises:
        StageError: the module does not take the declared image.
    """
    if not isinstance(source.model, nn.Module) or source.input is None:
        raise ConfigError("torch profiles modules", fix="name a .pt2 file, or a run")
    module, batch = source.model, settings.batch or 1
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, *source.input.shape), dtype=np.float32))
    with inference(settings.threads):
        work = _count(module, images)
        cost = _profiler_cost()
        plain_ns, ratios, calls = _measure(module, images, settings)
    undisturbed = quickest(calls, lambda call: sum(region.duration_us for region in call))
    return Recording(
        runtime=f"torch {torch.__version__}",
        device=describe_host().label,
        threads=settings.threads,
        batch=batch,
        measured_ms=statistics.median(quickest(plain_ns, float)) / 1e6,
        disturbed=statistics.median(plain_ns) / min(plain_ns),
        profiling_overhead=statistics.median(ratios) - 1,
        runs=len(plain_ns),
        layers=_layers(undisturbed, work, cost),
        spans=_spans(undisturbed[len(undisturbed) // 2], work, cost),
    )


def launch_us(threads: int) -> float:
    """Time of an addition of 4 numbers in a chain of them."""
    with inference(threads):
        return _plain_us(_Additions()) / _CHAIN


def _profiler_cost() -> _Cost:
    """Time that the profiler adds on this machine, from a layer without operators and one of many."""
    value = torch.ones(4)
    nothing, additions = (
        statistics.median(call[0].duration_us for _ in range(2) for call in _profiled_block(part, value)[1])
        for part in (nn.Identity(), _Additions())
    )
    return _Cost(nothing, max(0.0, (additions - nothing - _plain_us(_Additions())) / _CHAIN))


def _plain_us(module: nn.Module) -> float:
    value = torch.ones(4)
    module(value)
    return statistics.median(_times_ns(lambda: module(value), 20)) / 1e3


def _count(module: nn.Module, images: torch.Tensor) -> dict[str, Work]:
    """Work of every region, by name, in order."""
    flops = FlopCounterMode(display=False)
    counter = Counter(flops)
    try:
        with flops, watched(module, counter):
            module(images)
    except (RuntimeError, ValueError, TypeError) as error:
        raise StageError(
            f"the module does not run on images of shape {tuple(images.shape)}: {first_line(error)}",
            fix="--input <channels>,<height>,<width>",
        ) from error
    return {work.name: work for work in counter.work}


def _measure(
    module: nn.Module, images: torch.Tensor, settings: Settings
) -> tuple[list[int], list[float], list[list[_Region]]]:
    """Blocks of plain calls and of profiled ones in turn: plain times in ns, ratios of block medians, regions."""
    for _ in range(_WARM_UP):
        module(images)
    plain: list[int] = []
    ratios: list[float] = []
    calls: list[list[_Region]] = []
    end = time.perf_counter() + settings.seconds
    while len(plain) < 2 * _BLOCK or (len(plain) < settings.runs and time.perf_counter() < end):
        own = _times_ns(lambda: module(images), _BLOCK)
        profiled, regions = _profiled_block(module, images)
        plain += own
        ratios.append(statistics.median(profiled) / statistics.median(own))
        calls += regions
    return plain, ratios, calls


def _profiled_block(module: nn.Module, images: torch.Tensor) -> tuple[list[int], list[list[_Region]]]:
    times: list[int] = []
    with quiet_native(), torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(_BLOCK):
            with watched(module, Marker()):
                start = time.perf_counter_ns()
                with record_function(_CALL):
                    module(images)
                times.append(time.perf_counter_ns() - start)
    return times, _regions(profiler.events() or [])


def _regions(events: Iterable[FunctionEvent]) -> list[list[_Region]]:
    """Regions by call, relative to its beginning, in order, with the number of operators in each."""
    calls: list[list[_Region]] = []
    start = end = 0.0
    for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
        begin = event.time_range.start
        if event.name == _CALL:
            start = begin
            calls.append([])
        elif calls and event.name.startswith(LAYER):
            end = event.time_range.end
            calls[-1].append(_Region(event.name.removeprefix(LAYER), begin - start, end - begin, 0))
        elif calls and calls[-1] and begin < end:
            calls[-1][-1] = replace(calls[-1][-1], events=calls[-1][-1].events + 1)
    return calls


def _layers(calls: Sequence[Sequence[_Region]], work: Mapping[str, Work], cost: _Cost) -> tuple[LayerTime, ...]:
    times: dict[str, list[float]] = {}
    for call in calls:
        for region in call:
            times.setdefault(region.name, []).append(cost.taken_off(region))
    return tuple(
        LayerTime(name, own.op, statistics.median(times[name]) / 1000, own.operations, own.bytes)
        for name, own in work.items()
        if name in times
    )


def _spans(typical: Sequence[_Region], work: Mapping[str, Work], cost: _Cost) -> tuple[Span, ...]:
    return tuple(
        Span(region.name, work[region.name].op, region.start_us, cost.taken_off(region))
        for region in typical
        if region.name in work
    )


def _times_ns(call: Callable[[], object], count: int) -> list[int]:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return times
