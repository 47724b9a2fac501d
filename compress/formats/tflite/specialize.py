"""A captured graph for a batch of one: every size is a number, and views need not care how a tensor lies in memory."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import call_nodes

__all__ = ["SHAPE", "batch_of_one", "shape_before_export"]

aten = torch.ops.aten
SHAPE = "shape_for_one"
"""Key of a node's sizes in its `meta`; only after `batch_of_one`."""
_VIEWS = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)


def batch_of_one(graph: fx.GraphModule) -> None:
    """Replace, in place, computed sizes by numbers and every kind of view by a reshape to them.

    A view of a map that the converter has moved to channels-last cannot be taken (`view size is not compatible with
    input tensor's size and stride`); a reshape can.
    """
    _Shapes(graph).note()
    for node in call_nodes(graph):
        if isinstance(node.meta.get(SHAPE), int):
            _replace_number(node, node.meta[SHAPE])
        elif node.target in _VIEWS:
            node.target, node.args, node.kwargs = (
                aten.reshape.default,
                (node.args[0], list(shape_before_export(node))),
                {},
            )
    graph.graph.eliminate_dead_code()
    graph.recompile()


def shape_before_export(node: fx.Node) -> tuple[int, ...]:
    """The sizes of what `node` computes from one sample; only after `batch_of_one`."""
    shape = node.meta[SHAPE]
    assert isinstance(shape, tuple)
    return shape


class _Shapes(fx.Interpreter):
    """Runs one sample of zeros and notes the sizes of every tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._graph = graph

    def note(self) -> None:
        (sample,) = (node.meta["val"] for node in self._graph.graph.find_nodes(op="placeholder"))
        with torch.no_grad():
            self.run(torch.zeros(1, *sample.shape[1:], dtype=sample.dtype))

    def run_node(self, n: fx.Node) -> object:
        value: object = super().run_node(n)
        if isinstance(value, torch.Tensor):
            n.meta[SHAPE] = tuple(value.shape)
        elif isinstance(value, int):
            n.meta[SHAPE] = value
        return value


def _replace_number(node: fx.Node, value: int) -> None:
    def replaced(other: fx.Node) -> fx.node.Argument:
        return value if other is node else other

    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, replaced)
        user.kwargs = fx.node.map_arg(user.kwargs, replaced)
