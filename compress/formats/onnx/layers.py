"""Operations and bytes of every layer of an ONNX graph, for one sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.formats.base import NotMeasured
from compress.formats.onnx.macs import node_macs, value_shapes
from compress.formats.onnx.weights import constants

if TYPE_CHECKING:
    import onnx

__all__ = ["Kind", "Layer", "graph_layers", "read_layers", "tensor_bytes"]

Kind = Literal["dense", "winograd", "depthwise", "elementwise"]

_NOT_RUN = frozenset(
    {"Constant", "DequantizeLinear", "QuantizeLinear", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"}
    | {"Relu", "Clip", "BatchNormalization", "Shape", "Gather", "Dropout", "Sigmoid", "HardSigmoid", "HardSwish"}
)
"""Layers that runtimes fuse into their neighbour or that move no data."""

_FEW_INPUTS = 2
"""Input channels per group up to which a convolution is as good as depthwise."""


@dataclass(frozen=True)
class Layer:
    """Work that one layer asks of the machine.

    Attributes:
        kind: 3x3 convolutions of stride 1 can be computed by Winograd's method; depthwise ones reuse little and run
            far below peak.
        operations: multiplications and additions, two for a MAC.
        weight_bytes: read once, as stored.
        elements: activations read and written; their width is the precision's.
    """

    name: str
    operator: str
    kind: Kind
    operations: float
    weight_bytes: float
    elements: float


def read_layers(path: Path) -> tuple[Layer, ...]:
    """The layers of a file that is no artifact; raises as `graph_layers`."""
    import onnx

    return graph_layers(onnx.load(path))


def graph_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """The layers of a graph that cost time, in order.

    Raises:
        NotMeasured: a shape is unknown, or the graph has operators whose arithmetic is.
    """
    shapes = value_shapes(model)
    stored = constants(model)
    origins = {output: node for node in model.graph.node for output in node.output}
    layers = tuple(_layers(model, shapes, {name: tensor_bytes(tensor) for name, tensor in stored.items()}, origins))
    if not layers:
        raise NotMeasured("the graph has no layer that computes")
    return layers


def _layers(
    model: onnx.ModelProto,
    shapes: dict[str, tuple[int, ...]],
    stored: dict[str, int],
    origins: dict[str, onnx.NodeProto],
) -> Iterator[Layer]:
    for node in model.graph.node:
        if node.op_type in _NOT_RUN or _is_swish(node, origins):
            continue
        sources = {name: _origin(name, origins) for name in node.input if name}
        weights = sum(stored[source] for source in sources.values() if source in stored)
        moved = [name for name, source in sources.items() if source not in stored]
        elements = sum(math.prod(shapes[name]) for name in (*moved, *node.output) if name in shapes)
        macs = node_macs(node, shapes)
        operations = 2.0 * macs if macs else float(elements)
        yield Layer(node.name or node.output[0], node.op_type, _kind(node, macs, shapes), operations, weights, elements)


def _kind(node: onnx.NodeProto, macs: int, shapes: dict[str, tuple[int, ...]]) -> Kind:
    if not macs:
        return "elementwise"
    settings = {attribute.name: attribute for attribute in node.attribute}
    if "group" in settings and settings["group"].i > 1 and shapes[node.input[1]][1] <= _FEW_INPUTS:
        return "depthwise"
    kernel = tuple(settings["kernel_shape"].ints) if "kernel_shape" in settings else ()
    strides = tuple(settings["strides"].ints) if "strides" in settings else (1, 1)
    return "winograd" if kernel == (3, 3) and strides == (1, 1) else "dense"


def _is_swish(node: onnx.NodeProto, origins: dict[str, onnx.NodeProto]) -> bool:
    """Tell whether a Mul is the end of x * sigmoid(x), which runtimes compute in one pass with what makes x."""
    makers = [origins[name] for name in node.input if name in origins] if node.op_type == "Mul" else []
    return any(maker.op_type in ("Sigmoid", "HardSigmoid") and maker.input[0] in node.input for maker in makers)


def _origin(name: str, origins: dict[str, onnx.NodeProto]) -> str:
    """The stored tensor behind Q/DQ nodes, or the value itself."""
    while (node := origins.get(name)) is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        name = node.input[0]
    return name


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of a stored tensor, at its own width."""
    import onnx

    width = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return int(math.prod(tensor.dims)) * width
