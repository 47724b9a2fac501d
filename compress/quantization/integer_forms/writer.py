"""Writing pointwise operators in the place of one node."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import bind
from compress.support.torch_internals import OpOverload

__all__ = ["Writer"]

aten = torch.ops.aten


class Writer:
    """Puts operators before `node`, on tensors of its shape; they belong to the layer that `node` belongs to."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node) -> None:
        self._graph = graph
        self._node = node
        source = node.args[0]
        assert isinstance(source, fx.Node)
        self.source = source

    def __call__(self, operator: OpOverload, *operands: fx.Node | float) -> fx.Node:
        """A call whose numbers are stored: an operand that is a tensor has an integer and a scale."""
        nodes = tuple(self.number(operand) if isinstance(operand, float) else operand for operand in operands)
        with self._graph.graph.inserting_before(self._node):
            call = self._graph.graph.call_function(operator, nodes)
        call.meta = dict(self._node.meta)
        return call

    def number(self, value: float) -> fx.Node:
        """A stored tensor of one element, of the activation's rank: the axes of both operands are moved alike."""
        example = self._node.meta["val"]
        name = f"{self._node.name}_number"
        position = 0
        while hasattr(self._graph, f"{name}_{position}"):
            position += 1
        stored = torch.full((1,) * example.ndim, value, dtype=example.dtype)
        bind(self._graph, f"{name}_{position}", stored, trainable=False)
        with self._graph.graph.inserting_before(self._node):
            node = self._graph.graph.get_attr(f"{name}_{position}")
        node.meta["val"] = example.new_empty(stored.shape)
        return node

    def scaled(self, operand: fx.Node, factor: float) -> fx.Node:
        """`factor * operand`; nothing for a factor of one."""
        return operand if factor == 1.0 else self(aten.mul.Tensor, operand, factor)

    def replace(self, result: fx.Node) -> None:
        """Let the readers of the node read `result`."""
        self._node.replace_all_uses_with(result)
        self._graph.graph.erase_node(self._node)
