"""Static INT8 by quantization-aware training: PTQ's graph, trained while it computes as the integers will."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from compress.errors import StageError
from compress.quantization.options import StaticOptions, float_module, log_float_layers
from compress.stage import Context
from compress.training.options import Device, Optimizer, Padding, TrainOptions
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.quantization.static import CalibrationImages
    from compress.training.hooks import Hook
    from compress.training.loop import TrainResult
    from compress.training.samples import Samples
    from compress.training.validate import Validation

__all__ = ["Qat"]

_CHECKPOINT = "checkpoint.pt"
_VALIDATION_BATCH = 256


class Qat(StaticOptions):
    """Fine-tune with simulated 8-bit weights and activations, then convert (Jacob et al. 2018; Nagel et al. 2021).

    Starts from post-training quantization, which takes part in the choice of the best epoch, so the result on the
    validation split is never worse than that of `ptq_static` with the same options. An interrupted training is resumed
    after its last finished epoch.

    Attributes:
        epochs: passes over the fine-tuning split.
        learning_rate: the highest rate; linear warm-up to it, cosine decay from it. With BatchNorm folded it must be
            far below that of a fine-tuning: ResNet-20 stays as it is at 1e-4, and at 1e-3 is lost without `clip_norm`.
        batch_size: samples per step, and calibration images at a time.
        optimizer: `sgd` (Nesterov momentum 0.9) or `adamw`.
        weight_decay: not on biases.
        warmup_epochs: epochs of warm-up; may be a fraction.
        ema: decay per step of an average of the weights that is used in their place; 0 for none.
        clip_norm: largest L2 norm of the gradients; null leaves them.
        freeze_observers_epoch: search activation ranges anew before each epoch until this one; 0 and 1 keep those of
            the calibration.
        distill: learn from the outputs of the FP32 model, too (Hinton et al. 2015): of the model as loaded, or of this
            stage's input where that is no FP32 PyTorch module.
        temperature: softens those outputs.
        alpha: weight of those outputs against the labels.
        flip: mirror half of the images. Wrong for digits, text and road signs.
        shift: move every image by up to this many pixels.
        padding: what comes in at the edge of a moved image: `zero` is the mean colour.
        keep_zeros: weights that are zero stay zero.
        patience: stop after this many epochs without a better validation result; null never.
        device: `auto` takes a CUDA GPU where there is one.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration", "finetune", "validation")

    epochs: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Optimizer = "sgd"
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False, validate_default=True)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    freeze_observers_epoch: Annotated[int, Field(ge=0)] = 0
    distill: bool = True
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    padding: Padding = "zero"
    keep_zeros: bool = True
    patience: Annotated[int, Field(ge=1)] | None = None
    device: Device = "auto"

    @field_validator("warmup_epochs")
    @classmethod
    def _ends_before_training_does(cls, value: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs is not None and value >= epochs:
            raise ValueError(f"the warm-up must be shorter than epochs={epochs}")
        return value

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate on `splits.calibration`, train on `splits.finetune`, choose by `splits.validation`, convert.

        Raises:
            StageError: no samples, a graph that takes no batches, NaN or infinity, or nothing to train.
            ModelError: the module cannot be captured.
        """
        from compress.quantization.fake_quant import settle
        from compress.quantization.ptq import convert, float_graph
        from compress.training.samples import Samples

        _require_samples(context)
        reference = float_graph(float_module(artifact), artifact.input)
        _require_batches(reference, context)
        prepared = self._prepared(reference, context)
        finetune, validation = Samples(context.splits.finetune), Samples(context.splits.validation)
        exact, before = _validate(reference, validation), _validate(prepared, validation)
        untrained = copy.deepcopy(prepared.state_dict())
        result = self._train(prepared, _teacher(reference, context), finetune, validation, context)
        (context.folder / _CHECKPOINT).unlink(missing_ok=True)
        if before is not None and result.validation is not None and before.better_than(result.validation):
            prepared.load_state_dict(untrained)
        settle(prepared)
        _log_gain(exact, before, result, context)
        return artifact.after(
            context.name, convert(prepared), format=Format.TORCH, precision=Precision.INT8, dynamic_batch=True
        )

    def _prepared(self, reference: fx.GraphModule, context: Context) -> fx.GraphModule:
        """A trainable, calibrated copy of the float graph that simulates its integers."""
        from compress.quantization.fake_quant import make_trainable, start
        from compress.quantization.static import Recovery, quantize

        recipe = self.recipe(context)
        log_float_layers(reference, recipe, context)
        graph = copy.deepcopy(reference)
        make_trainable(graph)
        prepared = quantize(graph, recipe, Recovery(), self._images(context), context.progress).prepared
        start(prepared)
        return prepared

    def _train(
        self, prepared: fx.GraphModule, teacher: nn.Module, finetune: Samples, validation: Samples, context: Context
    ) -> TrainResult:
        from compress.training.augment import Augment
        from compress.training.loop import train
        from compress.training.shuffle import Shuffled

        augment = Augment(self.flip, self.shift, self.padding)
        shuffled = Shuffled(finetune, size=self.batch_size, seed=context.seed, augment=augment)
        return train(
            prepared,
            batches_of=shuffled,
            steps_per_epoch=len(shuffled),
            options=self._options(),
            seed=context.seed,
            progress=context.progress,
            validation=(lambda: validation.batches(_VALIDATION_BATCH)) if len(validation) else None,
            teacher=teacher if self.distill else None,
            hooks=self._hooks(prepared, context),
            checkpoint=context.folder / _CHECKPOINT,
            description=context.name,
        )

    def _hooks(self, prepared: fx.GraphModule, context: Context) -> list[Hook]:
        from compress.quantization.fake_quant import FrozenBatchNorm, MovingRanges
        from compress.training.masks import KeepZeros

        hooks: list[Hook] = [FrozenBatchNorm(), MovingRanges(self.freeze_observers_epoch, self._images(context))]
        return [*hooks, KeepZeros(prepared)] if self.keep_zeros else hooks

    def _images(self, context: Context) -> CalibrationImages:
        from compress.quantization.static import CalibrationImages

        return CalibrationImages(context.splits.calibration, self.batch_size)

    def _options(self) -> TrainOptions:
        return TrainOptions(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            ema=self.ema,
            clip_norm=self.clip_norm,
            patience=self.patience,
            temperature=self.temperature,
            alpha=self.alpha,
            device=self.device,
            mixed_precision=False,  # bfloat16 would round again what is rounded to 8 bits already, at other places
        )


def _require_samples(context: Context) -> None:
    if not len(context.splits.finetune):
        raise StageError(
            f"stage {context.name!r}: the fine-tuning split is empty", fix="data.finetune=<number of images>"
        )


def _require_batches(graph: fx.GraphModule, context: Context) -> None:
    from compress.graph import static_batch_reason

    reason = static_batch_reason(graph)
    if reason:
        raise StageError(
            f"stage {context.name!r}: the model takes single images and training needs batches: {reason}",
            fix="export it with a dynamic batch dimension, or use ptq_static (precision=int8), which needs none",
        )


def _teacher(reference: nn.Module, context: Context) -> nn.Module:
    """The model as loaded, which pruning has not touched; else the float graph that is about to be quantized."""
    source = context.source
    if source is not None and source.format is Format.TORCH and source.precision is Precision.FP32:
        return source.module
    return reference


def _validate(module: nn.Module, samples: Samples) -> Validation | None:
    from compress.training.validate import validate

    return validate(module, samples.batches(_VALIDATION_BATCH)) if len(samples) else None


def _log_gain(exact: Validation | None, before: Validation | None, result: TrainResult, context: Context) -> None:
    after = result.validation
    if exact is None or before is None or after is None:
        context.progress.log(
            f"{context.name}: trained on {result.device}; without validation samples the last epoch is kept"
        )
        return
    kept = f"epoch {result.best + 1} of {len(result.epochs)} kept"
    if before.better_than(after):
        kept = "no epoch did better than before training, those weights are kept"
    context.progress.log(
        f"{context.name}: validation top-1 on {after.samples} images: FP32 {exact.top1:.2%}, INT8 "
        f"{before.top1:.2%} before training and {after.top1:.2%} after ({kept}, trained on {result.device})"
    )
