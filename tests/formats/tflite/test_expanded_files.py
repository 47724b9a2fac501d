"""Layers without an integer kernel, all the way: quantized for the Edge TPU, converted, mapped, and run by LiteRT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import ArraySplit, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.formats import runtimes
from compress.formats.edgetpu.preflight import preflight
from compress.formats.tflite.network import read_network
from compress.stages.export.to_tflite import ToTflite
from compress.stages.quantize.ptq_static import PtqStatic

pytest.importorskip("litert_torch", reason="needs the extra tflite")
pytestmark = pytest.mark.slow  # a conversion each

SPEC = InputSpec((3, 16, 16))
PICTURES = np.random.default_rng(0).standard_normal((16, *SPEC.shape)).astype(np.float32)


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def body(*layers, groups=1):
    torch.manual_seed(0)
    head = (nn.Conv2d(8, 8, 3, 1, 1, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *layers, *head).eval()


def exported(module, folder, *, target="coral", placement=None):
    """The INT8 reference and the file."""

    class Splits:
        classes = ()
        calibration = finetune = validation = evaluation = ArraySplit(PICTURES)

    context = stage_context(target=target, splits=Splits(), folder=folder)
    source = Artifact(Format.TORCH, module, Precision.FP32, SPEC, history=("source",))
    reference = PtqStatic(placement=placement, observer="min_max").run(source, context)
    return source, reference, ToTflite().run(reference, context)


def check_file(source, reference, file):
    """Like its reference to the step of a pixel of the first layer and the network behind it; close to FP32."""
    network = read_network(file.path)
    assert not any(tensor.is_float for tensor in network.tensors)
    given, wanted, exact = (runtimes.load(each, threads=1)(PICTURES) for each in (file, reference, source))
    assert np.abs(given - wanted).mean() <= network.outputs[0].quantization.scale[0]
    assert 10 * np.log10(np.square(exact).sum() / np.square(exact - given).sum()) > 25
    return network


LAYERS = {
    "prelu": (nn.PReLU(8), {"PRELU"}),
    "leaky_relu": (nn.LeakyReLU(0.1), {"PRELU"}),
    "elu": (nn.ELU(), {"TANH", "RSQRT"}),
    "selu": (nn.SELU(), {"TANH", "RSQRT"}),
    "mish": (nn.Mish(), {"LOGISTIC", "RSQRT"}),
    "gelu": (nn.GELU(approximate="tanh"), {"LOGISTIC"}),
    "cube": (Call(lambda x: x**3), {"MUL"}),
    "norm": (nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(8, affine=False)), {"DEPTHWISE_CONV_2D"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_operator_is_mapped(name, tmp_path):
    layer, kinds = LAYERS[name]
    network = check_file(*exported(body(layer), tmp_path))
    assert preflight(network).unmapped == ()
    assert kinds <= {operator.kind for operator in network.operators}


def test_a_grouped_convolution_is_mapped(tmp_path):
    network = check_file(*exported(body(nn.ReLU(), groups=2), tmp_path))
    assert preflight(network).unmapped == ()
    assert sum(operator.kind == "CONV_2D" for operator in network.operators) == 3


def test_log_softmax_has_the_kernels_own_scale(tmp_path):
    network = check_file(*exported(body(nn.ReLU()).append(nn.LogSoftmax(1)), tmp_path))
    (operator,) = [operator for operator in network.operators if operator.kind == "LOG_SOFTMAX"]
    assert operator.outputs[0].quantization.scale == (16 / 256,)
    assert operator.outputs[0].quantization.zero_point == (127,)


@pytest.mark.parametrize(("layer", "kind"), [(nn.ELU(), "ELU"), (nn.PReLU(), "PRELU"), (nn.Softplus(), "LOG")], ids=str)
def test_litert_on_a_processor_has_tables(layer, kind, tmp_path):
    network = check_file(*exported(body(layer), tmp_path, target="raspberry_pi_4", placement="litert"))
    assert kind in {operator.kind for operator in network.operators}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.Softplus(),
            r"no integer kernel for 'softplus' in layer '1' \(Softplus\) \| fix: layer '1' \(Softplus\): nn\.M",
        ),
        (nn.GELU(), r"runtime has no GELU, which stands for 'gelu' in layer '1' \(GELU\) \| fix: .*approximate='tanh'"),
        (Call(lambda x: x.sort(2)[0]), r"no kernel for 'sort' in layer '1' \(Call\) \| fix: .*on the host"),
    ],
    ids=["softplus", "gelu", "sort"],
)
def test_what_has_no_form_is_refused_by_name(layer, message, tmp_path):
    with pytest.raises(StageError, match=message) as error:
        exported(body(layer), tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.tflite"))
