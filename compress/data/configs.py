"""Options under `data:`; fields are the options, `kind` chooses the data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.core.artifact import Interpolation

__all__ = ["MOST_CLASSES", "CsvData", "DataConfig", "DigitsData", "ImageFolderData", "NamedClasses", "NpzData"]
__all__ += ["SplitOptions", "TorchvisionData"]

Count = Annotated[int, Field(ge=0)]

MOST_CLASSES = 1 << 20
"""Far above any classifier's outputs; a number beyond it is a mistake that would take the memory of so many names."""

_Classes = Annotated[int, Field(ge=1, le=MOST_CLASSES)]

_LONGEST_SIDE = 1 << 14
"""Pixels that a short side may be scaled to: twice that of the largest pictures that networks take."""


class SplitOptions(BaseModel):
    """Number of samples that each split takes.

    With a test set, `evaluation` comes from it and the other splits from the training set. Without one, all four are
    cut from the same samples and never share one.

    Attributes:
        calibration: samples that only set quantization ranges.
        validation: samples by which stages choose between options.
        finetune: samples to train on; null takes the rest.
        evaluation: samples that accuracy is reported on; null takes the whole test set. Without a test set null takes
            20 % of the samples, or, where `finetune` is a number, everything the other splits left.
        seed: decides which sample goes where.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration: Count = 128
    validation: Count = 128
    finetune: Count | None = None
    evaluation: Count | None = None
    seed: int = 0


class ImageOptions(SplitOptions):
    """Options of data sets whose images may differ in size from the model's input.

    Attributes:
        resize: length in pixels that the short side is scaled to before the centre crop to the model's input; null
            leaves the size.
        interpolation: how that computes pixels between pixels: as it was when the weights were evaluated.
    """

    resize: Annotated[int, Field(ge=1, le=_LONGEST_SIDE)] | None = None
    interpolation: Interpolation = "bilinear"


class NamedClasses(ImageOptions):
    """Options of data sets that have names for their classes and no numbers.

    Attributes:
        class_map: JSON, YAML or CSV file that gives each class its output number of the model, or the model's name of
            it; null goes by name, or by place where the data set has as many classes as the model has outputs.
        class_names: text file with the name of every output of the model, one per line, from output 0; null takes those
            that the model carries (pretrained weights, metadata of an ONNX file, the manifest of a run).
    """

    class_map: Path | None = None
    class_names: Path | None = None


class DigitsData(SplitOptions):
    """1797 handwritten digits, 8x8 gray, that come with scikit-learn (UCI ML hand-written digits, CC BY 4.0)."""

    kind: Literal["digits"] = "digits"


class ImageFolderData(NamedClasses):
    """One folder per class: `train/<class>/*.png`.

    Attributes:
        train: folder of class folders.
        test: another one with the same classes, or null to cut the evaluation split from `train`.
    """

    kind: Literal["image_folder"]
    train: Path
    test: Path | None = None


class CsvData(ImageOptions):
    """A table with one image per row.

    Attributes:
        file: CSV with a header.
        test: another one for the evaluation split, or null to cut it from `file`.
        root: folder the paths are relative to; null means the folder of the table.
        path_column: column of image paths, which must stay inside `root`.
        label_column: column of integer labels from 0.
        classes: number of classes; null means the largest label + 1.
    """

    kind: Literal["csv"]
    file: Path
    test: Path | None = None
    root: Path | None = None
    path_column: str = "path"
    label_column: str = "label"
    classes: _Classes | None = None


class NpzData(ImageOptions):
    """NumPy archives with the arrays `images` and `labels`.

    `images` is uint8 (0 to 255) or float (0 to 1), `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`; `labels` is `[N]`
    integers from 0.

    Attributes:
        file: archive to take samples from.
        test: archive for the evaluation split, or null to cut it from `file`.
        classes: number of classes; null means the largest label + 1.
    """

    kind: Literal["npz"]
    file: Path
    test: Path | None = None
    classes: _Classes | None = None


class TorchvisionData(NamedClasses):
    """A classification data set of `torchvision.datasets` with a training and a test part.

    Attributes:
        name: class name, for example `CIFAR10`.
        root: folder that holds (or will hold) its files.
        download: fetch the files when they are missing; needs a network.
    """

    kind: Literal["torchvision"]
    name: str
    root: Path
    download: bool = False


DataConfig = Annotated[
    DigitsData | ImageFolderData | CsvData | NpzData | TorchvisionData,
    Field(discriminator="kind"),
]
