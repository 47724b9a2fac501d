"""PyTorch modules by `torch.profiler`: a region for every leaf module, and for every call of torch outside of one.

Kernels that a module starts are inside its region, with the dispatch to them; that is what eager PyTorch costs. A call
outside of leaf modules (`x + y`, or any operator of a captured graph) is named after the parameter that it reads, else
after the function.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, record_function
from torch.utils.flop_counter import FlopCounterMode

from compress.errors import ConfigError, StageError
from compress.measure.host import describe_host
from compress.profile.layer import LayerTime, Recording, Settings, Source, Span
from compress.quiet import first_line, quiet_native
from compress.runtimes.torch import inference

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

__all__ = ["launch_us", "record"]

_OURS = "edge-compress-"
_CALL, _LAYER = f"{_OURS}call", f"{_OURS}layer:"
_BLOCK = 5
"""Calls of one kind in a row; starting the profiler costs more than a call."""

_WARM_UP = 3
_CHAIN = 200


@dataclass(frozen=True)
class _Work:
    """What one region did when it was counted; `op` is the module's class or the function."""

    name: str
    op: str
    operations: int
    bytes: int


@dataclass(frozen=True)
class _Region:
    """One region in a profiled call, in microseconds of the profiler's clock."""

    name: str
    start_us: float
    duration_us: float


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
        plain_ns, ratios, calls = _measure(module, images, settings)
    return Recording(
        runtime=f"torch {torch.__version__}",
        device=describe_host().label,
        threads=settings.threads,
        batch=batch,
        measured_ms=statistics.median(plain_ns) / 1e6,
        profiling_overhead=statistics.median(ratios) - 1,
        runs=len(plain_ns),
        layers=_layers(calls, work),
        spans=_spans(calls, work),
    )


def launch_us(threads: int) -> float:
    """Time of an addition of 4 numbers in a chain of them."""
    value = torch.ones(4)

    def chain() -> None:
        total = value
        for _ in range(_CHAIN):
            total = total + value

    with inference(threads):
        chain()
        return statistics.median(_times_ns(chain, 20)) / _CHAIN / 1e3


class _Watcher(Protocol):
    """Told of each region while a module runs."""

    def begin(self, name: str) -> None: ...
    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None: ...


