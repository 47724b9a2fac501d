"""INT8 ONNX files as ONNX Runtime fuses them: what this host can judge, and which kernel is the first to differ."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from compress.formats.onnx.file import OnnxFile
from compress.formats.onnx.ort_graph import Level, optimized_graph
from compress.formats.onnx.seven_bits import in_7_bits
from compress.formats.onnx.values import values_by_name
from compress.formats.registry import open_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["first_wrong_kernel", "judgeable"]

_LEVELS: tuple[Level, ...] = ("extended", "layout")
"""Most fusions are made at the first, some kernels are only chosen at the second, which renames less-used values."""

_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_GIVEN = "_given"


def judgeable(artifact: Artifact, *, exact_int8: bool) -> bytes:
    """Content that ONNX Runtime is given; with weights in 7 bits where this CPU's 8-bit products saturate: that says
    nothing of the device's."""
    file = open_file(artifact)
    assert isinstance(file, OnnxFile)  # nothing else runs in ONNX Runtime
    model = file.model
    content: bytes = (model if exact_int8 else in_7_bits(model)).SerializeToString()
    return content


def first_wrong_kernel(content: bytes, image: NDArray[np.float32]) -> str | None:
    """`QLinearAveragePool (node avg_pool2d)`: the first fused kernel that is more than one step off on the very inputs
    that the file gives it; None if none is.

    A step that one kernel rounds the other way makes many in the layers after it, which is no fault of theirs.

    Args:
        image: `[1, C, H, W]`.
    """
    model = onnx.load_from_string(content)
    expected = values_by_name(model, image)
    for level in _LEVELS:
        fused = _fused_graph(content, level)
        kernels = _kernels_since_given(fused, expected)
        computed = _from_given(fused, image, expected)
        off = {name: _steps(expected[name], values) for name, values in computed.items() if name in expected}
        for node in fused.graph.node:
            wrong = any(off.get(name, 0) > 1 for name in node.output)
            if wrong and node.op_type not in _CONVERSIONS and kernels[node.output[0]] == 1:
                return f"{node.op_type} (node {_float_node(model, node.output[0])})"
    return None


def _kernels_since_given(fused: onnx.ModelProto, given: Mapping[str, NDArray[np.generic]]) -> dict[str, int]:
    """Count the operators, conversions and layouts aside, that compute each value from those that are given."""
    counts: dict[str, int] = {}
    for node in fused.graph.node:
        before = sum(counts[name] for name in node.input if name in counts and name not in given)
        count = before + (node.op_type not in (*_CONVERSIONS, "Transpose"))
        counts.update(dict.fromkeys(node.output, count))
    return counts


def _from_given(
    fused: onnx.ModelProto, image: NDArray[np.float32], given: Mapping[str, NDArray[np.generic]]
) -> Mapping[str, NDArray[np.generic]]:
    """Every value of the fused graph, each operator reading what is given instead of what those before it computed."""
    cut = onnx.ModelProto()
    cut.CopyFrom(fused)
    made = {name for node in cut.graph.node for name in node.output}
    feeds: dict[str, NDArray[np.generic]] = {}
    for node in cut.graph.node:
        for place, name in enumerate(node.input):
            if name in given and name in made:
                node.input[place] = f"{name}{_GIVEN}"
                feeds[node.input[place]] = given[name]
    cut.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
        for name, values in feeds.items()
    )
    return values_by_name(cut, image, feeds)


def _fused_graph(content: bytes, level: Level) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        return optimized_graph(path, level)


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
