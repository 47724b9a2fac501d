"""Decode a model's outputs into points of one object, in pixels of its input plane."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from compress.core.io import Arrays, Frame, Signature

__all__ = ["PointDecoder", "Points", "argmax2d", "points_on_picture"]


@dataclass(frozen=True)
class Points:
    """The points of one object in each sample.

    Attributes:
        places: float64 `[n, k, 2]`, x y.
        scores: float64 `[n, k]`; 1 where the model gives none.
    """

    places: NDArray[np.float64]
    scores: NDArray[np.float64]


class PointDecoder(BaseModel, abc.ABC):
    """Decoder of the points in the outputs of a model that sees one object. Fields are options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abc.abstractmethod
    def fit(self, signature: Signature) -> int:
        """Number of points; raises `NoFit`, with what would be read, where the outputs do not have the shapes."""

    @abc.abstractmethod
    def decode(self, outputs: Arrays, signature: Signature) -> Points:
        """Points in pixels of the input plane.

        Raises:
            StageError: an output holds NaN.
        """


def points_on_picture(points: Points, frames: Sequence[Frame | None]) -> Points:
    """Points of the model's planes in pixels of the pictures as stored; unchanged where there is no frame."""
    places = points.places.copy()
    for index, frame in enumerate(frames):
        if frame is not None:
            places[index] = (places[index] - frame.offset[::-1]) / np.array(frame.scale[::-1])
    return Points(places, points.scores)


def argmax2d(maps: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the highest element of each map, `[..., h, w] -> [...]`."""
    best = maps.reshape(*maps.shape[:-2], -1).argmax(axis=-1)
    rows, columns = np.divmod(best, maps.shape[-1])
    return rows, columns
