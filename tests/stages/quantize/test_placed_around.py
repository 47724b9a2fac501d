"""Every stage that makes static INT8 says which layers stay in float because the runtime's kernel is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import ArraySplit, Log, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.stages.quantize.auto import Auto, Budget
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.qat import Qat

SPEC = InputSpec((1, 8, 8), "gray", (0.5,), (0.5,))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(16, 3)),
    ).eval()


@pytest.mark.parametrize(
    "stage",
    [
        PtqStatic(),
        Auto(rungs=("min_max",), budget=Budget(top1_drop=100), on_miss="keep"),
        Qat(epochs=1, device="cpu", distill=False),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_it_is_a_note_of_the_result(stage, tmp_path):
    images = np.random.default_rng(0).standard_normal((16, *SPEC.shape)).astype(np.float32)
    split = ArraySplit(images, np.arange(16) % 3)
    splits = SimpleNamespace(calibration=split, validation=split, finetune=split, classes=("a", "b", "c"))
    log = Log()
    context = stage_context("int8", splits=splits, folder=tmp_path, log=log)
    made = stage.run(Artifact(Format.TORCH, network(), Precision.FP32, SPEC), context)
    note = made.notes["placed around"]
    assert note.startswith("2 in float: onnxruntime's QLinearAveragePool is wrong with ceil_mode=True")
    assert [line for line in log.lines if "QLinearAveragePool" in line] == [f"int8: {note}"]
