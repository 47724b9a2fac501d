"""One optimizer step, and everything that such steps change."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.stage import Batch
from compress.training.average import WeightAverage
from compress.training.device import autocast_dtype
from compress.training.distill import distillation_loss
from compress.training.forward import logits_of, on_device, require_scores
from compress.training.hints import hint_loss, outputs_of, require_parts
from compress.training.hooks import Hook
from compress.training.mode import set_training
from compress.training.optimizer import build_optimizer, set_rate
from compress.training.options import TrainOptions

__all__ = ["Learner", "LearnerState", "Weights"]

Weights = dict[str, torch.Tensor]
"""A module's `state_dict()`."""


class LearnerState(TypedDict):
    """Tensors and plain values that decide every further step, random numbers and hooks aside."""

    module: Weights
    optimizer: dict[str, object]
    scaler: dict[str, object]
    average: Weights | None
    updates: int


class Learner:
    """A module on its device with its optimizer, loss scale and average of weights."""

    def __init__(
        self,
        module: nn.Module,
        options: TrainOptions,
        device: torch.device,
        teacher: nn.Module | None,
        hooks: Sequence[Hook],
    ) -> None:
        self.module = module
        self._options = options
        self._device = device
        self._hooks = hooks
        self._teacher = None if teacher is None else _frozen(teacher, device)
        if self._teacher is not None:
            require_parts(self._teacher, options.hints, "teacher")
            require_parts(module, options.hints, "student")
        self._optimizer = build_optimizer(module, options)
        self._average = WeightAverage(module, options.ema) if options.ema else None
        self._dtype = autocast_dtype(device, mixed=options.mixed_precision)
        # bfloat16 has the range of float32: only float16 gradients underflow and need a scale
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)

    def begin(self, epoch: int) -> None:
        """Enter training mode for this epoch."""
        set_training(self.module, True)
        for hook in self._hooks:
            hook.at_epoch(self.module, epoch)

    def step(self, batch: Batch, rate: float) -> torch.Tensor:
        """One update at this learning rate. Returns the loss before it, on the device, without gradient."""
        loss = self._loss(batch)
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        for hook in self._hooks:
            hook.before_step(self.module)
        if self._options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._options.clip_norm)
        set_rate(self._optimizer, rate)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        for hook in self._hooks:
            hook.after_step(self.module)
        if self._average is not None:
            self._average.update(self.module)
        return loss.detach()

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The module as it would be handed over: with averaged weights, where there is an average."""
        if self._average is None:
            yield self.module
            return
        with self._average.applied(self.module):
            for hook in self._hooks:
                hook.at_judgement(self.module)
            yield self.module

    def state(self) -> LearnerState:
        """The state by reference: save or copy it before the next step."""
        average = self._average
        return LearnerState(
            module=self.module.state_dict(),
            optimizer=self._optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            average=None if average is None else average.values,
            updates=0 if average is None else average.updates,
        )

    def restore(self, state: LearnerState) -> None:
        """Go on from `state`; raises what torch raises (ValueError, RuntimeError) when it is of another module."""
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if self._average is not None and state["average"] is not None:
            self._average.values = {name: value.to(self._device) for name, value in state["average"].items()}
            self._average.updates = state["updates"]

    def finish(self, best: Weights) -> None:
        """Leave the module with these weights, in inference mode and without gradients."""
        self.module.load_state_dict(best)
        self._optimizer.zero_grad()
        set_training(self.module, False)

    def _loss(self, batch: Batch) -> torch.Tensor:
        images, labels = on_device(batch, self._device)
        options = self._options
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            with outputs_of(self.module, options.hints) as student:
                logits = logits_of(self.module, images)
            require_scores(logits, batch.labels)
            if self._teacher is None:
                return F.cross_entropy(logits.float(), labels, label_smoothing=options.label_smoothing)
            with torch.no_grad(), outputs_of(self._teacher, options.hints) as teacher:
                soft = logits_of(self._teacher, images)
            loss = distillation_loss(
                logits,
                soft,
                labels,
                temperature=options.temperature,
                alpha=options.alpha,
                label_smoothing=options.label_smoothing,
            )
            return loss + options.hint_weight * hint_loss(student, teacher) if teacher else loss


def _frozen(teacher: nn.Module, device: torch.device) -> nn.Module:
    """A copy in inference mode on `device`; the caller's teacher stays where and as it is."""
    teacher = copy.deepcopy(teacher).to(device).requires_grad_(False)
    set_training(teacher, False)
    return teacher
