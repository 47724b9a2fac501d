"""Static quantization under the budget of a run: no effort where it fits, the ladder where it does not."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import torch
from doubles import ArraySplit, Log, stage_context
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.budget import Budget
from compress.stages.quantize.ptq_static import PtqStatic
from compress.verify.judge import Judge

SPEC = InputSpec((1, 4, 4), "gray", (0.5,), (0.5,))


class Uneven(nn.Module):
    """With one scale for a layer, all but one weight of `bad` round to zero; that one meets a constant zero."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.bad, self.good = nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 4)
        with torch.no_grad():
            self.bad.weight[0, 0] = 1000.0
            self.good.weight.copy_(10 * torch.eye(4))

    def forward(self, x):
        return self.good(torch.sigmoid(self.bad(self.flat(x))))


def artifact(module):
    return Artifact(Format.TORCH, module.eval(), Precision.FP32, SPEC)


def images(seed, count, module, name):
    pixels = np.random.default_rng(seed).standard_normal((count, *SPEC.shape), dtype=np.float32)
    pixels[:, :, 0, 0] = 0
    with torch.no_grad():
        return ArraySplit(pixels, module.eval()(torch.from_numpy(pixels)).argmax(1).numpy(), name)


def run(module, source=None, *, labels=None, **options):
    source = source or module
    splits = SimpleNamespace(
        calibration=images(0, 32, source, "calibration"),
        validation=images(1, 128, source, "validation"),
        finetune=images(2, 0, source, "finetune"),
    )
    if labels is not None:
        splits.validation.labels = labels
    log, judge = Log(), Judge(artifact(source), splits, Budget())
    board = load_target("raspberry_pi_4", [])
    context = stage_context("ptq_static", target=board, splits=splits, log=log, source=artifact(source), judge=judge)
    return PtqStatic(**options).run(artifact(module), context), judge, log


def test_where_it_fits_it_is_calibrated_once():
    torch.manual_seed(0)
    module = nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.Linear(16, 4)))
    result, judge, log = run(module)
    assert judge(result).sqnr_db > 30
    assert dict(result.notes) == {}
    assert [text for text, _ in log.tracked] == ["calibrating on 32 images"]


def test_where_it_does_not_it_climbs_as_far_as_needed_and_says_so():
    result, judge, log = run(Uneven(), per_channel=False)
    assert list(result.notes) == ["rung 1", "rung 2", "rung 3"]
    assert result.notes["rung 1"].startswith("as_asked: top-1 -")
    assert "left 1 of 2 layers in float (bad)" in result.notes["rung 3"]
    verdict = judge(result)
    assert verdict.within(1.0)
    assert verdict.sqnr_db >= 20
    assert any("beyond the budget as asked for" in line for line in log.lines)
    assert result.precision is Precision.INT8


def test_what_came_in_beyond_the_budget_is_not_climbed_for():
    source = Uneven()
    ruined = Uneven()
    with torch.no_grad():
        ruined.good.weight.copy_(10 * torch.eye(4).flip(0))
    result, _, log = run(ruined, source)
    assert list(result.notes) == ["budget"]
    assert result.notes["budget"].startswith("MISSED by what came in (top-1 -")
    assert not any("rung" in line for line in log.lines)


def test_labels_that_say_nothing_are_not_climbed_for():
    result, judge, _ = run(Uneven(), per_channel=False, labels=np.zeros(128, np.int64))
    assert judge.unjudged is not None
    assert dict(result.notes) == {}


def test_where_no_rung_is_enough_the_best_is_kept_and_labelled():
    result, judge, _ = run(Uneven(), per_channel=False, placement="edgetpu")
    assert "mixed_precision" not in str(dict(result.notes))
    assert result.notes["budget"] == "MISSED: no rung is within it, the best one is kept"
    assert not judge(result).within(1.0)
