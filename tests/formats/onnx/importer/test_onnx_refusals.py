"""What is not imported is named: operator, node, and what about it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_files import constant, node, write

from compress.core.errors import ModelError
from compress.formats.onnx.importer import onnx_to_module


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (helper.make_node("Det", ["x"], ["y"], name="up"), r"operator Det \(node 'up'\)"),
        (helper.make_node("Det", ["x"], ["y"]), r"operator Det \(node 'Det_0'\)"),
        (helper.make_node("LRN", ["x"], ["y"], size=2), r"operator LRN of an even number"),
        (
            helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]),
            r"operator AveragePool with dilations",
        ),
        (
            helper.make_node("Resize", ["x", "r", "f"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"),
            r"operator Resize with coordinate_transformation_mode tf_crop_and_resize",
        ),
        (
            helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"], name="z"),
            r"operator Slice backwards \(node 'z'\)",
        ),
    ],
)
def test_unsupported_names_operator_and_node(tmp_path, operation, message):
    numbers = [constant(n, [v], np.int64) for n, v in (("s", -1), ("e", -9), ("a", 3), ("t", -1))]
    numbers += [constant("r", [0, 0, 0, 0, 1, 1, 1, 1]), constant("f", [1, 1, 2, 2])]
    path = write(tmp_path, [operation], numbers, opset=19)
    with pytest.raises(ModelError, match=message):
        onnx_to_module(path)


def test_an_attribute_that_nobody_reads_is_named(tmp_path):
    """Written for a newer opset than the file has: passed over, it would compute something else."""
    path = write(tmp_path, [node("Relu")])
    model = onnx.load(path)
    model.graph.node[0].attribute.append(helper.make_attribute("leak", 0.5))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"operator Relu with attribute leak=0\.5 \(node"):
        onnx_to_module(path)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (helper.make_node("MaxPool", ["x"], ["v", "i"], kernel_shape=[2, 2]), r"operator MaxPool with output 1 \(node"),
        (helper.make_node("Cast", ["x"], ["i"], to=TensorProto.UINT16), r"operator Cast on elements of type UINT16"),
    ],
)
def test_unsupported_results_are_named(tmp_path, operation, message):
    path = write(tmp_path, [operation, helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)])
    with pytest.raises(ModelError, match=message):
        onnx_to_module(path)


def test_control_flow_is_named(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["o"])], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)]
    )
    operation = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    path = write(tmp_path, [operation], [constant("c", True, bool)])
    with pytest.raises(ModelError, match="operator If"):
        onnx_to_module(path)


def test_foreign_domain_is_named(tmp_path):
    path = write(tmp_path, [node("Relu")])
    model = onnx.load(path)
    model.graph.node[0].domain = "com.vendor"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"operator com\.vendor\.Relu"):
        onnx_to_module(path)


def test_not_a_model(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"hello world")
    with pytest.raises(ModelError, match="is not a readable ONNX model"):
        onnx_to_module(tmp_path / "a.onnx")
