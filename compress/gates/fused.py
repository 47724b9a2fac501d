"""INT8 ONNX files as ONNX Runtime fuses them: what this host can judge, and which kernel is the first to differ."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compress.onnxfile.ort_graph import Level, optimized_graph
from compress.onnxfile.seven_bits import in_7_bits
from compress.runtimes.onnx import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["first_wrong_kernel", "judgeable", "values_by_name"]

_LEVELS: tuple[Level, ...] = ("extended", "layout")
"""Most fusions are made at the first, some kernels are only chosen at the second, which renames less-used values."""

_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def judgeable(path: Path, *, exact_int8: bool) -> bytes:
    """The file at `path`; with weights in 7 bits where this CPU's 8-bit products saturate, which says nothing of the
    device's."""
    model = onnx.load(path)
    content: bytes = (model if exact_int8 else in_7_bits(model)).SerializeToString()
    return content


def first_wrong_kernel(content: bytes, image: NDArray[np.float32]) -> str | None:
    """`QLinearAveragePool (node avg_pool2d)`: the first fused kernel that is more than one step off although its inputs
    are not; None if none stands out.

    Args:
        image: `[1, C, H, W]`.
    """
    model = onnx.load_from_string(content)
    expected = values_by_name(model, image)
    for level in _LEVELS:
        fused = _fused_graph(content, level)
        computed = values_by_name(fused, image)
        off = {name: _steps(expected[name], values) for name, values in computed.items() if name in expected}
        for node in fused.graph.node:
            wrong = any(off.get(name, 0) > 1 for name in node.output)
            if wrong and node.op_type not in _CONVERSIONS and all(off.get(name, 0) <= 1 for name in node.input):
                return f"{node.op_type} (node {_float_node(model, node.output[0])})"
    return None


def _fused_graph(content: bytes, level: Level) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        return optimized_graph(path, level)


def values_by_name(model: onnx.ModelProto, image: NDArray[np.float32]) -> Mapping[str, NDArray[np.generic]]:
    """Every value of the graph, run operator by operator on `image` `[1, C, H, W]`."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name and name not in known]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(whole.SerializeToString(), threads=1, fused=False)
    wanted = [output.name for output in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, {session.get_inputs()[0].name: image}), strict=True))


def _steps(expected: NDArray[np.generic], computed: NDArray[np.generic]) -> float:
    """Largest difference of two tensors of integers; 0 for others, whose steps are not known."""
    if expected.shape != computed.shape or expected.dtype not in (np.int8, np.uint8):
        return 0.0
    return float(np.abs(expected.astype(np.int16) - computed.astype(np.int16)).max(initial=0))


def _float_node(model: onnx.ModelProto, value: str) -> str:
    """The node whose output is quantized to `value`."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers[value]
    while node.op_type in _CONVERSIONS and node.input[0] in makers:
        node = makers[node.input[0]]
    return str(node.name or node.output[0])
