"""The drift of exported INT8 files: in steps of the output, against the graph they were made from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from doubles import Log, noise
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.measure.drift import measure_drift, output_scale
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare

SPEC = InputSpec((3, 8, 8))
EVALUATION = noise(40, SPEC.shape, seed=1, name="evaluation")


def quantized(policy, *, reduce_range=True):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    prepared = prepare(float_graph(module, SPEC), Recipe(load_policy(policy), MinMax, reduce_range=reduce_range))
    calibrate(prepared, [torch.randn(32, *SPEC.shape)])
    return Artifact(Format.TORCH, convert(prepared), Precision.INT8, SPEC, history=("ptq",))


def exported(reference, path):
    import onnx_ir as ir

    from compress.formats.onnx.assemble import finish, from_module
    from compress.formats.onnx.opset import Ceiling

    ir.save(finish(from_module(reference.module, SPEC, dynamic_batch=True), 17, Ceiling(None, "")), path)
    return reference.after("to_onnx", path, format=Format.ONNX)


def drift(reference, files, samples=24):
    splits = SimpleNamespace(evaluation=EVALUATION)
    return measure_drift(reference, files, splits, samples, Log())


def test_an_onnx_file_stays_within_a_step_of_its_graph(tmp_path):
    reference = quantized("onnxruntime")
    (found,) = drift(reference, [("to_onnx", exported(reference, tmp_path / "m.onnx"))])
    assert (found.stage, found.reference, found.samples) == ("to_onnx", "ptq", 24)
    assert found.runtime.startswith("onnxruntime")
    assert found.agreement == 1.0
    assert 0 <= found.mean_lsb <= found.max_lsb < 2
    assert found.lsb_from == "logit range"
    logits = reference.module(torch.from_numpy(EVALUATION.images[:24])).detach().numpy()
    assert found.lsb == pytest.approx((max(logits.max(), 0) - min(logits.min(), 0)) / 255, rel=1e-5)


def test_a_processor_that_saturates_is_no_drift_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.measure.drift.int8_exact", lambda artifact, host: False)
    reference = quantized("onnxruntime", reduce_range=False)
    (found,) = drift(reference, [("to_onnx", exported(reference, tmp_path / "m.onnx"))])
    assert found.runtime.endswith(", operator by operator: 8-bit products saturate here")
    assert found.agreement == 1.0
    assert found.max_lsb < 0.1


def test_an_integer_output_counts_in_its_own_scale(tmp_path):
    reference = quantized("litert")
    scale = output_scale(reference)
    assert scale is not None
    (found,) = drift(reference, [("to_onnx", exported(reference, tmp_path / "m.onnx"))])
    assert (found.lsb, found.lsb_from) == (scale, "output scale")
    assert found.max_lsb == pytest.approx(round(found.max_lsb), abs=1e-3)  # whole codes
    assert found.max_lsb <= 1.001


def test_differences_are_counted_exactly():
    """A stand-in file whose logits are off by known amounts."""
    scale = output_scale(quantized("litert"))

    class Off(nn.Module):
        def __init__(self):
            super().__init__()
            self.exact = quantized("litert").module

        def forward(self, x):
            logits = self.exact(x)
            logits[:, 0] += 3 * scale
            return logits

    other = Artifact(Format.TORCH, Off().eval(), Precision.INT8, SPEC, history=("other",))
    (found,) = drift(quantized("litert"), [("other", other)])
    assert found.max_lsb == pytest.approx(3, abs=1e-3)
    assert found.mean_lsb == pytest.approx(3 / 5, abs=1e-3)


def test_a_float_module_has_no_output_scale():
    assert output_scale(Artifact(Format.TORCH, nn.Identity(), Precision.FP32, SPEC)) is None
    assert output_scale(quantized("tensorrt")) is None


def test_no_files_and_few_samples():
    assert drift(quantized("litert"), []) == ()
    same = quantized("litert")
    (found,) = drift(same, [("same", same)], samples=1000)
    assert (found.samples, found.max_lsb, found.agreement) == (40, 0.0, 1.0)
