"""Hooks of others during training: quantization-aware training freezes observers here, pruning keeps its zeros."""

from __future__ import annotations

from torch import nn

__all__ = ["Hook"]


class Hook:
    """Called by the training loop; subclass it and override what is needed, the rest does nothing.

    A training that is resumed calls `at_epoch` with the next epoch only, on a module whose parameters and buffers are
    restored: what happens "from epoch k on" must be written as `if epoch >= k`, and other state belongs in buffers.
    """

    def at_epoch(self, module: nn.Module, epoch: int) -> None:
        """Act before epoch `epoch` (from 0); the module is in training mode and on its device."""

    def before_step(self, module: nn.Module) -> None:
        """Act after the gradients are complete (and unscaled), before they are clipped and used."""

    def after_step(self, module: nn.Module) -> None:
        """Act after the optimizer changed the parameters, before their average is updated."""

    def at_judgement(self, module: nn.Module) -> None:
        """Act after averaged weights took the place of the module's own, before they are validated and kept."""
