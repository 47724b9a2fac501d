"""Weights computed from parameters alone, computed once: weight norm, weight standardization, spectral norm.

Pruning and quantization change what is stored. A weight that is computed from what is stored would undo zeros, and has
no integers of its own; as a constant it is a weight like any other.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx, nn

from compress.graph.capture import bind, call_nodes, constant, parameter_name
from compress.graph.operators import WEIGHTED, kind_of
from compress.support.torch_internals import OpOverload

__all__ = ["computed_layers", "fold_parameters"]

_Stored = torch.Tensor | list[torch.Tensor]

_MOVES = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        *("t", "transpose", "permute", "numpy_T", "clone", "detach", "contiguous", "to", "view", "reshape"),
        *("expand", "unsqueeze", "squeeze", "unflatten", "flatten"),
    )
)
"""Operators that leave a stored tensor's values as they are: whoever looks for the weight looks through them."""

_PARTS = frozenset(
    getattr(torch.ops.aten, name) for name in ("split", "split_with_sizes", "chunk", "slice", "select", "narrow")
) | {operator.getitem}
"""Operators that take some of a stored tensor's values (attention reads its queries' weight so): zeros stay zeros."""


def computed_layers(graph: fx.GraphModule) -> list[fx.Node]:
    """The convolutions and linear layers of a captured graph whose weight is computed from parameters alone."""
    folded = _foldable(graph, passed=_MOVES | _PARTS)
    return [node for node in call_nodes(graph) if kind_of(node) in WEIGHTED and node.args[1] in folded]


def fold_parameters(graph: fx.GraphModule) -> int:
    """Replace, in place, what a captured graph computes from parameters alone by new parameters; how many there are.

    A weight gets the name of its layer; the parameters it came from are no longer read. Quantize and dequantize
    operators stay: they say which integers a weight has.
    """
    values = _foldable(graph, passed=_MOVES)
    frontier = [node for node in values if any(user not in values for user in node.users)]
    for node in frontier:
        _replace(graph, node, values[node])
    if frontier:
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()
    return len(frontier)


def _foldable(graph: fx.GraphModule, passed: frozenset[object]) -> dict[fx.Node, torch.Tensor]:
    """Values of the calls that read stored tensors only, but for those that merely hand one on by `passed`."""
    known: dict[fx.Node, _Stored] = {}
    moved: set[fx.Node] = set()
    for node in graph.graph.nodes:
        stored = constant(graph, node)
        if stored is not None:
            known[node] = stored
            moved.add(node)
        elif _is_function(node) and all(source in known for source in node.all_input_nodes):
            value = _value(node, known)
            if isinstance(value, (torch.Tensor, list)):
                known[node] = value
                if getattr(node.target, "overloadpacket", node.target) in passed and node.args[0] in moved:
                    moved.add(node)
    return {
        node: value
        for node, value in known.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and node not in moved
    }


def _is_function(node: fx.Node) -> bool:
    """A call whose result depends on its operands alone, and is no quantization."""
    return (node.op == "call_function" and node.target is operator.getitem) or (
        node.op == "call_function"
        and isinstance(node.target, OpOverload)
        and node.target.namespace == "aten"
        and bool(node.all_input_nodes)
        and not node.target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def _value(node: fx.Node, known: Mapping[fx.Node, _Stored]) -> object:
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    assert callable(node.target)
    with torch.no_grad():
        result: object = node.target(*args, **kwargs)
    return result


def _replace(graph: fx.GraphModule, node: fx.Node, value: torch.Tensor) -> None:
    """Let the readers of `node` read a stored tensor."""
    trainable = any(isinstance(parameter, nn.Parameter) for parameter in _sources(graph, node))
    name = _name(graph, node)
    bind(graph, name, value.detach().clone(), trainable=trainable)
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(name)
    stored.meta = dict(node.meta)
    node.replace_all_uses_with(stored)


def _sources(graph: fx.GraphModule, node: fx.Node) -> list[object]:
    """The stored tensors that `node` comes from."""
    seen: dict[fx.Node, None] = {node: None}
    for reader in (queue := list(seen)):
        for source in reader.all_input_nodes:
            if source not in seen:
                seen[source] = None
                queue.append(source)
    named = dict(graph.named_parameters(remove_duplicate=False))
    return [named.get(name) for name in map(parameter_name, seen) if name is not None]


def _name(graph: fx.GraphModule, node: fx.Node) -> str:
    """`<layer>.weight` of the layer that reads it as its weight, where that is free or about to be; else its own."""
    readers = [user for user in node.users if kind_of(user) in WEIGHTED and user.args[1] is node]
    stack = list(readers[0].meta.get("nn_module_stack", {}).values()) if readers else []
    path = str(stack[-1][0]).removeprefix("L['self'].") if stack else ""
    tensors = dict(graph.named_parameters(remove_duplicate=False)) | dict(graph.named_buffers(remove_duplicate=False))
    wanted = f"{path}.weight"
    if path and _is_module(graph, path) and (wanted not in tensors or _only_read_for(graph, wanted, node)):
        return wanted
    number, name = 1, f"computed_{node.name}"
    while hasattr(graph, name):
        number += 1
        name = f"computed_{node.name}_{number}"
    return name


def _is_module(graph: fx.GraphModule, path: str) -> bool:
    try:
        graph.get_submodule(path)
    except AttributeError:
        return False
    return True


def _only_read_for(graph: fx.GraphModule, name: str, node: fx.Node) -> bool:
    """Tell whether nobody else would notice that the tensor `name` is now what `node` computes from it."""
    waiting = list(graph.graph.find_nodes(op="get_attr", target=name))
    while waiting:
        for user in waiting.pop().users:
            if user is node:
                continue
            if user.op == "output" or kind_of(user) in WEIGHTED or not user.users:
                return False
            waiting.append(user)
    return True
