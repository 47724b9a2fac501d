"""Clipping that a quantization does anyway.

`quantize(clamp(x, low, high))` is `quantize(x)` where the integers reach no further than `low` and `high`, for they
saturate there. The converter has fused forms for ReLU and ReLU6 alone, and leaves other clamps in float and their
layer with them.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx

from compress.graph.capture import call_nodes
from compress.graph.operators import clip_range

__all__ = ["drop_clips"]

aten = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default


def drop_clips(graph: fx.GraphModule) -> None:
    """Take away every clamp whose reader's integers saturate where it clips or before, in place; exact."""
    for node in call_nodes(graph):
        clips = node.target in (aten.hardtanh.default, aten.clamp.default)
        if clips and all(_saturates_within(user, node) for user in node.users):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _saturates_within(user: fx.Node, clip: fx.Node) -> bool:
    if user.target is not _QUANTIZE or user.args[0] is not clip:
        return False
    _, scale, zero_point, least, most, _ = user.args
    if not all(isinstance(number, (int, float)) for number in (scale, zero_point, least, most)):
        return False
    step, zero, first, last = (float(number) for number in (scale, zero_point, least, most))  # type: ignore[arg-type]
    half = step / 2  # what rounds to the last integer saturates to it as well
    low, high = clip_range(clip)
    return low < (first - zero) * step + half and high > (last - zero) * step - half
