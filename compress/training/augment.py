"""Cheap augmentation of normalised batches: mirrored and shifted images (He et al. 2016, section 4.2, on CIFAR-10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.core.stage import Batch
from compress.training.options import Padding

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Augment", "augmented"]


@dataclass(frozen=True)
class Augment:
    """Augmentations that may happen to an image.

    Attributes:
        flip: mirror half of the images left to right. Wrong for digits, text and road signs.
        shift: largest shift in pixels, up, down, left and right: a random crop of the image padded by that much.
        padding: what comes in at the edge: `zero` (the mean colour, as images are normalised) or `reflect`.
        blend: largest share of another image that is mixed into each image (Zhang et al. 2018, "mixup"), below one
            half; the label stays that of the larger part: for distillation, where the teacher sees the mixture, too.
    """

    flip: bool = False
    shift: int = 0
    padding: Padding = "zero"
    blend: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift={self.shift} must be at least 0")
        if not 0 <= self.blend < 0.5:
            raise ValueError(f"blend={self.blend} must be from 0 to below 0.5")


def augmented(batches: Iterable[Batch], options: Augment, generator: np.random.Generator) -> Iterator[Batch]:
    """The batches with every image changed by its own random choice; the input batches stay as they are."""
    for batch in batches:
        images = batch.images
        if options.shift:
            images = _shifted(images, options, generator)
        if options.flip:
            mirrored = generator.random(len(images)) < 0.5
            images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        if options.blend:
            share = generator.uniform(0, options.blend, size=(len(images), 1, 1, 1)).astype(np.float32)
            images = (1 - share) * images + share * images[generator.permutation(len(images))]
        yield Batch(images, batch.labels)


def _shifted(images: NDArray[np.float32], options: Augment, generator: np.random.Generator) -> NDArray[np.float32]:
    height, width = images.shape[2:]
    edges = ((0, 0), (0, 0), (options.shift, options.shift), (options.shift, options.shift))
    padded = np.pad(images, edges, mode="constant" if options.padding == "zero" else "reflect")
    corners = generator.integers(0, 2 * options.shift, size=(len(images), 2), endpoint=True)
    shifted = np.empty_like(images)
    for target, source, (top, left) in zip(shifted, padded, corners, strict=True):
        target[...] = source[:, top : top + height, left : left + width]
    return shifted
