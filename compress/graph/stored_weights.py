"""A quantized graph that dequantizes its stored weights once and not at every call: for running it, not for export."""

from __future__ import annotations

import copy
from operator import attrgetter

import torch
from torch import fx

from compress.graph.capture import call_nodes, constant

__all__ = ["with_weights_restored"]


def with_weights_restored(graph: fx.GraphModule) -> fx.GraphModule:
    """The same function, with the same numbers, as `graph`, which is not changed.

    Dequantizing weights channel by channel takes PyTorch as long as the convolutions that read them.
    """
    if not any(map(_dequantizes_stored, call_nodes(graph))):
        return graph
    edited = copy.deepcopy(graph.graph)
    restored: dict[str, object] = {}
    for node in edited.nodes:
        if _dequantizes_stored(node):
            name = f"_{node.name}_restored"
            restored[name] = _value(graph, node)
            with edited.inserting_before(node):
                node.replace_all_uses_with(edited.get_attr(name))
            edited.erase_node(node)
    for node in edited.find_nodes(op="get_attr"):
        if not node.users:
            edited.erase_node(node)
    read = {str(node.target) for node in edited.nodes if node.op in ("get_attr", "call_module")}
    others = {name: attrgetter(name)(graph) for name in read - restored.keys()}
    return fx.GraphModule({**others, **restored}, edited)


def _dequantizes_stored(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", None) == "quantized_decomposed" and all(
        source.op == "get_attr" for source in node.all_input_nodes
    )


def _value(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    assert callable(node.target)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: constant(graph, source))
    with torch.no_grad():
        value: torch.Tensor = node.target(*args, **kwargs)
    return value
