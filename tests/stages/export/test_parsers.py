"""Whole networks for the devices whose parsers lack their operators: written another way, equal, said, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx.helper
import pytest
import torch
from doubles import ArraySplit, stage_context
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional as F

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context
from compress.formats.onnx.parsers.fit import refused
from compress.formats.onnx.parsers.table import load_parser
from compress.formats.onnx.write import read
from compress.pipeline.plan import Pipeline
from compress.quantization.half import to_half
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.export.to_tensorrt import ToTensorRT
from compress.stages.quantize.fp16 import Fp16
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.quantize_scan import QuantizeScan

SPEC = InputSpec((1, 16, 16), "gray", (0.5,), (0.5,))


class Block(nn.Module):
    """A transformer block over patches, as in a ViT: LayerNorm, attention, LayerNorm, GELU between two Linears."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 32), nn.Linear(32, width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
        x = x + self.join((q @ k.transpose(1, 2) / 4).softmax(-1) @ v)
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x).mean(1))


class Mobile(nn.Module):
    """ReLU6, GroupNorm and a padding with a number: what TensorRT 8.2 misreads in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 8, 3)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(4 * self.first(x))
        x = self.norm(self.second(F.pad(x, (1, 1, 1, 1), value=0.5)))
        return self.head(F.hardtanh(x).mean((2, 3)))


class Decoder(nn.Module):
    def __init__(self, **how: object) -> None:
        super().__init__()
        self.how = how
        self.conv, self.head = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.interpolate(self.conv(x).relu(), size=(16, 16), **self.how)
        return self.head((y * x).mean((2, 3)))


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, 1, dilation=2), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.conv(x)).mean((2, 3)))


class Splits:
    classes = ()

    def __init__(self) -> None:
        images = np.random.default_rng(0).standard_normal((16, *SPEC.shape)).astype(np.float32)
        self.calibration = self.finetune = self.validation = self.evaluation = ArraySplit(images)


def context(name: str, folder) -> Context:
    return stage_context("export", target=name, splits=Splits(), folder=folder)


def source(module: nn.Module) -> Artifact:
    torch.manual_seed(0)
    module.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    return Artifact(Format.TORCH, module.eval(), Precision.FP32, SPEC)


def readable(artifact: Artifact, parser: str) -> list[str]:
    """Operators of a file, all of which `parser` reads."""
    model = read(artifact.path)
    assert refused(model, load_parser(parser)) == []
    return [node.op_type for node in model.graph]


def test_a_transformer_block_on_tensorrt_8_5(tmp_path):
    result = ToOnnx().run(source(Block()), context("jetson_xavier_nx", tmp_path))
    operators = readable(result, "tensorrt_8_5")
    assert "LayerNormalization" not in operators
    assert operators.count("ReduceMean") == 7  # two for each norm, and the mean of the tokens
    assert "3 LayerNormalization as ReduceMean" in result.notes["parser"]
    assert "NVIDIA Jetson Xavier NX" in result.notes["parser"]


def test_a_transformer_block_in_int8_on_tensorrt_8_5(tmp_path):
    where = context("jetson_xavier_nx", tmp_path)
    int8 = PtqStatic().run(source(Block()), where)
    operators = readable(ToOnnx().run(int8, where), "tensorrt_8_5")
    assert "LayerNormalization" not in operators
    assert operators.count("QuantizeLinear") >= 4


def test_half_precision_on_tensorrt_8_2(tmp_path):
    where = context("jetson_nano", tmp_path)
    result = ToOnnx().run(Fp16().run(source(Mobile()), where), where)
    operators = readable(result, "tensorrt_8_2")
    assert "Clip" not in operators
    for what in ("Clip as Relu, Min", "Clip as Max, Min", "Pad as Cast, Pad", "InstanceNormalization as Cast"):
        assert what in result.notes["parser"]
    bounds = [numpy_helper.to_array(tensor) for tensor in onnx.load(result.path).graph.initializer]
    assert any(array.dtype == np.float16 and array.size == 1 and array == 6 for array in bounds)


@pytest.mark.parametrize("corners", [True, False])
def test_bicubic_on_tensorrt_8_2(corners, tmp_path):
    result = ToOnnx().run(source(Decoder(mode="bicubic", align_corners=corners)), context("jetson_nano", tmp_path))
    assert readable(result, "tensorrt_8_2").count("MatMul") == 2
    assert "1 Resize as MatMul" in result.notes["parser"]


def test_what_has_no_other_form_is_refused_with_operator_attribute_board_and_fix(tmp_path):
    with pytest.raises(StageError) as caught:
        ToOnnx().run(source(Dilated()), context("jetson_nano", tmp_path))
    text = str(caught.value)
    assert "NVIDIA Jetson Nano's parser (TensorRT 8.2) does not read MaxPool" in text
    assert "dilations=2, read are 1" in text
    assert "onnx2trt_utils.cpp at release/8.2-GA" in text
    assert text.endswith("fix: replace the layer that makes MaxPool")
    assert not list(tmp_path.glob("*.onnx"))


LATE = {"fp16": Fp16(), "to_onnx": ToOnnx()}


def test_what_has_no_other_form_is_refused_before_any_work():
    target = load_target("jetson_nano", [])
    with pytest.raises(StageError, match=r"TensorRT 8\.2\) does not read MaxPool .*dilations=2"):
        Pipeline.check(target, LATE, Format.TORCH).foresee(source(Dilated()))
    Pipeline.check(target, LATE, Format.TORCH).foresee(source(Decoder(mode="bicubic")))  # written another way
    looks = {"scan": QuantizeScan(), "to_onnx": ToOnnx()}
    Pipeline.check(load_target("raspberry_pi_4", []), looks, Format.TORCH).foresee(source(Dilated()))


def test_an_onnx_file_is_refused_before_any_work_as_what_it_becomes(tmp_path):
    given = ToOnnx().run(source(Dilated()), context("raspberry_pi_4", tmp_path))
    nano = Pipeline.check(load_target("jetson_nano", []), LATE, Format.ONNX)
    assert nano.steps[0].feed == "source"
    with pytest.raises(StageError, match=r"does not read MaxPool .*dilations=2"):
        nano.foresee(given)
    mobile = ToOnnx().run(source(Mobile()), context("raspberry_pi_4", tmp_path))
    nano.foresee(mobile)


def test_a_transformer_block_stays_one_on_tensorrt_10(tmp_path):
    where = context("jetson_orin_nano_jp6", tmp_path)
    int8 = PtqStatic().run(source(Block()), where)
    result = ToOnnx().run(int8, where)
    assert readable(result, "tensorrt_10_3").count("LayerNormalization") == 3
    assert "parser" not in result.notes
    planned = ToTensorRT().run(result, where)
    assert "TensorRT 10.3.0" in planned.path.read_text()


def test_the_same_network_is_written_for_a_device_that_reads_it(tmp_path):
    result = ToOnnx().run(source(Dilated()), context("raspberry_pi_4", tmp_path))
    assert "MaxPool" in readable(result, "onnxruntime_1_31")
    assert "parser" not in result.notes


def quantized_file(path, *, dtype: int, point: int) -> Artifact:
    """What ONNX Runtime's quantizer writes: uint8 or int8 activations, int8 weights per channel, int32 biases."""
    rng = np.random.default_rng(0)
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    constants = {
        "s": np.float32(0.02),
        "z": np.asarray(point, kind),
        "rs": np.float32(0.03),
        "rz": np.asarray(np.iinfo(kind).min, kind),
        "w": rng.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.003, 8).astype(np.float32),
        "wz": np.zeros(8, np.int8),
        "b": rng.integers(-5000, 5000, 8).astype(np.int32),
        "bs": np.full(8, 4e-5, np.float32),
        "bz": np.zeros(8, np.int32),
        "fc": rng.standard_normal((8, 10)).astype(np.float32),
    }
    node = onnx.helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        node("Conv", ["xd", "wd", "bd"], ["c"], strides=[2, 2]),
        node("QuantizeLinear", ["c", "rs", "rz"], ["cq"]),  # the range is the ReLU
        node("DequantizeLinear", ["cq", "rs", "rz"], ["cd"]),
        node("ReduceMean", ["cd"], ["p"], axes=[2, 3], keepdims=0),
        node("MatMul", ["p", "fc"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *SPEC.shape])],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return Artifact(Format.ONNX, path, Precision.INT8, SPEC)


