"""Exported ONNX files: structure, opset, metadata, size, numbers, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenetv3 import InvertedResidualConfig as V3
from torchvision.models.resnet import BasicBlock

import compress
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ParityError, Refusal, StageError
from compress.stages.export.to_onnx import ToOnnx
from compress.verify.hold import hold

SPEC = InputSpec((3, 32, 32))


def lively(module: nn.Module) -> nn.Module:
    """Random statistics and heads: fresh torchvision networks have logits near zero, equal whatever the export does."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        if isinstance(part, nn.Linear | nn.Conv2d):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, 0, (2 / fan_in) ** 0.5)
            if part.bias is not None:
                nn.init.normal_(part.bias, 0, 0.1)
    return module.eval()


def small_resnet():
    return torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


def small_mobilenet_v3():
    settings = [V3(16, 3, 16, 16, True, "RE", 2, 1, 1), V3(16, 5, 64, 24, True, "HS", 1, 1, 1)]
    return torchvision.models.MobileNetV3(settings, last_channel=64, num_classes=10)


def small_shufflenet():
    return torchvision.models.ShuffleNetV2([1, 2, 1], [24, 24, 48, 96, 128], num_classes=10)


def small_vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )


NETS = [small_mobilenet_v3, small_shufflenet, small_vit]
FULL_NETS = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0"]


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


def artifact(module: nn.Module, precision=Precision.FP32, spec=SPEC) -> Artifact:
    return Artifact(Format.TORCH, module, precision, spec, history=("earlier",))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weights_bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())


def check_file(model: onnx.ModelProto, opset: int) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == 8
    assert not model.functions
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert not model.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert onnx.TensorProto.DOUBLE not in {tensor.data_type for tensor in model.graph.initializer}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


@pytest.mark.parametrize("factory", NETS, ids=lambda factory: factory.__name__)
def test_every_network_lands_in_the_parsers_opset(factory, make_context):
    module = lively(factory())
    stage = ToOnnx(dynamic_batch=True)  # one capture per network; static files are covered below
    result = stage.run(artifact(module), make_context(opset=13))
    model = onnx.load(result.path)
    check_file(model, 13)
    assert not {"LayerNormalization", "HardSwish", "Gelu", "BatchNormalization", "CastLike"} & set(operators(model))
    assert result.path.stat().st_size <= 1.05 * weights_bytes(module) + 20_000  # tiny networks: nodes weigh something


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_NETS)
@pytest.mark.parametrize("opset", [13, 17])
def test_torchvision_networks(name, opset, make_context):
    module = lively(torchvision.models.get_model(name, weights=None))
    result = ToOnnx().run(artifact(module), make_context(opset=opset))
    check_file(onnx.load(result.path), opset)
    assert result.path.stat().st_size <= 1.05 * weights_bytes(module)


def test_static_file_at_17_with_metadata(make_context):
    context = make_context(opset=17)
    result = ToOnnx().run(artifact(lively(small_vit())), context)
    model = onnx.load(result.path)
    check_file(model, 17)
    assert operators(model)["LayerNormalization"] == 5  # kept where the parser has it
    assert operators(model)["Shape"] == 0
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 32]
    assert (result.format, result.precision) == (Format.ONNX, Precision.FP32)
    assert (result.dynamic_batch, result.history) == (False, ("earlier", "export"))
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "producer": f"edge-compress {compress.__version__}",
        "precision": "fp32",
        "layout": "NCHW",
        "input_shape": "[3, 32, 32]",
        "channel_order": "rgb",
        "mean": json.dumps(list(SPEC.mean)),
        "std": json.dumps(list(SPEC.std)),
        "history": '["earlier", "export"]',
    }
    assert (model.producer_name, model.producer_version) == ("edge-compress", compress.__version__)


def test_dynamic_batch_is_a_named_dimension(make_context):
    result = ToOnnx(dynamic_batch=True).run(artifact(Tiny().eval()), make_context())
    model = onnx.load(result.path)
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert result.dynamic_batch


