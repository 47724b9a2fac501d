"""Half precision: types, numbers, range, graphs, refusals."""

from __future__ import annotations

import pytest
import torch
from doubles import noise, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.quantization.half import to_half
from compress.stages.quantize.fp16 import Fp16

SPEC = InputSpec((3, 8, 8))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.plain = torch.tensor([2.0])  # neither parameter nor buffer

    def forward(self, x):
        return self.fc(self.bn(self.conv(x) * self.plain).relu().mean((2, 3)))


class Typed(Net):
    """Spells out float32, as captured graphs do for every constant."""

    def forward(self, x):
        y = self.conv(x) + torch.zeros(1, 4, 1, 1) + torch.ones(1, 4, 1, 1, dtype=torch.float32)
        return self.fc(y.mean((2, 3)).to(torch.float32) * torch.tensor(3.0))


class Splits:
    classes = ()

    def __init__(self, shape=SPEC.shape):
        self.calibration = noise(16, shape)


def context(target=None, *, shape=SPEC.shape):
    return stage_context("fp16", target=target, splits=Splits(shape))


def artifact(module):
    return Artifact(Format.TORCH, module, Precision.FP32, SPEC, history=("earlier",))


def graph_of(module):
    torch.manual_seed(0)
    example = torch.zeros(2, *SPEC.shape)
    dynamic = ({0: torch.export.Dim("batch")},)
    return torch.export.export(module.eval(), (example,), dynamic_shapes=dynamic).module()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net().eval(),
        lambda: torch.fx.symbolic_trace(Net().eval()),
        lambda: graph_of(Net()),
        lambda: graph_of(Typed()),
    ],
)
def test_weights_are_half_and_outputs_float(make):
    module = make()
    images = torch.randn(3, *SPEC.shape)
    expected = module(images)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = Fp16().run(artifact(module), context())
    half = result.module
    assert (result.precision, result.format, result.history) == (Precision.FP16, Format.TORCH, ("earlier", "fp16"))
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert half(images).dtype is torch.float32
    torch.testing.assert_close(half(images), expected, atol=1e-2, rtol=1e-2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())  # input untouched
    torch.export.export(half, (images,), strict=False)


def test_onnx_source(tmp_path):
    path = tmp_path / "net.onnx"
    module = Net().eval()
    torch.onnx.export(module, (torch.zeros(1, *SPEC.shape),), path, verbose=False)
    result = Fp16().run(Artifact(Format.ONNX, path, Precision.FP32, SPEC), context())
    assert result.format is Format.TORCH
    images = torch.randn(1, *SPEC.shape)
    torch.testing.assert_close(result.module(images), module(images), atol=1e-2, rtol=1e-2)


def test_zeros_stay_zero():
    module = Net().eval()
    with torch.no_grad():
        module.fc.weight[::2] = 0
    half = to_half(module)
    assert int((dict(half.named_parameters())["inner.fc.weight"] == 0).sum()) >= 3 * 4


@pytest.mark.parametrize("value", [7e4, float("nan")])
def test_weight_beyond_float16_is_named(value):
    module = Net().eval()
    module.bn.running_var[2] = value
    with pytest.raises(
        StageError, match=r"'bn\.running_var' holds .*, float16 ends at 65504 \| fix: run fold_batchnorm"
    ):
        Fp16().run(artifact(module), context())


def test_largest_float16_is_allowed():
    module = Net().eval()
    module.bn.running_var[2] = 65504.0
    Fp16().run(artifact(module), context())


def test_forward_with_fixed_types_runs():
    """Captured, its types are rewritten."""
    module = Typed().eval()
    result = Fp16().run(artifact(module), context())
    images = torch.randn(2, *SPEC.shape)
    torch.testing.assert_close(result.module(images), module(images), atol=1e-2, rtol=1e-2)


class Untraceable(Typed):
    """What torch.export cannot follow, and with a fixed type on top."""

    def forward(self, x):
        return super().forward(x if float(x.mean()) > -1e6 else -x)


def test_what_cannot_be_traced_and_has_fixed_types_is_explained():
    with pytest.raises(StageError, match=r"^the model does not run in float16: [^\n]+ \| fix: make forward follow"):
        Fp16().run(artifact(Untraceable().eval()), context())


class Anything:
    def require_precision(self, precision, *, stage):
        if precision is not Precision.FP16:
            raise AssertionError(precision)


def test_int8_is_refused():
    with pytest.raises(Refusal, match=r"stage 'half': the model is INT8 already"):
        Fp16().requires(Anything(), Precision.INT8, "half")
    Fp16().requires(Anything(), Precision.FP32, "half")
    assert Fp16().precision_from(Precision.FP32) is Precision.FP16
