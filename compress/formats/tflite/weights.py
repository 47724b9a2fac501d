"""Weights of a float network stored in fewer bits: half precision, or INT8 with activations quantized as they come.

float16   each weight is followed by a DEQUANTIZE; arithmetic stays float32 (on a GPU delegate: float16)
int8      "dynamic range": symmetric int8 weights; the kernel measures each activation's range on every call and
          multiplies integers (https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quant)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.formats.tflite.edit import kind_of
from compress.formats.tflite.flatbuffer import (
    GraphEntry,
    ModelEntry,
    OperatorEntry,
    TensorEntry,
    constant_of,
    new_code,
    new_constant,
    schema,
    shape_of,
)

__all__ = ["WeightType", "store_weights"]

WeightType = Literal["float32", "float16", "int8"]

_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": None}
"""Operators with a kernel for int8 weights and float activations; None: one scale for the whole weight."""

_HYBRID_VERSIONS = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 3}
"""Oldest version with that kernel: TensorFlow 2.14, lite/tools/versioning/op_version.cc."""

_SMALLEST = 1024
"""Elements below which a weight stays as it is: biases and constants of activations, no gain and a real loss."""

_LARGEST_INT8 = 127


def store_weights(model: ModelEntry, kind: WeightType) -> None:
    """Store the float weights of `model` as `kind`, in place."""
    graph = model.subgraphs[0]
    if kind == "float16":
        for index in _float_constants(model, graph):
            _halve(model, graph, index)
    elif kind == "int8":
        for operator in graph.operators:
            _quantize_weight(model, graph, operator)


def _float_constants(model: ModelEntry, graph: GraphEntry) -> list[int]:
    return [index for index, tensor in enumerate(graph.tensors) if _values(model, tensor) is not None]


def _values(model: ModelEntry, tensor: TensorEntry) -> NDArray[np.float32] | None:
    """A float32 constant worth storing in fewer bits, in its shape."""
    raw = constant_of(model, tensor)
    if raw is None or tensor.type != schema().TensorType.FLOAT32 or raw.nbytes < 4 * _SMALLEST:
        return None
    return np.frombuffer(raw.tobytes(), np.float32).reshape(shape_of(tensor))


def _halve(model: ModelEntry, graph: GraphEntry, index: int) -> None:
    tensor = graph.tensors[index]
    values = _values(model, tensor)
    assert values is not None
    stored = schema().TensorT()
    stored.name, stored.shape = (tensor.name or b"") + b"_float16", tensor.shape
    stored.type = schema().TensorType.FLOAT16
    stored.buffer = new_constant(model, values.astype(np.float16))
    graph.tensors.append(stored)
    tensor.buffer = 0  # computed now
    operator = schema().OperatorT()
    operator.opcodeIndex = new_code(model, "DEQUANTIZE", 3)  # 3: float16 (op_version.cc)
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    graph.operators.insert(0, operator)


def _quantize_weight(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> None:
    kind = kind_of(model, operator)
    if kind not in _CHANNEL_AXIS:
        return
    tensor, axis = graph.tensors[operator.inputs[1]], _CHANNEL_AXIS[kind]
    values = _values(model, tensor)
    if values is None:
        return
    others = tuple(i for i in range(values.ndim) if i != axis) if axis is not None else None
    peak = np.abs(values).max(axis=others, keepdims=True)
    scale = np.maximum(peak, np.finfo(np.float32).tiny * _LARGEST_INT8).astype(np.float32) / np.float32(_LARGEST_INT8)
    tensor.buffer = new_constant(model, np.clip(np.rint(values / scale), -_LARGEST_INT8, _LARGEST_INT8).astype(np.int8))
    tensor.type = schema().TensorType.INT8
    tensor.quantization = schema().QuantizationParametersT()
    tensor.quantization.scale = [float(value) for value in scale.reshape(-1)]
    tensor.quantization.zeroPoint = [0] * scale.size
    tensor.quantization.quantizedDimension = axis or 0
    operator.opcodeIndex = new_code(model, kind, _HYBRID_VERSIONS[kind])
