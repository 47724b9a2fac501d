"""Why INT8 is slower than FP32: parts that lose time, their causes, and advice that applies."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx_ir as ir
import pytest
import torch
from doubles import noise
from onnx import TensorProto, helper
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.onnx.assemble import finish, from_module
from compress.formats.onnx.opset import Ceiling
from compress.profile.layer import LayerTime
from compress.profile.readers import onnx as readers
from compress.profile.slower import Slowdown, advice, explain, slow_parts
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare

PI = load_target("raspberry_pi_4", [])
ORIN = load_target("jetson_orin_nano", [])


def times(**microseconds):
    """Layers by name; the operator comes after two underscores."""
    return [
        LayerTime(name.partition("__")[0], name.partition("__")[2], value / 1000, 1, 1)
        for name, value in microseconds.items()
    ]


def graph(*nodes, weights=()):
    """A graph of `(op, name, inputs, attributes)`; each node's output has its name."""
    made = [helper.make_node(op, inputs, [name], name=name, **attributes) for op, name, inputs, attributes in nodes]
    stored = [helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]) for name in weights]
    return helper.make_model(helper.make_graph(made, "g", [], [], stored))


STORED = graph(
    ("DequantizeLinear", "w1", ["first.conv.weight", "s"], {}),
    ("Conv", "node_conv", ["x", "w1"], {}),
    ("Conv", "node_conv_1", ["y", "second.weight"], {}),
    ("Gemm", "node_linear", ["z", "head.weight"], {}),
    weights=("first.conv.weight", "second.weight", "head.weight"),
)
RUN = graph(
    ("QuantizeLinear", "q0", ["x"], {}),
    ("QLinearConv", "node_conv_token_3", ["q0"], {}),
    ("DequantizeLinear", "dq", ["node_conv_token_3"], {}),
    ("HardSigmoid", "sig", ["dq"], {}),
    ("Mul", "mul", ["dq", "sig"], {}),
    ("QuantizeLinear", "q1", ["mul"], {}),
    ("QLinearConv", "node_conv_1_token_5", ["q1"], {"group": 8}),
    ("QLinearGlobalAveragePool", "pool", ["node_conv_1_token_5"], {}),
    ("QGemm", "node_linear", ["pool"], {}),
)
INT8 = times(
    q0__QuantizeLinear=2, node_conv_token_3__QLinearConv=30, dq__DequantizeLinear=15, sig__HardSigmoid=20, mul__Mul=10,
    q1__QuantizeLinear=15, node_conv_1_token_5__QLinearConv=50, pool__QLinearGlobalAveragePool=3, node_linear__QGemm=5,
)  # fmt: skip
FP32 = times(
    node_conv__Conv=40, sig__HardSigmoid=18, mul__Mul=9, node_conv_1__Conv=20, pool__GlobalAveragePool=3,
    node_linear__Gemm=5,
)  # fmt: skip


def test_parts_are_held_against_what_does_the_same_in_fp32():
    stretch, kernel = slow_parts(INT8, FP32, RUN, STORED)
    assert stretch.name == "sig"
    assert stretch.operators == "DequantizeLinear, HardSigmoid, Mul, QuantizeLinear"
    assert (stretch.int8_ms, stretch.fp32_ms) == (pytest.approx(0.06), pytest.approx(0.027))
    assert stretch.cause == (
        "HardSwish, which has no integer kernel (HardSigmoid, Mul), computed in float, with 2 conversions between "
        "float and integers"
    )
    assert stretch.float_layers == ("first.conv", "second")
    assert kernel.name == "second"
    assert kernel.lost_ms == pytest.approx(0.03)
    assert kernel.cause == "depthwise convolution: the integer kernel is slower here than the float one"
    assert kernel.float_layers == ("second",)


