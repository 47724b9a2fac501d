"""Multiply-accumulates of an ONNX graph's convolutions and matrix products for one sample; zeros are not discounted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compress.formats.base import NotMeasured

if TYPE_CHECKING:
    import onnx

__all__ = ["node_macs", "onnx_macs", "value_shapes"]

Shape = tuple[int, ...]


def onnx_macs(model: onnx.ModelProto) -> int:
    """Count from the shapes that ONNX shape inference finds for a batch of one.

    Raises:
        NotMeasured: a needed shape is unknown, or the graph has operators whose arithmetic is.
    """
    from compress.formats.onnx.weights import require_plain_operators

    require_plain_operators(model)
    shapes = value_shapes(model)
    return sum(node_macs(node, shapes) for node in model.graph.node)


def value_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of all values that are fully known once the batch is one.

    Raises:
        NotMeasured: ONNX shape inference fails.
    """
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in single.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # shapes recorded by the exporter name the dynamic batch
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise NotMeasured(f"ONNX shape inference failed: {str(error).splitlines()[0]}") from error
    known = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = tuple(dim.dim_value for dim in dims)
    return known


def node_macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates of one node; 0 for those that have none.

    Raises:
        NotMeasured: a needed shape is unknown, or the node's arithmetic is.
    """
    match node.op_type:
        case "Conv" | "ConvInteger":
            return _conv(_shape(node.output[0], shapes), _shape(node.input[1], shapes))
        case "QLinearConv":
            return _conv(_shape(node.output[0], shapes), _shape(node.input[3], shapes))
        case "ConvTranspose":
            image, weight = _shape(node.input[0], shapes), _shape(node.input[1], shapes)
            return image[0] * math.prod(image[2:]) * math.prod(weight)
        case "Gemm":
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            inner = _shape(node.input[0], shapes)[0 if transposed else 1]
            return math.prod(_shape(node.output[0], shapes)) * inner
        case "MatMul" | "MatMulInteger" | "QLinearMatMul":
            return math.prod(_shape(node.output[0], shapes)) * _shape(node.input[0], shapes)[-1]
        case "LSTM" | "GRU" | "RNN":
            return _recurrent(*(_shape(name, shapes) for name in node.input[:3]))
        case "If" | "Loop" | "Scan" | "Einsum" | "Attention":
            raise NotMeasured(f"the arithmetic of {node.op_type} nodes is not counted")
        case _:
            return 0


def _conv(output: Shape, weight: Shape) -> int:
    """Each output element sums over the weight's `[in / groups, *kernel]`."""
    return math.prod(output) * math.prod(weight[1:])


def _recurrent(sequence: Shape, inner: Shape, recurrent: Shape) -> int:
    """Every step multiplies by the weights `[directions, gates x hidden, ...]` of the input and of the state."""
    steps_and_samples = sequence[0] * sequence[1]
    return steps_and_samples * (math.prod(inner) + math.prod(recurrent))


def _shape(name: str, shapes: dict[str, Shape]) -> Shape:
    if name not in shapes:
        raise NotMeasured(f"ONNX shape inference does not know the shape of {name!r}")
    return shapes[name]