@pytest.mark.parametrize(
    ("dtype", "point"), [(TensorProto.UINT8, 128), (TensorProto.UINT8, 117), (TensorProto.INT8, -5)]
)
def test_a_quantized_file_of_others_is_read_by_tensorrt(dtype, point, tmp_path):
    given = quantized_file(tmp_path / "given.onnx", dtype=dtype, point=point)
    result = ToOnnx().run(given, context("jetson_xavier_nx", tmp_path))  # checks that it computes the same
    assert "Relu" in readable(result, "tensorrt_8_5")
    model = onnx.load(result.path)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {types[node.input[2]] for node in quantizers} == {TensorProto.INT8}
    assert TensorProto.INT32 not in types.values()
    requantized = 1 if point == 128 else 2
    assert f"{requantized} tensors requantized" in result.notes["parser"]


def test_a_quantized_file_of_others_stays_what_it_is_for_onnxruntime(tmp_path):
    given = quantized_file(tmp_path / "given.onnx", dtype=TensorProto.UINT8, point=117)
    result = ToOnnx().run(given, context("raspberry_pi_4", tmp_path))
    assert "parser" not in result.notes
    types = {tensor.data_type for tensor in onnx.load(result.path).graph.initializer}
    assert TensorProto.UINT8 in types


def test_a_quantized_file_is_refused_by_a_device_without_int8(tmp_path):
    given = quantized_file(tmp_path / "given.onnx", dtype=TensorProto.UINT8, point=128)
    with pytest.raises(Refusal, match=r"NVIDIA Jetson Nano cannot run int8 compute: .*fix: give the float32 model"):
        ToOnnx().run(given, context("jetson_nano", tmp_path))
    assert not list(tmp_path.glob("export*"))