def test_a_pad_between_conversions_is_named():
    run = graph(
        ("QLinearConv", "node_conv", ["x"], {}),
        ("DequantizeLinear", "dq", ["node_conv"], {}),
        ("Pad", "pad", ["dq"], {}),
        ("QuantizeLinear", "q", ["pad"], {}),
        ("QLinearConv", "node_conv_1", ["q"], {}),
    )
    int8 = times(node_conv__QLinearConv=5, dq__DequantizeLinear=9, pad__Pad=7, q__QuantizeLinear=9,
                 node_conv_1__QLinearConv=5)  # fmt: skip
    (part,) = slow_parts(int8, times(node_conv__Conv=9, pad__Pad=6, node_conv_1__Conv=9), run, STORED)
    assert part.name == "pad"
    assert part.cause.startswith(
        "Pad (padding that a convolution does itself costs nothing), computed in float, with 2"
    )
    assert part.float_layers == ("first.conv", "second")


def test_nothing_that_is_as_fast_is_named():
    assert slow_parts(INT8, [LayerTime(one.name, one.op, 1.0, 1, 1) for one in FP32], RUN, STORED) == (
        Slowdown(
            "q0", "QuantizeLinear", 0.002, 0.0, "conversions between float, integers and layouts beside first.conv"
        ),
    )


STRETCH = Slowdown("tanh", "Tanh", 2.0, 1.0, "Tanh, computed in float, with 2 conversions", ("a", "b"))


def test_few_layers_are_left_in_float():
    first, *others = advice([STRETCH], 9, "ptq_static", PI)
    assert first == "leave these layers in float: stage.ptq_static.keep_float=[a,b]"
    assert any(".tflite" in line for line in others)
    assert not any(".tflite" in line for line in advice([STRETCH], 9, "ptq_static", ORIN))
    assert not any("keep_float" in line for line in advice([STRETCH], 9, None, PI))  # the user's own integers


@pytest.mark.parametrize(("target", "precision"), [(PI, "fp32"), (ORIN, "fp16")])
def test_where_most_layers_lose_int8_is_not_worth_it(target, precision):
    first = advice([STRETCH], 3, "ptq_static", target)[0]
    assert first.endswith(f"precision={precision}")
    assert "keep_float" not in first


SPEC = InputSpec((3, 64, 64))


class Absolute(nn.Module):
    """Cheap convolutions with an operator between them that has no integer kernel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 1)
        self.layers = nn.ModuleList([nn.Conv2d(16, 16, 1, groups=16) for _ in range(4)])
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(torch.abs(x))
        return self.head(x.mean((2, 3)))


def exported(module, path, precision):
    ir.save(finish(from_module(module, SPEC, dynamic_batch=True), 17, Ceiling(None, "")), path)
    return Artifact(Format.ONNX, path, precision, SPEC)


def quantized(path, *, keep_float=frozenset()):
    recipe = Recipe(load_policy("onnxruntime"), MinMax, keep_float=keep_float)
    prepared = prepare(float_graph(Absolute().eval(), SPEC), recipe)
    calibrate(prepared, [torch.from_numpy(noise(4, SPEC.shape).images)])
    return exported(convert(prepared), path, Precision.INT8)


@pytest.fixture
def equal_times(monkeypatch):
    """Give every operator that ran one millisecond: which is slower on a busy machine is no property of the code."""
    measured = readers.record

    def record(source, settings):
        recording = measured(source, settings)
        return replace(recording, layers=tuple(replace(layer, median_ms=1.0) for layer in recording.layers))

    monkeypatch.setattr(readers, "record", record)


@pytest.mark.usefixtures("equal_times")
def test_a_network_of_operators_without_integer_kernels(tmp_path):
    fp32 = exported(float_graph(Absolute().eval(), SPEC), tmp_path / "fp32.onnx", Precision.FP32)
    int8 = quantized(tmp_path / "int8.onnx")
    found = explain(("int8", int8), ("fp32", fp32), 2.0, quantizer="ptq", threads=1, target=PI)
    stretches = [part for part in found.parts if "Abs, computed in float" in part.cause]
    assert stretches
    assert all(part.int8_ms > part.fp32_ms for part in stretches)
    names = {layer for part in found.parts for layer in part.float_layers}
    assert names & {f"layers.{number}" for number in range(4)}
    assert names <= {"first", "head", *(f"layers.{number}" for number in range(4))}
    # the names are those that the stage takes, and without these layers nothing is converted there any more
    kept = onnx.load(quantized(tmp_path / "kept.onnx", keep_float=frozenset(names)).path)
    before = onnx.load(int8.path)
    conversions = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (kept, before)]
    assert conversions[0] < conversions[1]
