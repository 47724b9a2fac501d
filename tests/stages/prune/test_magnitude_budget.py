"""Magnitude pruning under the budget of a run: as asked where it fits, by layer and less where it does not."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import ArraySplit, Log, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.budget import SQNR_FLOOR_DB, Budget
from compress.graph.weights import compute_weights
from compress.stages.prune.magnitude import Magnitude
from compress.verify.judge import Judge

SPEC = InputSpec((1, 4, 4), "gray", (0.5,), (0.5,))


class Loud(nn.Module):
    """Half of the weights are ten times smaller, and what they compute is made a hundred times louder: the smallest of
    all weights are not the least important ones."""

    def __init__(self, classes=6):
        super().__init__()
        torch.manual_seed(0)
        self.quiet, self.loud = nn.Linear(16, classes, bias=False), nn.Linear(16, classes, bias=False)
        with torch.no_grad():
            self.loud.weight.div_(10)

    def forward(self, x):
        x = x.flatten(1)
        return 0.01 * self.quiet(x) + 10 * self.loud(x)


def artifact(module):
    return Artifact(Format.TORCH, module.eval(), Precision.FP32, SPEC)


def judged(module, *, labels=None, count=128, **budget):
    """Images on which the module is surest: one of 128 that flips is more than half a point."""
    images = np.random.default_rng(0).standard_normal((8 * count, *SPEC.shape), dtype=np.float32)
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(images))
    margins = logits.topk(2, dim=1).values.diff(dim=1).flatten()
    surest = margins.argsort()[:count].numpy()  # the difference to the second largest is negative
    images, answers = images[surest], logits.argmax(1).numpy()[surest]
    split = ArraySplit(images, answers if labels is None else labels, "validation")
    return Judge(artifact(module), SimpleNamespace(validation=split, calibration=split), Budget(**budget))


def run(module, judge, **options):
    log = Log()
    context = stage_context("magnitude", log=log, judge=judge)
    return Magnitude(**options).run(artifact(module), context), log


def zeros(module):
    return {weight.layer: weight.zeros() / weight.tensor.numel() for weight in compute_weights(module)}


def test_where_the_amount_fits_it_is_made_as_asked_and_nothing_is_scanned():
    module = Loud()
    judge = judged(module, drop=100.0)
    result, log = run(module, judge, amount=0.3)
    assert zeros(result.module)["loud"] == pytest.approx(0.6, abs=0.1)
    assert (dict(result.notes), log.lines) == ({}, [])


def test_weights_that_the_outputs_need_stay():
    module = Loud()
    judge = judged(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result, log = run(module, judge, amount=0.3)
    shares = zeros(result.module)
    assert shares["quiet"] > 0.55  # 30 % of all, nearly all of it here
    assert shares["loud"] < 0.05
    assert sum(shares.values()) / 2 == pytest.approx(0.3, abs=0.01)
    verdict = judge(result)
    assert verdict.sqnr_db >= SQNR_FLOOR_DB + 3
    assert verdict.within(0.5)
    note = result.notes["budget"]
    assert note.startswith("30% zeros would break the budget (top-1 ")
    assert "backed off to 30.0%, by layer: top-1 " in note
    assert "(2 layers tried alone, 1 amounts); budget=off keeps the 30%" in note
    assert any("would break the budget" in line for line in log.lines)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_less_where_less_fits():
    module = Loud()
    result, _ = run(module, judged(module), amount=0.8)
    share = sum(zeros(result.module).values()) / 2
    assert 0.4 < share < 0.7
    said = re.search(r"backed off to ([\d.]+)%", result.notes["budget"])
    assert float(said[1]) / 100 == pytest.approx(share, abs=0.01)


def test_nothing_where_nothing_fits():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 6, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(module[1].weight.sign())  # each weight is as important as any other
    result, _ = run(module, judged(module), amount=0.02)
    assert zeros(result.module)["1"] <= 0.011
    result, _ = run(module, judged(module, drop=0.0), amount=0.9)
    assert zeros(result.module)["1"] < 0.02


def test_an_input_beyond_the_budget_is_left_alone():
    module = Loud()
    judge = judged(module)
    ruined = Loud()
    with torch.no_grad():
        ruined.loud.weight[:, ::2] = 0
    result, _ = run(ruined, judge, amount=0.4)
    assert zeros(result.module) == zeros(ruined)
    assert "what came in does already" in result.notes["budget"]


def test_without_usable_labels_the_logits_decide():
    module = Loud()
    judge = judged(module, labels=np.arange(128) % 6)
    assert judge.unjudged is not None
    result, _ = run(module, judge, amount=0.3)
    assert judge(result).sqnr_db >= SQNR_FLOOR_DB + 3
    assert "points" not in result.notes["budget"].split("budget=off")[0]
