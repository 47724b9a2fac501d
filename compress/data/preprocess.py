"""Preprocessing of a decoded image into what the network takes, as `InputSpec` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from compress.core.artifact import InputSpec, Interpolation, Scaling
from compress.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST_PIXELS", "Preprocess"]

MOST_PIXELS = 89_478_485
"""Pillow's own `MAX_IMAGE_PIXELS`: 256 MiB of RGB. Pillow itself decodes up to twice that, with a warning."""

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocess:
    """Scale, crop, reorder and normalise.

    Attributes:
        input: what the network takes.
        resize: length in pixels that the short side is scaled to; None leaves the size.
        stretch: scale straight to the input's height and width instead (for images much smaller than any input).
        interpolation: how scaling computes pixels between pixels.
    """

    input: InputSpec
    resize: int | None = None
    stretch: bool = False
    interpolation: Interpolation = "bilinear"

    @property
    def scaling(self) -> Scaling:
        """The part that a device has to repeat to give the network what it was measured with."""
        return Scaling(self.resize, self.interpolation, self.stretch)

    def __call__(self, picture: Image.Image | NDArray[np.float32], name: str) -> NDArray[np.float32]:
        """float32 `[C, H, W]`, normalised. Raises `DataError` naming the image when it does not fit."""
        return self.normalise(self.pixels(picture, name))

    def pixels(self, picture: Image.Image | NDArray[np.float32], name: str) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Planes `[C, H, W]` of the network's size: uint8 as decoded, or float32 where the picture is an array.

        Raises:
            DataError: the picture does not fit; names it.
        """
        planes = self._planes(picture, name)
        return self._crop(np.stack([np.asarray(self._scale(plane, name)) for plane in planes]), name)

    def normalise(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the network takes, of `pixels`; float32 of the same shape."""
        mean = np.asarray(self.input.mean, dtype=np.float32)[:, None, None]
        std = np.asarray(self.input.std, dtype=np.float32)[:, None, None]
        values = pixels.astype(np.float32)
        if pixels.dtype == np.uint8:
            values /= np.float32(255)
        return (values - mean) / std

    def describe(self) -> str:
        """One line that changes whenever the pixels would."""
        if self.stretch:
            other = "" if self.interpolation == "bilinear" else f" {self.interpolation}"
            return f"stretch {self.input.shape[1:]}{other}; {self.input}"
        return f"resize {self.resize} {self.interpolation}, centre crop; {self.input}"

    def _planes(self, picture: Image.Image | NDArray[np.float32], name: str) -> list[Image.Image]:
        """Colour planes in the network's order."""
        planes = list(self._convert(picture, name).split()) if isinstance(picture, Image.Image) else _split(picture)
        if len(planes) == 1 and self.input.channel_order != "planes":
            planes = planes * self.input.shape[0]
        if len(planes) != self.input.shape[0]:
            raise DataError(
                f"{name} has {len(planes)} channels but the model takes {self.input.shape[0]}",
                fix="store the images as the model takes them; data=npz holds any number of channels",
            )
        return planes[::-1] if self.input.channel_order == "bgr" else planes

    def _convert(self, image: Image.Image, name: str) -> Image.Image:
        if self.input.channel_order == "planes" and image.mode in ("L", "RGB"):
            return image
        if image.mode not in _EIGHT_BIT_MODES:
            raise DataError(f"{name} is not an 8-bit image (mode {image.mode})", fix="convert it to 8 bits per channel")
        if self.input.channel_order == "planes":
            raise DataError(f"{name} has no planes as they are (mode {image.mode})", fix="store it as RGB, or data=npz")
        return image.convert("L" if self.input.channel_order == "gray" else "RGB")

    def _scale(self, plane: Image.Image, name: str) -> Image.Image:
        width, height = plane.size
        if self.stretch:
            target = (self.input.shape[2], self.input.shape[1])
        elif self.resize is None:
            return plane
        else:  # the long side is cut down to an integer, as torchvision.transforms.Resize does
            short = min(width, height)
            target = (int(self.resize * width / short), int(self.resize * height / short))
        if target[0] * target[1] > MOST_PIXELS:
            raise DataError(
                f"{name} is {width}x{height} pixels and would be {target[0]}x{target[1]}, "
                f"more than {MOST_PIXELS / 1e6:.0f} million",
                fix="remove it from the data set, or lower data.resize",
            )
        return plane if target == plane.size else plane.resize(target, _RESAMPLING[self.interpolation])

    def _crop(
        self, pixels: NDArray[np.uint8] | NDArray[np.float32], name: str
    ) -> NDArray[np.uint8] | NDArray[np.float32]:
        _, height, width = self.input.shape
        spare_height, spare_width = pixels.shape[1] - height, pixels.shape[2] - width
        if spare_height < 0 or spare_width < 0:
            raise DataError(
                f"{name} is {pixels.shape[2]}x{pixels.shape[1]} pixels but the model takes {width}x{height}",
                fix=f"data.resize={max(height, width)}",
            )
        top, left = round(spare_height / 2), round(spare_width / 2)
        return pixels[:, top : top + height, left : left + width]


def _split(pixels: NDArray[np.float32]) -> list[Image.Image]:
    """Float planes of an array `[H, W, C]` (PIL mode F)."""
    return [Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(pixels.shape[-1])]
