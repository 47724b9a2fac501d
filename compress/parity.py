"""How close two models' outputs are, over any number of batches, and whether that is close enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.errors import ParityError
from compress.types import Fidelity, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.runtimes.base import Runner
    from compress.stage import Split

__all__ = ["TOLERANCES", "FidelityMeter", "Tolerance", "check_parity", "sample_images"]


class FidelityMeter:
    """Accumulates `Fidelity` batch by batch in constant memory.

    Signal-to-quantization-noise ratio: 10 log10(sum of ref^2 / sum of (ref - candidate)^2), in dB, accumulated in
    float64.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._agreeing = 0
        self._signal = 0.0
        self._noise = 0.0
        self._max_error = 0.0
        self._peak = 0.0

    def update(self, reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> None:
        """Add logits `[N, classes]` of the same N samples.

        Raises:
            ParityError: the shapes differ, or one of them holds NaN or infinity.
        """
        _check_comparable(reference, candidate)
        exact = reference.astype(np.float64)
        error = candidate.astype(np.float64) - exact
        self._samples += len(reference)
        self._agreeing += int(np.sum(reference.argmax(axis=1) == candidate.argmax(axis=1)))
        self._signal += float(np.sum(exact**2))
        self._noise += float(np.sum(error**2))
        self._max_error = max(self._max_error, float(np.max(np.abs(error), initial=0.0)))
        self._peak = max(self._peak, float(np.max(np.abs(exact), initial=0.0)))

    def result(self) -> Fidelity:
        """Fidelity over all samples so far.

        Raises:
            ParityError: there were none.
        """
        if not self._samples:
            raise ParityError("no samples to compare", fix="give at least one calibration sample")
        return Fidelity(self._agreeing / self._samples, self._sqnr_db(), self._max_error, self._samples)

    @property
    def relative_error(self) -> float:
        """Largest difference of any logit, relative to the largest reference logit."""
        if self._max_error == 0:
            return 0.0
        return self._max_error / self._peak if self._peak else math.inf

    def _sqnr_db(self) -> float:
        if self._noise == 0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf


@dataclass(frozen=True)
class Tolerance:
    """What an exported file may differ by from its source; limits that are `None` do not apply.

    Attributes:
        relative_error: largest difference of any logit over the largest source logit.
        sqnr_db: lowest signal-to-noise ratio.
    """

    relative_error: float | None = None
    sqnr_db: float | None = None

    def violation(self, relative_error: float, sqnr_db: float) -> str | None:
        """What is out of bounds, in words; None if nothing is."""
        if self.relative_error is not None and relative_error > self.relative_error:
            return f"largest difference is {relative_error:.2g} of the largest logit, allowed {self.relative_error:.2g}"
        if self.sqnr_db is not None and sqnr_db < self.sqnr_db:
            return f"signal-to-noise ratio is {sqnr_db:.1f} dB, at least {self.sqnr_db:.0f} dB wanted"
        return None


_BATCH = 8

TOLERANCES = {
    Precision.FP32: Tolerance(relative_error=1e-3),
    Precision.FP16: Tolerance(relative_error=1e-2),
    Precision.INT8: Tolerance(sqnr_db=15.0),
}


def check_parity(
    source: Runner, exported: Runner, batches: Iterable[NDArray[np.float32]], tolerance: Tolerance, what: str
) -> Fidelity:
    """Run both models on the same images `[N, C, H, W]` and compare their logits.

    Args:
        what: the exported thing, for the message.

    Raises:
        ParityError: it differs by more than `tolerance`, has NaN or infinite outputs, or there were no samples.
    """
    meter = FidelityMeter()
    for images in batches:
        meter.update(source(images), exported(images))
    fidelity = meter.result()
    problem = tolerance.violation(meter.relative_error, fidelity.sqnr_db)
    if problem:
        raise ParityError(
            f"{what} does not compute what its source does on {fidelity.samples} samples: {problem} "
            f"({fidelity.agreement:.0%} equal top-1); it was not kept"
        )
    return fidelity


def sample_images(split: Split, samples: int) -> Iterator[NDArray[np.float32]]:
    """The first `samples` images of a split: of each batch one alone, as a device runs it, then the rest."""
    left = samples
    for batch in split.batches(min(samples, _BATCH)):
        images = batch.images[:left]
        yield images[:1]
        if len(images) > 1:
            yield images[1:]
        left -= len(images)
        if left == 0:
            return


def _check_comparable(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> None:
    if reference.shape != candidate.shape or reference.ndim != 2:
        raise ParityError(f"outputs have shapes {reference.shape} and {candidate.shape}, want [N, classes] twice")
    for name, logits in (("source", reference), ("candidate", candidate)):
        if not np.isfinite(logits).all():
            row = int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise ParityError(f"the {name} model's output holds NaN or infinity (sample {row} of its batch)")
