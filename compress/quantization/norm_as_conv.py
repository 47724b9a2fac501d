"""A batch normalisation that cannot be folded into the layer before it, as a layer that integer runtimes have.

At inference `BN(x) = g (x - m) + beta` with `g = gamma / sqrt(var + eps)` per channel (`gamma` 1 and `beta` 0 where it
has none), which is a 1x1 depthwise convolution with one weight `g` and one bias `beta - g m` for each channel. One
weight per channel is exact in INT8 (127 steps of its own scale). DenseNet and other networks that normalise before they
convolve need it. Vectors `[N, C]` before a linear layer go into that layer, which pads nothing; other vectors and
sequences `[N, C, L]` are looked at as images of one column.
"""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import bind, call_nodes, constant, only_user
from compress.graph.operators import bias_of
from compress.quantization.integer_forms.stored import rewritable, set_layer
from compress.support.torch_internals import OpOverload

__all__ = ["normalizations_as_convs"]

aten = torch.ops.aten

_RANKS = (2, 3, 4)


def normalizations_as_convs(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every batch normalisation with stored statistics of `[N, C]`, `[N, C, L]` or `[N, C, H, W]`;
    how many there were."""
    norms = [node for node in call_nodes(graph) if _is_replaceable(graph, node)]
    for node in norms:
        _replace(graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(norms)


def _is_replaceable(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.target is not aten.batch_norm.default or node.args[5] is True or node.meta["val"].ndim not in _RANKS:
        return False
    stored = [entry for index, entry in enumerate(node.args[1:5]) if index > 1 or entry is not None]
    return all(constant(graph, entry) is not None for entry in stored)


def _replace(graph: fx.GraphModule, node: fx.Node) -> None:
    gain, shift, mean, variance = (constant(graph, node.args[index]) for index in range(1, 5))
    assert mean is not None
    assert variance is not None
    factor = (variance.double() + float(str(node.args[7]))).rsqrt() * (1.0 if gain is None else gain.double())
    offset = (0.0 if shift is None else shift.double()) - factor * mean.double()
    linear = only_user(node)
    if linear is not None and _takes(graph, linear, node):
        _into_linear(graph, linear, factor, offset)
        linear.replace_input_with(node, _source(node))
        graph.graph.erase_node(node)
    else:
        _as_conv(graph, node, factor.to(mean.dtype), offset.to(mean.dtype))


def _source(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _takes(graph: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> bool:
    """Tell whether a linear layer reads the vectors that `norm` makes, and its numbers can be others."""
    is_linear = layer.target is aten.linear.default and layer.args[0] is norm and norm.meta["val"].ndim == 2
    return is_linear and rewritable(graph, layer)


def _as_conv(graph: fx.GraphModule, node: fx.Node, factor: torch.Tensor, offset: torch.Tensor) -> None:
    weight = _own_parameter(graph, node, 1, factor.reshape(-1, 1, 1, 1))
    bias = _own_parameter(graph, node, 2, offset)
    rank = node.meta["val"].ndim
    with graph.graph.inserting_before(node):
        source = _source(node)
        for _ in range(rank, 4):
            source = _reshaped(graph, node, aten.unsqueeze.default, source, -1)
        arguments = (source, weight, bias, [1, 1], [0, 0], [1, 1], len(factor))
        conv = graph.graph.create_node("call_function", aten.conv2d.default, arguments, name=f"{node.name}_conv")
        value = node.meta["val"]
        conv.meta = {**node.meta, "val": value.new_empty((*value.shape, *(1,) * (4 - rank)))}
        result = conv
        for _ in range(rank, 4):
            result = _reshaped(graph, node, aten.squeeze.dim, result, -1)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _into_linear(graph: fx.GraphModule, linear: fx.Node, factor: torch.Tensor, offset: torch.Tensor) -> None:
    """`W (g x + b) + c = (W g) x + (W b + c)`."""
    weight, bias = constant(graph, linear.args[1]), constant(graph, bias_of(linear))
    assert weight is not None
    shift = weight.double() @ offset
    set_layer(graph, linear, weight.double() * factor, shift if bias is None else shift + bias.double())


def _reshaped(graph: fx.GraphModule, node: fx.Node, operator: OpOverload, source: fx.Node, axis: int) -> fx.Node:
    """One axis of size 1 more or less at the end."""
    call = graph.graph.call_function(operator, (source, axis))
    value = source.meta["val"]
    shape = (*value.shape, 1) if operator is aten.unsqueeze.default else value.shape[:-1]
    call.meta = {**node.meta, "val": value.new_empty(shape)}
    return call


def _own_parameter(graph: fx.GraphModule, node: fx.Node, index: int, value: torch.Tensor) -> fx.Node:
    """A node that reads `value` under the name of the normalisation's parameter, or a name like it where another call
    (a module that is called twice) reads that parameter too, or where it has none (`affine=False`)."""
    stored = node.args[index]
    if isinstance(stored, fx.Node):
        name, example = str(stored.target), stored.meta["val"]
        if sum(len(other.users) for other in graph.graph.find_nodes(op="get_attr", target=name)) > 1:
            name = f"{name}_{node.name}"
    else:
        name, example = f"{node.name}_{'gain' if index == 1 else 'shift'}", node.meta["val"]
    bind(graph, name, value, trainable=True)
    with graph.graph.inserting_before(node):
        own = graph.graph.get_attr(name)
    own.meta["val"] = example.new_empty(value.shape)
    return own
