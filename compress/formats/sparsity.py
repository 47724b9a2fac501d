"""Exact zeros among the weights of convolutions and linear layers, counted in the stored values."""

from __future__ import annotations

from collections.abc import Iterable

from compress.core.measurement import Sparsity
from compress.formats.base import NotMeasured

__all__ = ["total_sparsity"]


def total_sparsity(layers: Iterable[tuple[str, int, int]]) -> Sparsity:
    """Sum over layers, each with its name, zeros and weights.

    Raises:
        NotMeasured: there is no weight.
    """
    zeros = total = 0
    per_layer: dict[str, float] = {}
    for name, layer_zeros, layer_total in layers:
        zeros, total = zeros + layer_zeros, total + layer_total
        per_layer[name] = layer_zeros / layer_total if layer_total else 0.0
    if not total:
        raise NotMeasured("found no convolution or linear layer with stored weights")
    return Sparsity(zeros, total, per_layer)
