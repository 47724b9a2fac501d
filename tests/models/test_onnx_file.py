"""ONNX files are checked against the declared input and run once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.errors import ModelError
from compress.models import FileModel, load_model, model_digest
from compress.models.onnx_file import load_onnx
from compress.types import Format, InputSpec, Precision

SPEC = InputSpec((3, 4, 4))


def write(path, *, shape=("n", 3, 4, 4), kind=TensorProto.FLOAT, nodes=None, outputs=("y",), weights=np.float32):
    matrix = np.ones((48, 5), weights)
    nodes = nodes or [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("batch", "dynamic"), [("n", True), (1, False)])
def test_a_file_is_the_artifact(tmp_path, batch, dynamic):
    path = write(tmp_path / "a.onnx", shape=(batch, 3, 4, 4))
    config = FileModel(kind="file", path=path, input={"shape": (3, 4, 4)})
    artifact = load_model(config, trusted=lambda _: False, seed=0, progress=None, finetune=None)
    assert (artifact.format, artifact.path, artifact.precision) == (Format.ONNX, path, Precision.FP32)
    assert artifact.dynamic_batch is dynamic
    digest = model_digest(artifact)
    write(path, shape=("other", 3, 4, 4))
    assert model_digest(artifact) != digest


def test_precision_is_read_from_the_graph(tmp_path):
    halves = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Flatten", ["h"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    assert load_onnx(write(tmp_path / "a.onnx", nodes=halves, weights=np.float16), SPEC).precision is Precision.FP16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shape": ("n", 4, 4, 3)},
            r"takes the shape \['any', 4, 4, 3\] but the declared input is \[1 or any, 3, 4, 4\]",
        ),
        ({"shape": (8, 3, 4, 4)}, r"takes the shape \[8, 3, 4, 4\]"),
        ({"shape": ("n", 48)}, r"takes the shape \['any', 48\]"),
        ({"kind": TensorProto.DOUBLE, "weights": np.float64}, "takes DOUBLE input, not float32"),
        ({"nodes": [helper.make_node("Identity", ["x"], ["y"])]}, r"returns the shapes \[\[1, 3, 4, 4\]\]"),
        (
            {
                "nodes": [helper.make_node("Flatten", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
                "outputs": ("y", "z"),
            },
            "returns the shapes",
        ),
        ({"nodes": [helper.make_node("Flaten", ["x"], ["y"])]}, "not a valid ONNX model"),
    ],
)
def test_models_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(write(tmp_path / "a.onnx", **options), SPEC)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_onnx(tmp_path / "absent.onnx", SPEC)
    path = write(tmp_path / "a.onnx")
    whole = path.read_bytes()
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:-7]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"truncated or not a valid ONNX model|not an ONNX model"):
            load_onnx(path, SPEC)


@pytest.mark.real_data
def test_the_mlperf_tiny_model(shared_data):
    artifact = load_onnx(shared_data / "onnx/ic_pretrainedResnet.onnx", InputSpec((3, 32, 32)))
    assert not artifact.dynamic_batch
