"""Imported networks compute what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper
from onnx_files import RANDOM, assert_parity, constant, node, write
from torch import nn

from compress.formats.onnx.importer import onnx_to_module
from compress.support.quiet import quiet

W = constant("w", RANDOM.normal(size=(6, 4, 3, 3)))
DEPTHWISE = constant("w", RANDOM.normal(size=(4, 1, 3, 3)))
BIAS = constant("b", RANDOM.normal(size=6))
GROUPED = constant("w", RANDOM.normal(size=(4, 3, 4, 3)))
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
    "conv transpose": (
        node("ConvTranspose", "w", "b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        [constant("w", RANDOM.normal(size=(4, 6, 3, 3))), BIAS],
    ),
    "conv transpose grouped": (node("ConvTranspose", "w", group=2, strides=[3, 2]), [GROUPED]),
    "conv transpose depthwise": (node("ConvTranspose", "w", group=4, strides=[2, 2]), [DEPTHWISE]),
    "conv transpose uneven pads": (node("ConvTranspose", "w", strides=[2, 2], pads=[1, 0, 0, 1], group=2), [GROUPED]),
    "conv transpose same upper": (
        node("ConvTranspose", "w", strides=[2, 2], auto_pad="SAME_UPPER", group=2),
        [GROUPED],
    ),
    "conv transpose same lower": (
        node("ConvTranspose", "w", strides=[2, 2], auto_pad="SAME_LOWER", group=2),
        [GROUPED],
    ),
    "conv transpose to a shape": (
        node("ConvTranspose", "w", strides=[2, 2], output_shape=[20, 18], dilations=[2, 1], group=2),
        [GROUPED],
    ),
    "average pool uneven, not counted": (node("AveragePool", kernel_shape=[3, 3], pads=[0, 0, 1, 1]), []),
    "average pool same": (node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"), []),
    "clip nothing": (node("Clip"), []),
    "prelu along the last axis": (node("PRelu", "p"), [constant("p", RANDOM.uniform(size=9))]),
    "prelu of one slope for each row": (node("PRelu", "p"), [constant("p", RANDOM.uniform(size=(9, 1)))]),
    "unsqueeze twice from the end": (node("Unsqueeze", "a"), [constant("a", [-1, -2], np.int64)]),
    "gather negative": (node("Gather", "i", axis=1), [constant("i", [-1, 0], np.int64)]),
    "gather in a matrix": (node("Gather", "i", axis=2), [constant("i", [[0, -1], [3, 4], [5, -9]], np.int64)]),
    "pad along axes": (node("Pad", "p", "", "a"), [constant(n, v, np.int64) for n, v in (("p", [1, 2]), ("a", [-1]))]),
    "pad negative": (node("Pad", "p"), [constant("p", [0, 0, -1, 0, 0, 0, 2, -2], np.int64)]),
    "pad edge": (node("Pad", "p", mode="edge"), [constant("p", [0, 0, 1, 0, 0, 0, 2, 3], np.int64)]),
    "split unevenly from the end": (node("Split", outputs=("y", "z"), axis=-1, num_outputs=2), []),
    "power with an integer": (node("Pow", "c"), [constant("c", [3], np.int64)]),
    "instance norm": (node("InstanceNormalization", "s", "b"), FOUR[:2]),
    "reduce l2": (node("ReduceL2", "a"), [constant("a", [1], np.int64)]),
    "log softmax": (node("LogSoftmax", axis=1), []),
    "softplus": (node("Softplus"), []),
    "mish": (node("Mish"), []),
    "expand": (node("Expand", "e"), [constant("e", [2, 1, 4, 1, 9], np.int64)]),
    "einsum": (node("Einsum", "c", equation="nchw,cd->ndhw"), [constant("c", RANDOM.normal(size=(4, 5)))]),
    "layer norm of three axes": (
        node("LayerNormalization", "s", axis=1),
        [constant("s", RANDOM.normal(size=(4, 9, 9)))],
    ),
    "layer norm": (
        node("LayerNormalization", "s", "b"),
        [constant("s", RANDOM.normal(size=9)), constant("b", np.ones(9))],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operator(tmp_path, case):
    operation, initializers = CASES[case]
    assert_parity(write(tmp_path, [operation], initializers))


def test_a_token_is_expanded_to_the_batch(tmp_path):
    """What the TorchScript exporter writes for `token.expand(len(x), -1, -1, -1)`."""
    nodes = [
        node("Shape", outputs=("s",)),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "first"], ["u"]),
        helper.make_node("Concat", ["u", "keep"], ["wanted"], axis=0),
        helper.make_node("ConstantOfShape", ["rank"], ["ones"], value=constant("v", [1], np.int64)),
        helper.make_node("Mul", ["ones", "minus"], ["minuses"]),
        helper.make_node("Equal", ["wanted", "minuses"], ["free"]),
        helper.make_node("Where", ["free", "ones", "wanted"], ["sizes"]),
        helper.make_node("Expand", ["token", "sizes"], ["tokens"]),
        helper.make_node("Concat", ["tokens", "x"], ["y"], axis=1),
    ]
    stored = [
        constant("zero", 0, np.int64),
        constant("first", [0], np.int64),
        constant("keep", [-1, -1, -1], np.int64),
        constant("rank", [4], np.int64),
        constant("minus", -1, np.int64),
        constant("token", RANDOM.normal(size=(1, 1, 9, 9))),
    ]
    module = assert_parity(write(tmp_path, nodes, stored))
    program = torch.export.export(module, (torch.zeros(2, 4, 9, 9),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert program.module()(torch.zeros(5, 4, 9, 9)).shape == (5, 5, 9, 9)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(tmp_path, mode):
    nodes = [
        node("SpaceToDepth", outputs=("d",), blocksize=3),
        helper.make_node("DepthToSpace", ["d"], ["y"], blocksize=2, mode=mode),
    ]
    assert_parity(write(tmp_path, nodes))


@pytest.mark.parametrize("attributes", [{"strides": [2]}, {"auto_pad": "SAME_UPPER", "strides": [2]}, {"pads": [2, 1]}])
def test_one_dimension(tmp_path, attributes):
    nodes = [
        node("Reshape", "r", outputs=("l",)),
        helper.make_node("Conv", ["l", "w"], ["c"], **attributes),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[3], pads=[1, 0]),
        helper.make_node("AveragePool", ["m"], ["a"], kernel_shape=[2], pads=[0, 1], strides=[2]),
        helper.make_node("ConvTranspose", ["a", "t"], ["u"], strides=[2], pads=[1, 0]),
        helper.make_node("GlobalAveragePool", ["u"], ["y"]),
    ]
    stored = [
        constant("r", [0, 4, 81], np.int64),
        constant("w", RANDOM.normal(size=(6, 4, 3))),
        constant("t", RANDOM.normal(size=(6, 2, 3))),
    ]
    assert_parity(write(tmp_path, nodes, stored))


@pytest.mark.parametrize("how", ["Greater", "Less"])
def test_where_by_a_comparison(tmp_path, how):
    nodes = [
        helper.make_node(how, ["x", "zero"], ["mask"]),
        helper.make_node("Mul", ["x", "slope"], ["s"]),
        helper.make_node("Where", ["mask", "x", "s"], ["y"]),
    ]
    assert_parity(write(tmp_path, nodes, [constant("zero", 0.0), constant("slope", 0.1)]))


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_softmax_over_several_axes(tmp_path, kind, axis):
    assert_parity(write(tmp_path, [node(kind, axis=axis)], opset=11))


def test_upsample_of_old_files(tmp_path):
    assert_parity(write(tmp_path, [node("Upsample", "f")], [constant("f", [1, 1, 2, 3])], opset=9))


def test_integers_are_divided_towards_zero(tmp_path):
    nodes = [
        node("Cast", outputs=("i",), to=TensorProto.INT64),
        helper.make_node("Div", ["i", "two"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT),
    ]
    nodes.insert(0, helper.make_node("Mul", ["x", "ten"], ["tens"]))
    nodes[1].input[0] = "tens"
    assert_parity(write(tmp_path, nodes, [constant("two", 2, np.int64), constant("ten", 10.0)]))


def test_functions_of_the_file_are_written_out(tmp_path):
    path = write(tmp_path, [node("Relu")])
    model = onnx.load(path)
    body = [helper.make_node("Mul", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Square", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path.write_bytes(model.SerializeToString())
    assert_parity(path)


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


@pytest.mark.parametrize("sizes", [[1, -1], [1, 324]])
@pytest.mark.parametrize("attributes", [{}, {"allowzero": 1}])  # torch.onnx.export writes the second
def test_a_batch_of_one_becomes_free(tmp_path, sizes, attributes):
    stored = [constant("r", sizes, np.int64)]
    assert_parity(write(tmp_path, [node("Reshape", "r", **attributes)], stored, shape=(1, 4, 9, 9)))


def test_layers_are_named_after_their_nodes(tmp_path):
    module = onnx_to_module(write(tmp_path, [node("Conv", "w", "b")], [W, BIAS]))
    assert [(name, type(layer)) for name, layer in module.named_children()] == [("my_Conv", nn.Conv2d)]
    assert not module.training


def test_the_largest_element(tmp_path):
    nodes = [node("ArgMax", outputs=("i",), axis=1), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    assert_parity(write(tmp_path, nodes))


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
