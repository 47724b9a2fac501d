"""Give a captured graph its layers back.

A graph from `torch.export` calls `aten.conv2d` on weights that lie about as attributes, and refuses `eval()`. Here
every convolution, batch normalisation and linear layer whose parameters are stored becomes an `nn.Module` under its old
name, so that what works on a hand-written network (pruning, folding, fine-tuning) works on a loaded one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import fx, nn

__all__ = ["with_modules"]

_aten = torch.ops.aten
_Lift = Callable[[fx.Node, fx.GraphModule], nn.Module | None]


def with_modules(source: fx.GraphModule) -> fx.GraphModule:
    """The same function as `source`, which is left as it was, in eval mode; tensors are shared, not copied.

    Inputs and outputs are flat: one positional argument per tensor, and a single output is returned by itself.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    members: dict[str, nn.Module | torch.Tensor] = {}
    for node in source.graph.nodes:
        layer = _layer(node, source)
        if _is_check(node):
            continue
        if layer is not None:
            name = _member_name(node, layer, members)
            members[name] = layer
            copied[node] = graph.call_module(name, (copied[node.args[0]],))
        elif node.op == "output":
            graph.output(fx.map_arg(_single(node.args[0]), lambda used: copied[used]))
        elif node.op == "placeholder":
            copied[node] = graph.placeholder(node.name)
        else:
            copied[node] = graph.node_copy(node, lambda used: copied[used])
            copied[node].meta = {}
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    members |= {str(node.target): _stored(source, node) for node in graph.nodes if node.op == "get_attr"}
    return fx.GraphModule(members, graph, class_name="LoadedGraph").eval()


def _layer(node: fx.Node, source: fx.GraphModule) -> nn.Module | None:
    """The module that does what `node` does, or None where it stays an operator."""
    lift = _LIFTS.get(node.target) if node.op == "call_function" and callable(node.target) else None
    return lift(node, source) if lift is not None and not node.kwargs else None


def _is_check(node: fx.Node) -> bool:
    """Guards on the shape the graph was captured with; the program checks shapes itself."""
    return node.op == "call_module" and str(node.target) == "_guards_fn" and not node.users


def _single(outputs: fx.node.Argument) -> fx.node.Argument:
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def _member_name(node: fx.Node, layer: nn.Module, members: dict[str, nn.Module | torch.Tensor]) -> str:
    """The path that the weight's name gives, or the node's name where that is taken or says nothing."""
    position = 3 if isinstance(layer, nn.BatchNorm2d) else 1  # affine parameters are optional, the running mean is not
    path = str(cast(fx.Node, node.args[position]).target).rpartition(".")[0]
    taken = any(name == path or name.startswith(f"{path}.") or path.startswith(f"{name}.") for name in members)
    return node.name if taken or not path else path


def _stored(source: fx.GraphModule, value: object) -> torch.Tensor:
    """The tensor a `get_attr` node reads; raises `_NotStored` for anything computed."""
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        raise _NotStored
    tensor: object = operator.attrgetter(str(value.target))(source)
    if not isinstance(tensor, torch.Tensor):
        raise _NotStored
    return tensor


class _NotStored(Exception):
    """An operand of a layer is computed by the graph."""


def _arguments(node: fx.Node, defaults: Sequence[object]) -> list[object]:
    return [*node.args, *defaults[len(node.args) :]]


def _conv2d(node: fx.Node, source: fx.GraphModule) -> nn.Module | None:
    """`conv2d(input, weight, bias, stride, padding, dilation, groups)`; padding in numbers or `same` / `valid`."""
    _, *operands = _arguments(node, (None, None, None, 1, 0, 1, 1))
    return _conv(source, *operands)


def _convolution(node: fx.Node, source: fx.GraphModule) -> nn.Module | None:
    """`convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups, ...)`."""
    _, weight, bias, stride, padding, dilation, transposed, _, groups, *_ = node.args
    return None if transposed else _conv(source, weight, bias, stride, padding, dilation, groups)


def _conv(
    source: fx.GraphModule,
    weight: object,
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
) -> nn.Module | None:
    try:
        kernel = _stored(source, weight)
        offset = None if bias is None else _stored(source, bias)
    except _NotStored:
        return None
    if kernel.dim() != 4:
        return None
    conv = nn.Conv2d(
        kernel.shape[1] * cast(int, groups),
        kernel.shape[0],
        (kernel.shape[2], kernel.shape[3]),
        stride=_pair(stride),
        padding=padding if isinstance(padding, str) else _pair(padding),
        dilation=_pair(dilation),
        groups=cast(int, groups),
        bias=offset is not None,
        device="meta",
    )
    return _fill(conv, kernel, offset)


def _linear(node: fx.Node, source: fx.GraphModule) -> nn.Module | None:
    """`linear(input, weight, bias)`."""
    _, weight, bias = _arguments(node, (None, None, None))
    try:
        matrix = _stored(source, weight)
        offset = None if bias is None else _stored(source, bias)
    except _NotStored:
        return None
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=offset is not None, device="meta")
    return _fill(layer, matrix, offset)


def _batch_norm(node: fx.Node, source: fx.GraphModule) -> nn.Module | None:
    """`batch_norm(input, weight, bias, mean, variance, training, momentum, eps, cudnn)`, inference only."""
    _, weight, bias, mean, variance, training, momentum, eps, _ = _arguments(node, (None,) * 9)
    try:
        running = _stored(source, mean), _stored(source, variance)
        affine = None if weight is None else _stored(source, weight)
        offset = None if bias is None else _stored(source, bias)
    except _NotStored:
        return None
    if training or (affine is None) != (offset is None):
        return None
    channels = running[0].numel()
    norm = nn.BatchNorm2d(channels, cast(float, eps), cast(float, momentum), affine=affine is not None)
    norm.running_mean, norm.running_var = running[0].detach(), running[1].detach()
    return norm if affine is None else _fill(norm, affine, offset)


def _fill(layer: nn.Conv2d | nn.Linear | nn.BatchNorm2d, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """Replace the parameters; they stay the same tensors, so sharing survives."""
    layer.weight = _parameter(weight)
    if bias is not None:
        layer.bias = _parameter(bias)
    return layer


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach())


def _pair(value: object) -> tuple[int, int]:
    """ATen takes one number, or a list of one or two, for both dimensions."""
    numbers = [value] if isinstance(value, int) else list(cast(Sequence[int], value))
    return (numbers[0], numbers[-1])


_LIFTS: dict[object, _Lift] = {
    _aten.conv2d.default: _conv2d,
    _aten.conv2d.padding: _conv2d,
    _aten._convolution_mode.default: _conv2d,
    _aten.convolution.default: _convolution,
    _aten._convolution.default: _convolution,
    _aten.linear.default: _linear,
    _aten.batch_norm.default: _batch_norm,
}
