"""Reading the weights out of an ONNX graph, as floats or behind quantization nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compress.core.measurement import Sparsity
from compress.formats.base import NotMeasured
from compress.formats.sparsity import total_sparsity

__all__ = ["OnnxWeight", "constants", "onnx_parameters", "onnx_sparsity", "onnx_weights", "require_plain_operators"]
__all__ += ["weights_in_7_bits"]

_WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "MatMul": (0, 1),
    "QLinearConv": (3,),
    "QLinearMatMul": (3,),
}
"""Inputs that are weights when they come from constants; the activation side of a MatMul never does."""

_QLINEAR_ZERO_POINT = 5  # input of QLinearConv and QLinearMatMul, ONNX operator specification
_SAME_ZEROS = frozenset({"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_PLAIN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_SETTINGS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "Pad": (1, 2),
    "Resize": (1, 2, 3),
}
"""Inputs that hold how an operator is set up, not what was learnt."""

_LEARNT_TYPES = (np.float64, np.float32, np.float16, np.int8, np.uint8, np.int32)


@dataclass(frozen=True, eq=False)
class OnnxWeight:
    """A constant that feeds the weight input of a convolution or matrix product.

    Attributes:
        name: of the constant, without a trailing `.weight`.
        values: as stored, float or integer.
        zero_point: stored value that means 0, broadcastable to `values`.
    """

    name: str
    values: NDArray[np.generic]
    zero_point: NDArray[np.generic]


def onnx_weights(model: onnx.ModelProto) -> Iterator[OnnxWeight]:
    """Weights of the main graph in execution order, each constant once.

    Raises:
        NotMeasured: the graph holds operators of another domain, whose weights cannot be told from other constants.
    """
    require_plain_operators(model)
    stored = constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    seen: set[str] = set()
    for node in model.graph.node:
        for position in _WEIGHT_INPUTS.get(node.op_type, ()):
            name, quantization = _trace_to_constant(node.input[position], makers)
            if name not in stored or name in seen:
                continue
            seen.add(name)
            values = numpy_helper.to_array(stored[name])
            zero_point = _zero_point(node, quantization, values, stored)
            yield OnnxWeight(name.removesuffix(".weight"), values, zero_point)


def onnx_sparsity(model: onnx.ModelProto) -> Sparsity:
    """Zeros of the constants that feed Conv, ConvTranspose, Gemm and MatMul, directly or through DequantizeLinear."""
    return total_sparsity((w.name, int((w.values == w.zero_point).sum()), w.values.size) for w in onnx_weights(model))


def onnx_parameters(model: onnx.ModelProto) -> int:
    """Number of learnt values: weights, biases, normalisation scales and shifts; not Q/DQ settings or shapes."""
    stored = constants(model)
    settings = {
        node.input[position]
        for node in model.graph.node
        for position in _SETTINGS.get(node.op_type, ())
        if position < len(node.input)
    }
    learnt = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in _LEARNT_TYPES}
    tensors = (tensor for name, tensor in stored.items() if name not in settings and tensor.data_type in learnt)
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.dims)


def weights_in_7_bits(model: onnx.ModelProto) -> bool:
    """Tell whether every signed 8-bit weight keeps to [-64, 64], so that u8 x s8 pairs cannot saturate 16-bit sums."""
    signed = (weight for weight in onnx_weights(model) if weight.values.dtype == np.int8)
    return all(int(np.abs(weight.values.astype(np.int16)).max(initial=0)) <= 64 for weight in signed)


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of Constant nodes of the main graph, by name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = next((attribute for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensors[node.output[0]] = value.t
    return tensors


def require_plain_operators(model: onnx.ModelProto) -> None:
    """Raise `NotMeasured` for operators whose meaning the ONNX standard does not define."""
    strange = sorted(
        {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in _PLAIN_DOMAINS}
    )
    if strange:
        raise NotMeasured(f"the graph has operators outside the ONNX standard: {', '.join(strange[:3])}")


def _trace_to_constant(name: str, makers: dict[str, onnx.NodeProto]) -> tuple[str, onnx.NodeProto | None]:
    """The name that an input comes from, through layout and Q/DQ nodes, and the DequantizeLinear passed on the way."""
    dequantize = None
    while (node := makers.get(name)) is not None and node.op_type != "Constant":
        if node.op_type == "DequantizeLinear":
            dequantize = node
        elif node.op_type == "QuantizeLinear":
            dequantize = None  # stored as float: zeros are float zeros
        elif node.op_type not in _SAME_ZEROS:
            return "", None
        name = node.input[0]
    return name, dequantize


def _zero_point(
    node: onnx.NodeProto,
    dequantize: onnx.NodeProto | None,
    values: NDArray[np.generic],
    stored: dict[str, onnx.TensorProto],
) -> NDArray[np.generic]:
    zero = np.zeros((), values.dtype)
    if node.op_type.startswith("QLinear"):
        name, axis = node.input[_QLINEAR_ZERO_POINT], 0 if node.op_type == "QLinearConv" else values.ndim - 1
    elif dequantize is not None and len(dequantize.input) > 2:
        name = dequantize.input[2]
        axis = next((attribute.i for attribute in dequantize.attribute if attribute.name == "axis"), 1)
    else:
        return zero
    if name not in stored:
        return zero
    zero_point = numpy_helper.to_array(stored[name])
    if zero_point.size == 1:
        return zero_point.reshape(())
    shape = [1] * values.ndim
    shape[axis] = -1
    return zero_point.reshape(shape)
