"""Gradual pruning as a stage: all the zeros at the end, the accuracy kept, resumable."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from doubles import GRAY, Log, killed_after, stage_context
from pydantic import ValidationError
from torch import nn

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.graph.weights import compute_weights
from compress.stages.prune.gradual import Gradual
from compress.stages.prune.magnitude import Magnitude
from compress.stages.recover.finetune import Finetune
from compress.training.validate import validate


def context(folder, splits, *, log=None, source=None, name="gradual"):
    return stage_context(name, splits=splits, folder=folder, log=log, source=source)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 10)),
    ).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, splits):
    start = Artifact(Format.TORCH, network(), Precision.FP32, GRAY)
    return Finetune(epochs=10, learning_rate=0.1, device="cpu").run(
        start, context(tmp_path_factory.mktemp("t"), splits)
    )


def zeros(module):
    weights = compute_weights(module)
    return sum(weight.zeros() for weight in weights) / sum(weight.tensor.numel() for weight in weights)


def top1(module, splits):
    return validate(copy.deepcopy(module), splits.evaluation.batches(120)).top1


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"scope": "local"}])
def test_eighty_five_percent_zeros_at_little_loss(tmp_path, splits, trained, options):
    before, log = copy.deepcopy(trained.module.state_dict()), Log()
    stage = Gradual(amount=0.85, epochs=10, learning_rate=0.1, device="cpu", **options)
    pruned = stage.run(trained, context(tmp_path, splits, log=log, source=trained))
    one_shot = Magnitude(amount=0.85, scope=stage.scope).run(trained, context(tmp_path, splits))
    assert zeros(pruned.module) == pytest.approx(0.85, abs=1e-3)
    assert top1(pruned.module, splits) >= top1(trained.module, splits) - 0.04
    assert top1(pruned.module, splits) >= top1(one_shot.module, splits) + 0.1
    assert all(torch.equal(value, before[name]) for name, value in trained.module.state_dict().items())
    assert log.lines[-1].startswith("gradual: 85% zeros, validation top-1 ")
    assert "pruned until epoch 5" in log.lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_excluded_layers_stay_dense(tmp_path, splits, trained):
    stage = Gradual(amount=0.6, epochs=2, exclude=("0",), device="cpu", distill=False)
    pruned = stage.run(trained, context(tmp_path, splits))
    shares = {w.layer: w.zeros() / w.tensor.numel() for w in compute_weights(pruned.module)}
    assert shares["0"] == 0
    assert min(shares["3"], shares["7"]) > 0.3


def test_a_killed_stage_goes_on_and_gives_the_same_bits(tmp_path, splits, trained):
    stage = Gradual(amount=0.8, epochs=4, learning_rate=0.05, device="cpu", distill=False)
    whole = stage.run(trained, context(tmp_path / "a", splits)).module
    with killed_after(1):
        stage.run(trained, context(tmp_path / "b", splits))
    resumed = stage.run(trained, context(tmp_path / "b", splits)).module
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state_dict().items())


def test_bad_options_and_inputs():
    with pytest.raises(ValidationError, match=r"initial=0.9 must not be above amount=0.8"):
        Gradual(initial=0.9, amount=0.8)
    with pytest.raises(ValidationError):
        Gradual(amount=1.0)
    with pytest.raises(ValidationError):
        Gradual(keep_zeros=False)
    with pytest.raises(Refusal, match="trains and prunes fp32 weights, but its input is already int8"):
        Gradual().requires(SimpleNamespace(), Precision.INT8, "gradual")


def test_distillation_without_a_source_says_so(tmp_path, splits, trained):
    with pytest.raises(StageError, match=r"distillation needs the source model .*distill=false"):
        Gradual(epochs=2).run(trained, context(tmp_path, splits))
