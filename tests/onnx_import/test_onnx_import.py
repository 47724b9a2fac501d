"""Imported networks compute what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from onnx import TensorProto, helper
from torch import nn

from compress.errors import ModelError
from compress.onnx_import import onnx_to_module
from compress.quiet import quiet

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


W = constant("w", RANDOM.normal(size=(6, 4, 3, 3)))
DEPTHWISE = constant("w", RANDOM.normal(size=(4, 1, 3, 3)))
BIAS = constant("b", RANDOM.normal(size=6))
FOUR = [constant(name, RANDOM.uniform(0.5, 2, 4)) for name in "sbmv"]

CASES = {
    "conv": (node("Conv", "w", "b", pads=[1, 1, 1, 1], strides=[2, 2]), [W, BIAS]),
    "conv uneven pads": (node("Conv", "w", pads=[0, 0, 1, 1], strides=[2, 2]), [W]),
    "conv same upper": (node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), [W]),
    "conv same lower": (node("Conv", "w", auto_pad="SAME_LOWER", strides=[2, 2]), [W]),
    "conv dilated": (node("Conv", "w", dilations=[2, 2]), [W]),
    "conv depthwise": (node("Conv", "w", group=4, pads=[1, 1, 1, 1]), [DEPTHWISE]),
    "batch norm": (node("BatchNormalization", "s", "b", "m", "v", epsilon=1e-3), FOUR),
    "max pool": (node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), []),
    "max pool ceil": (node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), []),
    "max pool uneven": (node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]), []),
    "average pool": (node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), []),
    "average pool counted": (
        node("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=1),
        [],
    ),
    "global average": (node("GlobalAveragePool"), []),
    "global max": (node("GlobalMaxPool"), []),
    "relu6": (node("Clip", "lo", "hi"), [constant("lo", 0), constant("hi", 6)]),
    "clip one side": (node("Clip", "", "hi"), [constant("hi", 0.5)]),
    "hard sigmoid": (node("HardSigmoid"), []),
    "hard sigmoid of torch": (node("HardSigmoid", alpha=1 / 6, beta=0.5), []),
    "hard swish": (node("HardSwish"), []),
    "leaky relu": (node("LeakyRelu", alpha=0.2), []),
    "prelu": (node("PRelu", "p"), [constant("p", RANDOM.uniform(size=(4, 1, 1)))]),
    "elu": (node("Elu"), []),
    "erf": (node("Erf"), []),
    "softmax": (node("Softmax", axis=1), []),
    "add constant": (node("Add", "c"), [constant("c", RANDOM.normal(size=(4, 1, 1)))]),
    "power": (node("Pow", "c"), [constant("c", 2.0)]),
    "reduce mean": (node("ReduceMean", "a", keepdims=0), [constant("a", [2, 3], np.int64)]),
    "reduce all but batch": (node("ReduceSum", "a"), [constant("a", [1, 2, 3], np.int64)]),
    "flatten": (node("Flatten"), []),
    "flatten 2": (node("Flatten", axis=2), []),
    "reshape zero": (node("Reshape", "r"), [constant("r", [0, 2, -1], np.int64)]),
    "transpose": (node("Transpose", perm=[0, 2, 3, 1]), []),
    "unsqueeze": (node("Unsqueeze", "a"), [constant("a", [1, 3], np.int64)]),
    "gather": (node("Gather", "i", axis=1), [constant("i", [3, 0], np.int64)]),
    "gather one": (node("Gather", "i", axis=1), [constant("i", 2, np.int64)]),
    "slice": (
        node("Slice", "s", "e", "a", "t"),
        [constant(n, v, np.int64) for n, v in (("s", [1, -5]), ("e", [4, 100]), ("a", [1, 3]), ("t", [2, 1]))],
    ),
    "pad": (node("Pad", "p", "v"), [constant("p", [0, 1, 2, 0, 0, 3, 0, 1], np.int64), constant("v", 0.5)]),
    "pad reflect": (node("Pad", "p", mode="reflect"), [constant("p", [0, 0, 2, 1, 0, 0, 1, 2], np.int64)]),
    "lrn": (node("LRN", size=3, alpha=1e-2), []),
    "layer norm": (
        node("LayerNormalization", "s", "b"),
        [constant("s", RANDOM.normal(size=9)), constant("b", np.ones(9))],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operator(tmp_path, case):
    operation, initializers = CASES[case]
    assert_parity(write(tmp_path, [operation], initializers))


@pytest.mark.parametrize("opset", [11, 13])
def test_axes_moved_from_attributes_to_operands(tmp_path, opset):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3]),
        helper.make_node(
            "Squeeze", ["m", "a"] if opset >= 13 else ["m"], ["y"], **({} if opset >= 13 else {"axes": [2, 3]})
        ),
    ]
    assert_parity(write(tmp_path, nodes, [constant("a", [2, 3], np.int64)] if opset >= 13 else [], opset=opset))


def test_split_and_concat(tmp_path):
    nodes = [
        node("Split", "z", outputs=("a", "b"), axis=1),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Concat", ["b", "c", "a"], ["y"], axis=1),
    ]
    assert_parity(write(tmp_path, nodes, [constant("z", [1, 3], np.int64)]))


def test_gemm_variants(tmp_path):
    for transposed in (0, 1):
        matrix = RANDOM.normal(size=(5, 324) if transposed else (324, 5))
        nodes = [
            node("Flatten", outputs=("f",)),
            helper.make_node("Gemm", ["f", "w", "c"], ["y"], transB=transposed, alpha=0.5, beta=2.0),
        ]
        module = assert_parity(write(tmp_path, nodes, [constant("w", matrix), constant("c", [1.5])]))
        assert [type(layer) for layer in module.children()] == [nn.Linear]


def test_size_arithmetic_keeps_the_batch_free(tmp_path):
    """What the TorchScript exporter writes for `x.view(x.size(0), -1)`."""
    nodes = [
        node("Shape", outputs=("s",)),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "minus"], ["r"], axis=0),
        helper.make_node("Reshape", ["x", "r"], ["y"]),
    ]
    numbers = [constant("zero", 0, np.int64), constant("axis", [0], np.int64), constant("minus", [-1], np.int64)]
    module = assert_parity(write(tmp_path, nodes, numbers))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.zeros(2, 4, 9, 9),), dynamic_shapes=shapes)
    assert program.module()(torch.zeros(5, 4, 9, 9)).shape == (5, 324)


def test_a_batch_of_one_becomes_free(tmp_path):
    path = write(tmp_path, [node("Reshape", "r")], [constant("r", [1, -1], np.int64)], shape=(1, 4, 9, 9))
    assert_parity(path)
    path = write(tmp_path, [node("Reshape", "r")], [constant("r", [1, 324], np.int64)], shape=(1, 4, 9, 9))
    assert_parity(path)


def test_layers_are_named_after_their_nodes(tmp_path):
    module = onnx_to_module(write(tmp_path, [node("Conv", "w", "b")], [W, BIAS]))
    assert [(name, type(layer)) for name, layer in module.named_children()] == [("my_Conv", nn.Conv2d)]
    assert not module.training


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            helper.make_node("DepthToSpace", ["x"], ["y"], name="up", blocksize=2),
            r"operator DepthToSpace \(node 'up'\)",
        ),
        (
            helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2),
            r"operator DepthToSpace \(node 'DepthToSpace_0'\)",
        ),
        (
            helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"], name="z"),
            r"operator Slice backwards \(node 'z'\)",
        ),
    ],
)
def test_unsupported_names_operator_and_node(tmp_path, operation, message):
    numbers = [constant(n, [v], np.int64) for n, v in (("s", -1), ("e", -9), ("a", 3), ("t", -1))]
    path = write(tmp_path, [operation], numbers)
    with pytest.raises(ModelError, match=message):
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


@pytest.mark.parametrize(("name", "opset"), [("resnet18", 18), ("resnet18", 13), ("mobilenet_v3_small", 13)])
def test_exported_torchvision_models(tmp_path, name, opset):
    torch.manual_seed(0)
    model, sample = getattr(torchvision.models, name)(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    path = tmp_path / "model.onnx"
    with quiet():
        if opset == 18:
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(
                model, (sample,), path, opset_version=18, external_data=False, dynamic_shapes=shapes, verbose=False
            )
        else:
            names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
            torch.onnx.export(model, (sample,), path, opset_version=13, dynamo=False, **names)
    module = assert_parity(path, shape=(3, 64, 64))
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == len([layer for layer in model.modules() if isinstance(layer, nn.Conv2d)])


@pytest.mark.real_data
def test_the_mlperf_tiny_model(shared_data):
    assert_parity(shared_data / "onnx/ic_pretrainedResnet.onnx", shape=(3, 32, 32))
