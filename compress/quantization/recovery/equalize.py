"""Cross-layer equalization: the same function with weights that fit one scale per tensor (Nagel et al. 2019, sec. 4.1).

Between two layers with only `f` between them, where `f(s x) = s f(x)` for s > 0, channel i may be divided by s_i on the
way out of the first and multiplied by it on the way into the second. `s_i = sqrt(r1_i / r2_i)`, with r1_i and r2_i
the largest absolute weights of the channel in both, makes them equal (equation 11); chains are swept until nothing
moves. Biases are divided by s_i too.

Two departures. A channel's bias counts in r1_i like a weight: with folded BatchNorm a nearly dead channel is a
constant, its bias, and blowing up its weights would blow up that constant until it stretches the activation's range for
all (the paper absorbs high biases afterwards). On MobileNetV1-0.25, one scale per weight tensor, that is worth 6 dB of
logits SQNR. And the paper replaces ReLU6 by ReLU, which changes the function; here a clip stays, and with it every
channel that may reach it.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import fx

from compress.graph.capture import layer_name
from compress.graph.operators import bias_of
from compress.quantization.recovery import Batches
from compress.quantization.recovery.channels import Side, largest, scaled, stored
from compress.quantization.recovery.pairs import (
    Pair,
    below_clip,
    clip_peaks,
    divide_channels,
    find_pairs,
    scaled_inputs,
)

__all__ = ["equalize"]

_SWEEPS = 200
_CONVERGED = 1e-2
"""Largest relative change of any channel in a sweep at which the next one is not worth it."""

_Tensors: TypeAlias = "dict[fx.Node | None, torch.Tensor]"


def equalize(graph: fx.GraphModule, batches: Batches | None = None) -> tuple[str, ...]:
    """Equalize a `float_graph` in place; the function it computes stays the same.

    Args:
        graph: captured, BatchNorm folded.
        batches: calibration images, for pairs with a ReLU6 or other clip between them. Without images those pairs are
            left alone. With them a channel is rescaled only as far as it stays below its clip, before and after, by
            a quarter of the bound on these images; an image that drives it further is clipped elsewhere than before.

    Returns:
        Names of the layers whose weights changed, in execution order.

    Raises:
        StageError: `batches` gives none, or NaN or infinity is met.
    """
    pairs = find_pairs(graph)
    peaks: _Tensors = dict(clip_peaks(graph, pairs, batches).items()) if batches else {}
    pairs = [pair for pair in pairs if pair.clip is None or pair.clip in peaks]
    sizes: _Tensors = {layer: _sizes(graph, layer) for pair in pairs for layer in (pair.first, pair.second)}
    biases: _Tensors = {pair.first: stored(graph, bias_of(pair.first)).abs() for pair in pairs if bias_of(pair.first)}
    divisors = _converge(pairs, sizes, biases, peaks)
    for pair in pairs:
        divide_channels(graph, pair, divisors[pair])
    return tuple(layer_name(node) for node in graph.graph.nodes if node in sizes)


def _sizes(graph: fx.GraphModule, layer: fx.Node) -> torch.Tensor:
    """Largest absolute weight of each kernel, in the weight's own layout with kernels of size 1."""
    weight = stored(graph, layer.args[1]).abs()
    return weight.amax(tuple(range(2, weight.ndim)), keepdim=True) if weight.ndim > 2 else weight


def _converge(pairs: list[Pair], sizes: _Tensors, biases: _Tensors, peaks: _Tensors) -> dict[Pair, torch.Tensor]:
    """Sweep over the pairs, changing the three tables, until nothing moves; what to divide each pair's channels by."""
    totals = {pair: torch.ones(1, dtype=torch.float64) for pair in pairs}
    for _ in range(_SWEEPS):
        change = 0.0
        for pair in pairs:
            divisor = _divisor(pair, sizes, biases, peaks)
            sizes[pair.first] = scaled(pair.first, sizes[pair.first], Side.OUT, 1 / divisor)
            sizes[pair.second] = scaled_inputs(pair.second, sizes[pair.second], divisor)
            for table, key in ((biases, pair.first), (peaks, pair.clip)):
                if key in table:
                    table[key] = table[key] / divisor
            totals[pair] = totals[pair] * divisor
            change = max(change, float(divisor.log().abs().max()))
        if change < _CONVERGED:
            break
    return totals


def _divisor(pair: Pair, sizes: _Tensors, biases: _Tensors, peaks: _Tensors) -> torch.Tensor:
    """Divisor of each channel `[channels]`; 1 for a channel that is dead on either side or held by its clip."""
    out = largest(pair.first, sizes[pair.first], Side.OUT)
    into = largest(pair.second, sizes[pair.second], Side.IN).unflatten(0, (len(out), -1)).amax(1)
    if pair.first in biases:
        out = torch.maximum(out, biases[pair.first])
    divisor = torch.where((out > 0) & (into > 0), (out / into).sqrt(), 1.0)
    return divisor if pair.clip is None else below_clip(divisor, peaks[pair.clip], pair.bound)
