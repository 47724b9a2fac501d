"""Heads on several strides: one output for each level, or all of them one behind the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.io import Arrays, TensorSpec
from compress.tasks.base import finite_output
from compress.tasks.detection.decoder import is_list, rows_of, same_size

__all__ = ["Levels"]


@dataclass(frozen=True)
class Levels:
    """The cells of all levels, each with the same number of anchors.

    Rows of a list go by level, then by anchor, then by row and column of the grid, as Ultralytics' and Megvii's
    networks join them.

    Attributes:
        plane: height and width of the input.
    """

    plane: tuple[int, int]
    strides: tuple[int, ...]
    anchors: int = 1

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level."""
        return tuple((math.ceil(self.plane[0] / step), math.ceil(self.plane[1] / step)) for step in self.strides)

    @property
    def rows(self) -> int:
        """Boxes of all levels."""
        return sum(rows * columns for rows, columns in self.grids) * self.anchors

    def wanted(self, channels: int) -> str:
        """Describe the outputs that would fit, for a message."""
        maps = ", ".join(f"[{self.anchors * channels}, {rows}, {columns}]" for rows, columns in self.grids)
        return f"[{self.rows}, {channels}] in either order, or maps {maps}"

    def outputs(self, specs: Sequence[TensorSpec], channels: int) -> tuple[str, ...] | None:
        """Names of the outputs that hold `channels` numbers for every box: one list, or a map for each level."""
        for spec in specs:
            if is_list(spec, channels, self.rows):
                return (spec.name,)
        names: list[str] = []
        for grid in self.grids:
            fitting = [s.name for s in specs if s.name not in names and self._axes(s.shape, channels, grid) is not None]
            if not fitting:
                return None
            names.append(fitting[0])
        return tuple(names)

    def read(self, outputs: Arrays, names: Sequence[str], channels: int) -> NDArray[np.float32]:
        """All boxes' numbers, float32 `[n, rows, channels]`."""
        first = outputs.get(names[0])
        if len(names) == 1 and (first is None or self._axes(first.shape[1:], channels, self.grids[0]) is None):
            return rows_of(outputs, names[0], channels)
        parts = []
        for name, grid in zip(names, self.grids, strict=True):
            values = finite_output(outputs, name)
            form = self._axes(values.shape[1:], channels, grid)
            split = {
                "split": (0, 1, 2, 3, 4),
                "planes": (0, 1, 3, 4, 2),
                "cells": (0, 3, 1, 2, 4),
            }
            sizes = {
                "split": (self.anchors, *grid, channels),
                "planes": (self.anchors, channels, *grid),
                "cells": (*grid, self.anchors, channels),
            }
            assert form is not None
            own = values.reshape(len(values), *sizes[form]).transpose(split[form])
            parts.append(own.reshape(len(values), -1, channels))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def centres(self) -> NDArray[np.float32]:
        """Column and row of each box's cell, and its stride: float32 `[rows, 3]`."""
        parts = []
        for (rows, columns), stride in zip(self.grids, self.strides, strict=True):
            row, column = np.divmod(np.arange(rows * columns), columns)
            own = np.stack([column, row, np.full(rows * columns, stride)], axis=1)
            parts.append(np.tile(own, (self.anchors, 1)))
        return np.concatenate(parts).astype(np.float32)

    def _axes(self, shape: Sequence[int | None], channels: int, grid: tuple[int, int]) -> str | None:
        """Order of the axes of a map of one level; None if it is none."""
        forms = {
            "planes": (self.anchors * channels, *grid),
            "cells": (*grid, self.anchors * channels),
            "split": (self.anchors, *grid, channels),
        }
        for form, wanted in forms.items():
            if len(shape) == len(wanted) and all(map(same_size, shape, wanted)):
                return form
        return None
