"""Recordings that every reader gives: times of layers with their work, whatever runtime measured them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from compress.core.artifact import Artifact, Format, InputSpec, Precision

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerTime", "Reader", "Recording", "Settings", "Source", "Span", "quickest"]

T = TypeVar("T")

_FEWEST = 3


@dataclass(frozen=True)
class Source:
    """A model to profile.

    Attributes:
        input: the image it takes; None for an ONNX file, which says itself what it takes.
        label: what tables call a module; a file has its name.
    """

    format: Format
    model: nn.Module | Path
    precision: Precision
    input: InputSpec | None = None
    label: str = "module"

    @classmethod
    def of(cls, artifact: Artifact) -> Source:
        """The model of an artifact."""
        label = artifact.history[-1] if artifact.history else "source"
        return cls(artifact.format, artifact.model, artifact.precision, artifact.input, label)

    @property
    def path(self) -> Path:
        """The file; formats other than torch have one."""
        if not isinstance(self.model, Path):
            raise TypeError(f"a {self.format} model is no file")
        return self.model

    @property
    def title(self) -> str:
        """Name of the model in tables."""
        return self.model.name if isinstance(self.model, Path) else self.label


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        threads: of the runtime.
        batch: samples a call; None takes the model's own, 1 where that is free.
        runs: timed calls at most; fewer where there are very many layers.
        seconds: stop timing after this long.
    """

    threads: int = 1
    batch: int | None = None
    runs: int = 100
    seconds: float = 4.0


@dataclass(frozen=True)
class LayerTime:
    """One layer as it was run, for the whole batch.

    Attributes:
        name: unique in its model; fused layers have the name their runtime gave.
        op: operator as run (`Conv`, `QLinearConv`), after fusion.
        median_ms: over the quickest quarter of the timed calls, warm-up left out.
        operations: multiplications and additions, two for a MAC; one per element where there are no MACs.
            Channels that the runtime fills up to whole vectors count: the machine computes them.
        bytes: weights and activations that are read and written, at their stored width.
        precision: of its arithmetic.
        transfer: it copies between host and device.
    """

    name: str
    op: str
    median_ms: float
    operations: int
    bytes: int
    precision: Precision = Precision.FP32
    transfer: bool = False


@dataclass(frozen=True)
class Span:
    """A layer in one call: microseconds since the call began."""

    name: str
    op: str
    start_us: float
    duration_us: float


@dataclass(frozen=True)
class Recording:
    """Recording by a reader.

    Layers and calls are compared over the quickest quarter of the calls of each kind. On a busy machine nearly every
    call is interrupted somewhere, but any one layer in few of them: medians over all calls would leave the
    interruptions out of the layers and in the call, and with twice as many processes as cores they did, by half.

    Attributes:
        measured_ms: median of those calls without the profiler, in turn with the profiled ones.
        disturbed: median of all of them over the quickest: 1.1 on an idle machine, 2 where others take their share.
        profiling_overhead: how much longer a profiled call takes: 0.05 is 5 %.
        runs: timed calls of each kind.
        layers: in the order they run.
        spans: the call whose total is the median one.
    """

    runtime: str
    device: str
    threads: int
    batch: int
    measured_ms: float
    disturbed: float
    profiling_overhead: float
    runs: int
    layers: tuple[LayerTime, ...]
    spans: tuple[Span, ...]


def quickest(values: Sequence[T], key: Callable[[T], float]) -> list[T]:
    """The quarter with the smallest keys, at least 3 (or all), smallest first."""
    return sorted(values, key=key)[: max(_FEWEST, len(values) // 4)]


class Reader(Protocol):
    """A module of `compress.profile.readers`, named after the format it reads."""

    def record(self, source: Source, settings: Settings) -> Recording:
        """Time the layers.

        Raises:
            ConfigError: the settings do not fit the model, or a package is missing.
            StageError: the runtime refuses the model.
        """
        ...

    def launch_us(self, threads: int) -> float:
        """Time that the runtime takes to start a layer that has next to nothing to do, in microseconds."""
        ...
