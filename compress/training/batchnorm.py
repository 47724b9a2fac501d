"""BatchNorm's running statistics measured anew, for weights that changed after training (pruning, rounding).

Stochastic weight averaging does the same (Izmailov et al. 2018, section 3.2); for pruned networks see Li et al. 2020,
"EagleEye", section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from compress.core.stage import Batch
from compress.graph.capture import parameter_name
from compress.training.device import home_of
from compress.training.forward import on_device
from compress.training.mode import batchnorm_nodes, set_batchnorm_training, set_training

__all__ = ["Statistics", "reestimate", "running_statistics"]

_MEAN, _VARIANCE, _MOMENTUM = 3, 4, 6  # operands of aten.batch_norm


@dataclass(frozen=True)
class Statistics:
    """The running statistics of one normalisation, `[channels]` each, as stored."""

    mean: torch.Tensor
    variance: torch.Tensor


def running_statistics(module: nn.Module) -> list[Statistics]:
    """Statistics of every BatchNorm layer, and of every BatchNorm operator of a captured graph, that keeps any."""
    stored = [(layer.running_mean, layer.running_var) for layer in _layers(module)]
    for graph, node in batchnorm_nodes(module):
        buffers = dict(graph.named_buffers(remove_duplicate=False))
        mean, variance = (buffers.get(parameter_name(node.args[index]) or "") for index in (_MEAN, _VARIANCE))
        stored.append((mean, variance))
    return [Statistics(mean, variance) for mean, variance in stored if mean is not None and variance is not None]


def reestimate(module: nn.Module, batches: Iterable[Batch]) -> int:
    """Replace, in place, running statistics by the mean of those of `batches`; everything else infers as usual.

    All normalisations are measured in the same passes, each on what the layers before it give when they normalise by
    the batch, as at the end of a training. The variance is the unbiased one, as in training.

    Returns:
        The number of batches; with none, the statistics stay as they are.
    """
    device = home_of(module)
    statistics = [buffer for pair in running_statistics(module) for buffer in (pair.mean, pair.variance)]
    sums = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in statistics]
    count = 0
    with torch.no_grad(), _statistics_of_each_batch(module):
        for batch in batches:
            module(on_device(batch, device)[0])
            for total, buffer in zip(sums, statistics, strict=True):
                total += buffer
            count += 1
        for total, buffer in zip(sums, statistics, strict=True):
            if count:
                buffer.copy_(total / count)
    return count


@contextmanager
def _statistics_of_each_batch(module: nn.Module) -> Iterator[None]:
    """A forward pass stores the statistics of its batch alone (momentum 1)."""
    layers = {layer: layer.momentum for layer in _layers(module)}
    nodes = {node: node.args[_MOMENTUM] for _, node in batchnorm_nodes(module)}
    try:
        for layer in layers:
            layer.momentum = 1.0
        for node in nodes:
            node.update_arg(_MOMENTUM, 1.0)
        set_training(module, False)
        set_batchnorm_training(module, True)  # last: compiles the changed graphs
        yield
    finally:
        for layer, momentum in layers.items():
            layer.momentum = momentum
        for node, argument in nodes.items():
            node.update_arg(_MOMENTUM, argument)
        set_training(module, False)


def _layers(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
