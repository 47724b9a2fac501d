"""The training loop of fine-tuning and quantization-aware training.

    train(module, batches_of=shuffled, steps_per_epoch=len(shuffled), ...)  ->  TrainResult; `module` is changed

Each epoch: hooks, steps, validation (of the averaged weights, if any), one log line, checkpoint. The weights of the
best epoch are kept. On the CPU the result depends on the arguments only: an interrupted and resumed training gives the
same bits. On a GPU some of cuDNN's gradients are summed in any order.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compress.core.errors import StageError
from compress.core.stage import Batch, Progress
from compress.formats.digest import tensors_digest
from compress.support.observe import observe
from compress.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from compress.training.device import choose_device, home_of, random_state, restore_random, seeded
from compress.training.hooks import Hook
from compress.training.learner import Learner, Weights
from compress.training.options import TrainOptions
from compress.training.schedule import cosine_factor
from compress.training.validate import Validation, beside_source, validate

__all__ = ["Epoch", "TrainResult", "train"]


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch: mean training loss, and the validation result after it (None without such samples)."""

    loss: float
    validation: Validation | None = None


@dataclass(frozen=True)
class TrainResult:
    """Record of a training: how it went.

    Attributes:
        epochs: every epoch that was trained, earlier sessions of a resumed training included.
        best: index of the epoch whose weights the module has.
        resumed: number of epochs taken from a checkpoint.
        device: `cpu` or `cuda:0`.
    """

    epochs: tuple[Epoch, ...]
    best: int
    resumed: int
    device: str

    @property
    def validation(self) -> Validation | None:
        """Validation result of the weights that were kept."""
        return self.epochs[self.best].validation


def train(
    module: nn.Module,
    *,
    batches_of: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int,
    options: TrainOptions,
    seed: int,
    progress: Progress,
    validation: Callable[[], Iterable[Batch]] | None = None,
    source: Validation | None = None,
    teacher: nn.Module | None = None,
    hooks: Sequence[Hook] = (),
    checkpoint: Path | None = None,
    description: str = "training",
) -> TrainResult:
    """Train `module` in place; it ends in inference mode, on the device it came from, with its best epoch's weights.

    Args:
        module: the parameters that require a gradient are trained. Captured graphs are taken too.
        batches_of: the batches of an epoch (from 0); must depend on the epoch only, as `Shuffled` does.
        steps_per_epoch: number of those batches, for the schedule.
        validation: samples that choose the best epoch and stop early; without them the last epoch is kept.
        source: the result of the model as loaded on those samples, for the log to tell every epoch's beside.
        teacher: adds a distillation loss; is copied, not changed.
        checkpoint: file that is replaced after every epoch and resumed from. The caller deletes it when done with it.
        description: what log lines and the progress bar call this.

    Raises:
        StageError: the loss became infinite or NaN, the device is missing or too small, nothing can be trained.
        DataError: a label lies beyond the model's outputs.
    """
    device, home = choose_device(options.device), home_of(module)
    signature = _signature(module, teacher, options, steps_per_epoch, seed)
    run = _Run(
        batches_of, steps_per_epoch, options, validation, source, signature, checkpoint, progress, description, device
    )
    try:
        with seeded(device, seed), torch.enable_grad():
            return _fit(Learner(module.to(device), options, device, teacher, hooks), run)
    except torch.OutOfMemoryError as error:
        raise StageError(f"{description}: the memory of {device} is full", fix="a lower batch_size") from error
    finally:
        module.to(home)


@dataclass(frozen=True)
class _Run:
    """The arguments of one training."""

    batches_of: Callable[[int], Iterable[Batch]]
    steps_per_epoch: int
    options: TrainOptions
    validation: Callable[[], Iterable[Batch]] | None
    source: Validation | None
    signature: str
    checkpoint: Path | None
    progress: Progress
    description: str
    device: torch.device


@dataclass
class _Position:
    """Position of a training: how far it is."""

    epochs: list[Epoch]
    best: Weights


def _fit(learner: Learner, run: _Run) -> TrainResult:
    position = _resume(learner, run) or _Position([], {})
    resumed = len(position.epochs)
    remaining = range(resumed, run.options.epochs)
    for number in run.progress.track(remaining, run.description, total=len(remaining)):
        if _gave_up(position.epochs, run.options):
            run.progress.log(f"{run.description}: {_stopped(position.epochs, run)}")
            break
        learner.begin(number)
        loss = _epoch(learner, run, number)
        with learner.judged() as module:
            position.epochs.append(Epoch(loss, validate(module, run.validation()) if run.validation else None))
            if _best(position.epochs, run.options.judge_from) == number:
                position.best = copy.deepcopy(module.state_dict())  # with the versions that loading it looks at
        _tell(run.description, number, position.epochs[-1])
        run.progress.log(f"{run.description}: {_line(position.epochs, run)}")
        _save(learner, position, run)
    learner.finish(position.best)
    return TrainResult(tuple(position.epochs), _best(position.epochs, run.options.judge_from), resumed, str(run.device))


