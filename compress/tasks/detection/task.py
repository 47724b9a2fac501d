"""Boxes with classes: mAP, agreement of boxes, and how a detector's outputs are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from compress.core.errors import ConfigError
from compress.core.io import Arrays, Frame, Signature
from compress.tasks.base import Agreement, Metric, NoFit, Task, shown
from compress.tasks.detection.candidates import Candidates, to_picture
from compress.tasks.detection.decoders import AnyDecoder, nearest_decoder, options
from compress.tasks.detection.evaluator import MAP, MAP50, DetectionEvaluator
from compress.tasks.detection.grid import GridDecoder
from compress.tasks.detection.nms import suppress
from compress.tasks.matching import box_iou, match

__all__ = ["DetectionTask"]

_SAME_BOX: NDArray[np.float64] = np.array([0.5])
"""Overlap from which two models' boxes are the same answer."""


class DetectionTask(Task):
    """Boxes of objects, each with a class and a score.

    Attributes:
        decoder: how the outputs are written; the name alone takes its defaults.
        threshold: boxes at or below this score are dropped before mAP; low, because the curve wants its tail.
        iou: of two boxes of one class that overlap more, the less sure one is suppressed.
        limit: boxes of a sample that are kept, the surest first.
        confidence: boxes an application would act on; agreement between two models is about these.
    """

    name: ClassVar[str] = "detection"
    metrics: ClassVar[tuple[Metric, ...]] = (MAP, MAP50)

    decoder: AnyDecoder = GridDecoder()
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01
    iou: Annotated[float, Field(gt=0, le=1)] = 0.65
    limit: Annotated[int, Field(ge=1)] = 300
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.25

    @field_validator("decoder", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    def check(self, signature: Signature, classes: Sequence[str]) -> None:
        """Hold the outputs against what the decoder reads.

        Raises:
            ConfigError: they do not fit; names the tensors, their shapes and the nearest decoder that would.
        """
        try:
            self.decoder.fit(signature, len(classes))
        except NoFit as error:
            fitting = nearest_decoder(signature, len(classes))
            raise ConfigError(
                f"decoder {self.decoder.kind} reads {error} for {len(classes)} classes; the model gives "
                f"{shown(signature.outputs)}",
                fix=options(fitting) if fitting else "describe the outputs in task.decoder, or task=fidelity",
            ) from error

    def evaluator(self, signature: Signature, classes: Sequence[str]) -> DetectionEvaluator:
        """Match boxes with labelled ones."""
        return DetectionEvaluator(
            lambda outputs, frames: self.detect(outputs, frames, signature, len(classes)), classes
        )

    def detect(
        self,
        outputs: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: int,
        threshold: float | None = None,
    ) -> list[Candidates]:
        """Boxes of each sample above `threshold` (the task's by default), in pixels of its picture, surest first.

        Raises:
            StageError: an output holds NaN.
        """
        level = self.threshold if threshold is None else threshold
        decoded = self.decoder.decode(outputs, signature, classes, level)
        overlap = np.inf if self.decoder.suppressed else self.iou
        return [
            to_picture(suppress(own, overlap, self.limit), frame) for own, frame in zip(decoded, frames, strict=True)
        ]

    def agreement(
        self,
        reference: Arrays,
        candidate: Arrays,
        frames: Sequence[Frame | None],
        signature: Signature,
        classes: Sequence[str],
    ) -> Agreement:
        """Boxes surer than `confidence` that have a box of the same class at an overlap of 0.5, per sample."""
        exact, other = (
            self.detect(outputs, frames, signature, len(classes), self.confidence) for outputs in (reference, candidate)
        )
        counts = ([len(own) for own in boxes] for boxes in (exact, other))
        matched = [_matched(*pair) for pair in zip(exact, other, strict=True)]
        return Agreement(*(np.array(numbers, np.int64) for numbers in (matched, *counts)))

    def compared(self, signature: Signature) -> tuple[str, ...]:
        """All outputs, or none where the model suppresses boxes itself."""
        return self.decoder.compared(signature)


def _matched(reference: Candidates, candidate: Candidates) -> int:
    """Number of boxes of the candidate that meet one of the reference's, each used once."""
    total = 0
    for label in np.intersect1d(reference.labels, candidate.labels):
        corners = candidate.corners[candidate.labels == label]
        wanted = reference.corners[reference.labels == label]
        none = np.zeros(len(wanted), np.bool_)
        hit, _ = match(box_iou(corners, wanted), none, none, _SAME_BOX)
        total += int(hit.sum())
    return total
