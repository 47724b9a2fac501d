"""NumPy archives of images and labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.data.configs import NpzData
from compress.data.source import ArraySource
from compress.errors import DataError, nearest
from compress.reading import open_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_npz"]

_CHECKED_AT_ONCE = 256
"""Samples whose values are looked at in one go: bounds the temporary memory."""


def read_npz(config: NpzData, channels: int) -> tuple[ArraySource, ArraySource | None]:
    """The archive and, where the user named one, the test archive; `channels` are the model's."""
    images, labels = _read(config.file, config.classes, channels)
    if config.test is None:
        return _source(config, config.file, images, labels, labels), None
    test_images, test_labels = _read(config.test, config.classes, channels)
    every = np.concatenate([labels, test_labels])
    return (
        _source(config, config.file, images, labels, every),
        _source(config, config.test, test_images, test_labels, every),
    )


def _source(
    config: NpzData, path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], every: NDArray[np.int64]
) -> ArraySource:
    classes = config.classes or int(every.max()) + 1
    return ArraySource(tuple(str(index) for index in range(classes)), images, labels, str(path.resolve()))


def _read(path: Path, classes: int | None, channels: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        with open_regular(path) as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{path} is a single array, not an .npz archive", fix="np.savez(file, images=, labels=)"
                )
            images, labels = (_array(archive, name, path) for name in ("images", "labels"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz archive: {error}", fix="write it with np.savez") from error
    images = _channels_last(images, path, channels)
    _check_labels(labels, len(images), path, classes)
    _check_values(images, path)
    return images, labels.astype(np.int64)


def _array(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> NDArray[np.uint8]:
    if name not in archive.files:
        raise DataError(f"{path} has no array {name!r}; {nearest(name, archive.files)}", fix=f"save it as {name}=")
    array: NDArray[np.uint8] = archive[name]
    return array


def _channels_last(images: NDArray[np.uint8], path: Path, wanted: int) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{path}: images are {images.dtype}", fix="store uint8 (0 to 255) or float (0 to 1)")
    if images.ndim == 3:
        return images[..., None]
    for channels in ((1, 3), (wanted,)):  # what a picture has comes first, then what the model takes
        if images.ndim == 4 and images.shape[-1] in channels:
            return images
        if images.ndim == 4 and images.shape[1] in channels:
            return images.transpose(0, 2, 3, 1)
    raise DataError(
        f"{path}: images have the shape {images.shape} and the model takes {wanted} channels",
        fix="store [N, H, W], [N, H, W, C] or [N, C, H, W], C the channels of the model, 1 or 3",
    )


def _check_labels(labels: NDArray[np.uint8], images: int, path: Path, classes: int | None) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}", fix="store integers [N]")
    if len(labels) != images or images == 0:
        raise DataError(f"{path}: {images} images but {len(labels)} labels", fix="store one label per image")
    wrong = (labels < 0) | (labels >= (classes or int(labels.max()) + 1))
    if wrong.any():
        index = int(wrong.argmax())
        raise DataError(
            f"{path}, sample {index}: label {labels[index]} is out of range, allowed: "
            + (f"0 to {classes - 1}" if classes else "0 or more"),
            fix="correct it or data.classes",
        )


def _check_values(images: NDArray[np.uint8], path: Path) -> None:
    """Floats must be finite and within [0, 1]: a NaN would silently spoil every range that calibration finds."""
    if images.dtype == np.uint8:
        return
    for start in range(0, len(images), _CHECKED_AT_ONCE):
        chunk = images[start : start + _CHECKED_AT_ONCE].reshape(min(_CHECKED_AT_ONCE, len(images) - start), -1)
        for wrong, problem in (
            (~np.isfinite(chunk), "a value that is not finite"),
            ((chunk < 0) | (chunk > 1), "a value outside 0 to 1"),
        ):
            if wrong.any():
                index = start + int(wrong.any(axis=1).argmax())
                raise DataError(f"{path}, sample {index}: images have {problem}", fix="clean it, or store uint8")
