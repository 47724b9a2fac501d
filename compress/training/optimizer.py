"""The optimizer and which parameters it decays."""

from __future__ import annotations

import torch
from torch import nn

from compress.core.errors import StageError
from compress.training.options import TrainOptions

__all__ = ["build_optimizer", "set_rate"]


def build_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that require a gradient; weight decay on those with two or more dimensions.

    Raises:
        StageError: no parameter requires a gradient.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise StageError("the model has no parameter to train", fix="leave out the stage that trains")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
