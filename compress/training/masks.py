"""Pruned weights stay pruned while the others train."""

from __future__ import annotations

import torch
from torch import nn

from compress.training.hooks import Hook

__all__ = ["KeepZeros"]


class KeepZeros(Hook):
    """Hold every weight at zero that is zero in `module` now.

    Weights are found by parameter name with two or more dimensions, so it works the same for layers, for parametrized
    ones (`parametrizations.weight.original`) and for captured graphs, on whichever device they are trained. The
    gradients are masked too: otherwise those of weights that are not there would count in gradient clipping and move
    the optimizer's momentum.
    """

    def __init__(self, module: nn.Module) -> None:
        self._zeros: dict[str, torch.Tensor] = {}
        self.remember(module)

    @property
    def count(self) -> int:
        """Number of weights that are held at zero."""
        return sum(int(mask.sum()) for mask in self._zeros.values())

    def remember(self, module: nn.Module) -> None:
        """Hold the weights that are zero now, and no others."""
        zeros = {name: parameter.detach() == 0 for name, parameter in _weights(module).items()}
        self._zeros = {name: mask for name, mask in zeros.items() if bool(mask.any())}

    def before_step(self, module: nn.Module) -> None:
        for parameter, mask in self._masked(module):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0)

    @torch.no_grad()
    def after_step(self, module: nn.Module) -> None:
        for parameter, mask in self._masked(module):
            parameter.masked_fill_(mask, 0)

    @torch.no_grad()
    def at_judgement(self, module: nn.Module) -> None:
        for parameter, mask in self._masked(module):
            parameter.masked_fill_(mask, 0)

    def _masked(self, module: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
        weights = _weights(module)
        for name, mask in self._zeros.items():  # the module may have moved to a GPU since
            self._zeros[name] = mask.to(weights[name].device)
        return [(weights[name], mask) for name, mask in self._zeros.items()]


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.ndim >= 2}