def test_pruned_zeros_survive(make_context):
    module = Tiny().eval()
    with torch.no_grad():
        module.fc.weight[:, ::2] = 0
        module.conv.weight[:4] = 0
    weights = initializers(onnx.load(ToOnnx().run(artifact(module), make_context()).path))
    zeros = sum(int((array == 0).sum()) for array in weights.values() if array.ndim > 1)
    assert zeros >= 4 * 27 + 20


def test_equal_initializers_are_stored_once(make_context):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 64, 3), nn.Conv2d(3, 64, 3)
            self.b.load_state_dict(self.a.state_dict())

        def forward(self, x):
            return (self.a(x) + self.b(x * 2)).mean((2, 3))

    weights = initializers(onnx.load(ToOnnx().run(artifact(Twice().eval()), make_context()).path))
    assert sum(array.shape == (64, 3, 3, 3) for array in weights.values()) == 1


def test_int8_keeps_eight_bits_and_fuses(make_context, quantized_resnet):
    import onnxruntime

    module, converted = quantized_resnet
    context = make_context(opset=13)
    result = ToOnnx().run(artifact(converted, Precision.INT8), context)
    model = onnx.load(result.path)
    check_file(model, 13)
    count = operators(model)
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor.default
    assert count["QuantizeLinear"] == sum(node.target is quantize for node in converted.graph.nodes)
    int8 = [array for array in initializers(model).values() if array.dtype == np.int8 and array.ndim > 1]
    assert sum(array.size for array in int8) == sum(p.numel() for p in module.parameters() if p.ndim > 1)
    assert result.path.stat().st_size <= 0.3 * weights_bytes(module)
    stored = initializers(model)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:  # per channel, along the outputs
            assert stored[node.input[1]].shape == stored[node.input[0]].shape[:1]
            assert [attribute.i for attribute in node.attribute if attribute.name == "axis"] == [0]

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(context.folder / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(result.path), options, providers=["CPUExecutionProvider"])
    fused = operators(onnx.load(options.optimized_model_filepath))
    assert (fused["QLinearConv"], fused["Conv"]) == (count["Conv"], 0)


@pytest.fixture(scope="module")
def quantized_resnet():
    """A small ResNet and its PT2E conversion: unsigned 8-bit activations, per-channel signed weights."""
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    aten = torch.ops.aten
    activation = QuantizationSpec(
        torch.uint8, MinMaxObserver.with_args(eps=2**-12), 0, 255, qscheme=torch.per_tensor_affine
    )
    per_channel = PerChannelMinMaxObserver.with_args(eps=2**-12)
    weight = QuantizationSpec(torch.int8, per_channel, -127, 127, qscheme=torch.per_channel_symmetric, ch_axis=0)
    layers = (aten.conv2d.default, aten.linear.default)
    followers = (aten.batch_norm.default, aten.relu.default, aten.relu_.default)

    class Everything(Quantizer):
        def annotate(self, model):
            for node in model.graph.nodes:
                if node.target not in (*layers, aten.add_.Tensor, aten.max_pool2d.default):
                    continue
                inputs = {source: activation for source in node.args[:2] if isinstance(source, torch.fx.Node)}
                if node.target in layers:
                    inputs[node.args[1]] = weight
                last = node
                while len(last.users) == 1 and next(iter(last.users)).target in followers:
                    last = next(iter(last.users))
                node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, _annotated=True)
                last.meta.setdefault("quantization_annotation", QuantizationAnnotation(_annotated=True))
                last.meta["quantization_annotation"].output_qspec = activation
            return model

        def validate(self, model):
            pass

    module = lively(small_resnet())
    images = torch.randn(8, 3, 32, 32)
    graph = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    prepared = prepare_pt2e(graph, Everything())
    with torch.no_grad():
        prepared(images)
    return module, convert_pt2e(prepared)


