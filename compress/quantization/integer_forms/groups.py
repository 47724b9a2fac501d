"""A grouped convolution as full ones, side by side: each reads its part of the channels, and what they give is joined.

The Edge TPU has full and depthwise convolutions and none in between. The activation behind goes with each part, so that
the join is of what the fused kernels hand on.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from compress.graph.capture import bind, call_nodes, constant, only_user, parameter_name
from compress.graph.op_kind import OpKind
from compress.graph.operators import bias_of, groups_of, kind_of, weight_of
from compress.support.torch_internals import OpOverload

__all__ = ["split_groups"]

aten = torch.ops.aten

_ABSORBED = (OpKind.RELU, OpKind.CLIP)


def split_groups(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every convolution of images with more than one group that is not depthwise; their number."""
    convolutions = [node for node in call_nodes(graph) if _is_grouped(graph, node)]
    for node in convolutions:
        _split(graph, node)
    return len(convolutions)


def _is_grouped(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.target not in (aten.conv2d.default, aten.conv2d.padding) or groups_of(node) == 1:
        return False
    weight = constant(graph, weight_of(node))
    return weight is not None and weight.shape[1] > 1  # one channel at a time is depthwise


def _split(graph: fx.GraphModule, conv: fx.Node) -> None:
    source, groups = conv.args[0], groups_of(conv)
    weight = constant(graph, weight_of(conv))
    assert weight is not None
    assert isinstance(source, fx.Node)
    follower = only_user(conv)
    last = follower if follower is not None and kind_of(follower) in _ABSORBED else conv
    width, channels = weight.shape[1], len(weight) // groups
    with graph.graph.inserting_before(conv):
        pieces = graph.graph.call_function(aten.split.Tensor, (source, width, 1))
        pieces.meta = {**conv.meta, "val": [_resized(source, width) for _ in range(groups)]}
        parts = [_part(graph, conv, last, pieces, group) for group in range(groups)]
    with graph.graph.inserting_before(last):
        joined = graph.graph.call_function(aten.cat.default, (parts, 1))
    joined.meta = dict(last.meta)
    last.replace_all_uses_with(joined)
    graph.graph.erase_node(last)
    if last is not conv:
        graph.graph.erase_node(conv)
    assert channels * groups == len(weight)


def _part(graph: fx.GraphModule, conv: fx.Node, last: fx.Node, pieces: fx.Node, group: int) -> fx.Node:
    """The convolution of one group, with the activation behind it."""
    channels = conv.meta["val"].shape[1] // groups_of(conv)
    piece = graph.graph.call_function(operator.getitem, (pieces, group))
    piece.meta = {**conv.meta, "val": pieces.meta["val"][group]}
    rows = slice(group * channels, (group + 1) * channels)
    stored = [None if node is None else _rows(graph, node, rows, group) for node in (weight_of(conv), bias_of(conv))]
    strides, padding, dilation = (*conv.args[3:6], *([1, 1], [0, 0], [1, 1])[len(conv.args) - 3 :])[:3]
    assert isinstance(conv.target, OpOverload)
    part = graph.graph.call_function(conv.target, (piece, *stored, strides, padding, dilation, 1))
    part.meta = {**conv.meta, "val": _resized(conv, channels)}
    if last is conv:
        return part
    assert isinstance(last.target, OpOverload)
    active = graph.graph.call_function(last.target, (part, *last.args[1:]), dict(last.kwargs))
    active.meta = {**last.meta, "val": _resized(last, channels)}
    return active


def _rows(graph: fx.GraphModule, node: fx.Node, rows: slice, group: int) -> fx.Node:
    """A node that reads some rows of a stored tensor, under a name like its own."""
    values, name = constant(graph, node), parameter_name(node)
    assert values is not None
    assert name is not None
    number = group
    while _is_taken(graph, f"{name}_{number}"):
        number += 1
    bind(graph, f"{name}_{number}", values[rows].clone(), trainable=True)
    stored = graph.graph.get_attr(f"{name}_{number}")
    stored.meta["val"] = node.meta["val"].new_empty(values[rows].shape)
    return stored


def _is_taken(graph: fx.GraphModule, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    return hasattr(graph.get_submodule(path), attribute)


def _resized(node: fx.Node, channels: int) -> torch.Tensor:
    value = node.meta["val"]
    resized: torch.Tensor = value.new_empty((value.shape[0], channels, *value.shape[2:]))
    return resized
