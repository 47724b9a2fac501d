"""A batch normalisation that cannot be folded, as a depthwise convolution of size 1.

At inference `BN(x) = g (x - m) + beta` with `g = gamma / sqrt(var + eps)` per channel, which is a 1x1 convolution with
one weight `g` and one bias `beta - g m` for each channel. Integer runtimes have a kernel for that and none for the
normalisation; one weight per channel is exact in INT8 (127 steps of its own scale). DenseNet and other networks that
normalise before they convolve need it.
"""

from __future__ import annotations

import torch
from torch import fx

from compress.graph import bind, call_nodes, constant

__all__ = ["normalizations_as_convs"]

aten = torch.ops.aten


def normalizations_as_convs(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every batch normalisation of images `[N, C, H, W]` with stored statistics; their number."""
    found = [node for node in call_nodes(graph) if _is_replaceable(graph, node)]
    for node in found:
        _replace(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(found)


def _is_replaceable(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.target is not aten.batch_norm.default or node.args[5] is True or node.meta["val"].ndim != 4:
        return False
    return all(constant(graph, node.args[index]) is not None for index in range(1, 5))


def _replace(graph: fx.GraphModule, node: fx.Node) -> None:
    gain, shift, mean, variance = (_values(graph, node.args[index]) for index in range(1, 5))
    factor = (variance.double() + float(str(node.args[7]))).rsqrt() * gain.double()
    offset = shift.double() - factor * mean.double()
    weight = _own_parameter(graph, node, 1, factor.float().reshape(-1, 1, 1, 1))
    bias = _own_parameter(graph, node, 2, offset.float())
    arguments = (node.args[0], weight, bias, [1, 1], [0, 0], [1, 1], len(factor))
    with graph.graph.inserting_before(node):
        conv = graph.graph.create_node("call_function", aten.conv2d.default, arguments, name=f"{node.name}_conv")
    conv.meta = dict(node.meta)
    node.replace_all_uses_with(conv)
    graph.graph.erase_node(node)


def _own_parameter(graph: fx.GraphModule, node: fx.Node, index: int, value: torch.Tensor) -> fx.Node:
    """A node that reads `value` under the name of the normalisation's parameter, or a name like it where another call
    (a module that is called twice) reads that parameter too."""
    stored = node.args[index]
    assert isinstance(stored, fx.Node)
    name = str(stored.target)
    if sum(len(other.users) for other in graph.graph.find_nodes(op="get_attr", target=name)) > 1:
        name = f"{name}_{node.name}"
    bind(graph, name, value, trainable=True)
    with graph.graph.inserting_before(node):
        own = graph.graph.get_attr(name)
    own.meta["val"] = stored.meta["val"].new_empty(value.shape)
    return own


def _values(graph: fx.GraphModule, entry: object) -> torch.Tensor:
    values = constant(graph, entry)
    assert values is not None
    return values
