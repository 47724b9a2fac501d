"""Inputs and outputs of models of any kind: named tensors, and what people wrote down about a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Arrays", "Boxes", "Frame", "KeyPoints", "Mask", "Sample", "Signature", "Target", "TensorSpec"]

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]
"""Tensors by name; axis 0 is the sample."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    Attributes:
        shape: without the batch; None where a size is free.
        dtype: as NumPy names it: `float32`, `int64`, `bool`, ...
        layout: `CHW` for planes of an image; empty where the axes are no picture.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    layout: str = ""


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, flat, each by a name that is there once."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        for specs in (self.inputs, self.outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"names of tensors must be there once, got {', '.join(names)}")


@dataclass(frozen=True)
class Frame:
    """Mapping of a picture to the plane that a model sees: `plane = pixel * scale + offset`, in `(y, x)`.

    Attributes:
        height, width: of the picture as stored.
    """

    height: int
    width: int
    scale: tuple[float, float]
    offset: tuple[float, float]


@dataclass(frozen=True)
class Boxes:
    """Labelled boxes of one picture, in its own pixels.

    Attributes:
        corners: float32 `[n, 4]`, x0 y0 x1 y1.
        labels: int64 `[n]`, 0 to classes - 1.
        crowd: bool `[n]`: a group that nobody has to find one by one (COCO `iscrowd`).
        areas: float32 `[n]`, of the object itself where it is known, of the box otherwise; square pixels.
    """

    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]


@dataclass(frozen=True)
class KeyPoints:
    """Labelled points of the objects in one picture, in its own pixels.

    Attributes:
        points: float32 `[n, k, 2]`, x y.
        visibility: int64 `[n, k]`: 0 not labelled, 1 labelled and hidden, 2 visible (COCO).
        boxes: of the same `n` objects.
        picture: name of the picture where several samples are crops of one; empty where a sample is a picture.
        subject: position of the object that a crop is about; None where the sample is about all of them.
    """

    points: NDArray[np.float32]
    visibility: NDArray[np.int64]
    boxes: Boxes
    picture: str = ""
    subject: int | None = None


@dataclass(frozen=True)
class Mask:
    """A class for every pixel of one picture, int64 `[height, width]`; `ignore` is not judged."""

    classes: NDArray[np.int64]
    ignore: int = 255


Target: TypeAlias = "int | float | Boxes | KeyPoints | Mask | Array | None"
"""What is right for one sample; None where nothing is written down."""


@dataclass(frozen=True)
class Sample:
    """One sample as a data set gives it.

    Attributes:
        name: of its file or row, for messages.
        inputs: by name, without the batch axis.
        frame: None where the input is no picture.
    """

    name: str
    inputs: Arrays
    target: Target = None
    frame: Frame | None = None
