"""Points as numbers: a row of coordinates for each."""

from __future__ import annotations

from typing import Literal

import numpy as np

from compress.core.io import Arrays, Signature, TensorSpec
from compress.tasks.base import NoFit, finite_output, plane_size
from compress.tasks.keypoints.decoder import PointDecoder, Points

__all__ = ["CoordinateDecoder"]


class CoordinateDecoder(PointDecoder):
    """One output `[points, 2]` or `[points, 3]` with a score behind, or the same flat (`[2 points]`, without scores).

    Attributes:
        output: its name; None where one fits.
        order: of the two coordinates; MoveNet gives `yx`.
        normalised: whether they are fractions of the input's width and height.
    """

    kind: Literal["coordinates"] = "coordinates"
    output: str | None = None
    order: Literal["xy", "yx"] = "xy"
    normalised: bool = True

    def fit(self, signature: Signature) -> int:
        """Number of points; raises `NoFit` where no output is a list of them."""
        if self.normalised and plane_size(signature) is None:
            raise NoFit("an input [channels, height, width] of a fixed size")
        shape = self._shape(self._output(signature))
        return shape[0]

    def decode(self, outputs: Arrays, signature: Signature) -> Points:
        """The coordinates, and the scores where there are any."""
        spec = self._output(signature)
        points, columns = self._shape(spec)
        values = finite_output(outputs, spec.name).astype(np.float64)
        values = values.reshape(len(values), points, columns)
        places = values[..., :2] if self.order == "xy" else values[..., 1::-1]
        if self.normalised:
            height, width = plane_size(signature) or (1, 1)
            places = places * np.array([width, height], np.float64)
        scores = values[..., 2] if columns == 3 else np.ones(values.shape[:2])
        return Points(places, scores)

    def _output(self, signature: Signature) -> TensorSpec:
        fitting = [s for s in signature.outputs if self.output in (None, s.name) and self._shape(s) != (0, 0)]
        if len(fitting) != 1:
            raise NoFit("one output [points, 2], [points, 3] or [2 points]")
        return fitting[0]

    @staticmethod
    def _shape(spec: TensorSpec) -> tuple[int, int]:
        """Points and columns of an output; (0, 0) if it is no list of points."""
        sizes = [size for size in spec.shape if size != 1]
        if None in sizes or not sizes:
            return 0, 0
        known = [size for size in sizes if size is not None]
        if len(known) == 2 and known[1] in (2, 3):
            return known[0], known[1]
        if len(known) == 1 and known[0] % 2 == 0:
            return known[0] // 2, 2
        return 0, 0
