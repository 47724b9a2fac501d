"""Classification data sets of torchvision, by name."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast
from urllib.error import URLError

import numpy as np
from PIL import EpsImagePlugin, Image

from compress.core.errors import DataError, nearest
from compress.data.class_map import ClassNames, number_classes
from compress.data.configs import MOST_CLASSES, TorchvisionData

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_torchvision"]

# torchvision opens files by content: PostScript, whatever it is called, would start Ghostscript.
EpsImagePlugin.gs_binary = False

_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "_samples", "samples")
_TEST_SPLITS = ("test", "val", "valid")


class _DataSet(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[object, object]: ...


@dataclass(frozen=True)
class _TorchvisionSource:
    """A torchvision data set seen as a `Source`; images are whatever its loader decodes."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    dataset: _DataSet
    origin: str
    by_place: bool

    def picture(self, index: int) -> Image.Image:
        try:
            image = self.dataset[index][0]
        except (OSError, ValueError) as error:
            raise DataError(f"{self.name(index)} cannot be decoded: {error}", fix="download the data again") from error
        if not isinstance(image, Image.Image):
            raise DataError(
                f"{self.name(index)} is a {type(image).__name__}, not an image", fix="use an image data set"
            )
        return image

    def name(self, index: int) -> str:
        return f"{self.origin}, sample {index}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def content(self, index: int) -> bytes:
        image = self.picture(index)
        return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).digest()


def read_torchvision(config: TorchvisionData, carried: ClassNames) -> tuple[_TorchvisionSource, _TorchvisionSource]:
    """The training and the test part of the data set.

    Args:
        carried: names of the model's outputs, by which the classes are numbered where no option says how.
    """
    constructor = _constructor(config.name)
    parameters = inspect.signature(constructor).parameters
    if "train" in parameters:
        train, test = _open(config, train=True), _open(config, train=False)
    elif "split" in parameters:
        train, test = _open(config, split="train"), _open_test(config)
    else:
        raise DataError(
            f"torchvision data set {config.name} has no training and test part",
            fix="export it as folders and use data=image_folder",
        )
    classes = _classes(train, _labels(train, config), _labels(test, config))
    numbering = number_classes(classes, config, carried)

    def source(dataset: _DataSet, part: str) -> _TorchvisionSource:
        labels, origin = _labels(dataset, config), f"{config.name} {part}"
        if numbering is None:
            return _TorchvisionSource(classes, labels, dataset, origin, by_place=True)
        return _TorchvisionSource(numbering.classes, numbering(labels), dataset, origin, by_place=False)

    return source(train, "train"), source(test, "test")


def _constructor(name: str) -> type:
    from torchvision import datasets

    base = datasets.VisionDataset
    known = {key: value for key, value in vars(datasets).items() if isinstance(value, type) and issubclass(value, base)}
    if name not in known or name == base.__name__:
        raise DataError(
            f"unknown torchvision data set {name!r}; {nearest(name, known)}", fix="data.name=<one of these>"
        )
    return known[name]


def _open(config: TorchvisionData, *, train: bool | None = None, split: str | None = None) -> _DataSet:
    constructor = _constructor(config.name)
    part = {"split": split} if train is None else {"train": train}
    fetch = {"download": config.download} if "download" in inspect.signature(constructor).parameters else {}
    try:
        return cast(_DataSet, constructor(str(config.root), **part, **fetch))
    except (URLError, ConnectionError, TimeoutError) as error:
        raise DataError(
            f"torchvision data set {config.name} could not be downloaded: {error}",
            fix=f"connect to a network, or put its files into {config.root} and set data.download=false",
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"torchvision data set {config.name} cannot be read from {config.root}: {reason}",
            fix="put its files there, or data.download=true with a network",
        ) from error


def _open_test(config: TorchvisionData) -> _DataSet:
    """The part that plays the test set; data sets name it differently."""
    found = (dataset for split in _TEST_SPLITS if (dataset := _open_part(config, split)) is not None)
    dataset = next(found, None)
    if dataset is None:
        raise DataError(f"torchvision data set {config.name} has none of the parts {', '.join(_TEST_SPLITS)}")
    return dataset


def _open_part(config: TorchvisionData, split: str) -> _DataSet | None:
    try:
        return _open(config, split=split)
    except ValueError:  # torchvision's answer to a split name it does not know
        return None


def _labels(dataset: _DataSet, config: TorchvisionData) -> NDArray[np.int64]:
    """Labels without decoding images where the data set keeps them in a list; otherwise image by image."""
    for attribute in _LABEL_ATTRIBUTES:
        stored = getattr(dataset, attribute, None)
        if stored is not None and len(stored) == len(dataset):
            last = [entry[-1] if isinstance(entry, list | tuple) else entry for entry in stored]
            return _integers(last, config)
    return _integers([dataset[index][1] for index in range(len(dataset))], config)


def _integers(labels: Sequence[object], config: TorchvisionData) -> NDArray[np.int64]:
    values = np.asarray(labels)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or not _within_range(values):
        raise DataError(
            f"torchvision data set {config.name} has no class labels", fix="choose a classification data set"
        )
    return values.astype(np.int64)


def _within_range(labels: NDArray[np.integer]) -> bool:
    return not labels.size or (labels.min() >= 0 and labels.max() < MOST_CLASSES)


def _classes(dataset: _DataSet, train: NDArray[np.int64], test: NDArray[np.int64]) -> tuple[str, ...]:
    """Names where the data set knows them, otherwise numbers."""
    count = int(max(train.max(initial=-1), test.max(initial=-1))) + 1
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and len(names) >= count:
        return tuple(str(name[0] if isinstance(name, tuple) and name else name) for name in names)  # (name, synonyms)
    return tuple(str(index) for index in range(count))
