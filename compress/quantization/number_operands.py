"""Numbers in sums and products as stored tensors, which can have a scale: `x * 640`, `x + 3`, `1 - x`.

A runtime without float kernels has integer ones for two tensors. One number is one step of its own scale, so nothing is
lost by storing it: `640 = 255 x (640 / 255)`.
"""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import bind, call_nodes

__all__ = ["numbers_as_tensors"]

aten = torch.ops.aten

_TENSOR_FORMS = {
    aten.mul.Tensor: (aten.mul.Tensor, False),
    aten.mul.Scalar: (aten.mul.Tensor, False),
    aten.add.Tensor: (aten.add.Tensor, False),
    aten.add.Scalar: (aten.add.Tensor, False),
    aten.sub.Tensor: (aten.sub.Tensor, False),
    aten.sub.Scalar: (aten.sub.Tensor, False),
    aten.rsub.Scalar: (aten.sub.Tensor, True),
}
"""Operators on a tensor and a number: the one on two tensors, and whether the number comes first there."""


def numbers_as_tensors(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every sum, difference and product of a float tensor and a number; returns how many."""
    nodes = [node for node in call_nodes(graph) if node.target in _TENSOR_FORMS and _is_replaceable(node)]
    for node in nodes:
        _replace(graph, node)
    graph.recompile()
    return len(nodes)


def _is_replaceable(node: fx.Node) -> bool:
    """`alpha` scales the number, and no tensor form of a kernel has it."""
    source, number = node.args[0], node.args[1] if len(node.args) > 1 else None
    alpha = node.args[2] if len(node.args) > 2 else node.kwargs.get("alpha", 1)
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return is_float and isinstance(number, (int, float)) and not isinstance(number, bool) and bool(alpha == 1)


def _replace(graph: fx.GraphModule, node: fx.Node) -> None:
    source, number = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    assert isinstance(number, (int, float))
    value = source.meta["val"]
    name = f"{node.name}_number"
    # Of the activation's rank: converters that move axes move those of both operands alike.
    bind(graph, name, torch.full((1,) * value.ndim, float(number), dtype=value.dtype), trainable=False)
    operator, number_first = _TENSOR_FORMS[node.target]  # type: ignore[index]  # found by that key
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(name)
        operands = (stored, source) if number_first else (source, stored)
        result = graph.graph.create_node("call_function", operator, operands, name=f"{node.name}_tensors")
    stored.meta = {"val": value.new_empty((1,) * value.ndim)}
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)
