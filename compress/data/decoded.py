"""Images are decoded once, as far as there is room for them: a run reads its splits again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DECODED_BYTES", "Decoded"]

DECODED_BYTES = 64 << 20
"""For 445 images of 224 x 224 pixels in three 8-bit colours. Decoding and scaling one takes as long as a fifth of
MobileNetV2, and the images of a run are read five to fifty times."""


class Decoded:
    """Pixels by the image's number; the first ones stay, so that what is read in turn does not push each other out."""

    def __init__(self, most_bytes: int = DECODED_BYTES) -> None:
        self._room = most_bytes
        self._kept: dict[int, NDArray[np.uint8] | NDArray[np.float32]] = {}

    def pixels(
        self, index: int, decode: Callable[[int], NDArray[np.uint8] | NDArray[np.float32]]
    ) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Those of the image `index`, decoded now or before."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels = decode(index)
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[index] = pixels.copy()  # of a crop: without the picture around it
        return pixels
