"""Boxes that the model has suppressed itself: sorted and padded lists, never compared number by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.core.io import Arrays, Signature, TensorSpec
from compress.tasks.base import NoFit, finite_output
from compress.tasks.detection.boxes_scores import in_pixels
from compress.tasks.detection.candidates import Candidates, Corners, to_corners
from compress.tasks.detection.decoder import Decoder, fixed_plane, is_list, named, rows_of, squeezed

__all__ = ["InGraphNmsDecoder"]

_TOGETHER = 6  # columns: box, score, label (Ultralytics with `nms=True`, YOLOv10)


@dataclass(frozen=True)
class _Lists:
    boxes: str
    scores: str
    labels: str
    count: str | None


class InGraphNmsDecoder(Decoder):
    """Outputs `boxes [k, 4]`, `scores [k]`, `labels [k]` and perhaps `count`, or one `[k, 6]`.

    Attributes:
        form: what the four numbers of a box are; TensorFlow Lite's post-processing gives `yxyx`.
        normalised: whether they are fractions of the input's width and height.
        boxes, scores, labels, count: names of the outputs; None finds them by shape, type and name.
        first_label: the label that the data's first class has; 1 where 0 is "nothing".
    """

    suppressed: ClassVar[bool] = True

    kind: Literal["nms"] = "nms"
    form: Corners = "xyxy"
    normalised: bool = False
    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    count: str | None = None
    first_label: Annotated[int, Field(ge=0)] = 0

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where a list is missing."""
        del classes
        if self.normalised:
            fixed_plane(signature)
        if self._together(signature) is None:
            self._names(signature)

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """The rows of each sample that are surer than `threshold` and have a class of the data's."""
        together = self._together(signature)
        if together is not None:
            rows = rows_of(outputs, together, _TOGETHER)
            boxes, scores, labels = rows[..., :4], rows[..., 4], rows[..., 5]
            counts = np.full(len(rows), rows.shape[1])
        else:
            names = self._names(signature)
            boxes = rows_of(outputs, names.boxes, 4)
            scores, labels = (_column(outputs, name) for name in (names.scores, names.labels))
            counts = _counts(outputs, names.count, boxes)
        corners = to_corners(boxes, self.form)
        corners = in_pixels(corners, signature) if self.normalised else corners
        samples = []
        for box, score, label, count in zip(corners, scores, labels, counts, strict=True):
            own = np.rint(label).astype(np.int64) - self.first_label
            valid = (np.arange(len(score)) < count) & (score > threshold) & (own >= 0) & (own < classes)
            samples.append(Candidates(box[valid].astype(np.float32), score[valid], own[valid]))
        return samples

    def compared(self, signature: Signature) -> tuple[str, ...]:
        """None: two boxes that change places are no error."""
        del signature
        return ()

    def _together(self, signature: Signature) -> str | None:
        if self.boxes or self.scores or self.labels:
            return None
        return next((spec.name for spec in signature.outputs if is_list(spec, _TOGETHER)), None)

    def _names(self, signature: Signature) -> _Lists:
        specs = signature.outputs
        boxes = self.boxes or _only([spec for spec in specs if is_list(spec, 4)])
        columns = [spec for spec in specs if spec.name != boxes and _is_column(spec)]
        labels = self.labels or _only([s for s in columns if _called(s, ("label", "class")) and s.name != self.scores])
        labels = labels or _only([s for s in columns if _whole(s) and s.name not in (self.scores, self.count)])
        scores = self.scores or _only([s for s in columns if _called(s, ("score", "conf"))])
        scores = scores or _only([s for s in columns if not _whole(s) and s.name != labels])
        if boxes is None or scores is None or labels is None:
            raise NoFit(
                "boxes [k, 4], scores [k] and labels [k], or [k, 6] as one; where names and types do not tell them "
                "apart, task.decoder.boxes=, scores= and labels= do"
            )
        for name in (boxes, scores, labels):
            named(specs, name)
        count = self.count or _only(
            [spec for spec in specs if spec.shape in ((), (1,)) and spec.name not in (boxes, scores, labels)]
        )
        return _Lists(boxes, scores, labels, count)


def _is_column(spec: TensorSpec) -> bool:
    return len(squeezed(spec.shape, keep=1)) == 1 and spec.shape != (1,)


def _called(spec: TensorSpec, words: tuple[str, ...]) -> bool:
    return any(word in spec.name.lower() for word in words)


def _whole(spec: TensorSpec) -> bool:
    return np.issubdtype(np.dtype(spec.dtype), np.integer)


def _only(specs: list[TensorSpec]) -> str | None:
    return specs[0].name if len(specs) == 1 else None


def _column(outputs: Arrays, name: str) -> NDArray[np.float32]:
    values = finite_output(outputs, name)
    return values.reshape(len(values), -1).astype(np.float32)


def _counts(outputs: Arrays, name: str | None, boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of rows of each sample that are boxes, `[n]`; all of them where the model does not say."""
    if name is None:
        return np.full(len(boxes), boxes.shape[1], np.int64)
    return np.rint(_column(outputs, name)[:, 0]).astype(np.int64)
