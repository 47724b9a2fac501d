"""MoveNet's four heads (Votel & Li 2021): the object nearest to the middle, and the points that belong to it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.core.io import Arrays, Signature
from compress.tasks.base import NoFit, finite_output, plane_size
from compress.tasks.keypoints.decoder import PointDecoder, Points, argmax2d

__all__ = ["CentreHeadsDecoder"]


class CentreHeadsDecoder(PointDecoder):
    """Maps `center [1, h, w]`, `heatmaps [k, h, w]`, `regression [2 k, h, w]` and `offsets [2 k, h, w]`, y before x.

        c = argmax of center / (distance to the middle + d)
        t = c + regression at c
        p = argmax of heatmap / (distance to t + d)
        place = p + offset at p, in cells

    Attributes:
        center, heatmaps, regression, offsets: names of the outputs.
        distance: d, in cells: how far off a peak still counts about as much.
    """

    kind: Literal["centre_heads"] = "centre_heads"
    center: str = "center"
    heatmaps: str = "heatmaps"
    regression: str = "regression"
    offsets: str = "offsets"
    distance: Annotated[float, Field(gt=0)] = 1.8

    def fit(self, signature: Signature) -> int:
        """Number of points; raises `NoFit` where a head is missing or has another number of planes."""
        specs = {spec.name: spec for spec in signature.outputs}
        names = (self.center, self.heatmaps, self.regression, self.offsets)
        points = specs[self.heatmaps].shape[0] if self.heatmaps in specs else None
        planes = (1, points, 2 * (points or 0), 2 * (points or 0))
        fitting = all(
            name in specs and len(specs[name].shape) == 3 and specs[name].shape[0] == count
            for name, count in zip(names, planes, strict=True)
        )
        if not fitting or not points:
            raise NoFit(
                "maps " + ", ".join(f"{n} [{p}, h, w]" for n, p in zip(names, ("1", "k", "2k", "2k"), strict=True))
            )
        return points

    def decode(self, outputs: Arrays, signature: Signature) -> Points:
        """Place and height of each point's peak."""
        center, heat, regression, offsets = (
            finite_output(outputs, name).astype(np.float64)
            for name in (self.center, self.heatmaps, self.regression, self.offsets)
        )
        samples, points, height, width = heat.shape
        middle = np.broadcast_to(np.array([height / 2, width / 2]), (samples, 1, 2))
        rows, columns = argmax2d(center / (_distance(middle, height, width) + self.distance))
        first = np.arange(samples)
        regression = regression.reshape(samples, points, 2, height, width)
        expected = regression[first, :, :, rows[:, 0], columns[:, 0]] + np.stack([rows, columns], axis=-1)
        own_rows, own_columns = argmax2d(heat / (_distance(expected, height, width) + self.distance))
        sample, point = np.ix_(first, np.arange(points))
        shifts = offsets.reshape(samples, points, 2, height, width)[sample, point, :, own_rows, own_columns]
        cells = np.stack([own_columns, own_rows], axis=-1) + shifts[..., ::-1]
        plane = plane_size(signature) or (height, width)
        places = cells * np.array([plane[1] / width, plane[0] / height])
        return Points(places, heat[sample, point, own_rows, own_columns])


def _distance(places: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Distance of every cell to each place (row, column), `[n, k, 2] -> [n, k, height, width]`."""
    rows = np.arange(height)[:, None] - places[..., 0, None, None]
    columns = np.arange(width)[None] - places[..., 1, None, None]
    return np.sqrt(rows**2 + columns**2)
