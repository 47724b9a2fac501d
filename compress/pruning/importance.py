"""Importance of a channel or head, by one of four criteria.

torch-pruning computes the scores of a group: the mean, over all layers of the group, of what the criterion says about a
channel there. Heads of attention are scored by their projections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.errors import StageError
from compress.core.stage import Batch
from compress.pruning.groups import ChannelGroup, Group, HeadGroup
from compress.pruning.network import Network

if TYPE_CHECKING:
    from torch_pruning.pruner.importance import Importance

__all__ = ["Criterion", "unit_importance"]

Criterion = Literal["l1", "l2", "bn_gamma", "taylor"]


def unit_importance(
    network: Network, criterion: Criterion, batches: Iterable[Batch], stage: str
) -> dict[str, torch.Tensor]:
    """`[units]` by group name.

    `l1`, `l2`: norms of the weights (Li et al. 2017). `bn_gamma`: scale of the normalisation (Liu et al. 2017).
    `taylor`: |weight x gradient| of the loss on `batches` (Molchanov et al. 2019).

    Raises:
        StageError: `bn_gamma` without any normalisation, `taylor` without samples.
    """
    if criterion == "taylor":
        _add_gradients(network.module, batches, stage)
    scorer = _scorer(criterion)
    scores = {group.name: _score(group, scorer, criterion) for group in network.groups}
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise StageError(
            f"stage {stage!r}: criterion=bn_gamma needs BatchNorm after the layers, and there is none (folded?)",
            fix=f"stage.{stage}.before=fold_batchnorm, or stage.{stage}.criterion=l2",
        )
    for parameter in network.module.parameters():
        parameter.grad = None
    return {g.name: _or_largest(scores[g.name], g.units, known) for g in network.groups}


def _scorer(criterion: Criterion) -> Importance:
    from torch_pruning.pruner import importance

    if criterion == "taylor":
        return importance.GroupTaylorImportance(normalizer=None)
    if criterion == "bn_gamma":
        return importance.BNScaleImportance(normalizer=None)
    return importance.GroupMagnitudeImportance(p=1 if criterion == "l1" else 2, normalizer=None)


def _score(group: Group, scorer: Importance, criterion: Criterion) -> torch.Tensor | None:
    """`[units]`; None where the criterion has nothing to say about the group."""
    if isinstance(group, HeadGroup):
        attention = group.attention
        if criterion == "bn_gamma":
            return None
        return attention.taylor() if criterion == "taylor" else attention.importance(1 if criterion == "l1" else 2)
    assert isinstance(group, ChannelGroup)
    channels: torch.Tensor | None = scorer(group.dependencies)
    if channels is None or not len(channels):
        return None
    return torch.stack([channels[list(member)].sum() for member in group.members])


def _or_largest(score: torch.Tensor | None, units: int, known: list[torch.Tensor]) -> torch.Tensor:
    """A group that the criterion does not see counts as important as the most important unit of all."""
    if score is not None:
        return score
    return torch.full((units,), max(float(s.max()) for s in known))


def _add_gradients(module: nn.Module, batches: Iterable[Batch], stage: str) -> None:
    """Accumulate the gradients of the cross-entropy in inference mode: the running statistics stay."""
    count = 0
    module.zero_grad()
    with torch.enable_grad():
        for batch in batches:
            logits = module(torch.from_numpy(batch.images))
            F.cross_entropy(logits, torch.from_numpy(batch.labels)).backward()
            count += 1
    if not count:
        raise StageError(
            f"stage {stage!r}: criterion=taylor needs samples and the fine-tuning split is empty",
            fix=f"data.finetune=<number of images>, or stage.{stage}.criterion=l2",
        )
    for parameter in module.parameters():  # torch-pruning reads the gradient of every layer, also of those not reached
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
