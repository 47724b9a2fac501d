"""Weights of a module's convolutions and linear layers: which of its tensors they are.

One answer for ordinary modules (`nn.Conv2d`, `nn.Linear`, ...) and for captured graphs (`torch.export(...).module()`,
before and after quantization), so that what pruning edits and what sparsity counts cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

__all__ = ["Weight", "compute_weights", "graph_tensors", "named_tensors"]

_aten = torch.ops.aten
_WEIGHT_ARGUMENT: dict[object, int] = {
    _aten.conv1d: 1,
    _aten.conv2d: 1,
    _aten.conv3d: 1,
    _aten.conv_transpose1d: 1,
    _aten.conv_transpose2d: 1,
    _aten.conv_transpose3d: 1,
    _aten.convolution: 1,
    _aten.linear: 1,
    _aten.addmm: 2,
    _aten.mm: 1,
    _aten.matmul: 1,
}
"""Position of the weight among the operands of each operator that multiplies by one."""

_SAME_ZEROS = frozenset(
    {
        "t",
        "transpose",
        "permute",
        "numpy_T",
        "clone",
        "detach",
        "contiguous",
        "to",
        "_to_copy",
        "view",
        "reshape",
        "alias",
    }
)
"""Names of operators that move or convert a weight without making or removing a zero."""

_DEQUANTIZE = frozenset({"dequantize_per_tensor", "dequantize_per_channel"})
_QUANTIZE = frozenset({"quantize_per_tensor", "quantize_per_channel"})


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight tensor where it is stored.

    Attributes:
        name: of the parameter or buffer, from the root module; not always assignable (see `named_tensors`).
        layer: module path of the layer it belongs to, for people.
        tensor: the stored values, integers when quantized: `[out, in / groups, *kernel]`, `[out, in]`, or as stored.
        zero_point: stored value that stands for 0, broadcastable to `tensor`; 0 for floats and symmetric integers.
    """

    name: str
    layer: str
    tensor: torch.Tensor
    zero_point: torch.Tensor

    def zeros(self) -> int:
        """Number of elements that are exactly zero in the arithmetic of the layer."""
        return int((self.tensor == self.zero_point.to(self.tensor.dtype)).sum())


def compute_weights(module: nn.Module) -> tuple[Weight, ...]:
    """Weights of every convolution and linear layer, each tensor once, in the order of first use."""
    weights: dict[int, Weight] = {}
    layers: set[str] = set()
    for weight in _all_weights(module):
        if id(weight.tensor) in weights:
            continue
        layer = weight.name if weight.layer in layers else weight.layer
        layers.add(layer)
        weights[id(weight.tensor)] = Weight(weight.name, layer, weight.tensor, weight.zero_point)
    return tuple(weights.values())


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, shared ones under each of their names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(module.named_buffers(remove_duplicate=False))}


def graph_tensors(graph_module: fx.GraphModule) -> dict[str, torch.Tensor]:
    """Tensors that the graph reads, by name.

    A quantized graph module still holds the float weights that its integer ones replaced; those are not read.
    """
    named = named_tensors(graph_module)
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr" and node.users}
    called = tuple(f"{node.target}." for node in graph_module.graph.nodes if node.op == "call_module")
    return {name: tensor for name, tensor in named.items() if name in used or name.startswith(called)}


def _all_weights(root: nn.Module) -> Iterator[Weight]:
    for path, module in root.named_modules():
        if isinstance(module, fx.GraphModule):
            yield from _graph_weights(module, path)
        for attribute in _weight_attributes(module):
            tensor = getattr(module, attribute)
            if isinstance(tensor, torch.Tensor):
                yield Weight(_join(path, attribute), path or attribute, tensor, torch.zeros((), dtype=tensor.dtype))


def _weight_attributes(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        return ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ()


def _graph_weights(graph_module: fx.GraphModule, path: str) -> Iterator[Weight]:
    named = named_tensors(graph_module)
    for node in graph_module.graph.nodes:
        position = _WEIGHT_ARGUMENT.get(getattr(node.target, "overloadpacket", None))
        if node.op != "call_function" or position is None or len(node.args) <= position:
            continue
        stored, dequantize = _trace_to_storage(node.args[position])
        if stored is None or str(stored.target) not in named:
            continue
        name = str(stored.target)
        tensor = named[name]
        yield Weight(_join(path, name), _layer_of(node, name, path), tensor, _zero_point(dequantize, tensor, named))


def _trace_to_storage(value: fx.node.Argument) -> tuple[fx.Node | None, fx.Node | None]:
    """The `get_attr` node behind an operand, and the dequantize node passed on the way; None where it is computed."""
    dequantize = None
    while isinstance(value, fx.Node) and value.op == "call_function":
        operator = getattr(getattr(value.target, "overloadpacket", None), "__name__", "")
        if operator in _DEQUANTIZE:
            dequantize = value
        elif operator in _QUANTIZE:
            dequantize = None  # stored as float and quantized on the way: zeros are float zeros
        elif operator not in _SAME_ZEROS:
            return None, None
        value = value.args[0]
    return (value, dequantize) if isinstance(value, fx.Node) and value.op == "get_attr" else (None, None)


def _zero_point(dequantize: fx.Node | None, tensor: torch.Tensor, named: dict[str, torch.Tensor]) -> torch.Tensor:
    """Zero point of `dequantize(values, scale, zero_point, ...)`, shaped to broadcast over `tensor`."""
    if dequantize is None:
        return torch.zeros((), dtype=tensor.dtype)
    zero_point = dequantize.args[2]
    value = named.get(str(zero_point.target)) if isinstance(zero_point, fx.Node) else torch.tensor(zero_point)
    if value is None:
        return torch.zeros((), dtype=tensor.dtype)
    if value.numel() == 1:
        return value.reshape(())
    shape = [1] * tensor.dim()
    axis = dequantize.args[3]
    assert isinstance(axis, int)
    shape[axis] = -1
    return value.reshape(shape)


def _layer_of(node: fx.Node, name: str, path: str) -> str:
    """The layer's module path: from the weight's name, or, for a constant made by a pass, from the node's origin."""
    stored_in, _, attribute = name.rpartition(".")
    if stored_in and attribute == "weight":
        return _join(path, stored_in)
    stack = node.meta.get("nn_module_stack") or {}
    origin = str(next(reversed(stack.values()))[0]) if stack else ""
    return _join(path, origin or name)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
