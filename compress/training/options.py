"""Options that decide how a network is trained; free of torch, so that a stage can name it at start-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Device", "Optimizer", "Padding", "TrainOptions"]

Device = Literal["auto", "cpu", "cuda"]
Optimizer = Literal["sgd", "adamw"]
Padding = Literal["zero", "reflect"]


@dataclass(frozen=True)
class TrainOptions:
    """Hyper-parameters of one training.

    Attributes:
        epochs: passes over the training samples, at least 1.
        learning_rate: the highest rate, reached after warm-up; cosine decay from there to 0.
        optimizer: `sgd` with Nesterov momentum (Sutskever et al. 2013) or `adamw` (Loshchilov & Hutter 2019).
        momentum: of SGD.
        weight_decay: on tensors of two or more dimensions; biases and normalisation are left alone.
        warmup_epochs: epochs of linear warm-up, less than `epochs`.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7).
        ema: decay per step of an average of the weights that is validated and kept in their place; 0 trains without.
        clip_norm: largest L2 norm of all gradients together; None leaves them.
        patience: stop after this many epochs without a better validation result; None never stops early.
        judge_from: epochs before this one (from 0) are not kept, however good they are: a network that is pruned
            while it trains is best before it is pruned.
        temperature: of the soft targets, where there is a teacher.
        alpha: weight of the soft targets against the labels, where there is a teacher.
        hints: parts whose outputs follow the teacher's, by module path.
        hint_weight: of that loss against the others.
        device: `auto` takes a CUDA GPU where there is one.
        mixed_precision: bfloat16 (float16 on GPUs before Ampere) activations on CUDA; the CPU always computes in FP32.
    """

    epochs: int
    learning_rate: float
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    judge_from: int = 0
    temperature: float = 4.0
    alpha: float = 0.9
    hints: tuple[str, ...] = ()
    hint_weight: float = 1.0
    device: Device = "auto"
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} must be at least 1")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be from 0 to less than epochs={self.epochs}")
        if not 0 <= self.judge_from < self.epochs:
            raise ValueError(f"judge_from={self.judge_from} must be from 0 to less than epochs={self.epochs}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema} must be from 0 to less than 1")
