"""TorchScript files: any batch, metadata, silence, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.formats import runtimes
from compress.quantization.half import to_half
from compress.stages.export.to_torchscript import METADATA_FILE, ToTorchscript

SPEC = InputSpec((3, 8, 8))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))


class OneImageOnly(Net):
    def forward(self, x):
        assert x.shape[0] >= 1  # a Python value while tracing: the tracer warns
        y = self.conv(x).relu()
        return self.fc(y.reshape(int(x.shape[0]), 4, 36).mean(2))


def artifact(module, precision=Precision.FP32):
    return Artifact(Format.TORCH, module.eval(), precision, SPEC, history=("earlier",))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_file_takes_any_batch_and_says_where_it_is_from(precision, make_context, capfd, recwarn):
    torch.manual_seed(0)
    module = Net().eval()
    source = artifact(to_half(module) if precision is Precision.FP16 else module, precision)
    result = ToTorchscript().run(source, make_context(SPEC.shape, name="script"))
    assert result.path.name == "script.ts.pt"
    assert (result.format, result.precision, result.dynamic_batch) == (Format.TORCHSCRIPT, precision, True)
    images = np.random.default_rng(1).standard_normal((3, *SPEC.shape)).astype(np.float32)
    expected = runtimes.load(source, threads=1)(images)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(runtimes.load(result, threads=1)(images), expected, atol=2e-3)
    extra = {METADATA_FILE: ""}
    torch.jit.load(str(result.path), _extra_files=extra)
    assert json.loads(extra[METADATA_FILE])["history"] == '["earlier", "script"]'
    assert capfd.readouterr() == ("", "")


def test_no_warning_reaches_the_user(make_context, recwarn):
    ToTorchscript().run(artifact(OneImageOnly()), make_context(SPEC.shape))
    assert not [warning for warning in recwarn if "jit" in str(warning.message).lower()]


def test_recorded_batch_size_is_found_out(make_context):
    result = ToTorchscript().run(artifact(OneImageOnly()), make_context(SPEC.shape))
    assert not result.dynamic_batch
    assert runtimes.load(result, threads=1)(np.zeros((3, *SPEC.shape), np.float32)).shape == (3, 5)


def test_int8_is_refused_with_the_reason(make_target):
    with pytest.raises(Refusal, match=r"separate float operators.* fix: ~stage\.script, and export INT8 with to_onnx"):
        ToTorchscript().requires(make_target(), Precision.INT8, "script")


def test_device_without_torchscript_is_refused(make_target):
    with pytest.raises(Refusal, match=r"Test Device cannot run torchscript files: its PyTorch is too old"):
        ToTorchscript().requires(make_target(torchscript=False), Precision.FP32, "script")


def test_untraceable_model_leaves_nothing(make_context):
    class Text(nn.Module):
        def forward(self, x):
            return "no tensor"

    context = make_context(SPEC.shape)
    with pytest.raises(StageError, match=r"^the model cannot be traced to TorchScript: [^\n]+$"):
        ToTorchscript().run(artifact(Text()), context)
    assert not list(context.folder.iterdir())
