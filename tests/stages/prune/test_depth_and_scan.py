"""Depth pruning and the sensitivity scan as stages."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from doubles import GRAY, stage_context
from pydantic import ValidationError

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.data import DigitsData, load_splits
from compress.formats import runtimes
from compress.formats.torch.macs import torch_macs
from compress.models.digits import DigitsNet
from compress.models.persist import load_module, save_module
from compress.report.html.scans import read_scans
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.depth import Depth
from compress.stages.prune.magnitude import Magnitude
from compress.stages.prune.prune_scan import PruneScan
from compress.stages.recover.finetune import Finetune
from compress.training.validate import validate


@pytest.fixture(scope="module")
def splits():
    return load_splits(DigitsData(finetune=480, validation=128), GRAY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, splits):
    torch.manual_seed(0)
    source = Artifact(Format.TORCH, DigitsNet().eval(), Precision.FP32, GRAY)
    context = stage_context("t", splits=splits, folder=tmp_path_factory.mktemp("t"))
    return Finetune(epochs=3, learning_rate=0.05, device="cpu").run(source, context)


@pytest.fixture
def context(tmp_path, splits):
    return stage_context(splits=splits, folder=tmp_path)


def macs(given):
    return torch_macs(runtimes.load(given, threads=1), np.zeros((1, 1, 8, 8), np.float32))


def test_a_branch_goes_and_the_rest_exports_and_is_kept(trained, context, tmp_path):
    import onnx

    short = Depth(keep=0.9).run(trained, context)
    assert context.progress.lines[0].startswith("stage: ")
    assert "dropped 1 of 1 residual branches: blocks.0" in context.progress.lines[0]
    exported = ToOnnx().run(FoldBatchnorm().run(short, context), context)
    convolutions = [sum(node.op_type == "Conv" for node in onnx.load(exported.path).graph.node)]
    convolutions.append(sum(isinstance(m, torch.nn.Conv2d) for m in trained.module.modules()))
    assert convolutions[1] - convolutions[0] == 2
    assert macs(short) <= 0.9 * macs(trained)
    name = save_module(short.module, GRAY, tmp_path, source=trained.module)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_module(tmp_path / str(name), source=trained.module)(images), short.module(images))


def test_depth_that_cannot_be_reached(trained, context):
    with pytest.raises(StageError, match=r"20% of the MACs cannot be reached: \d\d% stay when every residual branch"):
        Depth(keep=0.2).run(trained, context)
    with pytest.raises(StageError, match="matches no prunable layer"):
        Depth(exclude=("block.0",)).run(trained, context)
    with pytest.raises(StageError, match="cannot be reached: 100% stay"):
        Depth(exclude=("blocks.0",)).run(trained, context)
    with pytest.raises(Refusal, match="already fp16"):
        Depth().requires(context.target, Precision.FP16, "depth")


@pytest.mark.parametrize("of", ["weights", "channels"])
def test_the_scan_reports_and_changes_nothing(trained, context, of):
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    scanned = PruneScan(of=of, ratios=(0.2, 0.9), samples=64).run(trained, context)
    assert scanned.module is trained.module
    assert all(torch.equal(value, before[name]) for name, value in scanned.module.state_dict().items())
    rows = [line.split(",") for line in (context.folder / "report.csv").read_text().splitlines()[1:]]
    by_share = {share: [float(r[3]) for r in rows if r[2] == share] for share in ("0", "0.2", "0.9")}
    assert len(set(by_share["0"])) == 1
    assert np.mean(by_share["0.9"]) < np.mean(by_share["0.2"]) <= by_share["0"][0] + 0.02
    assert len(context.progress.lines) == 2 + len(by_share["0"])


def test_the_scan_compares_with_the_source_not_with_what_came_in(trained, context):
    lossy = Magnitude(amount=0.85).run(trained, context)
    batches = list(context.splits.validation.batches(64))
    source, came_in = (validate(copy.deepcopy(one.module), batches) for one in (trained, lossy))
    assert came_in.top1 < source.top1 - 0.02
    samples = source.samples
    PruneScan(ratios=(0.01,), samples=samples).run(lossy, replace(context, source=trained))
    said = f"stage: changes of top-1 against the source's {source.top1:.2%} on {samples} images; what came in is at "
    assert f"{said}{100 * (came_in.top1 - source.top1):+.1f}" in context.progress.lines
    rows = [line.split(",") for line in (context.folder / "report.csv").read_text().splitlines()[1:]]
    assert {float(row[3]) for row in rows if row[2] == "0"} == {round(source.top1, 6)}
    (scan,) = read_scans(context.folder)
    lost = 100 * (came_in.top1 - source.top1)
    assert all(curve.changes[0] == pytest.approx(lost, abs=3) for curve in scan.prune)


def test_sensitivity_spreads_zeros_better_than_the_same_share_everywhere(trained, context, splits):
    def loss(scope):
        stage = Magnitude(amount=0.6, scope=scope, scan_ratios=(0.2, 0.4, 0.6, 0.8))
        pruned = stage.run(trained, context)
        weights = [p for n, p in pruned.module.named_parameters() if p.ndim > 1]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert zeros == pytest.approx(0.6, abs=1e-3)
        return validate(pruned.module, splits.evaluation.batches(120)).loss

    assert loss("sensitivity") < 0.8 * loss("local")


def test_bad_scans(trained, context):
    with pytest.raises(ValidationError, match="the ratios must rise"):
        PruneScan(ratios=(0.5, 0.3))
    with pytest.raises(ValidationError):
        PruneScan(ratios=())
    with pytest.raises(StageError, match="matches no prunable layer"):
        PruneScan(exclude=("nothing",)).run(trained, context)
    with pytest.raises(Refusal, match="already int8"):
        PruneScan().requires(context.target, Precision.INT8, "scan")


class OneImage(torch.nn.Module):
    """Written for one image: of a batch it makes one row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = torch.nn.Conv2d(1, 4, 3, 2), torch.nn.Linear(36, 10)

    def forward(self, x):
        return self.out(self.conv(x).relu().view(1, 36))


@pytest.mark.parametrize(
    "stage",
    [PruneScan(samples=16), Magnitude(amount=0.2, scope="sensitivity", scan_samples=16)],
    ids=["scan", "magnitude"],
)
def test_a_model_of_single_images_is_judged_one_by_one(stage, context):
    alone = Artifact(Format.TORCH, OneImage().eval(), Precision.FP32, GRAY, dynamic_batch=False)
    made = stage.run(alone, context)
    assert not made.dynamic_batch
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        stage.run(replace(alone, dynamic_batch=True), context)
