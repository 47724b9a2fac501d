"""The sensitivity scan changes nothing and leaves its report beside the stage's files."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from doubles import Log, noise, stage_context
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal
from compress.formats.parity import distance
from compress.stages.quantize.quantize_scan import QuantizeScan

SPEC = InputSpec((3, 8, 8))


def test_every_layer_is_in_the_report_and_the_model_is_handed_on(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)).eval()
    with torch.no_grad():
        module[2].weight[0, 0, 0, 0] = 40  # one weight that makes its channel's steps coarse
    log = Log()
    context = stage_context("scan", calibration=noise(20, SPEC.shape), folder=tmp_path, log=log)
    before = Artifact(Format.TORCH, module, Precision.FP32, SPEC)
    after = QuantizeScan().run(before, context)
    assert after.module is module
    assert after.precision is Precision.FP32
    rows = (tmp_path / "report.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "2", "4"]
    sqnr = {row.split(",")[0]: float(row.split(",")[1]) for row in rows[1:]}
    assert 10 < min(sqnr.values()) < max(sqnr.values()) < 80
    assert log.lines[1].split()[1] == min(sqnr, key=sqnr.get)  # the most sensitive one leads the table


def test_what_came_in_is_compared_with_the_source(tmp_path):
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5)).eval()
    pruned = copy.deepcopy(source)
    with torch.no_grad():
        pruned[2].weight[:, ::3] = 0
    before, given = (Artifact(Format.TORCH, module, Precision.FP32, SPEC) for module in (source, pruned))
    log, splits = Log(), SimpleNamespace(calibration=noise(20, SPEC.shape))
    QuantizeScan().run(given, stage_context("scan", splits=splits, folder=tmp_path, log=log, source=before))
    fidelity = distance(before, given, splits.calibration, 20)
    assert fidelity.sqnr_db < 10
    assert log.lines[0] == (
        f"scan: compared with what came in, whose SQNR against the source is {fidelity.sqnr_db:.1f} dB on 20 images"
    )


def test_refused_where_there_is_no_int8():
    with pytest.raises(Refusal, match="sm_53"):
        QuantizeScan().requires(load_target("jetson_nano", []), Precision.FP32, "scan")
