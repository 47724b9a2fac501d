"""Small networks as ONNX files, and the context a stage runs them in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import torch
from doubles import ArraySplit, stage_context
from torch import nn
from torchvision.models import VisionTransformer

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats import runtimes
from compress.formats.onnx import assemble
from compress.formats.onnx.metadata import metadata
from compress.formats.onnx.opset import Ceiling
from compress.formats.onnx.write import write_checked
from compress.formats.parity import FidelityMeter

GRAY = InputSpec((1, 28, 28), "gray", (0.5,), (0.5,))
COLOUR = InputSpec((3, 32, 32))


class Recurrent(nn.Module):
    """The rows of an image are the steps of a sequence."""

    def __init__(self, kind, *, layers=1, bidirectional=False):
        super().__init__()
        self.recurrent = kind(28, 64, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(128 if bidirectional else 64, 10)

    def forward(self, x):
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])


class Branches(nn.Module):
    """Two products of one activation."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()
        self.left, self.right = nn.Linear(784, 10), nn.Linear(784, 10)

    def forward(self, x):
        x = self.flat(x)
        return self.left(x) * torch.sigmoid(self.right(x))


def transformer():
    network = VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision starts it at zero
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, std=0.02)
    return network


NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 10)
    ),
    "lstm": lambda: Recurrent(nn.LSTM, layers=2),
    "bilstm": lambda: Recurrent(nn.LSTM, bidirectional=True),
    "gru": lambda: Recurrent(nn.GRU),
    "branches": Branches,
    "headless": lambda: nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "vit": transformer,
}


@lru_cache
def exported(name):
    """The network as an FP32 artifact; the file is shared and nobody changes it."""
    torch.manual_seed(0)
    spec, dynamic = COLOUR if name == "vit" else GRAY, name == "mlp"
    model = assemble.from_module(NETWORKS[name]().eval(), spec, dynamic_batch=dynamic)
    path = Path(mkdtemp()) / f"{name}.onnx"
    write_checked(
        assemble.finish(model, 17, Ceiling(None, "")),
        path,
        {**metadata(spec, Precision.FP32, ("to_onnx",)), "mine": "1"},
    )
    return Artifact(Format.ONNX, path, Precision.FP32, spec, dynamic, history=("to_onnx",))


def images(spec, count=64):
    return np.random.default_rng(1).standard_normal((count, *spec.shape)).astype(np.float32)


def context(folder, artifact, name, log=None, target="raspberry_pi_4"):
    splits = SimpleNamespace(calibration=ArraySplit(images(artifact.input)))
    return stage_context(name, target=target, splits=splits, folder=folder, log=log)


def fidelity(source, made):
    """Logits of both files, sample by sample as a device runs them."""
    meter = FidelityMeter()
    first, second = runtimes.load(source, threads=1), runtimes.load(made, threads=1)
    for image in images(source.input):
        meter.update(first(image[None]), second(image[None]))
    return meter.result()


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def fused_operators(path, folder):
    """Operators of the graph that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operators(folder / "optimized.onnx")
