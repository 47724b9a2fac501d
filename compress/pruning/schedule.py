"""Gradual pruning while training (Zhu & Gupta 2017, "To prune, or not to prune", equation 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from compress.graph.weights import Weight, compute_weights
from compress.pruning.unstructured import prune_smallest
from compress.training.masks import KeepZeros

__all__ = ["GradualPruning", "Ramp"]


@dataclass(frozen=True)
class Ramp:
    """Share of zeros over the optimizer steps: `s_f + (s_i - s_f) (1 - t)^3`, with t from 0 to 1.

    Attributes:
        initial, final: shares at the beginning and the end.
        steps: optimizer steps it takes.
        updates: number of times the weights are pruned in it; fewer where there are fewer steps.
    """

    initial: float
    final: float
    steps: int
    updates: int

    def amount(self, step: int) -> float:
        """The share after `step` optimizer steps."""
        left = 1 - min(step / self.steps, 1.0)
        return self.final + (self.initial - self.final) * left**3

    def due(self, step: int) -> bool:
        """Tell whether to prune after `step` optimizer steps: `updates` times, equally spaced, the last at the end."""
        if not 0 < step <= self.steps:
            return False
        return step * self.updates // self.steps > (step - 1) * self.updates // self.steps


class GradualPruning(KeepZeros):
    """Zero more and more of the smallest weights; a weight that became zero stays zero.

    Args:
        names: of the weights that take part, as in `Weight.name`.
        scope: `local` takes the share of every layer, `global` of all layers together.
    """

    def __init__(
        self,
        module: nn.Module,
        names: frozenset[str],
        ramp: Ramp,
        steps_per_epoch: int,
        scope: Literal["local", "global"],
    ) -> None:
        super().__init__(module)
        self._names = names
        self._ramp = ramp
        self._steps_per_epoch = steps_per_epoch
        self._scope = scope
        self._step = 0

    def at_epoch(self, module: nn.Module, epoch: int) -> None:
        self._step = epoch * self._steps_per_epoch
        self.remember(module)  # of a training that is resumed, too

    def after_step(self, module: nn.Module) -> None:
        super().after_step(module)
        self._step += 1
        if self._ramp.due(self._step):
            self._prune(module, self._ramp.amount(self._step))
            self.remember(module)

    def _prune(self, module: nn.Module, amount: float) -> None:
        weights = [weight for weight in compute_weights(module) if weight.name in self._names]
        groups: list[list[Weight]] = [weights] if self._scope == "global" else [[weight] for weight in weights]
        for group in groups:
            prune_smallest([weight.tensor for weight in group], amount)
