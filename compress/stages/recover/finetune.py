"""Train the weights that pruning left, so that the network recovers accuracy (Han et al. 2015, section 3)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from compress.errors import Refusal, StageError
from compress.stage import Context, Stage
from compress.target import Target
from compress.training.options import Device, Optimizer, Padding, TrainOptions
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import nn

    from compress.training.loop import TrainResult
    from compress.training.samples import Samples
    from compress.training.validate import Validation

__all__ = ["Finetune"]

_CHECKPOINT = "checkpoint.pt"
_VALIDATION_BATCH = 256


class Finetune(Stage):
    """Train on the fine-tuning split and keep the weights that do best on the validation split.

    The weights as they came in take part in that choice, so the validation result never gets worse. An interrupted
    training is resumed after its last finished epoch.

    Attributes:
        epochs: passes over the fine-tuning split.
        learning_rate: the highest rate; linear warm-up to it, cosine decay from it.
        batch_size: samples per step.
        optimizer: `sgd` (Nesterov momentum) or `adamw`.
        momentum: of SGD.
        weight_decay: not on biases and normalisation.
        warmup_epochs: epochs of warm-up; may be a fraction.
        label_smoothing: share of the target spread over all classes.
        ema: decay per step of an average of the weights that is used in their place; 0 for none.
        clip_norm: largest L2 norm of the gradients; null leaves them.
        distill: learn from the outputs of the model as loaded, too (Hinton et al. 2015).
        temperature: softens those outputs.
        alpha: weight of those outputs against the labels.
        flip: mirror half of the images. Wrong for digits, text and road signs.
        shift: move every image by up to this many pixels.
        padding: what comes in at the edge of a moved image: `zero` is the mean colour.
        keep_zeros: weights that are zero stay zero.
        patience: stop after this many epochs without a better validation result; null never.
        device: `auto` takes a CUDA GPU where there is one.
        mixed_precision: compute activations in 16 bits on a GPU.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; train the PyTorch model it came from"
    data_used: ClassVar[tuple[str, ...]] = ("finetune", "validation")

    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Optimizer = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False, validate_default=True)] = 0.5
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    distill: bool = False
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    padding: Padding = "zero"
    keep_zeros: bool = True
    patience: Annotated[int, Field(ge=1)] | None = None
    device: Device = "auto"
    mixed_precision: bool = True

    @field_validator("warmup_epochs")
    @classmethod
    def _ends_before_training_does(cls, value: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs is not None and value >= epochs:
            raise ValueError(f"the warm-up must be shorter than epochs={epochs}")
        return value

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
        from compress.training.samples import Samples

        module = _trainable(artifact.module)
        _require_batches(module, artifact, context.name)
        finetune, validation = Samples(context.splits.finetune), Samples(context.splits.validation)
        if not len(finetune):
            raise StageError(
                f"stage {context.name!r}: the fine-tuning split is empty", fix="data.finetune=<number of images>"
            )
        before = self._validate(module, validation)
        result = self._train(module, finetune, validation, context)
        (context.folder / _CHECKPOINT).unlink(missing_ok=True)
        if before is not None and result.validation is not None and before.better_than(result.validation):
            context.progress.log(
                f"{context.name}: no epoch did better on the validation split than the {before.top1:.2%} before; "
                "the weights stay as they were"
            )
            return artifact.after(context.name, copy.deepcopy(artifact.module))
        _log_gain(before, result, context)
        return artifact.after(context.name, module)

    def _validate(self, module: nn.Module, samples: Samples) -> Validation | None:
        from compress.training.validate import validate

        return validate(module, samples.batches(_VALIDATION_BATCH)) if len(samples) else None

    def _train(self, module: nn.Module, finetune: Samples, validation: Samples, context: Context) -> TrainResult:
        from compress.training.augment import Augment
        from compress.training.loop import train
        from compress.training.masks import KeepZeros
        from compress.training.shuffle import Shuffled

        augment = Augment(self.flip, self.shift, self.padding)
        shuffled = Shuffled(finetune, size=self.batch_size, seed=context.seed, augment=augment)
        return train(
            module,
            batches_of=shuffled,
            steps_per_epoch=len(shuffled),
            options=self._options(),
            seed=context.seed,
            progress=context.progress,
            validation=(lambda: validation.batches(_VALIDATION_BATCH)) if len(validation) else None,
            teacher=_teacher(context) if self.distill else None,
            hooks=(KeepZeros(module),) if self.keep_zeros else (),
            checkpoint=context.folder / _CHECKPOINT,
            description=context.name,
        )

    def _options(self) -> TrainOptions:
        return TrainOptions(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            label_smoothing=self.label_smoothing,
            ema=self.ema,
            clip_norm=self.clip_norm,
            patience=self.patience,
            temperature=self.temperature,
            alpha=self.alpha,
            device=self.device,
            mixed_precision=self.mixed_precision,
        )


def _trainable(module: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters all require a gradient; those of captured and folded ones often do not."""
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module


def _require_batches(module: nn.Module, artifact: Artifact, stage: str) -> None:
    """A graph captured for single images cannot be trained in batches."""
    import torch

    from compress.quiet import first_line
    from compress.training.device import home_of
    from compress.training.forward import logits_of
    from compress.training.mode import set_training

    set_training(module, False)
    try:
        with torch.no_grad():
            logits_of(module, torch.zeros(2, *artifact.input.shape, device=home_of(module)))
    except (RuntimeError, AssertionError) as error:
        raise StageError(
            f"stage {stage!r}: the model does not take a batch of 2 images: {first_line(error)}",
            fix="export it with a dynamic batch dimension, or give it as Python code (model=factory)",
        ) from error


def _teacher(context: Context) -> nn.Module:
    if context.source is None or context.source.format is not Format.TORCH:
        raise StageError(
            f"stage {context.name!r}: distillation needs the source model as a PyTorch module",
            fix=f"stage.{context.name}.distill=false",
        )
    return context.source.module


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