def test_an_engine_is_not_planned_from_what_the_parser_does_not_read(tmp_path):
    given = quantized_file(tmp_path / "given.onnx", dtype=TensorProto.UINT8, point=128)
    where = context("jetson_xavier_nx", tmp_path)
    with pytest.raises(StageError, match=r"does not read QuantizeLinear .*128.*fix: let to_onnx write the file first"):
        ToTensorRT().run(given, where)
    assert not list(tmp_path.glob("*.plan.json"))
    planned = ToTensorRT().run(ToOnnx().run(given, where), where)
    assert planned.format is Format.TENSORRT


@pytest.mark.parametrize("stage", [PtqStatic(), Fp16()], ids=["ptq_static", "fp16"])
def test_what_quantizes_refuses_a_quantized_file(stage, tmp_path):
    given = quantized_file(tmp_path / "given.onnx", dtype=TensorProto.UINT8, point=128)
    with pytest.raises(Refusal, match=r"the model is int8 already.*give the float32 model, or leave that stage out"):
        stage.run(given, context("jetson_xavier_nx", tmp_path))


def test_what_quantizes_refuses_half_precision_too(tmp_path):
    half = replace(source(Mobile()), precision=Precision.FP16)
    with pytest.raises(Refusal, match="the model is fp16 already"):
        PtqStatic().run(replace(half, model=to_half(half.module)), context("jetson_xavier_nx", tmp_path))
