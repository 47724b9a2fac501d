"""Guard of what a rewritten graph must keep, whatever it computes: interface, opset, operators, quantization."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx

from compress.optimize.facts import all_nodes
from compress.optimize.source import opset

__all__ = ["broken_promise"]

_INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def broken_promise(before: onnx.ModelProto, after: onnx.ModelProto, *, onnxruntime_only: bool) -> str | None:
    """Say what `after` lost of `before`; None if nothing.

    Args:
        onnxruntime_only: ONNX Runtime's own operators are welcome, and Q/DQ may be fused into them.
    """
    if _interface(after) != _interface(before):
        return "it changes the names, types or shapes of inputs and outputs"
    if opset(after) > opset(before):
        return f"it raises the opset from {opset(before)} to {opset(after)}"
    strange = sorted(_foreign(after) - _foreign(before))
    if strange and not onnxruntime_only:
        return f"it brings {', '.join(strange)}, which only ONNX Runtime executes"
    if _stored_integers(after) < _stored_integers(before):
        return "it unpacks weights that are stored in 8 bits"
    if not onnxruntime_only:
        return _lost_conversions(before, after)
    return None


def _lost_conversions(before: onnx.ModelProto, after: onnx.ModelProto) -> str | None:
    had, has = _conversions(before), _conversions(after)
    for kind in _CONVERSIONS:
        if has[kind] < had[kind]:
            lost = had[kind] - has[kind]
            return f"it drops {lost} of {had[kind]} {kind}, by which runtimes know what is quantized"
    return None


def _interface(model: onnx.ModelProto) -> list[tuple[str, int, tuple[int | str, ...]]]:
    stored = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in stored] + list(model.graph.output)
    return [(value.name, value.type.tensor_type.elem_type, _shape(value)) for value in values]


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Sizes; free ones all alike, as optimizers rename them."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else "free" for dim in dims)


def _foreign(model: onnx.ModelProto) -> set[str]:
    return {f"{node.domain}.{node.op_type}" for node in all_nodes(model.graph) if node.domain not in ("", "ai.onnx")}


def _stored_integers(model: onnx.ModelProto) -> int:
    """Number of distinct constants of more than one dimension in 8 bits; scalars and vectors are zero points."""
    tensors = (tensor for tensor in model.graph.initializer if tensor.data_type in _INTEGERS and len(tensor.dims) > 1)
    return len({(tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()) for tensor in tensors})


def _conversions(model: onnx.ModelProto) -> Counter[str]:
    """Number of distinct QuantizeLinear and DequantizeLinear.

    Two with equal inputs and attributes compute the same value, and merging them loses nothing (value numbering).
    """
    names, counts = _canonical_names(model), Counter[str]()
    seen: dict[tuple[str, tuple[str, ...], tuple[bytes, ...]], str] = {}
    for node in model.graph.node:
        if node.op_type not in _CONVERSIONS:
            continue
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        key = (node.op_type, tuple(names.get(name, name) for name in node.input), attributes)
        counts[node.op_type] += key not in seen
        names[node.output[0]] = seen.setdefault(key, node.output[0])
    return counts


def _canonical_names(model: onnx.ModelProto) -> dict[str, str]:
    """One name for all constants that are equal."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names = {}
    for tensor in model.graph.initializer:
        content = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes()
        names[tensor.name] = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
    return names
