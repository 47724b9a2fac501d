"""Options under `model:`; fields are the options, `kind` chooses where the model comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.core.artifact import InputSpec

__all__ = ["DigitsModel", "FactoryModel", "FileLimits", "FileModel", "InputConfig", "ModelConfig", "TorchvisionModel"]

_STRICT = ConfigDict(frozen=True, extra="forbid")
_Size = Annotated[int, Field(ge=1)]

_MOST_OUTPUTS = 1 << 17
"""Of a model with random weights: six times ImageNet-21k, and 1 GiB of weights behind ResNet-50's 2048 features."""


class InputConfig(BaseModel):
    """The image the network takes; defaults are those of ImageNet models.

    Attributes:
        shape: channels, height, width.
        channel_order: `rgb`, `bgr` or `gray`; `planes` where the channels are no picture (data=npz).
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
    """

    model_config = _STRICT

    shape: tuple[_Size, _Size, _Size] = (3, 224, 224)
    channel_order: Literal["rgb", "bgr", "gray", "planes"] = "rgb"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _consistent(self) -> InputConfig:
        self.spec()
        return self

    def spec(self) -> InputSpec:
        """The domain type; raises `ValueError` when channels, order, mean and std do not fit each other."""
        return InputSpec(self.shape, self.channel_order, self.mean, self.std)


class DigitsModel(BaseModel):
    """The embedded default: a small residual network trained on this machine in seconds, then cached.

    Attributes:
        epochs: passes over the fine-tuning split.
    """

    model_config = _STRICT

    kind: Literal["digits"] = "digits"
    epochs: Annotated[int, Field(ge=1, le=1000)] = 8
    input: InputConfig = InputConfig(shape=(1, 32, 32), channel_order="gray", mean=(0.5,), std=(0.5,))


class TorchvisionModel(BaseModel):
    """A classification model of torchvision.

    Attributes:
        name: builder, for example `resnet18`.
        weights: name of pretrained weights, for example `DEFAULT`; null means random weights and no download.
        num_classes: outputs of a model with random weights; null means 1000.
    """

    model_config = _STRICT

    kind: Literal["torchvision"]
    name: str
    weights: str | None = None
    num_classes: Annotated[int, Field(ge=1, le=_MOST_OUTPUTS)] | None = None
    input: InputConfig = InputConfig()


class FactoryModel(BaseModel):
    """Your own network: a function that builds it and a checkpoint that fills it.

    Attributes:
        factory: `package.module:function`, called without arguments; the package must be trusted on the command line.
        checkpoint: `.pt`, `.pth`, `.th` or `.safetensors`; null leaves the weights the factory made.
        key: where the state dict lies inside the checkpoint, dots for nesting; null finds it.
        strict: refuse missing and unexpected keys; a wrong shape or type is always refused.
        allow_random: names or patterns (`head.*`) of tensors that the checkpoint need not fill.
    """

    model_config = _STRICT

    kind: Literal["factory"]
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    checkpoint: Path | None = None
    key: str | None = None
    strict: bool = True
    allow_random: tuple[str, ...] = ()
    input: InputConfig = InputConfig()


class FileLimits(BaseModel):
    """Limits of what a stranger's graph may take before it is believed to be a network.

    Attributes:
        time_limit: seconds of processor time for loading it and running it once with one thread; ResNet-50 takes 2 as
            ONNX, 3 as `.pt2` and 8 as TorchScript.
        memory_limit: GiB for the same, besides eight times the file's size; ResNet-50 needs less than 0.25.
    """

    model_config = _STRICT

    time_limit: Annotated[int, Field(ge=1, le=86_400)] = 45
    memory_limit: Annotated[float, Field(gt=0, le=2**20)] = 2.0

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_limit * 2**30)


class FileModel(FileLimits):
    """A complete model in a file.

    Attributes:
        path: `.pt2` (torch.export), TorchScript or `.onnx`.
    """

    kind: Literal["file"]
    path: Path
    input: InputConfig = InputConfig()


ModelConfig = Annotated[DigitsModel | TorchvisionModel | FactoryModel | FileModel, Field(discriminator="kind")]
