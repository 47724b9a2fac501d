"""Options that every stage that trains shares, and one call from samples to the best epoch's weights.

Free of torch at import, so that a configuration can be checked without loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from compress.core.artifact import Artifact, Format
from compress.core.errors import StageError
from compress.core.stage import Context, Stage
from compress.training.options import Device, Optimizer, Padding, TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from compress.training.hooks import Hook
    from compress.training.loop import TrainResult
    from compress.training.samples import Samples
    from compress.training.validate import Validation

__all__ = [
    "FloatTrainingStage",
    "Start",
    "TrainingStage",
    "log_unvalidated",
    "source_validated",
    "training_samples",
    "validated",
]

_CHECKPOINT = "checkpoint.pt"
_VALIDATION_BATCH = 256


class TrainingStage(Stage):
    """Base of the stages that train. An interrupted training is resumed after its last finished epoch.

    Attributes:
        epochs: passes over the fine-tuning split.
        learning_rate: the highest rate; linear warm-up to it, cosine decay from it.
        batch_size: samples per step.
        optimizer: `sgd` (Nesterov momentum) or `adamw`.
        weight_decay: not on biases and normalisation.
        warmup_epochs: epochs of warm-up; may be a fraction.
        ema: decay per step of an average of the weights that is used in their place; 0 for none.
        clip_norm: largest L2 norm of the gradients; null leaves them.
        distill: learn from the outputs of the FP32 model, too (Hinton et al. 2015).
        temperature: softens those outputs.
        alpha: weight of those outputs against the labels.
        flip: mirror half of the images. Wrong for digits, text and road signs.
        shift: move every image by up to this many pixels.
        padding: what comes in at the edge of a moved image: `zero` is the mean colour.
        blend: mix up to this share of another image into each one; for distillation (Beyer et al. 2022).
        keep_zeros: weights that are zero stay zero.
        patience: stop after this many epochs without a better validation result; null never.
        device: `auto` takes a CUDA GPU where there is one.
    """

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: Optimizer = TrainOptions.optimizer
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = TrainOptions.weight_decay
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False, validate_default=True)] = 0.5
    ema: Annotated[float, Field(ge=0, lt=1)] = TrainOptions.ema
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = TrainOptions.clip_norm
    distill: bool = False
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = TrainOptions.temperature
    alpha: Annotated[float, Field(ge=0, le=1)] = TrainOptions.alpha
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    padding: Padding = "zero"
    blend: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    keep_zeros: bool = True
    patience: Annotated[int, Field(ge=1)] | None = TrainOptions.patience
    device: Device = TrainOptions.device

    @field_validator("warmup_epochs")
    @classmethod
    def _ends_before_training_does(cls, value: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs is not None and value >= epochs:
            raise ValueError(f"the warm-up must be shorter than epochs={epochs}")
        return value

    def train_options(self) -> TrainOptions:
        """The hyper-parameters: the options that have the name of one, the others as `TrainOptions` has them."""
        names = {field.name for field in fields(TrainOptions)} & type(self).model_fields.keys()
        return TypeAdapter(TrainOptions).validate_python({name: getattr(self, name) for name in names})

    def fit(
        self,
        module: nn.Module,
        samples: tuple[Samples, Samples],
        options: TrainOptions,
        teacher: nn.Module | None,
        hooks: Sequence[Hook],
        context: Context,
        source: Validation | None,
    ) -> TrainResult:
        """Train `module` in place on the first of `samples`; the second, if not empty, chooses the epoch to keep.

        Args:
            source: what the model as loaded gives on the second, for the log.

        Raises:
            StageError: nothing to train, or a loss that is not finite.
        """
        from compress.training.augment import Augment
        from compress.training.loop import train
        from compress.training.masks import KeepZeros
        from compress.training.shuffle import Shuffled

        finetune, validation = samples
        augment = Augment(self.flip, self.shift, self.padding, self.blend)
        shuffled = Shuffled(finetune, size=self.batch_size, seed=context.seed, augment=augment)
        checkpoint = context.folder / _CHECKPOINT
        result = train(
            module,
            batches_of=shuffled,
            steps_per_epoch=len(shuffled),
            options=options,
            seed=context.seed,
            progress=context.progress,
            validation=(lambda: validation.batches(_VALIDATION_BATCH)) if len(validation) else None,
            source=source,
            teacher=teacher,
            hooks=[*hooks, KeepZeros(module)] if self.keep_zeros else hooks,
            checkpoint=checkpoint,
            description=context.name,
        )
        checkpoint.unlink(missing_ok=True)
        return result


@dataclass(frozen=True)
class Start:
    """Start of a training: what it begins with.

    Attributes:
        module: the copy that is trained.
        samples: for training, and for choosing the epoch to keep (may be empty).
        teacher: what is distilled from; None without distillation.
        before: the validation result of the module as it came in; None without validation samples.
        source: that of the model as loaded.
    """

    module: nn.Module
    samples: tuple[Samples, Samples]
    teacher: nn.Module | None
    before: Validation | None
    source: Validation | None
    options: TrainOptions


class FloatTrainingStage(TrainingStage):
    """Base of the stages that train FP32 weights. With `distill` the teacher is the model as loaded.

    Attributes:
        momentum: of SGD.
        label_smoothing: share of the target spread over all classes.
        mixed_precision: compute activations in 16 bits on a GPU.
        hints: parts, by module path, whose outputs follow the teacher's (Romero et al. 2015); needs `distill`.
        hint_weight: of that loss against the others.
        keep: the epoch that does `best` on the validation split, or the `last` one: where those images were trained on
            before, the first epochs, which remember them, look best.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; train the PyTorch model it came from"
    data_used: ClassVar[tuple[str, ...]] = ("finetune", "validation")

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = TrainOptions.momentum
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = TrainOptions.label_smoothing
    mixed_precision: bool = TrainOptions.mixed_precision
    hints: tuple[Annotated[str, Field(min_length=1)], ...] = TrainOptions.hints
    hint_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = TrainOptions.hint_weight
    keep: Literal["best", "last"] = "best"

    @model_validator(mode="after")
    def _hints_need_a_teacher(self) -> FloatTrainingStage:
        if self.hints and not self.distill:
            raise ValueError("hints come from a teacher: they need distill=true")
        return self

    def start(self, artifact: Artifact, context: Context) -> Start:
        """A copy of the module to train, and what it is trained with.

        Raises:
            StageError: no samples, no teacher, nothing to train, or a graph that takes no batches.
        """
        from compress.training.prepare import require_batches, source_teacher, trainable_copy

        module = trainable_copy(artifact.module)
        require_batches(module, artifact, context.name)
        samples = training_samples(context)
        teacher = source_teacher(context) if self.distill else None
        options = replace(self.train_options(), judge_from=self.epochs - 1 if self.keep == "last" else 0)
        before, source = validated(module, samples[1]), source_validated(context, samples[1])
        return Start(module, samples, teacher, before, source, options)


def training_samples(context: Context) -> tuple[Samples, Samples]:
    """The fine-tuning and the validation split, decoded images kept in memory.

    Raises:
        StageError: there is nothing to train on.
    """
    from compress.training.samples import Samples

    if not len(context.splits.finetune):
        raise StageError(
            f"stage {context.name!r}: the fine-tuning split is empty", fix="data.finetune=<number of images>"
        )
    return Samples(context.splits.finetune), Samples(context.splits.validation)


def validated(module: nn.Module, samples: Samples) -> Validation | None:
    """Accuracy on the validation samples; None without any."""
    from compress.training.validate import validate

    return validate(module, samples.batches(_VALIDATION_BATCH)) if len(samples) else None


def source_validated(context: Context, samples: Samples) -> Validation | None:
    """Accuracy of the model as loaded on the validation samples; None without any, or where there is no such model."""
    from compress.training.validate import validate_source

    return validate_source(context.source, samples.batches(_VALIDATION_BATCH)) if len(samples) else None


def log_unvalidated(result: TrainResult, context: Context) -> None:
    """Say that nothing chose among the epochs."""
    context.progress.log(
        f"{context.name}: trained on {result.device}; without validation samples the last epoch is kept"
    )
