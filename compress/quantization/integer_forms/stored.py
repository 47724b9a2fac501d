"""Stored tensors of a captured graph: what an argument is worth, and new weights for a layer."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import bind, constant
from compress.graph.operators import bias_of, weight_of
from compress.support.torch_internals import OpOverload

__all__ = ["rewritable", "set_layer", "stored_value"]


def stored_value(graph: fx.GraphModule, argument: object) -> torch.Tensor | None:
    """The tensor that an argument stands for, where it is stored or computed from stored ones alone (a view of one)."""
    if not isinstance(argument, fx.Node):
        return None
    if argument.op == "get_attr":
        return constant(graph, argument)
    sources = argument.all_input_nodes
    if argument.op != "call_function" or not sources or not isinstance(argument.target, OpOverload):
        return None
    values = {source: stored_value(graph, source) for source in sources}
    if any(value is None for value in values.values()):
        return None
    args, kwargs = fx.map_arg((argument.args, argument.kwargs), values.__getitem__)
    with torch.no_grad():
        result: object = argument.target(*args, **kwargs)
    return result if isinstance(result, torch.Tensor) else None


def rewritable(graph: fx.GraphModule, layer: fx.Node) -> bool:
    """Tell whether a convolution or linear layer has stored numbers that nobody else reads."""
    weight, bias = weight_of(layer), layer.args[2] if len(layer.args) > 2 else None
    if weight is None or (bias is not None and bias_of(layer) is None):
        return False
    stored = [node for node in (weight, bias) if isinstance(node, fx.Node)]
    return all(_reads(graph, node) == 1 for node in stored)


def set_layer(graph: fx.GraphModule, layer: fx.Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give a layer other numbers under the names it has; a bias that it lacked is named after its weight."""
    stored = weight_of(layer)
    assert stored is not None
    dtype = stored.meta["val"].dtype
    bind(graph, str(stored.target), weight.to(dtype), trainable=True)
    known = bias_of(layer)
    path, _, attribute = str(stored.target).rpartition(".")
    name = str(known.target) if known else f"{path}.bias" if path and attribute == "weight" else f"{stored.target}_bias"
    bind(graph, name, bias.to(dtype), trainable=True)
    if known is None:
        with graph.graph.inserting_before(layer):
            known = graph.graph.get_attr(name)
        known.meta["val"] = stored.meta["val"].new_empty(bias.shape)
        layer.args = (*layer.args[:2], known, *layer.args[3:])


def _reads(graph: fx.GraphModule, node: fx.Node) -> int:
    return sum(len(other.users) for other in graph.graph.find_nodes(op="get_attr", target=str(node.target)))
