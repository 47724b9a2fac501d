"""The proof that a rewritten file computes what the source does, on real samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import CompressError
from compress.formats.onnx.runtime import load
from compress.formats.parity import REWRITE_TOLERANCES, FidelityMeter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["Equivalence", "Proof"]


@dataclass(frozen=True)
class Proof:
    """Outputs of a rewritten file against the source's.

    Attributes:
        problem: what is out of bounds; None if nothing is.
        max_abs_error: largest difference of any logit; None where the file did not run or gave NaN.
    """

    problem: str | None
    max_abs_error: float | None
    samples: int


class Equivalence:
    """The source's outputs, and the comparison of any other file with them.

    Files are compared as they are deployed (all optimizations of a session) and, where they consist of ONNX operators
    alone, also as the specification reads, every operator by itself: a session undoes or repeats much of what a pass
    does, another runtime may not.
    """

    def __init__(self, source: Artifact, images: Sequence[NDArray[np.float32]], *, threads: int) -> None:
        """Run the source; `images` are batches `[N, C, H, W]`.

        Raises:
            StageError: ONNX Runtime refuses it.
        """
        self._source = source
        self._images = images
        self._threads = threads
        self._expected = {fused: self._run(source, fused=fused) for fused in (True, False)}

    def prove(self, path: Path, *, onnxruntime_only: bool) -> Proof:
        """Compare the file at `path` with the source; a file that does not run is a problem, not an error."""
        candidate, samples = replace(self._source, model=path), sum(map(len, self._images))
        worst = 0.0
        for fused in (True,) if onnxruntime_only else (True, False):
            try:
                meter = self._compare(candidate, fused=fused)
            except CompressError as error:
                return Proof(error.problem, None, samples)
            worst = max(worst, meter.result().max_abs_error)
            problem = REWRITE_TOLERANCES[self._source.precision].violation(meter)
            if problem is not None:
                return Proof(problem, worst, samples)
        return Proof(None, worst, samples)

    def _compare(self, candidate: Artifact, *, fused: bool) -> FidelityMeter:
        meter = FidelityMeter()
        for expected, actual in zip(self._expected[fused], self._run(candidate, fused=fused), strict=True):
            meter.update(expected, actual)
        return meter

    def _run(self, artifact: Artifact, *, fused: bool) -> list[NDArray[np.float32]]:
        run = load(artifact, threads=self._threads, fused=fused)
        return [run(images) for images in self._images]
