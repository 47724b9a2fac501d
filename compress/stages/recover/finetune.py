"""Train the weights that pruning left, so that the network recovers accuracy (Han et al. 2015, section 3)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, maker_of
from compress.core.target import Target
from compress.training.stage import FloatTrainingStage, log_unvalidated

if TYPE_CHECKING:
    from compress.training.loop import TrainResult
    from compress.training.stage import Start

__all__ = ["Finetune"]


class Finetune(FloatTrainingStage):
    """Train on the fine-tuning split and keep the weights that do best on the validation split.

    The weights as they came in take part in that choice, so the validation result never gets worse; not so with
    `keep=last`, which makes no choice.
    """

    recovers: ClassVar[bool] = True

    epochs: Annotated[int, Field(ge=1)] = 10

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: rounded weights do not move by small steps."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} trains fp32 weights, but its input is already {precision}",
                fix=f"fine-tune first: stage.{name}.before={maker_of(precision)}, "
                "or train for int8 with quantization-aware training",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train a copy of the module.

        Raises:
            StageError: no samples, no teacher, nothing to train, or a loss that is not finite.
        """
        from compress.training.validate import beside_source

        start = self.start(artifact, context)
        result = self.fit(start.module, start.samples, start.options, start.teacher, (), context, start.source)
        before, after = start.before, result.validation
        if self.keep == "best" and before is not None and after is not None and before.better_than(after):
            context.progress.log(
                f"{context.name}: no epoch did better on the validation split than the {before.top1:.2%} before"
                f"{beside_source(start.source)}; the weights stay as they were"
            )
            return artifact.after(context.name, copy.deepcopy(artifact.module))
        _log_gain(start, result, context)
        return artifact.after(context.name, start.module)


def _log_gain(start: Start, result: TrainResult, context: Context) -> None:
    from compress.training.validate import beside_source

    before, after = start.before, result.validation
    if before is None or after is None:
        log_unvalidated(result, context)
        return
    context.progress.log(
        f"{context.name}: validation top-1 {before.top1:.2%} -> {after.top1:.2%} on {after.samples} images"
        f"{beside_source(start.source)} (epoch {result.best + 1} of {len(result.epochs)} kept, trained on "
        f"{result.device})"
    )
