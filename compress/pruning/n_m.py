"""N:M sparsity: at most N of every M consecutive input channels are non-zero (Mishra et al. 2021, "Accelerating Sparse
Deep Neural Networks", section 3). NVIDIA's sparse tensor cores take 2:4."""

from __future__ import annotations

import torch
from torch import nn

from compress.graph.weights import Weight

__all__ = ["along_inputs", "follows", "prune_n_m", "why_not"]


def prune_n_m(weight: torch.Tensor, n: int, m: int) -> None:
    """Keep, in place, the N largest magnitudes of every M consecutive inputs of each output (and kernel position).

    Among equal magnitudes the first ones stay.

    Args:
        weight: `[out, in, *kernel]`, with `in` a multiple of `m`.
    """
    grouped = along_inputs(weight.detach(), m)
    order = grouped.abs().argsort(dim=-1, descending=True, stable=True)
    gone = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, order[..., n:], True)
    with torch.no_grad():
        weight.masked_fill_(gone.view(weight.movedim(1, -1).shape).movedim(-1, 1), 0)


def follows(weight: torch.Tensor, n: int, m: int) -> bool:
    """Tell whether no M consecutive inputs hold more than N non-zero weights; `weight` as for `prune_n_m`."""
    return bool(((along_inputs(weight, m) != 0).sum(-1) <= n).all())


def along_inputs(weight: torch.Tensor, m: int) -> torch.Tensor:
    """`[out, in, *kernel]` as `[out, *kernel, in / m, m]`."""
    inputs_last = weight.movedim(1, -1)
    return inputs_last.reshape(*inputs_last.shape[:-1], -1, m)


def why_not(weight: Weight, module: nn.Module, m: int) -> str | None:
    """Say why a weight cannot be pruned N:M; None if it can."""
    tensor = weight.tensor
    owner = module.get_submodule(weight.name.rpartition(".")[0]) if weight.name.endswith(".weight") else None
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return "it is a transposed convolution"
    if tensor.ndim < 2 or tensor.shape[1] % m:
        return f"its {tensor.shape[1] if tensor.ndim > 1 else 0} inputs are no multiple of {m}"
    if isinstance(owner, nn.modules.conv._ConvNd) and owner.groups > 1:
        return "it is a grouped convolution"
    return None
