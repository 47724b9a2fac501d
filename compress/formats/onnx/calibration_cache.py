"""TensorRT's calibration cache from the scales of a Q/DQ file, for implicit INT8 (TensorRT up to 10) on its float twin.

A line of text per tensor, `name: hex`, where hex is the scale (largest magnitude / 127) as a big-endian IEEE float32;
above them `TRT-<version>-EntropyCalibration2` (TensorRT developer guide, "INT8 Calibration Using C++"; read off a cache
that TensorRT 8.5.3 wrote).
"""

from __future__ import annotations

import struct

import onnx
from onnx import numpy_helper

__all__ = ["calibration_cache", "tensor_scales"]

_ALGORITHM = "EntropyCalibration2"
_SAME_SCALE = frozenset({"Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
"""What goes out is within the range of what comes in, or cuts it as the integers would: one scale serves both sides."""


def tensor_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Scale of every quantized activation by its name in the float twin, and of the tensors that share it."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    quantizers = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantizers]
    origin = {node.output[0]: quantizers[node.input[0]].input[0] for node in pairs}
    scales = {
        _origin(node.input[0], origin): float(numpy_helper.to_array(stored[node.input[1]]))
        for node in quantizers.values()
    }
    edges = [(node.input[0], node.output[0]) for node in graph.node if node.op_type in _SAME_SCALE]
    _spread([(_origin(source, origin), output) for source, output in edges], scales)
    return scales


def calibration_cache(model: onnx.ModelProto, version: str) -> str:
    """The cache's text for one TensorRT version, as `8.5.2`; another version calibrates anew."""
    major, minor, patch = map(int, version.split("."))
    number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in tensor_scales(model).items()]
    return "\n".join([f"TRT-{number}-{_ALGORITHM}", *lines, ""])


def _spread(edges: list[tuple[str, str]], scales: dict[str, float]) -> None:
    """Give tensors without a scale that of the other end of an edge, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for pair in (*edges, *((end, start) for start, end in edges)):
            if pair[0] in scales and pair[1] not in scales:
                scales[pair[1]] = scales[pair[0]]
                changed = True


def _origin(name: str, origin: dict[str, str]) -> str:
    while name in origin:
        name = origin[name]
    return name
