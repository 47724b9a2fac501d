"""Repetitions as concatenations, which the converter brings to channels-last right.

Its own form, RESHAPE, BROADCAST_TO, RESHAPE, it leaves in the order of the axes that PyTorch has while it moves those
of the result: a file whose channels are rows.
"""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import call_nodes

__all__ = ["repeats_as_concatenations"]

aten = torch.ops.aten


def repeats_as_concatenations(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every repetition along axes that its input has; returns how many."""
    count = 0
    for node in call_nodes(graph):
        sizes = _sizes(node)
        if sizes is not None:
            _replace(graph, node, sizes)
            count += 1
    return count


def _sizes(node: fx.Node) -> list[int] | None:
    """Return how often along each axis of the input; None where there would be more axes, and for other operators."""
    if node.target not in (aten.repeat.default, aten.tile.default):
        return None
    source, sizes = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    assert isinstance(sizes, (list, tuple))
    rank = source.meta["val"].ndim
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) < len(sizes) or len(numbers) > rank:
        return None
    return [1] * (rank - len(numbers)) + numbers


def _replace(graph: fx.GraphModule, node: fx.Node, sizes: list[int]) -> None:
    result = node.args[0]
    with graph.graph.inserting_before(node):
        for axis, size in enumerate(sizes):
            if size != 1:
                result = graph.graph.call_function(aten.cat.default, ([result] * size, axis))
                result.meta = dict(node.meta)
    assert isinstance(result, fx.Node)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)
