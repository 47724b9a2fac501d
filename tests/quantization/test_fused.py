"""The proof of the ONNX Runtime policy: its own optimized graph. What stays in float is counted and argued."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from doubles import SATURATES, not_here
from onnx import TensorProto, helper, save
from torch import nn

from compress.core.artifact import InputSpec
from compress.quantization.fused import count_fused

SPEC = InputSpec((3, 64, 64))


def run(path, images):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize(
    ("name", "convolutions", "in_float"),
    [
        ("resnet18", 20, {}),
        ("mobilenet_v2", 52, {}),
        # ONNX Runtime has no integer HardSwish; it splits the 19 of them into HardSigmoid and Mul. The other nine
        # HardSigmoids are the gates of the squeeze-and-excitation blocks, whose product is a QLinearMul.
        ("mobilenet_v3_small", 52, {"HardSigmoid": 28, "Mul": 19}),
        # its 49 SiLUs are 49 QLinearSigmoid and 49 QLinearMul
        pytest.param("efficientnet_b0", 81, {}, marks=pytest.mark.slow),
        # channel shuffles are integer transposes, concatenations and splits
        pytest.param("shufflenet_v2_x0_5", 56, {}, marks=pytest.mark.slow),
    ],
)
def test_every_convolution_is_fused(kit, name, convolutions, in_float):
    torch.manual_seed(0)
    module = kit.lively(getattr(torchvision.models, name)(num_classes=10))
    data = torch.randn(16, *SPEC.shape)
    graph = kit.quantize(module, data, SPEC, kit.recipe(reduce_range=SATURATES))
    path = kit.export(graph, SPEC)
    fused = count_fused(path)
    assert fused.integer["QLinearConv"] == convolutions
    assert fused.float == in_float
    assert fused.integer["QGemm"] == sum(isinstance(part, nn.Linear) for part in module.modules())
    assert kit.sqnr(graph(data), run(path, data)) > 35  # the same numbers in both, to a rounding here and there


def test_a_vision_transformer_keeps_its_linear_layers_in_integers(kit):
    """Integer: the patch convolution and every Linear (2 x 4 and the head). Float: LayerNorm, GELU and softmax, which
    have no integer kernels in ONNX Runtime, and the two products of each attention, which is one operator with softmax.
    """
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    torch.manual_seed(0)
    nn.init.normal_(vit.heads.head.weight)
    data = torch.randn(16, 3, 32, 32)
    spec = InputSpec((3, 32, 32))
    graph = kit.quantize(vit.eval(), data, spec, kit.recipe(reduce_range=SATURATES))
    path = kit.export(graph, spec)
    fused = count_fused(path)
    assert fused.integer["QLinearConv"] == 1
    assert fused.integer["MatMulIntegerToFloat"] + fused.integer["QGemm"] == 9
    assert not {"Conv", "Gemm"} & set(fused.float)
    assert fused.float["MatMul"] + fused.float["FusedMatMul"] == 4
    assert (fused.float["LayerNormalization"], fused.float["Erf"], fused.float["Softmax"]) == (5, 2, 2)
    assert kit.sqnr(graph(data), run(path, data)) > 30


@pytest.mark.parametrize(("top", "layer"), [(6.0, nn.ReLU6()), (np.inf, nn.ReLU())])
def test_a_saturated_clip_vanishes_into_the_range(kit, top, layer):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        module[0].weight.mul_(40)
    data = torch.randn(16, *kit.spec.shape)
    path = kit.export(kit.quantize(module, data, kit.spec, kit.recipe(reduce_range=SATURATES)), kit.spec)
    fused = count_fused(path)
    assert (fused.integer, fused.float) == (Counter(QLinearConv=2), Counter())
    assert fused.conversions == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert run(path, data).abs().max() < (np.inf if top == np.inf else 6 * module[2].weight.abs().sum())


def test_a_float_model_is_counted_as_float(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3, 1, 1), np.ones(6))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 4, 4))],
        [weight],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    assert count_fused(tmp_path / "f.onnx").float == {"Conv": 1}


def images(folder, number=None):
    from PIL import Image

    files = sorted(folder.rglob("*.png"))
    files = random.Random(0).sample(files, number) if number else files
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in files]) / 255
    normal = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    classes = sorted({file.parent.name for file in files})
    return torch.from_numpy(normal.transpose(0, 3, 1, 2).copy()), torch.tensor(
        [classes.index(file.parent.name) for file in files]
    )


def resnet20(shared_data):
    spec = importlib.util.spec_from_file_location("nets", shared_data / "nets.py")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    state = torch.load(shared_data / "weights/resnet20-12fca82f.th", weights_only=True, map_location="cpu")[
        "state_dict"
    ]
    module = nets.resnet20()
    module.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return module.eval()


@not_here
@pytest.mark.real_data
def test_resnet20_on_real_images(kit, shared_data):
    module = resnet20(shared_data)
    calibration, _ = images(shared_data / "images/cifar10_train4000", 128)
    test, labels = images(shared_data / "images/cifar10_test500")
    spec = InputSpec((3, 32, 32))
    path = kit.export(kit.quantize(module, calibration, spec, kit.recipe(observer="histogram")), spec)
    with torch.no_grad():
        reference = module(test)
    logits = run(path, test)
    right = [int((x.argmax(1) == labels).sum()) for x in (reference, logits)]
    assert abs(right[0] - right[1]) <= 0.006 * len(labels)  # whole images: a share in float32 is off by its rounding
    assert (reference.argmax(1) == logits.argmax(1)).float().mean() >= 0.985
    assert kit.sqnr(reference, logits) >= 30
    assert path.stat().st_size <= 0.32 * 4 * sum(p.numel() for p in module.parameters())
    fused = count_fused(path)
    assert (fused.integer["QLinearConv"], fused.integer["QLinearAdd"], fused.integer["QGemm"]) == (19, 9, 1)
    # the two parameter-free shortcuts pad channels, and ONNX Runtime does not fuse Q/DQ around Pad on CPU
    assert fused.float == {"Pad": 2}


class SamePadded(nn.Module):
    """Two convolutions as TensorFlow pads them in front of a stride of 2: more below and on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(F.pad(x, (0, 1, 0, 1))))
        x = torch.relu(self.second(F.pad(x, (0, 1, 0, 1))))
        return self.head(x.mean((2, 3)))


def test_asymmetric_padding_is_a_part_of_the_integer_convolution(kit):
    module = kit.lively(SamePadded())
    torch.manual_seed(0)
    data = torch.randn(16, *kit.spec.shape)
    graph = kit.quantize(module, data, kit.spec, kit.recipe(reduce_range=SATURATES))
    path = kit.export(graph, kit.spec)
    fused = count_fused(path)
    assert fused.integer["QLinearConv"] == 2
    assert "Pad" not in fused.float
    assert kit.sqnr(graph(data), run(path, data)) > 35
