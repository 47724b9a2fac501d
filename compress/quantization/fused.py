"""The proof of a placement: ONNX Runtime's own optimized graph, counted by what runs in integers and what in float."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.formats.onnx.ort_graph import optimized_graph

if TYPE_CHECKING:
    import onnx

__all__ = ["FusionCount", "count_fused"]

_INTEGER_TYPES = (2, 3, 6)  # onnx.TensorProto UINT8, INT8, INT32
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class FusionCount:
    """Operators of an optimized graph, by type.

    Attributes:
        integer: compute and move integers.
        float: compute in floating point.
        conversions: QuantizeLinear and DequantizeLinear that remain at the borders between the two.
    """

    integer: Counter[str]
    float: Counter[str]
    conversions: Counter[str]


def count_fused(path: Path, *, layout: bool = False) -> FusionCount:
    """Optimize an ONNX file as a CPU session would and count what became of it.

    Args:
        path: the model.
        layout: also apply the layout optimizations of `ORT_ENABLE_ALL`, which add transposes.
    """
    return _count(optimized_graph(path, "layout" if layout else "extended").graph)


def _count(graph: onnx.GraphProto) -> FusionCount:
    """Follow which values are integers: what quantizes makes them, what only moves data keeps its input's type."""
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type in _INTEGER_TYPES}
    count = FusionCount(Counter(), Counter(), Counter())
    for node in graph.node:
        in_integers = _is_integer_kernel(node) or (bool(node.input) and node.input[0] in integers)
        if node.op_type in _CONVERSIONS:
            count.conversions[node.op_type] += 1
        else:
            (count.integer if in_integers else count.float)[node.op_type] += 1
        if node.op_type != "DequantizeLinear" and (in_integers or node.op_type == "QuantizeLinear"):
            integers.update(node.output)
    return count


def _is_integer_kernel(node: onnx.NodeProto) -> bool:
    """ONNX Runtime's kernels on quantized tensors: QLinearConv, QLinearAdd, QGemm, MatMulInteger, ConvInteger, ..."""
    return node.op_type.startswith(("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize"))
