"""Train the weights that pruning left, so that the network recovers accuracy (Han et al. 2015, section 3)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.errors import Refusal
from compress.stage import Context
from compress.target import Target
from compress.training.stage import TrainingStage, training_samples, validated
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from compress.training.loop import TrainResult
    from compress.training.validate import Validation

__all__ = ["Finetune"]


class Finetune(TrainingStage):
    """Train on the fine-tuning split and keep the weights that do best on the validation split.

    The weights as they came in take part in that choice, so the validation result never gets worse. With `distill` the
    teacher is the model as loaded.

    Attributes:
        momentum: of SGD.
        label_smoothing: share of the target spread over all classes.
        mixed_precision: compute activations in 16 bits on a GPU.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; train the PyTorch model it came from"
    data_used: ClassVar[tuple[str, ...]] = ("finetune", "validation")

    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixed_precision: bool = True

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: rounded weights do not move by small steps."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} trains fp32 weights, but its input is already {precision}",
                fix=f"fine-tune first: stage.{name}.before=<the stage that makes it {precision}>, "
                "or train for int8 with quantization-aware training",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Train a copy of the module.

        Raises:
            StageError: no samples, no teacher, nothing to train, or a loss that is not finite.
        """
        from compress.training.prepare import require_batches, source_teacher, trainable_copy

        module = trainable_copy(artifact.module)
        require_batches(module, artifact, context.name)
        samples = training_samples(context)
        teacher = source_teacher(context) if self.distill else None
        before = validated(module, samples[1])
        options = self.train_options(
            momentum=self.momentum, label_smoothing=self.label_smoothing, mixed_precision=self.mixed_precision
        )
        result = self.fit(module, samples, options, teacher, (), context)
        if before is not None and result.validation is not None and before.better_than(result.validation):
            context.progress.log(
                f"{context.name}: no epoch did better on the validation split than the {before.top1:.2%} before; "
                "the weights stay as they were"
            )
            return artifact.after(context.name, copy.deepcopy(artifact.module))
        _log_gain(before, result, context)
        return artifact.after(context.name, module)


def _log_gain(before: Validation | None, result: TrainResult, context: Context) -> None:
    after = result.validation
    if before is None or after is None:
        context.progress.log(
            f"{context.name}: trained on {result.device}; without validation samples the last epoch is kept"
        )
        return
    context.progress.log(
        f"{context.name}: validation top-1 {before.top1:.2%} -> {after.top1:.2%} on {after.samples} images "
        f"(epoch {result.best + 1} of {len(result.epochs)} kept, trained on {result.device})"
    )
