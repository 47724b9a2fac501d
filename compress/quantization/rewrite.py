"""Equivalent rewrites that let a runtime's integer kernels apply, done on the captured graph before placement."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import call_nodes
from compress.graph.operators import bias_of

__all__ = ["rewrite_for_kernels"]

aten = torch.ops.aten
_SQUARE = 2


def rewrite_for_kernels(graph: fx.GraphModule) -> None:
    """Apply all rewrites in place."""
    for node in call_nodes(graph):
        _pool_instead_of_mean(graph, node)
        _silu_as_product(graph, node)
        _square_as_product(graph, node)
        _own_bias_node(graph, node)
        _stack_as_cat(graph, node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def _pool_instead_of_mean(graph: fx.GraphModule, node: fx.Node) -> None:
    """Mean over both spatial axes becomes average pooling with a kernel of that size (and a flatten).

    Runtimes have an integer average pooling, few have an integer mean; the exporters turn adaptive pooling into a mean.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not _averages_space(node):
        return
    height, width = source.meta["val"].shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        return
    with graph.graph.inserting_before(node):
        pooled = graph.graph.create_node(
            "call_function", aten.avg_pool2d.default, (source, [height, width]), name=f"{node.name}_pool"
        )
        result = pooled if _keeps_axes(node) else graph.graph.call_function(aten.flatten.using_ints, (pooled, 1))
    shape = (*source.meta["val"].shape[:-2], 1, 1)
    pooled.meta = {**node.meta, "val": source.meta["val"].new_empty(shape)}
    if result is not pooled:
        result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _silu_as_product(graph: fx.GraphModule, node: fx.Node) -> None:
    """`silu(x)` becomes `x * sigmoid(x)`: runtimes have integer kernels for both, and none for SiLU itself."""
    source = node.args[0] if node.args else None
    if node.target is not aten.silu.default or not isinstance(source, fx.Node):
        return
    with graph.graph.inserting_before(node):
        gate = graph.graph.call_function(aten.sigmoid.default, (source,))
        product = graph.graph.call_function(aten.mul.Tensor, (source, gate))
    gate.meta, product.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(product)
    graph.graph.erase_node(node)


def _stack_as_cat(graph: fx.GraphModule, node: fx.Node) -> None:
    """Stacking is a concatenation (of tensors with one more axis): the kernels are the same, and so are their needs."""
    packet, parts = getattr(node.target, "overloadpacket", None), node.args[0] if node.args else None
    if packet not in _STACKS or not isinstance(parts, (list, tuple)):
        return
    ranks = [part.meta["val"].ndim for part in parts if isinstance(part, fx.Node)]
    if len(ranks) < len(parts) or min(ranks) < _STACKS[packet] + 1:
        return
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(axis, int)
    with graph.graph.inserting_before(node):
        if packet is aten.stack:
            axis %= ranks[0] + 1
            parts = [_with_axis(graph, part, axis) for part in parts if isinstance(part, fx.Node)]
        else:
            axis = _STACKS[packet]
        joined = graph.graph.create_node(
            "call_function", aten.cat.default, (list(parts), axis), name=f"{node.name}_cat"
        )
    joined.meta = dict(node.meta)
    node.replace_all_uses_with(joined)
    graph.graph.erase_node(node)


_STACKS = {aten.stack: 0, aten.vstack: 0, aten.hstack: 1, aten.column_stack: 1, aten.dstack: 2}
"""Operators that stack, and the axis they join along where their inputs have it (`stack` makes it)."""


def _with_axis(graph: fx.GraphModule, part: fx.Node, axis: int) -> fx.Node:
    unsqueezed = graph.graph.call_function(aten.unsqueeze.default, (part, axis))
    unsqueezed.meta = {**part.meta, "val": part.meta["val"].unsqueeze(axis)}
    return unsqueezed


def _square_as_product(graph: fx.GraphModule, node: fx.Node) -> None:
    """`x ** 2` becomes `x * x`: runtimes multiply integers, and raise none to a power."""
    source = node.args[0] if node.args else None
    if node.target is aten.square.default or (node.target is aten.pow.Tensor_Scalar and node.args[1] == _SQUARE):
        with graph.graph.inserting_before(node):
            product = graph.graph.create_node(
                "call_function", aten.mul.Tensor, (source, source), name=f"{node.name}_product"
            )
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)


def _averages_space(node: fx.Node) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return list(_integers(node.args[1])) == [1, 1]
    if node.target is not aten.mean.dim or len(node.args) < 2:
        return False
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    return (
        isinstance(value, torch.Tensor) and value.ndim == 4 and {axis % 4 for axis in _integers(node.args[1])} == {2, 3}
    )


def _integers(value: object) -> list[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in values if isinstance(item, int)]


def _keeps_axes(node: fx.Node) -> bool:
    return node.target is aten.adaptive_avg_pool2d.default or (len(node.args) > 2 and node.args[2] is True)


def _own_bias_node(graph: fx.GraphModule, node: fx.Node) -> None:
    """Two layers with one bias get a node each: an int32 bias has the scale of its own layer's input."""
    bias = bias_of(node)
    if bias is None or len(bias.users) < 2:
        return
    with graph.graph.inserting_before(node):
        own = graph.graph.get_attr(str(bias.target))
    own.meta = dict(bias.meta)
    node.replace_input_with(bias, own)
