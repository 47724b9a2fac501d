"""ONNX graphs written as text, and running them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

from compress.core.artifact import Artifact, Format, InputSpec, Precision

SPEC = InputSpec((3, 8, 8))


def graph(
    body: str, initializers: str = "", *, x="float[1,3,8,8]", y="float[1,4]", opset=17, imports=""
) -> onnx.ModelProto:
    """A graph from `x` to `y`; `initializers` as in the text format."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}{imports}]> g ({x} x) => ({y} y)'
    return onnx.parser.parse_model(f"{text} <{initializers}> {{ {body} }}" if initializers else f"{text} {{ {body} }}")


def with_weights(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """`model` with random float weights."""
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = generator.standard_normal(shape).astype(np.float32) * 0.3
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def network() -> onnx.ModelProto:
    """Conv and Gemm around a global mean that keeps its dimensions."""
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w)
        r = Relu(c)
        m = ReduceMean<axes=[2,3], keepdims=1>(r)
        f = Flatten(m)
        y = Gemm<transB=1>(f, v)"""
    return with_weights(graph(body), w=(8, 3, 3, 3), v=(4, 8))


def quantized(zero_point: int = 0, width: str = "uint8") -> onnx.ModelProto:
    """Q/DQ around a Conv with Relu, with 8-bit weights."""
    low = -128 if width == "int8" else 0
    body = f"""
        w = DequantizeLinear<axis=0>(wq, ws, wz)
        q0 = QuantizeLinear(x, s, z)
        d0 = DequantizeLinear(q0, s, z)
        c = Conv<pads=[1,1,1,1]>(d0, w)
        r = Relu(c)
        q1 = QuantizeLinear(r, s, z{"1" if zero_point == low else ""})
        d1 = DequantizeLinear(q1, s, z{"1" if zero_point == low else ""})
        m = ReduceMean<axes=[2,3], keepdims=0>(d1)
        y = Gemm<transB=1>(m, v)"""
    scales = ", ".join(["0.01"] * 256)
    zeros = ", ".join(["0"] * 256)
    points = f"float s = {{0.05}}, {width} z = {{{zero_point}}}, {width} z1 = {{{low}}}"
    initializers = f"{points}, float[256] ws = {{{scales}}}, int8[256] wz = {{{zeros}}}"
    model = with_weights(graph(body, initializers), v=(4, 256))
    values = np.random.default_rng(1).integers(-127, 128, (256, 3, 3, 3)).astype(np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "wq"))
    return model


def unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """`quantized()` after a simplifier that takes the DequantizeLinear of a weight for a constant to be folded."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    values, scales = (onnx.numpy_helper.to_array(constants[name]) for name in ("wq", "ws"))
    folded = values.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
    del model.graph.node[0]
    for name in ("wq", "ws", "wz"):
        model.graph.initializer.remove(constants[name])
    model.graph.initializer.append(onnx.numpy_helper.from_array(folded, "w"))
    return model


def images(count=4, spec=SPEC):
    return np.random.default_rng(2).standard_normal((count, *spec.shape)).astype(np.float32)


def run(model: onnx.ModelProto, x) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def saved(model: onnx.ModelProto, path: Path, precision=Precision.FP32, spec=SPEC) -> Artifact:
    onnx.save(model, path)
    return Artifact(Format.ONNX, path, precision, spec, dynamic_batch=False, history=("to_onnx",))
