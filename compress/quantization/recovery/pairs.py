"""Pairs of layers with nothing between them but functions `f(s x) = s f(x)`: their shared channels can be rescaled.

Dividing channel c by s_c on the way out of the first layer (weights and bias) and multiplying it by s_c on the way into
the second leaves the function as it is (Nagel et al. 2019, equation 7). Which s is wanted is up to who asks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from compress.graph.capture import call_nodes, only_user
from compress.graph.op_kind import OpKind
from compress.graph.operators import WEIGHTED, bias_of, kind_of, lossless_range, weight_of
from compress.quantization.recovery import Batches
from compress.quantization.recovery.channels import Side, largest, scaled, store, stored
from compress.quantization.recovery.watch import channel_statistics

__all__ = ["Pair", "below_clip", "channel_axis", "clip_peaks", "divide_channels", "find_pairs", "scaled_inputs"]

_HOMOGENEOUS = frozenset({OpKind.RELU, OpKind.LEAKY_RELU, OpKind.CLIP, OpKind.MAX_POOL, OpKind.AVG_POOL})
"""Kinds with `f(s x) = s f(x)`, channel by channel; a clip has it below its bound."""

_ROOM = 0.75
"""A channel that stayed below this share of its clip on the calibration images is taken never to reach it."""


@dataclass(frozen=True)
class Pair:
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


def channel_axis(layer: fx.Node) -> int:
    """Axis of a layer's output along which its channels lie."""
    return -1 if kind_of(layer) is OpKind.LINEAR else 1


def find_pairs(graph: fx.GraphModule) -> list[Pair]:
    """Every pair of a `float_graph`, in execution order; a layer may be the second of one and the first of the next."""
    readers = Counter(
        str(node.target) for node in graph.graph.find_nodes(op="get_attr") for _ in node.users
    )  # a parameter that two layers share cannot be scaled for one of them
    layers = {node for node in call_nodes(graph) if kind_of(node) in WEIGHTED and _owns_parameters(node, readers)}
    pairs = (_pair_after(node, layers) for node in call_nodes(graph) if node in layers)
    return [pair for pair in pairs if pair is not None]


def _owns_parameters(layer: fx.Node, readers: Counter[str]) -> bool:
    weight, bias = weight_of(layer), bias_of(layer)
    no_other_bias = len(layer.args) < 3 or layer.args[2] is None or bias is not None
    return weight is not None and no_other_bias and all(readers[str(p.target)] == 1 for p in (weight, bias) if p)


def _pair_after(first: fx.Node, layers: set[fx.Node]) -> Pair | None:
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
    return None if node is None or not _same_channels(first, node) else Pair(first, node, clip, bound)


def _scales_with_input(node: fx.Node, first: fx.Node) -> bool:
    if kind_of(node) is OpKind.RESHAPE:
        return kind_of(first) is not OpKind.LINEAR and _flattens(node)
    return kind_of(node) in _HOMOGENEOUS and isinstance(node.meta.get("val"), torch.Tensor)


def _flattens(node: fx.Node) -> bool:
    """Tell whether it goes from `[N, C, k...]` to `[N, C x k...]`."""
    source = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    result = node.meta.get("val")
    if not isinstance(source, torch.Tensor) or not isinstance(result, torch.Tensor) or source.ndim < 3:
        return False
    return result.ndim == 2 and result.shape[1] == math.prod(source.shape[1:])


def _same_channels(first: fx.Node, second: fx.Node) -> bool:
    """Tell whether the channel axis of the one's output is that of the other's input."""
    source = second.args[0]
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return False
    if kind_of(second) is OpKind.LINEAR:
        return kind_of(first) is OpKind.LINEAR or value.ndim == 2
    return kind_of(first) is not OpKind.LINEAR


def clip_peaks(graph: fx.GraphModule, pairs: Sequence[Pair], batches: Batches) -> dict[fx.Node, torch.Tensor]:
    """Largest value `[channels]` that enters each pair's clip, on these images."""
    entering = {pair.clip: (pair.clip.args[0], channel_axis(pair.first)) for pair in pairs if pair.clip is not None}
    if not entering:
        return {}
    axes = {node: axis for node, axis in entering.values() if isinstance(node, fx.Node)}
    seen = channel_statistics(graph, axes, batches())
    return {clip: seen[node].highest.double() for clip, (node, _) in entering.items() if isinstance(node, fx.Node)}


def below_clip(divisor: torch.Tensor, peaks: torch.Tensor, bound: float) -> torch.Tensor:
    """`divisor` raised so far that no channel comes near its clip; 1 for a channel that does so already."""
    smallest = peaks / (_ROOM * bound)
    return torch.where(smallest <= 1, torch.maximum(divisor, smallest), 1.0)


def divide_channels(graph: fx.GraphModule, pair: Pair, divisor: torch.Tensor) -> None:
    """Divide the pair's channels by `divisor` `[channels]` between the two layers, in place."""
    weight, bias = pair.first.args[1], bias_of(pair.first)
    store(graph, weight, scaled(pair.first, stored(graph, weight), Side.OUT, 1 / divisor))
    if bias is not None:
        store(graph, bias, stored(graph, bias) / divisor)
    weight = pair.second.args[1]
    store(graph, weight, scaled_inputs(pair.second, stored(graph, weight), divisor))


def scaled_inputs(layer: fx.Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale inputs by channel: a flattened image's channel is several inputs of a linear layer, next to each other."""
    inputs = len(largest(layer, weight, Side.IN))
    return scaled(layer, weight, Side.IN, factor.repeat_interleave(inputs // len(factor)))
