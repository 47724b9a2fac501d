"""A heat map for each point; its peak is the place (Newell et al. 2016)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.io import Arrays, Signature, TensorSpec
from compress.tasks.base import NoFit, finite_output, plane_size
from compress.tasks.keypoints.decoder import PointDecoder, Points, argmax2d

__all__ = ["HeatmapDecoder"]


class HeatmapDecoder(PointDecoder):
    """One output `[points, h, w]`, and perhaps the shifts of each peak `[2 points, h, w]`.

    place = (cell + 0.5 + shift) plane / map; where there are no shifts, a quarter of a cell towards the higher
    neighbour (Newell et al. 2016, 3.3) if `refine` is set.

    Attributes:
        heatmaps, shifts: names of the outputs; None finds them by shape, shifts only beside heat maps of half as
            many planes.
        order: of the two shifts of a point.
        refine: by the neighbours of a peak.
    """

    kind: Literal["heatmaps"] = "heatmaps"
    heatmaps: str | None = None
    shifts: str | None = None
    order: Literal["xy", "yx"] = "xy"
    refine: bool = True

    def fit(self, signature: Signature) -> int:
        """Number of points; raises `NoFit` where there are no heat maps."""
        heat, _ = self._outputs(signature)
        return heat.shape[0] or 0

    def decode(self, outputs: Arrays, signature: Signature) -> Points:
        """The highest element of each map, with its value as score."""
        heat_spec, shift_spec = self._outputs(signature)
        heat = finite_output(outputs, heat_spec.name).astype(np.float64)
        rows, columns = argmax2d(heat)
        sample, point = np.ix_(*map(np.arange, heat.shape[:2]))
        cells = np.stack([columns, rows], axis=-1) + 0.5
        if shift_spec is not None:
            shifts = finite_output(outputs, shift_spec.name).reshape(*heat.shape[:2], 2, *heat.shape[2:])
            own = shifts[sample, point, :, rows, columns].astype(np.float64)
            cells = cells + (own if self.order == "xy" else own[..., ::-1])
        elif self.refine:
            cells = cells + 0.25 * _towards(heat, rows, columns)
        height, width = plane_size(signature) or heat.shape[2:]
        scale = np.array([width / heat.shape[3], height / heat.shape[2]])
        return Points(cells * scale, heat[sample, point, rows, columns])

    def _outputs(self, signature: Signature) -> tuple[TensorSpec, TensorSpec | None]:
        maps = [spec for spec in signature.outputs if len(spec.shape) == 3]
        if self.heatmaps is None:
            others = [spec for spec in maps if spec.name != self.shifts]
            heats = [spec for spec in others if not any(_twice(other, spec) for other in others)]
        else:
            heats = [spec for spec in maps if spec.name == self.heatmaps]
        if len(heats) != 1 or not heats[0].shape[0]:
            raise NoFit("one output [points, height, width]")
        beside = [spec for spec in maps if _twice(heats[0], spec) and self.shifts in (None, spec.name)]
        if self.shifts is not None and not beside:
            raise NoFit(f"an output {self.shifts!r} [2 points, height, width]")
        return heats[0], beside[0] if len(beside) == 1 else None


def _twice(spec: TensorSpec, other: TensorSpec) -> bool:
    """Tell whether the other has two planes for each of this one, on the same grid."""
    planes = spec.shape[0]
    return planes is not None and other.shape == (2 * planes, *spec.shape[1:])


def _towards(heat: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Signs of the slope at each peak, x and y, `[n, k, 2]`; 0 at the border, where one neighbour is missing."""
    padded = np.pad(heat, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    sample, point = np.ix_(*map(np.arange, heat.shape[:2]))
    right = padded[sample, point, rows + 1, columns + 2] - padded[sample, point, rows + 1, columns]
    down = padded[sample, point, rows + 2, columns + 1] - padded[sample, point, rows, columns + 1]
    inside_x = (columns > 0) & (columns < heat.shape[3] - 1)
    inside_y = (rows > 0) & (rows < heat.shape[2] - 1)
    return np.stack([np.sign(right) * inside_x, np.sign(down) * inside_y], axis=-1)
