"""Results on validation samples: of a module, and of the source in whatever format it came."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import ArraySplit
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import DataError
from compress.training.validate import beside_source, validate, validate_source

SPEC = InputSpec((3, 4, 4))


def samples():
    images = np.random.default_rng(0).standard_normal((21, *SPEC.shape), dtype=np.float32)
    return ArraySplit(images, np.arange(21) % 5, "validation")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_the_source_is_run_in_its_own_format(tmp_path, dynamic_batch):
    module, path = network(), tmp_path / "net.onnx"
    shapes = {"x": {0: "batch"}} if dynamic_batch else None
    example = (torch.zeros(1, *SPEC.shape),)
    torch.onnx.export(module, example, path, input_names=["x"], dynamic_axes=shapes, dynamo=False)
    exact = validate(module, samples().batches(8))
    for source in (
        Artifact(Format.TORCH, module, Precision.FP32, SPEC, dynamic_batch=dynamic_batch),
        Artifact(Format.ONNX, path, Precision.FP32, SPEC, dynamic_batch=dynamic_batch),
    ):
        result = validate_source(source, samples().batches(8))
        assert (result.top1, result.samples) == (exact.top1, 21)
        assert result.loss == pytest.approx(exact.loss, rel=1e-5)


def test_without_a_source_or_without_samples():
    assert validate_source(None, samples().batches(8)) is None
    assert beside_source(None) == ""
    with pytest.raises(DataError, match="no sample to validate on"):
        validate_source(Artifact(Format.TORCH, network(), Precision.FP32, SPEC), [])
