"""The proof of a placement: ONNX Runtime's own optimized graph, counted by what runs in integers and what in float."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    import onnx

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _save_optimized(path, optimized, layout=layout)
        return _count(onnx.load(optimized).graph)


def _save_optimized(path: Path, optimized: Path, *, layout: bool) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3  # it warns that the file suits this machine only, which is what is wanted
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


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
