"""The real command on a network that INT8 makes slower: every report says where and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import run_folders

NET = """
import torch
from torch import nn


class Absolute(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 16, 1)
        self.layers = nn.ModuleList([nn.Conv2d(16, 16, 1, groups=16) for _ in range(4)])
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(torch.abs(x))
        return self.head(x.mean((2, 3)))
"""


@pytest.mark.slow  # a whole run, two of its files profiled
def test_the_report_says_why_int8_is_slower(tmp_path, monkeypatch, capsys):
    (tmp_path / "slower_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).random((80, 64, 64, 1), np.float32)
    np.savez("pictures.npz", images=pictures, labels=np.arange(80) % 4)
    spec = ["model.input.shape=[1,64,64]", "model.input.channel_order=gray", "model.input.mean=[0.5]"]
    data = ["data=npz", "data.file=pictures.npz", "data.calibration=16", "data.validation=16", "data.finetune=0"]
    job = [
        "target=raspberry_pi_4",
        "model=factory",
        "model.factory=slower_net:Absolute",
        *spec,
        "model.input.std=[0.5]",
    ]
    quick = ["measure=quick", "measure.latency_seconds=0.5", "budget=off", "~stage.magnitude"]
    assert main([*job, *data, *quick, "output=outputs"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Why INT8 is slower than FP32 here" in printed
    (run,) = run_folders(Path("outputs"))
    (found,) = json.loads((run / "report.json").read_text())["slower"]
    assert (found["stage"], found["against"]) == ("to_onnx", "to_onnx_fp32")
    assert found["ratio"] > 1
    assert any(part["cause"].startswith("Abs, computed in float, with 2 conversions") for part in found["parts"])
    assert any("Raspberry Pi 4 itself tells" in advice for advice in found["advice"])
    assert "Abs, computed in float" in (run / "report.md").read_text()
