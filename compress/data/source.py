"""Sources of samples, before they are split: labelled images that are decoded one at a time."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from compress.core.errors import DataError
from compress.data.preprocess import MOST_PIXELS
from compress.support.files import sha256_file
from compress.support.reading import open_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ArraySource", "FileSource", "Source", "distinct"]


class Source(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        classes: names, in the order of the labels.
        labels: int64 `[N]`.
        by_place: a label is the class's place in a list of names, and nothing says that the model counts like that.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def by_place(self) -> bool: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def picture(self, index: int) -> Image.Image | NDArray[np.float32]:
        """The decoded image; raises `DataError` naming the file when it cannot be read."""
        ...

    def name(self, index: int) -> str:
        """Name of the sample in an error message."""
        ...

    def identity(self, index: int) -> str:
        """Equal for two samples exactly when they are the same stored image, also across sources."""
        ...

    def content(self, index: int) -> bytes:
        """SHA-256 of the stored image."""
        ...


_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
"""Decoded by Pillow itself. By content Pillow would also take PostScript, whatever a file is called, and start
Ghostscript on it."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused here, in one line


@dataclass(frozen=True)
class FileSource:
    """Image files on disk. Colours are as stored: EXIF orientation is not applied, as in torchvision's loaders."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    by_place: bool = False

    def picture(self, index: int) -> Image.Image:
        path = self.paths[index]
        try:
            with open_regular(path) as stream, Image.open(stream, formats=_FORMATS) as image:
                self._require_size(path, image)
                image.load()
                return image.copy()
        except FileNotFoundError as error:
            raise DataError(f"image {path} does not exist", fix="restore it or remove it from the data set") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"image {path} cannot be decoded: {reason}", fix="replace or remove the file") from error

    def _require_size(self, path: Path, image: Image.Image) -> None:
        """Check the size before anything is decoded: a few kilobytes may unpack to gigabytes."""
        if image.width * image.height > MOST_PIXELS:
            raise DataError(
                f"image {path} has {image.width} x {image.height} pixels, more than {MOST_PIXELS / 1e6:.0f} million",
                fix="make it smaller, or remove it from the data set",
            )

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def identity(self, index: int) -> str:
        return str(self.paths[index].resolve())

    def content(self, index: int) -> bytes:
        path = self.paths[index]
        try:
            status = path.stat()
            return _file_digest(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise DataError(f"image {path} cannot be read: {error.strerror}", fix="restore the file") from error

    def size_bytes(self, index: int) -> int:
        """Size of the file: only files of one size can be equal."""
        path = self.paths[index]
        try:
            return path.stat().st_size
        except OSError as error:
            raise DataError(f"image {path} cannot be read: {error.strerror}", fix="restore the file") from error


@dataclass(frozen=True)
class ArraySource:
    """Images that fit in memory in their stored type.

    Attributes:
        images: `[N, H, W, C]`, uint8 or float in [0, 1].
        origin: file or data set they were read from.
    """

    classes: tuple[str, ...]
    images: NDArray[np.uint8] | NDArray[np.floating]
    labels: NDArray[np.int64]
    origin: str
    by_place: bool = False

    def picture(self, index: int) -> Image.Image | NDArray[np.float32]:
        pixels = self.images[index]
        if pixels.dtype != np.uint8:
            return np.asarray(pixels, dtype=np.float32)
        if pixels.shape[-1] not in (1, 3):
            planes: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(255)
            return planes
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def name(self, index: int) -> str:
        return f"{self.origin}, sample {index}"

    def identity(self, index: int) -> str:
        return f"{self.origin}#{index}"

    def content(self, index: int) -> bytes:
        pixels = np.ascontiguousarray(self.images[index])
        return hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).digest()


def distinct(paths: Sequence[Path], labels: Sequence[int], classes: tuple[str, ...]) -> FileSource:
    """A source without repeated files, so that no image can be in two splits.

    Raises:
        DataError: the same file has two labels.
    """
    label_of: dict[Path, int] = {}
    kept: list[int] = []
    for index, (path, label) in enumerate(zip(paths, labels, strict=True)):
        real = path.resolve()
        if label_of.setdefault(real, label) != label:
            raise DataError(
                f"image {path} has two labels: {classes[label_of[real]]} and {classes[label]}", fix="keep one of them"
            )
        if len(label_of) > len(kept):
            kept.append(index)
    return FileSource(
        classes, tuple(paths[index] for index in kept), np.asarray([labels[index] for index in kept], dtype=np.int64)
    )


@cache
def _file_digest(path: Path, size_bytes: int, modified_ns: int) -> bytes:
    """SHA-256 of a file; size and modification time are the key, so an edited file is hashed again."""
    return bytes.fromhex(sha256_file(path))
