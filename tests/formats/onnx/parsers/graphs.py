"""Small graphs in ONNX text, and running them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common


def parse(body: str, *, opset: int = 13, x: str = "float[2,4,6,6]", initializers: str = "") -> ir.Model:
    """A model with input `x` and output `y`, every shape and type inferred, every node named."""
    constants = f"<{initializers.replace('} ', '}, ')}>" if initializers else ""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x} x) => (float[] y) {constants} {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].ClearField("type")
    for number, node in enumerate(proto.graph.node):
        node.name = f"node{number}"
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))
    common.ShapeInferencePass()(model)
    return model


def half(name: str, *numbers: float, shape: str = "") -> str:
    """A float16 constant: ONNX text takes its numbers as bits."""
    bits = np.asarray(numbers, dtype=np.float16).view(np.uint16)
    return f"float16{shape} {name} = {{{', '.join(map(str, bits))}}}"


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """The output for `x`, every operator as its definition says."""
    proto = ir.serde.serialize_model(model)
    if proto.graph.output[0].type.tensor_type.HasField("shape"):
        onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def images(shape=(2, 4, 6, 6), dtype=np.float32, *, seed: int = 0) -> np.ndarray:
    return (2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)
