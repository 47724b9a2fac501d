"""The real networks that benches measure, with their images."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from compress.core.artifact import Artifact, InputSpec
from compress.core.stage import Batch, Split
from compress.data import CsvData, ImageFolderData, load_splits
from compress.data.splits import DataSplits
from compress.models import FactoryModel, load_model
from compress.report.progress import RichProgress

QUIET = RichProgress(Console(quiet=True))


@dataclass(frozen=True)
class Net:
    """A real network with its images, and the recovery that fits it."""

    factory: str
    checkpoint: str
    input: InputSpec
    data: dict[str, object]
    recovery: dict[str, object]


@dataclass(frozen=True)
class Decoded:
    """Samples of a split that are decoded already, as those that peers are given."""

    name: str
    samples: Batch

    @classmethod
    def of(cls, split: Split, count: int) -> Decoded:
        """The first `count` samples of `split`."""
        return cls(split.name, next(iter(split.batches(count))))

    def __len__(self) -> int:
        return len(self.samples.images)

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        positions = range(len(self)) if order is None else order
        for start in range(0, len(positions), size):
            chosen = list(positions[start : start + size])
            yield Batch(self.samples.images[chosen], self.samples.labels[chosen])

    def digest(self) -> str:
        return hashlib.sha256(self.samples.images.tobytes()).hexdigest()


def nets(data: Path) -> dict[str, Net]:
    cifar = {
        "kind": "image_folder",
        "train": data / "images/cifar10_train4000",
        "test": data / "images/cifar10_test500",
    }
    nips = {
        "kind": "csv",
        "file": data / "images/nips2017/labels_and_attribution.csv",
        "path_column": "file",
        "label_column": "imagenet_class_0based",
        "resize": 256,
        "validation": 0,
        "finetune": 0,
    }
    # The channels of depthwise layers differ by orders of magnitude: they are balanced. A residual stream gains nothing
    # by that.
    rounded: dict[str, object] = {"observer": "mse", "rounding": "adaptive"}
    residual, depthwise = {**rounded, "bias_correction": True}, {**rounded, "equalize": "activations"}
    small, large = InputSpec((3, 32, 32)), InputSpec((3, 224, 224))
    return {
        "resnet20": Net("nets:resnet20", "resnet20-12fca82f.th", small, cifar, residual),
        "resnet44": Net("nets:resnet44", "resnet44-014dd654.th", small, cifar, residual),
        "mobilenet_v1": Net("nets:MobileNetV1_025", "mobilenetv1_0.25_state_dict.pt", large, nips, depthwise),
    }


def load(net: Net, data: Path) -> tuple[Artifact, DataSplits]:
    sys.path.insert(0, str(data))
    config = FactoryModel.model_validate(
        {
            "kind": "factory",
            "factory": net.factory,
            "checkpoint": data / "weights" / net.checkpoint,
            "input": {"shape": net.input.shape},
        }
    )
    kind = CsvData if net.data["kind"] == "csv" else ImageFolderData
    splits = load_splits(kind.model_validate(net.data), net.input)
    source = load_model(config, trusted=lambda _: True, seed=0, progress=QUIET, finetune=None)
    return source, splits
