"""A context with sixteen random images, and targets made for the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doubles import ArraySplit, stage_context

from compress.core.artifact import Format, Precision
from compress.core.stage import Context
from compress.core.target import Fact, Support, Target

SOURCE = "made for this test"


class OneSplit:
    classes = ()

    def __init__(self, split):
        self.calibration = self.finetune = self.validation = self.evaluation = split


@pytest.fixture
def make_target():
    def make(opset: int | None = 17, torchscript: bool = True) -> Target:
        yes, fact = Support(value=True, source=SOURCE), {"source": SOURCE}
        return Target(
            name="device",
            title="Test Device",
            compute=Fact[str](value="cpu", **fact),
            runtime=Fact[str](value="runtime", **fact),
            python=Fact[str](value="3.6", **fact),
            architecture="aarch64",
            isa_flags=Fact[tuple[str, ...]](value=(), **fact),
            memory_bytes=Fact[int](value=1, **fact),
            bandwidth_bytes_per_s=Fact[float](value=1.0, **fact),
            peak_flops={},
            precisions=dict.fromkeys(Precision, yes),
            formats={
                Format.ONNX: yes,
                Format.TORCHSCRIPT: Support(value=torchscript, source=SOURCE, reason="its PyTorch is too old"),
            },
            onnx_opset_max=None if opset is None else Fact[int](value=opset, **fact),
        )

    return make


@pytest.fixture
def make_context(tmp_path, make_target):
    def make(shape=(3, 32, 32), *, opset: int | None = 17, name: str = "export", folder: Path = tmp_path) -> Context:
        images = np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32)
        splits = OneSplit(ArraySplit(images))
        return stage_context(name, target=make_target(opset), splits=splits, folder=folder)

    return make
