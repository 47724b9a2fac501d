"""The files that are measured: torchvision networks with random weights, through the real stages for Jetson Xavier NX.

Weights are rounded to their INT8 grid first. Quantizing them again changes nothing, so the float twin of an INT8 file
(Q/DQ taken out) is exactly the float network: only the INT8 files, a quarter of the size, travel to the GPU machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import torch
import torchvision
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.stage import Batch, Context
from compress.formats import runtimes
from compress.formats.onnx.calibration_cache import calibration_cache
from compress.report.progress import RichProgress
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.quantize.ptq_static import PtqStatic
from compress.training.batchnorm import reestimate

SPEC = InputSpec((3, 224, 224))
CALIBRATION_IMAGES = 32
GOLDEN_IMAGES = 32
TARGET = "jetson_xavier_nx"
TENSORRT = "8.5.3"  # what pack_tensorrt packs
RESIDUAL = 0.25


@dataclass(frozen=True)
class Recorded:
    """A split of images that lie in memory."""

    name: str
    images: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        chosen = self.images if order is None else self.images[list(order)]
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield Batch(part, np.zeros(len(part), np.int64))

    def digest(self) -> str:
        return self.name


def images(seed: int, count: int) -> NDArray[np.float32]:
    """Normalised images `[count, 3, 224, 224]` with detail at every scale, as photographs have; equal everywhere."""
    random = np.random.default_rng(seed)
    total = np.zeros((count, *SPEC.shape), np.float32)
    for side in (4, 16, 56, 224):
        noise = random.standard_normal((count, 3, side, side), dtype=np.float32)
        total += noise.repeat(224 // side, axis=2).repeat(224 // side, axis=3) / 2
    return total


def network(name: str, calibration: Recorded) -> nn.Module:
    """Random weights whose normalisations fit their inputs, so that signals neither die out nor explode."""
    torch.manual_seed(0)
    module: nn.Module = getattr(torchvision.models, name)(weights=None).eval()
    for block in module.modules():
        _temper(block)
    reestimate(module, calibration.batches(CALIBRATION_IMAGES))
    return module


def _temper(block: nn.Module) -> None:
    """Let what a residual branch adds be smaller than what it adds to, as training makes it: a random network amplifies
    every rounding into another answer, and then no two correct INT8 kernels agree."""
    last = {"BasicBlock": "bn2", "Bottleneck": "bn3"}.get(type(block).__name__)
    if last is not None:
        nn.init.constant_(block.get_submodule(last).weight, RESIDUAL)
    elif type(block).__name__ == "InvertedResidual" and block.use_res_connect:
        nn.init.constant_(list(block.modules())[-1].weight, RESIDUAL)


def rounded(module: nn.Module) -> nn.Module:
    """Every convolution's and linear layer's weight on its own grid of 255 steps per output channel; in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.weight.data
            scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / 127
            layer.weight.data = (weight / scale).round() * scale
    return module


def make(names: Sequence[str], folder: Path, placements: Sequence[str] = ("tensorrt",)) -> None:
    """Write `<net>-<placement>.onnx` and `<net>.npz`: golden `inputs`, `fp32`, and `int8:<placement>` by torch."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration = Recorded("calibration", images(1, CALIBRATION_IMAGES))
    splits = SimpleNamespace(calibration=calibration)
    progress = RichProgress(Console())
    inputs = images(2, GOLDEN_IMAGES)

    def context(name: str) -> Context:
        return Context(name, load_target(TARGET, []), splits, folder, 0, progress)

    for name in names:
        source = Artifact(Format.TORCH, network(name, calibration), Precision.FP32, SPEC)
        folded = FoldBatchnorm().run(source, context("fold"))
        folded = folded.after("round", rounded(folded.module))
        golden = {"inputs": inputs[:8], "fp32": runtimes.load(folded, threads=2)(inputs)}
        for placement in placements:
            policy, _, keep = placement.partition(":")
            options = {"placement": policy, "keep_float": keep.split(",") if keep else [], "batch_size": 8}
            quantized = PtqStatic.model_validate(options).run(folded, context("ptq"))
            title = f"{name}-{policy}{'-float' if keep else ''}"
            golden[f"int8:{title}"] = runtimes.load(quantized, threads=2)(inputs)
            made = ToOnnx(dynamic_batch=True, parity_samples=2).run(quantized, context(title))
            if placement == "tensorrt":
                cache = calibration_cache(onnx.load(made.path), TENSORRT)
                (folder / f"{name}.calibration.cache").write_text(cache)
        del golden["inputs"]
        np.savez_compressed(folder / f"{name}.npz", **golden)
