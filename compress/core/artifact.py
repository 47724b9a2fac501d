"""Artifacts: models in one format at one point of a pipeline; no torch at run time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.core.quantities import Finite

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "AS_STORED",
    "COMPILED_SUFFIX",
    "PLAN_SUFFIX",
    "SCRIPT_SUFFIX",
    "Artifact",
    "Format",
    "InputSpec",
    "Interpolation",
    "Port",
    "Precision",
    "Scaling",
    "is_segment",
]


PLAN_SUFFIX = ".plan.json"
"""Name's end of a file that says how the device builds what no other machine can build for it."""

SCRIPT_SUFFIX = "_compile.sh"
"""Name's end of a script beside a file that has to be compiled before it runs."""

COMPILED_SUFFIX = "_edgetpu.tflite"
"""Name's end of what the Edge TPU compiler writes (https://coral.ai/docs/edgetpu/compiler/#usage)."""

_SEGMENT = re.compile(r"_segment_\d+_of_\d+_edgetpu\.tflite")
"""Name's end of one part of several that the compiler was asked for (`--num_segments`)."""


class Format(str, Enum):
    """Format of an artifact: a live module, or a file in an exchange format."""

    TORCH = "torch"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    TFLITE = "tflite"
    EDGETPU = "edgetpu"
    TENSORRT = "tensorrt"

    def __str__(self) -> str:
        return self.value


class Precision(str, Enum):
    """Arithmetic of the compute-heavy layers (convolutions, matrix products)."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


Interpolation = Literal["bilinear", "bicubic", "nearest"]
"""How pixels between pixels are computed, by Pillow's names."""

_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1, "planes": None}
"""Channels of each order; None: any number."""


_MOST_VALUES = 1 << 26
"""Of one image, 256 MiB: 4,700 x 4,700 pixels in three colours."""


@dataclass(frozen=True)
class InputSpec:
    """One image as the network takes it: float32 NCHW, `(pixel / 255 - mean) / std`.

    Attributes:
        shape: `(channels, height, width)` of one sample, without the batch dimension.
        channel_order: `rgb`, `bgr` or `gray`; `planes` where the channels are no picture (depth, several sensors).
        mean: per-channel mean of pixels scaled to [0, 1].
        std: per-channel standard deviation of pixels scaled to [0, 1].
    """

    shape: tuple[int, int, int]
    channel_order: str = "rgb"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        channels = self.shape[0]
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"input shape {self.shape} must be three positive sizes (channels, height, width)")
        if math.prod(self.shape) > _MOST_VALUES:
            raise ValueError(f"input shape {self.shape} has more than {_MOST_VALUES:,} values")
        if self.channel_order not in _CHANNELS:
            raise ValueError(f"channel_order {self.channel_order!r} must be one of {', '.join(_CHANNELS)}")
        if _CHANNELS[self.channel_order] not in (None, channels):
            fitting = [order for order, count in _CHANNELS.items() if count in (None, channels)]
            raise ValueError(
                f"channel_order {self.channel_order!r} does not fit {channels} input channel(s): "
                f"model.input.channel_order={' or '.join(fitting)}"
            )
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} value(s) each, got {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


@dataclass(frozen=True)
class Scaling:
    """Scaling that gives a picture the input's height and width, before it is normalised.

    Attributes:
        resize: length in pixels that the short side is scaled to before the centre crop; None leaves the size.
        interpolation: `bilinear`, `bicubic` or `nearest`, as Pillow computes them (antialiased where it shrinks).
        stretch: straight to the input's height and width instead.
    """

    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    stretch: bool = False


AS_STORED = Scaling()
"""Pictures that have the input's size, or are cropped to it."""


BATCH_BYTES = 48 << 20
"""What the widest operator may read and write of one batch. More costs memory and saves no time: MobileNetV2 at 224
pixels takes 24 ms of processor time for an image in batches of 5 (48 MB), 28 ms in batches of 10 and 40 ms of 32."""


@dataclass(frozen=True)
class Artifact:
    """A model in one format at one point of the pipeline. Immutable: a stage returns a new one.

    Attributes:
        format: how `model` is stored.
        model: an `nn.Module` in eval mode (format torch) or the path of a file.
        precision: arithmetic of the compute-heavy layers.
        input: the sample the model takes.
        dynamic_batch: whether a batch of any size gives what its images give one by one; False: batches of 1 only.
        history: names of the stages that made it, oldest first.
        notes: what the last of them wants known about it, a title and a sentence each; the report shows them.
        attachments: files beside `model` that are handed over with it (a script, further segments).
        activation_bytes: what the widest operator of the source reads and writes of one image; None where not known.
    """

    format: Format
    model: nn.Module | Path
    precision: Precision
    input: InputSpec
    dynamic_batch: bool = True
    history: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Path, ...] = ()
    activation_bytes: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, Path) == (self.format is Format.TORCH):
            raise ValueError(f"a {self.format} artifact cannot hold a {type(self.model).__name__}")

    @property
    def module(self) -> nn.Module:
        """The live module of a torch artifact."""
        if isinstance(self.model, Path):
            raise TypeError(f"a {self.format} artifact holds a file, not a module")
        return self.model

    @property
    def deferred(self) -> bool:
        """Tell whether the file cannot be run as it is, and nothing is measured: what runs is made of it elsewhere (a
        plan, a file for the Edge TPU compiler), or it is one segment of several.
        """
        if not isinstance(self.model, Path):
            return False
        compiled_later = any(path.name.endswith(SCRIPT_SUFFIX) for path in self.attachments)
        return compiled_later or self.model.name.endswith(PLAN_SUFFIX) or is_segment(self.model)

    @property
    def path(self) -> Path:
        """The file of an exported artifact."""
        if not isinstance(self.model, Path):
            raise TypeError("a torch artifact holds a module, not a file")
        return self.model

    @property
    def delivered_name(self) -> str:
        """Name of the file in a run folder. The source's own name could be that of any stage's file."""
        return self.path.name if self.history else f"source{self.path.suffix}"

    def fitting(self, most: int) -> int:
        """Images at a time, up to `most`: as many as have their widest activations in `BATCH_BYTES`, or one."""
        return most if not self.activation_bytes else max(1, min(most, BATCH_BYTES // self.activation_bytes))

    def after(
        self,
        stage: str,
        model: nn.Module | Path,
        *,
        format: Format | None = None,
        precision: Precision | None = None,
        dynamic_batch: bool | None = None,
        notes: Mapping[str, str] | None = None,
        attachments: tuple[Path, ...] = (),
    ) -> Artifact:
        """The artifact that `stage` made from this one."""
        return replace(
            self,
            model=model,
            format=format or self.format,
            precision=precision or self.precision,
            dynamic_batch=self.dynamic_batch if dynamic_batch is None else dynamic_batch,
            history=(*self.history, stage),
            notes=notes or {},
            attachments=attachments,
        )


def is_segment(path: Path) -> bool:
    """Tell whether a file is one of several that only work in a row, each on an Edge TPU of its own."""
    return _SEGMENT.search(path.name) is not None


@dataclass(frozen=True)
class Port:
    """Input or output of a file: real = scale (stored - zero_point), where it is quantized.

    Attributes:
        shape: as stored; an image is `[N, H, W, C]` in TFLite files and `[N, C, H, W]` in all others.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: Finite | None = None
    zero_point: int | None = None
