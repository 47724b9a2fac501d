"""Structured pruning as a stage: smaller ordinary modules that later stages take, budgets kept, bad input explained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import GRAY, stage_context
from pydantic import ValidationError
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.formats import runtimes
from compress.formats.onnx.macs import onnx_macs
from compress.formats.torch.macs import torch_macs
from compress.models.digits import DigitsNet
from compress.models.persist import load_module, save_module
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.structured import Structured


@pytest.fixture
def context(tmp_path, few_splits):
    return stage_context("structured", splits=few_splits, folder=tmp_path)


def artifact(module, spec=GRAY):
    return Artifact(Format.TORCH, module, Precision.FP32, spec)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return artifact(DigitsNet().eval())


def macs(given):
    return torch_macs(runtimes.load(given, threads=1), np.zeros((1, *given.input.shape), np.float32))


@pytest.mark.parametrize("scope", ["uniform", "global", "sensitivity"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "bn_gamma", "taylor"])
def test_half_of_the_macs_by_every_criterion_and_scope(source, context, scope, criterion):
    before = {name: value.clone() for name, value in source.module.state_dict().items()}
    stage = Structured(keep=0.5, scope=scope, criterion=criterion, round_to=4, scan_ratios=(0.5,))
    pruned = stage.run(source, context)
    assert macs(pruned) / macs(source) == pytest.approx(0.5, abs=0.015)
    channels = {m.out_channels for m in pruned.module.modules() if isinstance(m, nn.Conv2d)}
    assert all(count % 4 == 0 for count in channels)
    assert all(torch.equal(value, before[name]) for name, value in source.module.state_dict().items())
    assert type(pruned.module) is type(source.module)
    assert pruned.history == ("structured",)
    assert context.progress.lines[0].startswith("structured: 4") or "50." in context.progress.lines[0]
    assert all(parameter.grad is None for parameter in pruned.module.parameters())


def test_the_pruned_model_is_folded_exported_and_kept(source, context, tmp_path):
    pruned = Structured(keep=0.5).run(source, context)
    exported = ToOnnx().run(FoldBatchnorm().run(pruned, context), context)
    import onnx

    assert onnx_macs(onnx.load(exported.path)) == macs(pruned)
    name = save_module(pruned.module, GRAY, tmp_path, source=source.module)
    restored = load_module(tmp_path / str(name), source=source.module)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(restored(images), pruned.module(images))


def test_parameters_and_latency_as_the_budget(source, context, tmp_path):
    smaller = Structured(keep=0.4, of="parameters", round_to=4).run(source, context)
    weights = [sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (smaller.module, source.module)]
    assert weights[0] / weights[1] == pytest.approx(0.4, abs=0.02)
    faster = Structured(keep=0.6, of="latency").run(source, context)
    assert "of the latency left" in context.progress.lines[-1]
    assert "estimated from the target's peaks" in context.progress.lines[-1]
    assert macs(faster) < macs(source)
    times = tmp_path / "times.json"
    heavy = "blocks.2.conv2"
    times.write_text(json.dumps({heavy: 10.0, "stem.0": 0.1}))
    measured = Structured(latency_ms=5.2, layer_times=times).run(source, context)
    assert "by the measured layer times" in context.progress.lines[-1]
    digest = Structured(layer_times=times).model_dump()["layer_times_sha256"]
    times.write_text(json.dumps({heavy: 11.0}))
    assert Structured(layer_times=times).model_dump()["layer_times_sha256"] != digest
    ratio = measured.module.get_submodule(heavy).weight.numel() / source.module.get_submodule(heavy).weight.numel()
    assert ratio <= 0.55


def test_a_latency_that_is_met_already_and_one_that_cannot_be(source, context):
    with pytest.raises(StageError, match=r"latency_ms=1000 is met already, the model takes .* ms \(estimated\)"):
        Structured(latency_ms=1000).run(source, context)
    with pytest.raises(StageError, match=r"% of the latency cannot be reached"):
        Structured(latency_ms=1e-6).run(source, context)


def test_excludes_that_leave_too_little_say_what_can_be_reached(source, context):
    with pytest.raises(StageError, match=r"30% of the MACs cannot be reached: at least \d\d% stay.*fewer excludes"):
        Structured(keep=0.3, exclude=("blocks.1", "blocks.2")).run(source, context)
    with pytest.raises(StageError, match=r"matches no prunable layer .* blocks\.1"):
        Structured(exclude=("block.1",)).run(source, context)


def test_bn_gamma_needs_batch_normalisation(source, context):
    folded = FoldBatchnorm().run(source, context)
    with pytest.raises(StageError, match=r"criterion=bn_gamma needs BatchNorm .*before=fold_batchnorm"):
        Structured(criterion="bn_gamma").run(folded, context)
    assert macs(Structured().run(folded, context)) < macs(folded)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_rounded_inputs_are_refused(precision):
    with pytest.raises(Refusal, match=rf"stage 'cut' prunes fp32 weights, but its input is already {precision}"):
        Structured().requires(SimpleNamespace(), precision, "cut")


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 1}, {"max_removed": 1.0}, {"round_to": 0}, {"of": "joules"}])
def test_options_that_would_empty_or_keep_everything(options):
    with pytest.raises(ValidationError):
        Structured.model_validate(options)


NETWORKS = {
    "resnet18": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "shufflenet_v2_x1_0": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "densenet121": {},
    "efficientnet_b0": {},
    "vit_b_16": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_networks_lose_half_of_their_macs(name, context):
    from torchvision import models

    torch.manual_seed(0)
    spec = InputSpec((3, 224, 224))
    module = models.get_model(name, weights=None, **NETWORKS[name]).eval()
    pruned = Structured(keep=0.5).run(artifact(module, spec), context)
    assert macs(pruned) / macs(artifact(module, spec)) == pytest.approx(0.5, rel=0.03)
    with torch.no_grad():
        assert pruned.module(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert Path(context.folder).is_dir()
