"""Unstructured pruning step by step while the network trains, then fine-tuning with the zeros fixed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from compress.core.artifact import Artifact, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, maker_of
from compress.core.target import Target
from compress.training.stage import FloatTrainingStage, log_unvalidated

if TYPE_CHECKING:
    from torch import nn

    from compress.pruning.schedule import GradualPruning
    from compress.training.loop import TrainResult
    from compress.training.samples import Samples
    from compress.training.stage import Start

__all__ = ["Gradual"]


class Gradual(FloatTrainingStage):
    """Raise the share of zeros from `initial` to `amount` on a cubic curve over the first part of one training.

    The network adapts to every small loss before the next one (Zhu & Gupta 2017). The epoch that is kept is the best on
    the validation split among those with all the zeros.

    Attributes:
        amount: share of the weights that are zero afterwards.
        initial: share at the start of the ramp.
        ramp: part of the epochs in which the share rises.
        updates: number of prunings in it.
        scope: `local` takes the share of every layer, `global` of all layers together.
        exclude: names or patterns of layers to leave alone.
    """

    amount: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.8
    initial: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    ramp: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    updates: Annotated[int, Field(ge=1)] = 50
    scope: Literal["local", "global"] = "global"
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    epochs: Annotated[int, Field(ge=2)] = 20
    distill: bool = True
    keep_zeros: Literal[True] = True

    @model_validator(mode="after")
    def _rises(self) -> Gradual:
        if self.initial > self.amount:
            raise ValueError(f"initial={self.initial} must not be above amount={self.amount}")
        return self

    @property
    def ramp_epochs(self) -> int:
        """Epochs in which the share rises; at least one more follows."""
        return min(max(1, math.ceil(self.ramp * self.epochs)), self.epochs - 1)

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: rounded weights do not move by small steps."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} trains and prunes fp32 weights, but its input is already {precision}",
                fix=f"prune first: stage.{name}.before={maker_of(precision)}",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train and prune a copy of the module.

        Raises:
            StageError: no samples, no teacher, nothing to prune, a pattern that matches nothing, or a loss that is not
                finite.
        """
        start = self.start(artifact, context)
        options = replace(start.options, judge_from=max(start.options.judge_from, self.ramp_epochs))
        hook = self._hook(start.module, start.samples[0], context)
        result = self.fit(start.module, start.samples, options, start.teacher, [hook], context, start.source)
        self._log(start, result, context)
        return artifact.after(context.name, start.module)

    def _hook(self, module: nn.Module, samples: Samples, context: Context) -> GradualPruning:
        from compress.pruning.schedule import GradualPruning, Ramp
        from compress.pruning.unstructured import prunable_weights
        from compress.training.shuffle import Shuffled

        names = frozenset(weight.name for weight in prunable_weights(module, self.exclude, context.name))
        steps = len(Shuffled(samples, size=self.batch_size, seed=context.seed))
        ramp = Ramp(self.initial, self.amount, self.ramp_epochs * steps, self.updates)
        return GradualPruning(module, names, ramp, steps, self.scope)

    def _log(self, start: Start, result: TrainResult, context: Context) -> None:
        from compress.training.validate import beside_source

        before, after = start.before, result.validation
        if before is None or after is None:
            log_unvalidated(result, context)
            return
        context.progress.log(
            f"{context.name}: {self.amount:.0%} zeros, validation top-1 {before.top1:.2%} -> {after.top1:.2%} on "
            f"{after.samples} images{beside_source(start.source)} (epoch {result.best + 1} of {len(result.epochs)} "
            f"kept, pruned until epoch {self.ramp_epochs}, trained on {result.device})"
        )
