"""Small ONNX files, and whether the import of one computes what ONNX Runtime does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import nn

from compress.formats.onnx.importer import onnx_to_module

RANDOM = np.random.default_rng(0)


def constant(name, values, kind=np.float32):
    return onnx.numpy_helper.from_array(np.asarray(values, kind), name)


def write(tmp_path, nodes, initializers=(), *, shape=("n", 4, 9, 9), opset=18, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def assert_parity(path, *, shape=(4, 9, 9), batch=3, tolerance=1e-5) -> nn.Module:
    module = onnx_to_module(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    images = RANDOM.normal(size=(batch, *shape)).astype(np.float32)
    fixed = isinstance(given.shape[0], int)
    rows = [images[i : i + 1] for i in range(batch)] if fixed else [images]
    expected = np.concatenate([session.run(None, {given.name: row})[0] for row in rows])
    with torch.inference_mode():
        got = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(got, expected, atol=tolerance * max(1.0, np.abs(expected).max()), rtol=0)
    return module


def node(kind, *inputs, outputs=("y",), **attributes):
    return helper.make_node(kind, ["x", *inputs], list(outputs), name=f"my/{kind}", **attributes)
