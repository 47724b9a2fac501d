"""Objects as peaks of a heat map, with a size and a shift at each (Zhou et al. 2019, "Objects as points")."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit, finite_output
from compress.tasks.detection.candidates import Candidates, to_corners
from compress.tasks.detection.decoder import Decoder, fixed_plane, named, same_size, sigmoid

__all__ = ["CentersDecoder"]


class CentersDecoder(Decoder):
    """Maps `heat [classes, h, w]`, `size [2, h, w]` and perhaps `shift [2, h, w]`, x before y.

    A peak is a cell that none of its eight neighbours exceeds: centre = (cell + shift) stride, size as given.

    Attributes:
        stride: pixels of the plane for each cell.
        heat, size, shift: names of the outputs; None finds `heat` by its shape, then size and shift in the model's
            order.
        sizes_in: whether sizes are in cells or in pixels of the plane.
        activated: whether the heat has been through a sigmoid in the model.
        limit: peaks of a sample, the highest first.
    """

    suppressed: ClassVar[bool] = True

    kind: Literal["centers"] = "centers"
    stride: Annotated[int, Field(ge=1)] = 4
    heat: str | None = None
    size: str | None = None
    shift: str | None = None
    sizes_in: Literal["cells", "pixels"] = "cells"
    activated: bool = True
    limit: Annotated[int, Field(ge=1)] = 100

    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit` where the heat or the sizes are missing."""
        self._names(signature, classes)

    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """The peaks of each sample that are surer than `threshold`, the highest first."""
        names = self._names(signature, classes)
        heat = finite_output(outputs, names[0]).astype(np.float32)
        heat = heat if self.activated else sigmoid(heat)
        size = finite_output(outputs, names[1]).astype(np.float64)
        shift = finite_output(outputs, names[2]).astype(np.float64) if names[2] else np.zeros_like(size)
        peaks = np.where(_is_peak(heat), heat, 0.0)
        return [self._sample(*maps, threshold) for maps in zip(peaks, size, shift, strict=True)]

    def _sample(
        self, peaks: NDArray[np.float32], size: NDArray[np.float64], shift: NDArray[np.float64], threshold: float
    ) -> Candidates:
        labels, rows, columns = np.nonzero(peaks > threshold)
        scores = peaks[labels, rows, columns]
        order = np.argsort(-scores, kind="stable")[: self.limit]
        labels, rows, columns = labels[order], rows[order], columns[order]
        centres = np.stack([columns, rows], axis=1) + shift[:, rows, columns].T
        sizes = size[:, rows, columns].T * (self.stride if self.sizes_in == "cells" else 1)
        boxes = np.concatenate([centres * self.stride, sizes], axis=1)
        return Candidates(
            to_corners(boxes, "cxcywh").astype(np.float32), scores[order].astype(np.float32), labels.astype(np.int64)
        )

    def _names(self, signature: Signature, classes: int) -> tuple[str, str, str | None]:
        height, width = fixed_plane(signature)
        grid = (-(-height // self.stride), -(-width // self.stride))

        def maps(planes: int) -> list[str]:
            return [
                spec.name
                for spec in signature.outputs
                if len(spec.shape) == 3 and all(map(same_size, spec.shape, (planes, *grid)))
            ]

        for name in (self.heat, self.size, self.shift):
            if name is not None:
                named(signature.outputs, name)
        chosen = {name for name in (self.heat, self.size, self.shift) if name}
        heats = [self.heat] if self.heat else [name for name in maps(classes) if name not in chosen]
        pairs = [name for name in maps(2) if name not in chosen and name not in heats[:1]]
        size = self.size or (pairs.pop(0) if pairs else None)
        if not heats or size is None:
            raise NoFit(f"heat [{classes}, {grid[0]}, {grid[1]}] and size [2, {grid[0]}, {grid[1]}]")
        return heats[0], size, self.shift or (pairs[0] if pairs else None)


def _is_peak(heat: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell whether no neighbour is higher, `[n, classes, h, w]`."""
    padded = np.pad(heat, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    peak: NDArray[np.bool_] = heat >= windows.max(axis=(-2, -1))
    return peak
