"""Unstructured pruning: which weights may become zero, and which of them do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from compress.core.errors import StageError
from compress.graph.weights import Weight, compute_weights, named_tensors
from compress.pruning.names import enclosing, matching_any, require_matches

__all__ = ["prunable_weights", "prune_smallest"]


def prunable_weights(module: nn.Module, exclude: Sequence[str], stage: str) -> list[Weight]:
    """The weights of convolutions and linear layers that no pattern names, as they are stored in `module`.

    Raises:
        StageError: nothing to prune, a pattern that matches nothing, or weights that are not finite or not stored.
    """
    weights = _selected(compute_weights(module), exclude, stage)
    _require_editable(weights, module, stage)
    return weights


def prune_smallest(
    tensors: Sequence[torch.Tensor], amount: float, scales: Sequence[float] | None = None, *, most: float = 1.0
) -> None:
    """Zero, in place, the `round(amount * n)` elements of smallest magnitude among all `n` elements of `tensors`.

    With `scales`, one for each tensor, the magnitudes are compared after multiplying by them. No tensor loses more than
    the share `most` of its elements; where that leaves too few, fewer go.

    The threshold is the k-th smallest magnitude; elements that tie with it go in memory order until k are reached.
    """
    factors = [1.0] * len(tensors) if scales is None else scales
    parts = [_spared(_magnitudes(tensor) * factor, most) for tensor, factor in zip(tensors, factors, strict=True)]
    scores = torch.cat(parts)
    count = min(round(amount * scores.numel()), int(scores.isfinite().sum()))
    if count == 0:
        return
    threshold = scores.kthvalue(count).values
    mask = scores < threshold
    ties = (scores == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    with torch.no_grad():
        for tensor, part in zip(tensors, mask.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.masked_fill_(part.view(tensor.shape), 0)


def _spared(scores: torch.Tensor, most: float) -> torch.Tensor:
    """`[n]` scores, those that must stay made infinite: the largest, beyond the share `most`."""
    kept = len(scores) - math.floor(most * len(scores) + 1e-9)
    if kept:
        scores[scores.topk(kept).indices] = math.inf
    return scores


def _magnitudes(tensor: torch.Tensor) -> torch.Tensor:
    """Absolute values, flat `[n]`, in at least float32 (half floats have no `kthvalue` on CPU)."""
    return tensor.detach().abs().flatten().to(torch.promote_types(tensor.dtype, torch.float32))


def _selected(weights: Sequence[Weight], patterns: Sequence[str], stage: str) -> list[Weight]:
    """The weights that no pattern names."""
    if not weights:
        raise StageError(
            f"stage {stage!r}: the model has no convolution or linear layer with stored weights", fix=f"~stage.{stage}"
        )
    names = {weight.name: [*enclosing(weight.name), weight.layer] for weight in weights}
    require_matches([name for group in names.values() for name in group], patterns, stage)
    kept = [weight for weight in weights if not matching_any(names[weight.name], patterns)]
    if not kept:
        raise StageError(f"stage {stage!r}: exclude leaves no layer to prune", fix=f"~stage.{stage}")
    return kept


def _require_editable(weights: Sequence[Weight], module: nn.Module, stage: str) -> None:
    stored = named_tensors(module)
    for weight in weights:
        if stored.get(weight.name) is not weight.tensor or not weight.tensor.is_floating_point():
            raise StageError(
                f"stage {stage!r}: the weight of {weight.layer!r} is computed or packed "
                "(parametrization, weight norm, pruning mask or quantization)",
                fix=f"make it permanent in the model, or stage.{stage}.exclude=[{weight.layer}]",
            )
        if not bool(weight.tensor.isfinite().all()):
            raise StageError(
                f"stage {stage!r}: the weight of {weight.layer!r} holds NaN or infinity",
                fix="check the checkpoint; it did not train to finite values",
            )
