"""NumPy archives of images and labels."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import MAGIC_PREFIX

from compress.core.errors import DataError, nearest
from compress.data.configs import MOST_CLASSES, NpzData
from compress.data.source import ArraySource
from compress.support.archives import checked_members
from compress.support.reading import open_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_npz"]

_MOST_BYTES = 4 << 30
"""Of an archive, unpacked: all its images are in memory during a run. 27,000 in colour of 224 x 224 pixels."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Readers of what precedes an array, by version; both bound its length. Version 3 is for names of fields."""
_CHUNK_BYTES = 1 << 20
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
        with open_regular(path) as stream:
            if stream.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                raise DataError(
                    f"{path} is a single array, not an .npz archive", fix="np.savez(file, images=, labels=)"
                )
            sizes = checked_members(stream, _MOST_BYTES)
            with zipfile.ZipFile(stream) as archive:
                images, labels = (_array(archive, sizes, name, path) for name in ("images", "labels"))
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a readable .npz archive: {error}",
            fix="write it with np.savez; data=image_folder reads any number of images, one at a time",
        ) from error
    images = _channels_last(images, path, channels)
    _check_labels(labels, len(images), path, classes or MOST_CLASSES)
    _check_values(images, path)
    return images, labels.astype(np.int64)


def _array(archive: zipfile.ZipFile, sizes: Mapping[str, int], name: str, path: Path) -> NDArray[np.uint8]:
    """An array, whose memory is asked for only once the archive has as many bytes as its header says."""
    member = next((member for member in (f"{name}.npy", name) if member in sizes), None)
    if member is None:
        names = [other.removesuffix(".npy") for other in sizes]
        raise DataError(f"{path} has no array {name!r}; {nearest(name, names)}", fix=f"save it as {name}=")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = _HEADERS.get(version)
        if read is None:
            raise ValueError(f"{name} is of version {version} of NumPy's format")
        try:
            shape, by_columns, dtype = read(stream)
        except Exception as error:  # Python's own parser, and what it makes of types, raise anything
            raise ValueError(f"the header of {name} is damaged") from error
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {dtype}, no numbers")
        if min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != sizes[member]:
            raise ValueError(f"{name} has {sizes[member]} bytes, not those of {list(shape)} {dtype}")
        values: NDArray[np.uint8] = np.empty(math.prod(shape), dtype)
        place = memoryview(values.view(np.uint8).data)
        while content := stream.read(_CHUNK_BYTES):
            place[: len(content)], place = content, place[len(content) :]
        if place:
            raise ValueError(f"{name} is truncated")
    return values.reshape(shape, order="F" if by_columns else "C")


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


def _check_labels(labels: NDArray[np.uint8], images: int, path: Path, classes: int) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels are {labels.dtype} {labels.shape}", fix="store integers [N]")
    if len(labels) != images or images == 0:
        raise DataError(f"{path}: {images} images but {len(labels)} labels", fix="store one label per image")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        index = int(wrong.argmax())
        raise DataError(
            f"{path}, sample {index}: label {labels[index]} is out of range, allowed: 0 to {classes - 1}",
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
