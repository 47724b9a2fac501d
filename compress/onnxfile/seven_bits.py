"""The same INT8 network with weights in 7 bits: one that a CPU without VNNI or AMX computes exactly.

x86 multiplies u8 by s8 pairs into saturating 16-bit sums there (`vpmaddubsw`); 2 x 255 x 64 is below 2^15. Real values
stay what they were to half a step of the coarser weights, so whoever compares two runs of a file compares two runs of
this one instead.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["in_7_bits"]

_HALVED = (onnx.TensorProto.INT8, onnx.TensorProto.INT32)
"""Types of weights and of biases, whose scale is input scale x weight scale and has to stay that."""


def in_7_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with every stored weight and bias behind a DequantizeLinear halved and its scale doubled."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in halved.graph.initializer}
    done: set[str] = set()
    for position, node in enumerate(halved.graph.node):
        tensor = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is None or tensor.data_type not in _HALVED or node.input[1] not in stored:
            continue
        if tensor.name not in done:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.rint(values / 2).astype(values.dtype), tensor.name))
            done.add(tensor.name)
        scale = numpy_helper.to_array(stored[node.input[1]])
        node.input[1] = f"{node.input[1]}_doubled_{position}"
        halved.graph.initializer.append(numpy_helper.from_array((2 * scale).astype(scale.dtype), node.input[1]))
    return halved
