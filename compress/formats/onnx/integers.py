"""The share of an ONNX file that computes in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.measurement import IntegerShare
from compress.formats.integers import LayerWork, integer_share
from compress.formats.onnx.macs import node_macs, value_shapes
from compress.formats.onnx.weights import onnx_weights

if TYPE_CHECKING:
    import onnx

__all__ = ["onnx_integers"]


def onnx_integers(model: onnx.ModelProto) -> IntegerShare:
    """Shares of an ONNX file, standard operators and one graph.

    A layer counts as integer where its operator takes integers, or where both operands come from `DequantizeLinear`:
    that is what runtimes fuse. Weights count by the type they are stored in.

    Raises:
        NotMeasured: a needed shape is unknown, or the graph has operators whose arithmetic is.
    """
    shapes = value_shapes(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = (LayerWork(node_macs(node, shapes), _in_integers(node, makers)) for node in model.graph.node)
    sizes = [(weight.values.size, weight.values.dtype.kind in "iu") for weight in onnx_weights(model)]
    return integer_share(
        (layer for layer in layers if layer.macs),
        weights=sum(size for size, _ in sizes),
        integer_weights=sum(size for size, integer in sizes if integer),
    )


def _in_integers(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
        return True
    operands = [makers.get(name) for name in node.input[:2]]
    return all(maker is not None and _restored(maker, makers) for maker in operands)


def _restored(maker: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Tell whether a value was integers, also through a transposition."""
    while maker.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        earlier = makers.get(maker.input[0])
        if earlier is None:
            return False
        maker = earlier
    return maker.op_type == "DequantizeLinear"
