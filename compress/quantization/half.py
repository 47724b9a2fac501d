"""A float32 model as a float16 one that still takes and gives float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import fx, nn

from compress.core.errors import StageError
from compress.support.torch_internals import OpOverload

__all__ = ["FLOAT16_MAX", "HalfInside", "to_half"]

FLOAT16_MAX = 65504.0
"""Largest finite float16 (IEEE 754-2008, binary16)."""

aten = torch.ops.aten
_CHECKS = (aten._assert_tensor_metadata.default,)
_GUARDS = "_guards_fn"  # what `ExportedProgram.module()` calls to check shapes


class HalfInside(nn.Module):
    """A float16 module behind a float32 input and output; integers stay integers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images.half() if images.is_floating_point() else images)
        return logits.float() if logits.is_floating_point() else logits


def to_half(module: nn.Module) -> nn.Module:
    """A copy of `module` with every floating-point tensor in float16; input and output stay float32.

    A captured graph stays one: its types are rewritten, and casts added inside. Any other module is wrapped.

    Raises:
        StageError: a weight is beyond the range of float16; names it.
    """
    for name, tensor in _float_tensors(module):
        _refuse_overflow(name, tensor)
    copied = copy.deepcopy(module)
    _convert_tensors(copied)
    if isinstance(copied, fx.GraphModule) and _is_captured(copied):
        return _retype(copied)
    return HalfInside(copied).eval()


def _is_captured(graph: fx.GraphModule) -> bool:
    """Made of ATen operators (`torch.export`), not of layers (an imported ONNX file, a symbolic trace)."""
    calls = [node for node in graph.graph.nodes if node.op in ("call_module", "call_method")]
    return all(node.target == _GUARDS for node in calls)


def _float_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers, and plain tensor attributes, which `nn.Module.half` does not know."""
    for path, part in module.named_modules():
        owned = {**part._parameters, **part._buffers, **vars(part)}
        for name, value in owned.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield f"{path}.{name}".lstrip("."), value


def _refuse_overflow(name: str, tensor: torch.Tensor) -> None:
    values = tensor.detach()[~tensor.detach().isinf()].abs()  # infinity stays what it is
    largest = float(values.max()) if values.numel() else 0.0
    if not largest <= FLOAT16_MAX:  # also true for NaN
        raise StageError(
            f"{name!r} holds {largest:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
            fix="run fold_batchnorm before, or leave the model in float32 (precision=fp32)",
        )


def _convert_tensors(module: nn.Module) -> None:
    module.half()
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                setattr(part, name, value.half())


def _retype(graph: fx.GraphModule) -> fx.GraphModule:
    """Rewrite the float32 types that a captured graph spells out, and cast at its ends."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" or node.target in _CHECKS:  # guards and assertions about the old types
            graph.graph.erase_node(node)
        elif node.op == "call_function":
            _retype_call(node)
        elif node.op == "placeholder" and _may_be_float(node):
            with graph.graph.inserting_after(node):
                cast = graph.graph.call_function(aten.to.dtype, (node, torch.float16))
            node.replace_all_uses_with(cast, delete_user_cb=lambda user, cast=cast: user is not cast)
        elif node.op == "output":
            _cast_outputs(graph.graph, node)
    graph.graph.lint()
    graph.recompile()
    return graph


def _retype_call(node: fx.Node) -> None:
    def retype(value: object) -> object:
        return torch.float16 if value is torch.float32 else value

    node.args = tuple(retype(value) for value in node.args)  # type: ignore[misc]
    node.kwargs = {name: retype(value) for name, value in node.kwargs.items()}  # type: ignore[misc]
    if _makes_float32_by_default(node):
        node.kwargs = {**node.kwargs, "dtype": torch.float16}


def _makes_float32_by_default(node: fx.Node) -> bool:
    """`aten.zeros` and its kin, whose type is float32 when none is given."""
    if node.all_input_nodes or not isinstance(node.target, OpOverload) or node.kwargs.get("dtype"):
        return False
    value = node.meta.get("val")
    takes_type = any(argument.name == "dtype" for argument in node.target._schema.arguments)
    return takes_type and isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _may_be_float(node: fx.Node) -> bool:
    """Tell whether a value is cast: integers (tokens, class maps) are not, what is not known is."""
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point()


def _cast_outputs(graph: fx.Graph, output: fx.Node) -> None:
    for logits in filter(_may_be_float, output.all_input_nodes):
        with graph.inserting_before(output):
            cast = graph.call_function(aten.to.dtype, (logits, torch.float32))
        output.replace_input_with(logits, cast)
