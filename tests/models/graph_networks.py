"""A network in the files that PyTorch writes, and those files with something in them changed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.artifact import InputSpec

SPEC = InputSpec((3, 16, 16))


class Net(nn.Module):
    """Every kind of layer that is given back, a residual add, and a shared convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu6(self.bn(self.conv(x)))
        x = x + self.deep(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def make_net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    for norm in (net.bn, net.deep[1]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return net


def save_exported(net, path, *, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    sample = torch.zeros(2 if dynamic else 1, *SPEC.shape)
    torch.export.save(torch.export.export(net, (sample,), dynamic_shapes=shapes), path)
    return path


def save_scripted(net, path) -> Path:
    torch.jit.script(net).save(str(path))
    return path


def save_traced(net, path) -> Path:
    torch.jit.trace(net, torch.zeros(1, *SPEC.shape)).save(str(path))
    return path


def edited(path: Path, replace) -> Path:
    """Rewrite the archive; `replace(name, content)` returns the new content, or None to drop the member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            changed = replace(name, content)
            if changed is not None:
                archive.writestr(name, changed)
    return path


def edit_program(path: Path, change) -> Path:
    def replace(name, content):
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return edited(path, replace)