class _Regions(TorchFunctionMode):
    """Tells `watcher` of each leaf module of `module`, and of each call of torch that is in none of them."""

    def __init__(self, module: nn.Module, watcher: _Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._parameters = {id(value): name.rpartition(".")[0] for name, value in module.named_parameters()}
        self._open: list[str] = []
        self._modules: list[str | None] = []
        self._used: dict[str, int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if self._open:
            return func(*args, **(kwargs or {}))
        op = str(getattr(func, "__name__", func)).partition(".")[0]
        name = self.enter(next((self._parameters[id(value)] for value in args if id(value) in self._parameters), op))
        output = func(*args, **(kwargs or {}))
        self.leave(name, op, args, output)
        return output

    def enter(self, wanted: str) -> str:
        """Begin a region; its name is `wanted`, with a number where that was used in this call already."""
        count = self._used[wanted] = self._used.get(wanted, -1) + 1
        name = f"{wanted}_{count}" if count else wanted
        self._watcher.begin(name)
        self._open.append(name)
        return name

    def leave(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        """End the region."""
        self._open.remove(name)
        self._watcher.end(name, op, inputs, output)

    def enter_module(self, name: str) -> None:
        """A leaf module begins; one that another leaf calls is part of that one."""
        self._modules.append(None if self._open else self.enter(name))

    def leave_module(self, part: nn.Module, inputs: Sequence[object], output: object) -> None:
        """The leaf module that began last ends."""
        name = self._modules.pop()
        if name is not None:
            self.leave(name, type(part).__name__, [*inputs, *part.parameters(recurse=False)], output)


class _Counter:
    """Counts the work of each region with PyTorch's own counter; calls that give no tensor are no layers."""

    def __init__(self, flops: FlopCounterMode) -> None:
        self._flops = flops
        self._before = 0
        self.work: list[_Work] = []

    def begin(self, name: str) -> None:
        self._before = self._flops.get_total_flops()

    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        results = _tensors([output])
        if not results:
            return
        given = _tensors(inputs)
        operations = self._flops.get_total_flops() - self._before
        memory = {value.untyped_storage().data_ptr() for value in given}
        if all(value.untyped_storage().data_ptr() in memory for value in results) and not operations:
            self.work.append(_Work(name, op, 0, 0))  # a view of what came in: nothing moves
            return
        moved = sum(value.numel() * value.element_size() for value in (*given, *results))
        self.work.append(_Work(name, op, operations or sum(value.numel() for value in results), moved))


class _Marker:
    """Marks each region for the profiler."""

    def __init__(self) -> None:
        self._open: dict[str, record_function] = {}

    def begin(self, name: str) -> None:
        self._open[name] = record_function(_LAYER + name)
        self._open[name].__enter__()

    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        self._open.pop(name).__exit__(None, None, None)


@contextmanager
def _watched(module: nn.Module, watcher: _Watcher) -> Iterator[None]:
    """While open, `watcher` sees one call of `module`; hooks are taken off again."""
    regions = _Regions(module, watcher)
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if not any(True for _ in part.children()):
                before = part.register_forward_pre_hook(lambda _, __, name=name: regions.enter_module(name or "model"))
                after = part.register_forward_hook(regions.leave_module)
                stack.callback(before.remove)
                stack.callback(after.remove)
        stack.enter_context(regions)
        yield


def _count(module: nn.Module, images: torch.Tensor) -> dict[str, _Work]:
    """Work of every region, by name, in order."""
    flops = FlopCounterMode(display=False)
    counter = _Counter(flops)
    try:
        with flops, _watched(module, counter):
            module(images)
    except (RuntimeError, ValueError, TypeError) as error:
        raise StageError(
            f"{type(module).__name__} does not run on images of shape {tuple(images.shape)}: {first_line(error)}",
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
            with _watched(module, _Marker()):
                start = time.perf_counter_ns()
                with record_function(_CALL):
                    module(images)
                times.append(time.perf_counter_ns() - start)
    return times, _regions(profiler.events() or [])


def _regions(events: Iterable[FunctionEvent]) -> list[list[_Region]]:
    """Regions by call, relative to its beginning, in order."""
    ranges = sorted(
        (
            (event.time_range.start, event.time_range.end, event.name)
            for event in events
            if event.name.startswith(_OURS)
        ),
    )
    calls: list[list[_Region]] = []
    start = 0.0
    for begin, end, name in ranges:
        if name == _CALL:
            start = begin
            calls.append([])
        elif calls and name.startswith(_LAYER):
            calls[-1].append(_Region(name.removeprefix(_LAYER), begin - start, end - begin))
    return calls


def _layers(calls: Sequence[Sequence[_Region]], work: Mapping[str, _Work]) -> tuple[LayerTime, ...]:
    times: dict[str, list[float]] = {}
    for call in calls:
        for region in call:
            times.setdefault(region.name, []).append(region.duration_us)
    return tuple(
        LayerTime(name, own.op, statistics.median(times[name]) / 1000, own.operations, own.bytes)
        for name, own in work.items()
        if name in times
    )


def _spans(calls: Sequence[Sequence[_Region]], work: Mapping[str, _Work]) -> tuple[Span, ...]:
    """The call whose regions take the median time together."""
    typical = sorted(calls, key=lambda call: sum(region.duration_us for region in call))[len(calls) // 2]
    return tuple(
        Span(region.name, work[region.name].op, region.start_us, region.duration_us)
        for region in typical
        if region.name in work
    )


def _tensors(values: Iterable[object]) -> list[torch.Tensor]:
    """Tensors among values and in their lists and tuples."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found


def _times_ns(call: Callable[[], object], count: int) -> list[int]:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return times