def _tell(description: str, number: int, epoch: Epoch) -> None:
    """The figures of an epoch, for a logger."""
    observe(f"{description}/loss", number, epoch.loss)
    if epoch.validation is not None:
        observe(f"{description}/validation_loss", number, epoch.validation.loss)
        observe(f"{description}/validation_top1", number, epoch.validation.top1)


def _epoch(learner: Learner, run: _Run, number: int) -> float:
    """Mean loss of one epoch. The losses stay on the device until its end, so that a GPU is not waited for."""
    options, steps = run.options, run.steps_per_epoch
    warmup, total = round(options.warmup_epochs * steps), options.epochs * steps
    losses: list[torch.Tensor] = []
    batches = run.progress.track(run.batches_of(number), f"epoch {number + 1} of {options.epochs}", total=steps)
    for step, batch in enumerate(batches, start=number * steps):
        factor = cosine_factor(step, warmup=warmup, total=total)
        losses.append(learner.step(batch, options.learning_rate * factor))
    if not losses:
        raise StageError(f"{run.description}: there is no sample to train on", fix="data.finetune=<number of images>")
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise StageError(
            f"{run.description}: the loss is {loss} in epoch {number + 1}",
            fix=f"a learning_rate below {options.learning_rate:g}, a warm-up, or clip_norm=1",
        )
    return loss


def _best(epochs: Sequence[Epoch], judge_from: int) -> int:
    """Index of the best epoch: the first with the best validation result, or the last when nothing was validated.

    Before epoch `judge_from` it is the last one, too.
    """
    best = first = min(judge_from, len(epochs) - 1)
    for number, epoch in enumerate(epochs[first:], start=first):
        other = epochs[best].validation
        if epoch.validation is None or other is None or epoch.validation.better_than(other):
            best = number
    return best


def _gave_up(epochs: Sequence[Epoch], options: TrainOptions) -> bool:
    if options.patience is None or len(epochs) <= options.judge_from:
        return False
    return len(epochs) - 1 - _best(epochs, options.judge_from) >= options.patience


def _stopped(epochs: Sequence[Epoch], run: _Run) -> str:
    text = f"stopped early, no better epoch in {run.options.patience}"
    best = epochs[_best(epochs, run.options.judge_from)].validation
    return text if best is None else f"{text} (best validation top-1 {best.top1:.2%}{beside_source(run.source)})"


def _line(epochs: Sequence[Epoch], run: _Run) -> str:
    epoch, options = epochs[-1], run.options
    text = f"epoch {len(epochs)} of {options.epochs}, loss {epoch.loss:.4f}"
    if epoch.validation is None:
        return text
    judged = len(epochs) > options.judge_from
    mark = ", best so far" if judged and _best(epochs, options.judge_from) == len(epochs) - 1 else ""
    result = f"{epoch.validation.top1:.2%} of {epoch.validation.samples}{beside_source(run.source)}"
    return f"{text}, validation top-1 {result}{mark}"


def _save(learner: Learner, position: _Position, run: _Run) -> None:
    if run.checkpoint is None:
        return
    write_checkpoint(
        run.checkpoint,
        Checkpoint(
            signature=run.signature,
            history=[_row(epoch) for epoch in position.epochs],
            learner=learner.state(),
            best=position.best,
            random=random_state(run.device),
        ),
    )


def _resume(learner: Learner, run: _Run) -> _Position | None:
    """Bring the learner and the random state to where the checkpoint was written; None without a usable one."""
    checkpoint = None
    if run.checkpoint is not None:
        checkpoint = read_checkpoint(run.checkpoint, run.signature, run.progress.log)
    if checkpoint is None:
        return None
    learner.restore(checkpoint["learner"])
    restore_random(checkpoint["random"], run.device)
    run.progress.log(f"{run.description}: goes on after epoch {len(checkpoint['history'])} of {run.options.epochs}")
    return _Position([_epoch_of(row) for row in checkpoint["history"]], checkpoint["best"])


def _row(epoch: Epoch) -> tuple[float, float | None, float | None, int]:
    result = epoch.validation
    return (epoch.loss, None, None, 0) if result is None else (epoch.loss, result.top1, result.loss, result.samples)


def _epoch_of(row: tuple[float, float | None, float | None, int]) -> Epoch:
    loss, top1, validation_loss, samples = row
    if top1 is None or validation_loss is None:
        return Epoch(loss)
    return Epoch(loss, Validation(top1, validation_loss, samples))


def _signature(
    module: nn.Module, teacher: nn.Module | None, options: TrainOptions, steps_per_epoch: int, seed: int
) -> str:
    """Hex SHA-256 of what the training starts from, the samples aside (a stage's folder is named after those)."""
    parts = [repr(options), str(steps_per_epoch), str(seed), torch.__version__, _digest(module)]
    if teacher is not None:
        parts.append(_digest(teacher))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def _digest(module: nn.Module) -> str:
    state = module.state_dict()
    return tensors_digest({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
