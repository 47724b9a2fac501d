"""Reading the weights out of a TorchScript file."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from compress.core.measurement import Sparsity
from compress.formats.sparsity import total_sparsity

__all__ = ["script_parameters", "script_sparsity", "script_weights"]

_WEIGHT_INPUTS = {
    "aten::_convolution": 1,
    "aten::convolution": 1,
    "aten::conv1d": 1,
    "aten::conv2d": 1,
    "aten::conv3d": 1,
    "aten::conv_transpose1d": 1,
    "aten::conv_transpose2d": 1,
    "aten::conv_transpose3d": 1,
    "aten::linear": 1,
    "aten::addmm": 2,
    "aten::mm": 1,
    "aten::matmul": 1,
}
_SAME_ZEROS = frozenset({"aten::t", "aten::transpose", "aten::to", "aten::detach", "aten::contiguous"})


def script_weights(module: torch.jit.ScriptModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of convolutions and linear layers in execution order: constants of a frozen module, or its attributes.

    A frozen file keeps no layer names, so they are numbered after their operators: `conv2d_0`, `linear_1`.
    """
    seen: set[int] = set()
    for node in module.inlined_graph.nodes():
        position = _WEIGHT_INPUTS.get(node.kind())
        tensor = None if position is None else _stored_tensor(list(node.inputs())[position], module)
        if tensor is not None and tensor.data_ptr() not in seen:
            operator = node.kind().removeprefix("aten::").removeprefix("_")
            yield f"{operator}_{len(seen)}", tensor
            seen.add(tensor.data_ptr())


def script_sparsity(module: torch.jit.ScriptModule) -> Sparsity:
    """Zeros of a TorchScript file's weights."""
    return total_sparsity((name, int((w == 0).sum()), w.numel()) for name, w in script_weights(module))


def script_parameters(module: torch.jit.ScriptModule) -> int:
    """Number of learnt values: float constants with at least one dimension, and parameters that were not frozen."""
    tensors: dict[int, int] = {}
    for node in module.inlined_graph.nodes():
        for output in node.outputs():
            value = output.toIValue() if node.kind() == "prim::Constant" else None
            if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point():
                tensors[value.data_ptr()] = value.numel()
    tensors |= {parameter.data_ptr(): parameter.numel() for parameter in module.parameters()}
    return sum(tensors.values())


def _stored_tensor(value: torch._C.Value, module: torch.jit.ScriptModule) -> torch.Tensor | None:
    node = value.node()
    while node.kind() in _SAME_ZEROS:
        value = next(iter(node.inputs()))
        node = value.node()
    stored = value.toIValue() if node.kind() == "prim::Constant" else _attribute(node, module)
    return stored if isinstance(stored, torch.Tensor) else None


def _attribute(node: torch._C.Node, module: torch.jit.ScriptModule) -> object:
    """The value behind a chain of `prim::GetAttr` nodes that starts at the module itself."""
    path: list[str] = []
    while node.kind() == "prim::GetAttr":
        path.append(node.s("name"))
        node = next(iter(node.inputs())).node()
    value: object = module if path else None
    for name in reversed(path):
        value = getattr(value, name, None)
    return value
