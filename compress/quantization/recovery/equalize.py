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

import math
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import fx

from compress.graph import call_nodes, layer_name, only_user
from compress.quantization.operators import WEIGHTED, bias_of, kind_of, lossless_range, weight_of
from compress.quantization.policy import OpKind
from compress.quantization.recovery import Batches
from compress.quantization.recovery.channels import Side, largest, scaled, store, stored
from compress.quantization.recovery.watch import channel_peaks

__all__ = ["equalize"]

_SWEEPS = 200
_CONVERGED = 1e-2
"""Largest relative change of any channel in a sweep at which the next one is not worth it."""

_ROOM = 0.75
"""A channel that stayed below this share of its clip on the calibration images is taken never to reach it."""

_HOMOGENEOUS = frozenset({OpKind.RELU, OpKind.LEAKY_RELU, OpKind.CLIP, OpKind.MAX_POOL, OpKind.AVG_POOL})
"""Kinds with `f(s x) = s f(x)`, channel by channel; a clip has it below its bound."""


_Tensors: TypeAlias = "dict[fx.Node | None, torch.Tensor]"


@dataclass(frozen=True)
class _Pair:
    """Two layers whose shared channels can be rescaled.

    Attributes:
        first: makes the channels.
        second: alone reads them.
        clip: the clip between them, if its upper bound is finite.
        bound: that bound, or infinity.
    """

    first: fx.Node
    second: fx.Node
    clip: fx.Node | None
    bound: float


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
    pairs = _find_pairs(graph)
    peaks = _clip_peaks(graph, pairs, batches)
    pairs = [pair for pair in pairs if pair.clip is None or pair.clip in peaks]
    sizes: _Tensors = {layer: _sizes(graph, layer) for pair in pairs for layer in (pair.first, pair.second)}
    biases: _Tensors = {pair.first: stored(graph, bias_of(pair.first)).abs() for pair in pairs if bias_of(pair.first)}
    divisors = _converge(pairs, sizes, biases, peaks)
    for pair in pairs:
        _apply(graph, pair, divisors[pair])
    return tuple(layer_name(node) for node in graph.graph.nodes if node in sizes)


def _sizes(graph: fx.GraphModule, layer: fx.Node) -> torch.Tensor:
    """Largest absolute weight of each kernel, in the weight's own layout with kernels of size 1."""
    weight = stored(graph, layer.args[1]).abs()
    return weight.amax(tuple(range(2, weight.ndim)), keepdim=True) if weight.ndim > 2 else weight


def _converge(pairs: list[_Pair], sizes: _Tensors, biases: _Tensors, peaks: _Tensors) -> dict[_Pair, torch.Tensor]:
    """Sweep over the pairs, changing the three tables, until nothing moves; what to divide each pair's channels by."""
    totals = {pair: torch.ones(1, dtype=torch.float64) for pair in pairs}
    for _ in range(_SWEEPS):
        change = 0.0
        for pair in pairs:
            divisor = _divisor(pair, sizes, biases, peaks)
            sizes[pair.first] = scaled(pair.first, sizes[pair.first], Side.OUT, 1 / divisor)
            sizes[pair.second] = _scaled_inputs(pair.second, sizes[pair.second], divisor)
            for table, key in ((biases, pair.first), (peaks, pair.clip)):
                if key in table:
                    table[key] = table[key] / divisor
            totals[pair] = totals[pair] * divisor
            change = max(change, float(divisor.log().abs().max()))
        if change < _CONVERGED:
            break
    return totals


def _apply(graph: fx.GraphModule, pair: _Pair, divisor: torch.Tensor) -> None:
    weight, bias = pair.first.args[1], bias_of(pair.first)
    store(graph, weight, scaled(pair.first, stored(graph, weight), Side.OUT, 1 / divisor))
    if bias is not None:
        store(graph, bias, stored(graph, bias) / divisor)
    weight = pair.second.args[1]
    store(graph, weight, _scaled_inputs(pair.second, stored(graph, weight), divisor))


