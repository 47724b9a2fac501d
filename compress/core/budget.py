"""Limits of what a run may cost: an accuracy budget against the source, and the verdict on validation images.

The budget belongs to the run. A stage that can back off is held to it, and the delivered files are judged by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.core.errors import StageError
from compress.core.intervals import paired_interval
from compress.core.quantities import Amount, Count, Known, Positive, Share

__all__ = ["SQNR_FLOOR_DB", "Budget", "BudgetMissed", "Limits", "Outcome", "Verdict", "in_points"]

SQNR_FLOOR_DB = 20.0
"""Noise of the logits, a hundredth of their energy, below which few images without a net loss are evidence enough.

Measured on ResNet-20 and ResNet-44 (CIFAR-10, 500 test images), MobileNetV1-0.25 (304 ImageNet images) and the DS-CNN
for keyword spotting (372 recordings), pruned by 0 to 40 %, in FP32 and in INT8. At or above 20 dB no network lost more
than 1.0 points of top-1 (ResNet-44 at 20.6 dB; all others at most 0.6); below, the DS-CNN lost 1.7 points at
19.7 dB, ResNet-44 1.8 at 16.3 dB and MobileNetV1 2.0 at 13.1 dB, while 128 training images of CIFAR-10 still showed a
loss of 0 for ResNet-44. INT8 alone is at 31, 30, 21 and 31 dB.
"""


class BudgetMissed(StageError):
    """The result is beyond the accuracy budget. It is kept, labelled as what it is."""


class Budget(BaseModel):
    """Accuracy that a whole run may lose against the model as loaded; `off` for no budget.

    Attributes:
        drop: loss of top-1 on validation images, in percentage points; 0 allows none, null (or `off`) any.
        images: validation images that a verdict looks at, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = 1.0
    images: Annotated[int, Field(ge=1)] = 512

    @model_validator(mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        if value is None or value is False or value == "off":
            return {"drop": None}
        return value


@dataclass(frozen=True)
class Verdict:
    """A model against a reference, here mostly the source, on the same samples.

    Attributes:
        samples: number of images.
        float_correct: images the reference gets right.
        lost: of those, images the model gets wrong.
        gained: images that only the model gets right.
        agreement: share of images with the same arg-max.
        sqnr_db: of the logits; inf if equal.
        labelled: whether the labels say anything; if not, only the logits count.
    """

    samples: Positive
    float_correct: Count
    lost: Count
    gained: Count
    agreement: Share
    sqnr_db: Known
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.lost + self.gained > self.samples:
            raise ValueError(f"{self.lost} lost and {self.gained} gained are more than {self.samples} images")

    @property
    def change_points(self) -> float:
        """Change of top-1 in percentage points; negative is a loss."""
        return 100 * (self.gained - self.lost) / self.samples

    @property
    def interval_points(self) -> tuple[float, float]:
        """95 % interval of the change, for all images the split stands for (Agresti & Min 2005)."""
        low, high = paired_interval(self.lost, self.gained, self.samples)
        return 100 * low, 100 * high

    def within(self, drop_points: float) -> bool:
        """Tell whether no more than `drop_points` of top-1 are lost on these samples."""
        return 100 * (self.lost - self.gained) <= drop_points * self.samples + 1e-9

    def better_than(self, other: Verdict) -> bool:
        """More right answers, or as many with logits nearer to the reference's."""
        return (self._gain, self.sqnr_db) > (other._gain, other.sqnr_db)

    @property
    def _gain(self) -> int:
        return self.gained - self.lost if self.labelled else 0


@dataclass(frozen=True)
class Limits:
    """Limits of what may be lost, and of how sure one has to be.

    The net loss on the samples is within the budget, **and** that is no accident of few samples: either the 95 %
    interval ends within the budget, too, or the logits are so close that losses and gains cancel (`SQNR_FLOOR_DB`).
    One of 128 images is 0.78 points, and the interval of no change at all on 128 images reaches down to 1.5 points.

    Attributes:
        drop_points: of top-1, in percentage points.
        sqnr_db: that the logits must keep besides; None for no such wish.
        share: of the budget (of its points, and of the noise) that may be spent here.
    """

    drop_points: float
    sqnr_db: float | None = None
    share: float = 1.0

    def met_by(self, verdict: Verdict) -> bool:
        return self.excess(verdict) <= 1e-9

    def excess(self, verdict: Verdict) -> float:
        """Distance of a verdict beyond the limits, in points or decibels, whichever is more; at most 0 within them."""
        evidence = self._floor_db - verdict.sqnr_db
        if verdict.labelled:
            unproven = -verdict.interval_points[0] - self.drop_points
            points = -verdict.change_points - self.drop_points * self.share
            evidence = max(points, min(unproven, evidence))
        return evidence if self.sqnr_db is None else max(evidence, self.sqnr_db - verdict.sqnr_db)

    def shortfall(self, verdict: Verdict) -> str | None:
        """Say why the limits are not met; None if they are."""
        if self.met_by(verdict):
            return None
        if self.sqnr_db is not None and verdict.sqnr_db < self.sqnr_db:
            return f"SQNR is below {self.sqnr_db:g} dB"
        if verdict.labelled and not verdict.within(self.drop_points * self.share):
            return f"more than {self.drop_points * self.share:g} points are lost"
        if not verdict.labelled:
            return f"SQNR is below {self._floor_db:.0f} dB"
        return (
            f"{verdict.samples} images cannot show that no more is lost, and SQNR is below the {self._floor_db:.0f} dB "
            "that would"
        )

    @property
    def _floor_db(self) -> float:
        return SQNR_FLOOR_DB - 10 * math.log10(self.share)


@dataclass(frozen=True)
class Outcome:
    """Outcome of the budget in one delivered model.

    Attributes:
        drop: of the budget, in points; None where there is none.
        stage: the stage whose output was judged; None where nothing was.
        verdict: against the source on validation images.
        met: None where the budget is off or cannot be judged.
        reason: why it is missed or cannot be judged; empty where it is held.
        saturates: this processor gets 8-bit products of the file wrong, so its operators were computed one by one, as
            they are specified: what the device gives, and not what the file gives here.
    """

    drop: Amount | None
    stage: str | None = None
    verdict: Verdict | None = None
    met: bool | None = None
    reason: str = ""
    saturates: bool = False


def in_points(verdict: Verdict) -> str:
    """`top-1 -0.8 points on 128 validation images (95 % -3.3 to +1.8), SQNR 31.2 dB`."""
    noise = "logits equal" if math.isinf(verdict.sqnr_db) and verdict.sqnr_db > 0 else f"SQNR {verdict.sqnr_db:.1f} dB"
    if not verdict.labelled:
        return f"{noise} on {verdict.samples} images"
    low, high = verdict.interval_points
    return (
        f"top-1 {verdict.change_points:+.1f} points on {verdict.samples} validation images "
        f"(95 % {low:+.1f} to {high:+.1f}), {noise}"
    )