def test_onnx_source_gets_batch_opset_and_metadata(make_context):
    context = make_context(opset=17)
    first = ToOnnx(dynamic_batch=True).run(artifact(lively(small_mobilenet_v3())), context)
    model = onnx.load(first.path)
    model.graph.input[0].name = "pixels"
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "input" else name for name in node.input]
    del model.metadata_props[:]
    foreign = context.folder / "foreign.onnx"
    onnx.save(model, foreign)

    source = Artifact(Format.ONNX, foreign, Precision.FP32, SPEC, dynamic_batch=True)
    result = ToOnnx(opset=13).run(source, make_context(opset=17, name="again"))
    lowered = onnx.load(result.path)
    check_file(lowered, 13)
    assert operators(lowered)["HardSwish"] == 0
    assert lowered.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert len(lowered.metadata_props) == 8


def test_onnx_source_with_fixed_batch_cannot_become_free(make_context):
    first = ToOnnx().run(artifact(Tiny().eval()), make_context())
    with pytest.raises(StageError, match=r"batch size is fixed at 1 \| fix: dynamic_batch=false"):
        ToOnnx(dynamic_batch=True).run(first, make_context(name="again"))


def test_onnx_source_of_another_shape(make_context):
    first = ToOnnx().run(artifact(Tiny().eval()), make_context())
    wrong = Artifact(Format.ONNX, first.path, Precision.FP32, InputSpec((3, 64, 64)))
    with pytest.raises(StageError, match=r"input has shape \[1,3,32,32\], the configuration says"):
        ToOnnx().run(wrong, make_context((3, 64, 64), name="again"))


def test_not_an_onnx_file(make_context, tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x00 not protobuf \xff" * 9)
    with pytest.raises(StageError, match=r"noise\.onnx is not a readable ONNX file"):
        ToOnnx().run(Artifact(Format.ONNX, path, Precision.FP32, SPEC), make_context())


def test_opset_above_the_parser_is_refused(make_target):
    with pytest.raises(Refusal, match=r"opset 17 is above 13, the newest that Test Device reads .*stage\.x\.opset=13"):
        ToOnnx(opset=17).requires(make_target(opset=13), Precision.FP32, "x")
    ToOnnx(opset=13).requires(make_target(opset=13), Precision.FP32, "x")
    ToOnnx(opset=20).requires(make_target(opset=None), Precision.FP32, "x")


def test_operator_without_older_form_is_named(make_context):
    class Warp(nn.Module):
        def forward(self, x):
            grid = F.affine_grid(torch.eye(2, 3)[None].expand(x.shape[0], 2, 3), x.shape, align_corners=False)
            return F.grid_sample(x, grid, align_corners=False).mean((2, 3))

    context = make_context(opset=13)
    with pytest.raises(
        StageError, match=r"op GridSample \(node .*\) needs opset 16: .*Test Device's parser stops at 13"
    ):
        ToOnnx().run(artifact(Warp().eval()), context)
    assert not list(context.folder.iterdir())
    assert onnx.load(ToOnnx().run(artifact(Warp().eval()), make_context(opset=17)).path)


def test_operator_without_onnx_form_is_named(make_context):
    class Singular(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x).flatten(1)

    with pytest.raises(
        StageError, match=r"ONNX has no form for the operator aten\._linalg_svd \| fix: replace the layer"
    ):
        ToOnnx().run(artifact(Singular()), make_context())


def test_untraceable_model_is_one_line(make_context, capfd):
    class Branch(nn.Module):
        def forward(self, x):
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(StageError, match=r"cannot capture the model: Could not guard on data-dependent") as caught:
        ToOnnx().run(artifact(Branch()), make_context())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_computes_something_else_is_never_left(make_context):
    class Restless(nn.Module):
        """Captured with one sign, run with the other."""

        def forward(self, x):
            sign = 1.0 if torch.compiler.is_compiling() else -1.0
            return sign * x.mean((2, 3))

    context, stage, source = make_context(), ToOnnx(), artifact(Restless())
    made = stage.run(source, context)
    with pytest.raises(ParityError, match=r"the onnx file does not compute what its source does on 16 samples"):
        hold(stage, source, made, context, exact_int8=False)
    assert not list(context.folder.iterdir())