def _divisor(pair: _Pair, sizes: _Tensors, biases: _Tensors, peaks: _Tensors) -> torch.Tensor:
    """What to divide each channel by `[channels]`; 1 for a channel that is dead on either side or held by its clip."""
    out = largest(pair.first, sizes[pair.first], Side.OUT)
    into = largest(pair.second, sizes[pair.second], Side.IN).unflatten(0, (len(out), -1)).amax(1)
    if pair.first in biases:
        out = torch.maximum(out, biases[pair.first])
    divisor = torch.where((out > 0) & (into > 0), (out / into).sqrt(), 1.0)
    if pair.clip is None:
        return divisor
    smallest = peaks[pair.clip] / (_ROOM * pair.bound)  # that keeps the channel below its clip
    return torch.where(smallest <= 1, torch.maximum(divisor, smallest), 1.0)


def _scaled_inputs(layer: fx.Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """After flattening an image each channel is several inputs of a linear layer, next to each other."""
    inputs = len(largest(layer, weight, Side.IN))
    return scaled(layer, weight, Side.IN, factor.repeat_interleave(inputs // len(factor)))


def _clip_peaks(graph: fx.GraphModule, pairs: list[_Pair], batches: Batches | None) -> _Tensors:
    """Largest value `[channels]` that enters each clip; nothing without images."""
    clips = {pair.clip.args[0]: pair for pair in pairs if pair.clip is not None}
    if batches is None or not clips:
        return {}
    axes = {node: _channel_axis(pair.first) for node, pair in clips.items() if isinstance(node, fx.Node)}
    found = channel_peaks(graph, axes, batches(), absolute=False)
    return {pair.clip: found[node].double() for node, pair in clips.items() if pair.clip and isinstance(node, fx.Node)}


def _channel_axis(layer: fx.Node) -> int:
    return -1 if kind_of(layer) is OpKind.LINEAR else 1


def _find_pairs(graph: fx.GraphModule) -> list[_Pair]:
    readers = Counter(
        str(node.target) for node in graph.graph.find_nodes(op="get_attr") for _ in node.users
    )  # a parameter that two layers share cannot be scaled for one of them
    layers = {node for node in call_nodes(graph) if kind_of(node) in WEIGHTED and _owns_parameters(node, readers)}
    found = (_pair_after(node, layers) for node in call_nodes(graph) if node in layers)
    return [pair for pair in found if pair is not None]


def _owns_parameters(layer: fx.Node, readers: Counter[str]) -> bool:
    weight, bias = weight_of(layer), bias_of(layer)
    no_other_bias = len(layer.args) < 3 or layer.args[2] is None or bias is not None
    return weight is not None and no_other_bias and all(readers[str(p.target)] == 1 for p in (weight, bias) if p)


def _pair_after(first: fx.Node, layers: set[fx.Node]) -> _Pair | None:
    """The pair that starts at `first`: everything on the way has one reader and scales with its input."""
    clip, bound = None, math.inf
    node = only_user(first)
    while node is not None and node not in layers:
        if not _scales_with_input(node, first):
            return None
        if kind_of(node) is OpKind.CLIP and math.isfinite(lossless_range(node)[1]):
            if clip is not None:
                return None
            clip, bound = node, lossless_range(node)[1]
        node = only_user(node)
    return None if node is None or not _same_channels(first, node) else _Pair(first, node, clip, bound)


def _scales_with_input(node: fx.Node, first: fx.Node) -> bool:
    if kind_of(node) is OpKind.RESHAPE:
        return kind_of(first) is not OpKind.LINEAR and _flattens(node)
    return kind_of(node) in _HOMOGENEOUS and isinstance(node.meta.get("val"), torch.Tensor)


def _flattens(node: fx.Node) -> bool:
    """From `[N, C, k...]` to `[N, C x k...]`."""
    source = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    result = node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(result, torch.Tensor) or source.ndim < 3:
        return False
    return result.ndim == 2 and result.shape[1] == math.prod(source.shape[1:])


def _same_channels(first: fx.Node, second: fx.Node) -> bool:
    """Whether the channel axis of the one's output is that of the other's input."""
    source = second.args[0]
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return False
    if kind_of(second) is OpKind.LINEAR:
        return kind_of(first) is OpKind.LINEAR or value.ndim == 2
    return kind_of(first) is not OpKind.LINEAR
