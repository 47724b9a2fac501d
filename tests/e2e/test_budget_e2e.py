"""The real command under the accuracy budget: a ruined network is delivered, labelled, and ends with exit 1."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, run_folders

NET = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
    net = nn.Sequential(features, nn.Flatten(), nn.Linear(512, 4))
    with torch.no_grad():  # no class is the answer to everything
        net[2].weight.mul_(20)
        net[2].bias.copy_(net[2].bias - net(2 * torch.rand(500, 1, 8, 8) - 1).mean(0))
    return net
"""
JOB = (
    "target=raspberry_pi_4",
    "model=factory",
    "model.factory=budget_net:build",
    "model.input.shape=[1,8,8]",
    "model.input.channel_order=gray",
    "model.input.mean=[0.5]",
    "model.input.std=[0.5]",
    "data=npz",
    "data.file=pictures.npz",
    "data.calibration=32",
    "data.finetune=0",
    "precision=fp32",
    "~stage.magnitude",
    "~stage.to_onnx_fp32",
    "measure.latency_seconds=0.1",
)
RUINED = (
    "+stage@stage.structured=structured",
    "stage.structured.before=fold_batchnorm",
    "stage.structured.keep=0.3",
)


@pytest.fixture
def output(tmp_path, monkeypatch):
    """The output folder beside a network, and pictures that it labels itself."""
    (tmp_path / "budget_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "budget_net", raising=False)
    pictures = np.random.default_rng(0).random((300, 8, 8, 1), np.float32)
    with torch.no_grad():
        logits = importlib.import_module("budget_net").build()(
            torch.from_numpy((pictures[..., 0][:, None] - 0.5) / 0.5)
        )
    np.savez("pictures.npz", images=pictures, labels=logits.argmax(1).numpy())
    return tmp_path / "outputs"


def last(output):
    run = run_folders(output)[-1]
    checked_manifest(run)
    return run, json.loads((run / "report.json").read_text())["budget"]


def test_a_miss_is_delivered_labelled_and_ends_with_exit_1(output, capsys):
    assert main([*JOB, *RUINED, f"output={output}"]) == 1
    captured = capsys.readouterr()
    run, (outcome,) = last(output)
    assert outcome["met"] is False
    assert outcome["stage"] == "to_onnx"
    assert outcome["verdict"]["lost"] > 10
    assert outcome["verdict"]["samples"] == 128
    assert captured.err.count("\n") == 1
    assert "error: to_onnx misses the accuracy budget of 1 points: top-1 -" in captured.err
    assert "budget=off" in captured.err
    assert "MISSED" in captured.out
    assert "MISSED" in (run / "report.md").read_text()


def test_off_holds_nothing_and_says_so(output, capsys):
    assert main([*JOB, *RUINED, "budget=off", f"output={output}"]) == 0
    assert "budget=off: nothing was held to the source's accuracy" in capsys.readouterr().out
    assert last(output)[1][0]["met"] is None


def test_without_validation_images_it_cannot_be_judged_and_nothing_crashes(output, capsys):
    assert main([*JOB, "data.validation=0", f"output={output}"]) == 0
    assert "the validation split is empty" in " ".join(capsys.readouterr().out.split())
    (outcome,) = last(output)[1]
    assert (outcome["met"], outcome["verdict"]["labelled"]) == (None, False)


@pytest.mark.parametrize("typed", ["budget.drop=-1", "budget=on", "budget.dorp=1"])
def test_wrong_budgets_are_one_line(typed, output, capsys):
    assert main([*JOB, typed, f"output={output}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
