"""Operations and bytes of every node of a graph as ONNX Runtime runs it, counted by `compress.formats.onnx.macs`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.core.artifact import Precision
from compress.formats.onnx.layers import tensor_bytes
from compress.formats.onnx.macs import node_macs
from compress.formats.onnx.read import read_graph
from compress.formats.onnx.weights import constants
from compress.measure.unmeasured import NotMeasured

__all__ = ["Traffic", "Work", "graph_work", "named_model"]

Shape = tuple[int, ...]

_STANDARD = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "TransposeMatMul": "MatMul",
    "QGemm": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "MatMulNBits": "MatMul",
}
"""ONNX Runtime's own operators that multiply as a standard one does (onnxruntime/docs/ContribOperators.md)."""

_INTEGER = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul"}
)
_MOVES_NOTHING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Dropout"})
"""ONNX Runtime gives the output the memory of the input."""


@dataclass(frozen=True)
class Work:
    """Work that a node asks of the machine; see `compress.profile.layer.LayerTime`."""

    operations: int = 0
    bytes: int = 0
    precision: Precision = Precision.FP32


@dataclass(frozen=True)
class Traffic:
    """Traffic that the profiler saw go through a node.

    Attributes:
        outputs: shape of each output.
        bytes: activations read and outputs written; weights are counted from the file, as packed ones are not seen.
    """

    outputs: tuple[Shape, ...]
    bytes: int


def named_model(path: Path, folder: Path) -> Path:
    """The file, or a copy in `folder` where some node had no name of its own by which its times could be told apart.

    Raises:
        ConfigError: missing, or not an ONNX file.
    """
    if not _unnamed(read_graph(path)):
        return path
    model = read_graph(path, weights=True)
    taken = {node.name for node in model.graph.node}
    for node in _unnamed(model):
        own = next((name for name in node.output if name), node.op_type)
        node.name = next(
            name for name in (own, *(f"{own}_{count}" for count in range(len(taken) + 1))) if name not in taken
        )
        taken.add(node.name)
    copy = folder / "named.onnx"
    onnx.save(model, copy)
    return copy


def graph_work(model: onnx.ModelProto, inputs: Mapping[str, Shape], traffic: Mapping[str, Traffic]) -> dict[str, Work]:
    """Work of each node that was seen to run, by name.

    Args:
        model: the optimized graph, with the operators that are really run.
        inputs: shapes of the graph's inputs, batch included.
        traffic: by node.
    """
    stored = constants(model)
    shapes = {**inputs, **{name: tuple(tensor.dims) for name, tensor in stored.items()}}
    for node in model.graph.node:
        if node.name in traffic:
            shapes.update(zip((name for name in node.output if name), traffic[node.name].outputs, strict=False))
    weights = {name: tensor_bytes(tensor) for name, tensor in stored.items()}
    return {
        node.name: _work(node, shapes, traffic[node.name], sum(weights.get(name, 0) for name in node.input))
        for node in model.graph.node
        if node.name in traffic
    }


def _work(node: onnx.NodeProto, shapes: dict[str, Shape], traffic: Traffic, weight_bytes: int) -> Work:
    if node.op_type in _MOVES_NOTHING:
        return Work()
    elements = sum(math.prod(shape) for shape in traffic.outputs)
    precision = Precision.INT8 if node.op_type in _INTEGER else Precision.FP32
    return Work(2 * _macs(node, shapes) or elements, traffic.bytes + weight_bytes, precision)


def _macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates; 0 where the counter does not know the operator (its bytes still count)."""
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.op_type = _STANDARD.get(node.op_type, node.op_type)
    try:
        return node_macs(plain, shapes)
    except NotMeasured:
        return 0


def _unnamed(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes without a name; two of the same name are refused by ONNX Runtime."""
    return [node for node in model.graph.node if not node.name]
