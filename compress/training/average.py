"""Exponential moving average of the weights (Polyak & Juditsky 1992; warm-up of the decay as in TensorFlow's)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["WeightAverage"]

_STATISTICS = ("running_mean", "running_var")


class WeightAverage:
    """`average += (1 - d) (weight - average)` after every step, with `d = min(decay, (1 + t) / (10 + t))` at step t.

    Averaged are the parameters and BatchNorm's running statistics; other buffers (observers, counters) are taken from
    the module as they are, because an average of a range that starts at infinity is no range.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.values = {name: tensor.detach().clone() for name, tensor in _averaged(module).items()}
        self.updates = 0
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's weights. Zero stays zero where both are."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in _averaged(module).items():
            self.values[name].lerp_(tensor, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights inside the block, and with its own again after it."""
        tensors = _averaged(module)
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        _copy(self.values, tensors)
        try:
            yield
        finally:
            _copy(own, tensors)


@torch.no_grad()
def _copy(values: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def _averaged(module: nn.Module) -> dict[str, torch.Tensor]:
    statistics = {name: buffer for name, buffer in module.named_buffers() if name.endswith(_STATISTICS)}
    return {**{name: p for name, p in module.named_parameters() if p.is_floating_point()}, **statistics}
