"""Static INT8 by quantization-aware training: PTQ's graph, trained while it computes as the integers will."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import StageError
from compress.core.stage import Context
from compress.quantization.options import StaticOptions, log_float_layers, single_image_reason
from compress.training.stage import TrainingStage, log_unvalidated, source_validated, training_samples, validated

if TYPE_CHECKING:
    from torch import fx

    from compress.quantization.static import CalibrationImages
    from compress.training.hooks import Hook
    from compress.training.loop import TrainResult
    from compress.training.validate import Validation

__all__ = ["Qat"]


class Qat(TrainingStage, StaticOptions):
    """Fine-tune with simulated 8-bit weights and activations, then convert (Jacob et al. 2018; Nagel et al. 2021).

    Starts from post-training quantization, which takes part in the choice of the best epoch, so the result on the
    validation split is never worse than that of `ptq_static` with the same options. An interrupted training is resumed
    after its last finished epoch.

    The learning rate must be far below that of a fine-tuning, as BatchNorm is folded: ResNet-20 stays as it is at 1e-4,
    and at 1e-3 is lost without `clip_norm`. `batch_size` is of the calibration, too. With `distill` the teacher is the
    model as loaded, or this stage's input where that is no FP32 PyTorch module.

    Attributes:
        freeze_observers_epoch: search activation ranges anew before each epoch until this one; 0 and 1 keep those of
            the calibration.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration", "finetune", "validation")

    epochs: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False, validate_default=True)] = 0.1
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    distill: bool = True
    freeze_observers_epoch: Annotated[int, Field(ge=0)] = 0

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate on `splits.calibration`, train on `splits.finetune`, choose by `splits.validation`, convert.

        Raises:
            StageError: no samples, a graph that takes no batches, NaN or infinity, or nothing to train.
            ModelError: the module cannot be captured.
        """
        from compress.quantization.fake_quant import settle
        from compress.quantization.ptq import convert
        from compress.training.prepare import source_or

        samples = training_samples(context)
        reference = self.float_graph(artifact, context)
        _require_batches(reference, artifact, context)
        notes = log_float_layers(reference, self.recipe(context), context)
        prepared = self._prepared(reference, context)
        came_in, before = validated(reference, samples[1]), validated(prepared, samples[1])
        source = source_validated(context, samples[1])
        untrained = copy.deepcopy(prepared.state_dict())
        teacher = source_or(context.source, reference) if self.distill else None
        # bfloat16 would round again what is rounded to 8 bits already, at other places
        options = replace(self.train_options(), mixed_precision=False)
        result = self.fit(prepared, samples, options, teacher, self._hooks(context), context, source)
        if before is not None and result.validation is not None and before.better_than(result.validation):
            prepared.load_state_dict(untrained)
        settle(prepared)
        _log_gain(source, came_in, before, result, context)
        return artifact.after(
            context.name,
            convert(prepared),
            format=Format.TORCH,
            precision=Precision.INT8,
            dynamic_batch=True,
            notes=notes,
        )

    def _prepared(self, reference: fx.GraphModule, context: Context) -> fx.GraphModule:
        """A trainable, calibrated copy of the float graph that simulates its integers."""
        from compress.quantization.fake_quant import make_trainable, start
        from compress.quantization.static import Recovery, quantize

        graph = copy.deepcopy(reference)
        make_trainable(graph)
        prepared = quantize(graph, self.recipe(context), Recovery(), self._images(context), context.progress).prepared
        start(prepared)
        return prepared

    def _hooks(self, context: Context) -> list[Hook]:
        from compress.quantization.fake_quant import FrozenBatchNorm, MovingRanges

        return [FrozenBatchNorm(), MovingRanges(self.freeze_observers_epoch, self._images(context))]

    def _images(self, context: Context) -> CalibrationImages:
        from compress.quantization.static import CalibrationImages

        return CalibrationImages(context.splits.calibration, self.batch_size)


def _require_batches(graph: fx.GraphModule, artifact: Artifact, context: Context) -> None:
    reason = single_image_reason(graph, artifact)
    if reason:
        raise StageError(
            f"stage {context.name!r}: the model takes single images and training needs batches: {reason}",
            fix="export it with a dynamic batch dimension, or use ptq_static (precision=int8), which needs none",
        )


def _log_gain(
    source: Validation | None,
    came_in: Validation | None,
    before: Validation | None,
    result: TrainResult,
    context: Context,
) -> None:
    after = result.validation
    if came_in is None or before is None or after is None:
        log_unvalidated(result, context)
        return
    kept = f"epoch {result.best + 1} of {len(result.epochs)} kept"
    if before.better_than(after):
        kept = "no epoch did better than before training, those weights are kept"
    baseline = "" if source is None else f"source {source.top1:.2%}, "
    context.progress.log(
        f"{context.name}: validation top-1 on {after.samples} images: {baseline}FP32 as it came in {came_in.top1:.2%}, "
        f"INT8 {before.top1:.2%} before training and {after.top1:.2%} after ({kept}, trained on {result.device})"
    )
