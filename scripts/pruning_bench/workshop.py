"""What making and judging share: the networks, the trainings' surroundings, and the files that were made."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from compress.config.schema import load_target
from compress.core.artifact import Artifact, InputSpec, Precision
from compress.core.stage import Context, Progress, Split, Splits, Stage
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.training.validate import validate

console = Console()
CIFAR = InputSpec((3, 32, 32))
TARGET = "raspberry_pi_5"
PARTS = ("resnet44", "resnet20", "torchvision", "two_four")
TORCHVISION = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
    "googlenet",
    "vit_b_16",
)


class Lines(Progress):
    """Log lines with the time since the start, for a run that is watched through a file; every 20th epoch only."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def track(self, items, description, total=None):  # noqa: ANN001, ANN201 - as in the protocol
        yield from items

    def log(self, message: str) -> None:
        epoch = message.partition(": epoch ")[2].partition(" ")[0]
        if not epoch.isdigit() or int(epoch) % 20 == 0:
            print(f"[{time.perf_counter() - self._start:6.1f} s] {message}", flush=True)


@dataclass(frozen=True)
class Made:
    """Files of one part, relative to its folder, and the figures that only making them gives."""

    files: dict[str, str]
    figures: dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long to train, as a share of the epochs, and at what learning rate (None: the part's own)."""

    scale: float
    rate: float | None

    def of(self, stage: Stage) -> Stage:
        """The stage with its epochs scaled."""
        epochs = getattr(stage, "epochs", None)
        if epochs is None or self.scale == 1:
            return stage
        return stage.model_copy(update={"epochs": max(2, round(epochs * self.scale))})


@dataclass
class Workshop:
    """Runs stages one after the other on one network."""

    source: Artifact
    splits: Splits
    folder: Path
    progress: Progress

    def context(self, name: str, target: str = TARGET) -> Context:
        folder = self.folder / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return Context(name, load_target(target, []), self.splits, folder, 0, self.progress, self.source)

    def run(self, artifact: Artifact, stages: Sequence[tuple[str, Stage]]) -> Artifact:
        for name, stage in stages:
            artifact = stage.run(artifact, self.context(name))
        return artifact

    def export(self, artifact: Artifact, name: str, *, dynamic_batch: bool = False) -> str:
        """Write `<name>.onnx` into the folder."""
        if artifact.precision is Precision.FP32:
            artifact = FoldBatchnorm().run(artifact, self.context(f"{name}-fold"))
        made = ToOnnx(dynamic_batch=dynamic_batch).run(artifact, self.context(name))
        path = self.folder / f"{name}.onnx"
        path.write_bytes(made.path.read_bytes())
        return path.name

    def top1(self, artifact: Artifact, split: Split) -> float:
        return validate(artifact.module, split.batches(250)).top1


class NoiseSplits:
    """Random images, where only sizes and parity matter."""

    classes = ()

    def __init__(self) -> None:
        self.calibration = self.finetune = self.validation = self.evaluation = NoiseSplit()


class NoiseSplit:
    name = "noise"

    def __len__(self) -> int:
        return 8

    def batches(self, size, *, order=None):  # noqa: ANN001, ANN201 - as in the protocol
        from compress.core.stage import Batch

        images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
        for start in range(0, 8, size):
            yield Batch(images[start : start + size], np.zeros(len(images[start : start + size]), np.int64))

    def digest(self) -> str:
        return "noise"


def read(path: Path) -> Made:
    return Made(**json.loads(path.read_text()))
