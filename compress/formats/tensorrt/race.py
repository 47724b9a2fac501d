"""FP16 against INT8: which engine is faster, by how much, does it compute the same, and which layers are to blame.

Needs the GPU, numpy and TensorRT, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import StageError
from compress.formats.parity import FidelityMeter, Tolerance
from compress.formats.tensorrt.runtime import TensorRTRunner, interleaved, load_engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Candidate", "Raced", "describe", "fastest", "race"]

_RUNS = 300
_BLAMED = 3


@dataclass(frozen=True)
class Candidate:
    """An engine that may be handed over.

    Attributes:
        tolerance: how far its outputs may be from the reference.
    """

    precision: Precision
    engine: Path
    tolerance: Tolerance


@dataclass(frozen=True)
class Raced:
    """Result of the race for one candidate.

    Attributes:
        compute_ms: median of one call, images on the GPU already.
        transfer_ms: median of copying the images there and the logits back.
        problem: why its outputs are too far off; None if they are not.
        slowest: its slowest layers, name and milliseconds.
    """

    candidate: Candidate
    compute_ms: float
    transfer_ms: float
    problem: str | None
    slowest: tuple[tuple[str, float], ...]


def race(
    candidates: Sequence[Candidate], images: NDArray[np.float32], reference: NDArray[np.float32], batch: int
) -> list[Raced]:
    """Compare every engine with the reference, then time all in turn.

    Args:
        images: float32 `[N, C, H, W]`, N at least `batch`.
        reference: logits `[N, classes]` that the engines must reproduce.

    Raises:
        StageError: an engine does not load or run.
    """
    runners = [load_engine(candidate.engine) for candidate in candidates]
    times = interleaved(runners, images[:batch], runs=_RUNS)
    return [
        Raced(
            candidate,
            float(np.median(own.compute_ms)),
            float(np.median(own.upload_ms) + np.median(own.download_ms)),
            _problem(runner, images, reference, candidate.tolerance),
            _slowest(runner, images[:batch]),
        )
        for candidate, runner, own in zip(candidates, runners, times, strict=True)
    ]


def fastest(found: Sequence[Raced]) -> Raced:
    """The fastest candidate that computes what it should.

    Raises:
        StageError: none does.
    """
    right = [result for result in found if result.problem is None]
    if not right:
        reasons = "; ".join(f"{result.candidate.precision}: {result.problem}" for result in found)
        raise StageError(f"no engine computes what its ONNX file does: {reasons}")
    return min(right, key=lambda result: result.compute_ms)


def describe(found: Sequence[Raced], chosen: Raced) -> str:
    """The race in a sentence, and where INT8 lost if it did."""
    times = ", ".join(
        f"{result.candidate.precision} {result.compute_ms:.3f} ms (+ {result.transfer_ms:.3f} ms copying)"
        f"{f', refused: {result.problem}' if result.problem else ''}"
        for result in sorted(found, key=lambda result: result.compute_ms)
    )
    text = f"{chosen.candidate.precision} is recommended: {times}"
    losers = [result for result in found if result.candidate.precision is Precision.INT8 and result is not chosen]
    for loser in losers:
        layers = ", ".join(f"{name} {ms:.3f} ms" for name, ms in loser.slowest)
        text += f"; INT8 is slower here, most of it in {layers}"
    return text


def _problem(
    runner: TensorRTRunner, images: NDArray[np.float32], reference: NDArray[np.float32], tolerance: Tolerance
) -> str | None:
    meter = FidelityMeter()
    meter.update(reference, runner(images))
    return tolerance.violation(meter)


def _slowest(runner: TensorRTRunner, images: NDArray[np.float32]) -> tuple[tuple[str, float], ...]:
    times = runner.layer_times(images)
    return tuple(sorted(times.items(), key=lambda item: -item[1])[:_BLAMED])
