"""Quantization-aware training on the graph that PTQ prepares: it computes as the integers will, and is trained so.

There is no second kind of graph. `prepare` and `calibrate` are PTQ's, `start` turns the same quantizers into fake
quantizers with straight-through gradients (Jacob et al. 2018, section 3), any training loop trains, `settle` fixes what
was simulated last, and PTQ's `convert` writes it out.

BatchNorm is folded before training starts ("static folding", Nagel et al. 2021, section 4.2) and not simulated beside
the convolution as by Jacob et al. (section 3.2), who fold by the statistics of each batch and freeze them late. A
network that comes here is trained already: its statistics are known, the folded graph is the function that is deployed,
and with one scale per channel the spread that folding brings into the weights costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx, nn

from compress.graph.capture import bind, call_nodes, constant, parameter_name
from compress.graph.operators import bias_of, weight_of
from compress.quantization.ptq import calibrate, quantizers
from compress.quantization.tensor_quantizer import Mode, TensorQuantizer
from compress.training.device import home_of
from compress.training.hooks import Hook
from compress.training.mode import set_batchnorm_training

__all__ = ["FrozenBatchNorm", "MovingRanges", "make_trainable", "settle", "start"]


def make_trainable(graph: fx.GraphModule) -> None:
    """Let every weight and bias of a `float_graph` be trained, in place; imported and folded ones often are frozen."""
    parameters = dict(graph.named_parameters(remove_duplicate=False))
    for node in call_nodes(graph):
        for source in (weight_of(node), bias_of(node)):
            name, value = parameter_name(source), constant(graph, source)
            if name is not None and value is not None and name not in parameters:
                bind(graph, name, value, trainable=True)
    for parameter in graph.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def start(prepared: fx.GraphModule) -> None:
    """Simulate, in place: ranges of activations stay as calibrated, those of weights follow the weights.

    Raises:
        StageError: it is not calibrated.
    """
    for quantizer in quantizers(prepared).values():
        quantizer.calculate_qparams()  # now, so that checkpoints hold every scale
        quantizer.mode = Mode.SIMULATE
        quantizer.follows = quantizer.is_constant


def settle(prepared: fx.GraphModule) -> None:
    """Fix, in place, the scales of the weights as they are now, which `convert` will write."""
    for node in prepared.graph.find_nodes(op="call_module"):
        quantizer, weight = prepared.get_submodule(str(node.target)), constant(prepared, node.args[0])
        if isinstance(quantizer, TensorQuantizer) and weight is not None:
            quantizer.refit(weight)
            quantizer.follows = False


class MovingRanges(Hook):
    """Search the ranges of the activations anew before each of the first epochs, for the weights as they are then.

    From epoch `until` on they stay, so that the end of the training, at small learning rates, is not disturbed; Jacob
    et al. (2018, section 3.1) average them to the end. In epoch 0 they are those of the calibration.
    """

    def __init__(self, until: int, batches: Callable[[], Iterable[torch.Tensor]]) -> None:
        self._until = until
        self._batches = batches

    def at_epoch(self, module: nn.Module, epoch: int) -> None:
        if 0 < epoch < self._until and isinstance(module, fx.GraphModule):
            _observe_again(module, self._batches())


class FrozenBatchNorm(Hook):
    """Normalisations that no convolution could take in (after a concatenation, say) keep their statistics."""

    def at_epoch(self, module: nn.Module, epoch: int) -> None:
        set_batchnorm_training(module, False)


def _observe_again(prepared: fx.GraphModule, batches: Iterable[torch.Tensor]) -> None:
    """New ranges of activations, while the weights stay simulated."""
    moving = [quantizer for quantizer in quantizers(prepared).values() if not quantizer.is_constant]
    for quantizer in moving:
        quantizer.forget()
        quantizer.mode = Mode.OBSERVE
    device = home_of(prepared)
    calibrate(prepared, (batch.to(device) for batch in batches))
    for quantizer in moving:
        quantizer.calculate_qparams()
        quantizer.mode = Mode.SIMULATE
