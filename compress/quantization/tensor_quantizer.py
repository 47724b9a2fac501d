"""The module that prepare puts wherever a tensor is quantized: it observes, and becomes a Q/DQ pair on convert."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx
from torchao.quantization.pt2e.observer import ObserverBase

from compress.errors import StageError
from compress.graph import constant, parameter_name, replace_constant
from compress.quantization.grid import Grid
from compress.quantization.observers.base import RangeObserver
from compress.quantization.policy import FixedRange

__all__ = ["BiasQuantizer", "Follower", "TensorQuantizer"]

_q = torch.ops.quantized_decomposed
_INT32 = 2**31 - 1
_BIAS_ROOM = 2**30  # half of int32: the other half is for the sum of products that the bias is added to


class TensorQuantizer(ObserverBase):  # type: ignore[misc]
    """Range and grid of one tensor.

    Attributes:
        name: the parameter (`layer1.0.conv1.weight`), or the layer whose output it is; set once the graph is prepared.
        grid: the integers.
        axis: channel axis for one scale per channel, None for one scale.
        limits: values outside make no difference to any reader (below -3 to a hardswish) and are not represented.
        floor: lower bounds of the scales `[channels]`, see `BiasQuantizer.make_room`.
    """

    def __init__(
        self,
        *,
        grid: Grid,
        observer: Callable[[], RangeObserver],
        axis: int | None = None,
        fixed: FixedRange | None = None,
    ) -> None:
        super().__init__(dtype=grid.dtype)
        self.name = ""
        self.grid = grid
        self.axis = axis
        self.limits = (-math.inf, math.inf)
        self.floor: torch.Tensor | None = None
        self._observer = observer()
        self._fixed = fixed
        self._batches = 0
        self._is_constant = False

    def describe(self, name: str, *, limits: tuple[float, float], is_constant: bool) -> None:
        """Say which tensor this is; a constant is observed only once."""
        self.name, self.limits, self._is_constant = name, limits, is_constant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self._is_constant and self._batches) and x.numel():
            self._observe(x.detach())
        self._batches += 1
        return x

    def _observe(self, x: torch.Tensor) -> None:
        values = x.reshape(1, -1) if self.axis is None else x.transpose(0, self.axis).flatten(1)
        low, high = torch.aminmax(values, dim=1)
        if not (low.isfinite().all() and high.isfinite().all()):
            what = "weight" if self._is_constant else f"activation, calibration batch {self._batches + 1}:"
            raise StageError(f"{what} {self.name!r} holds NaN or infinity", fix="check the checkpoint and the images")
        if self.limits != (-math.inf, math.inf):
            values, low, high = (part.clamp(*self.limits) for part in (values, low, high))
        self._observer.observe(values, low, high)

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int64), `[]` or `[channels]`.

        Raises:
            StageError: no calibration batch has passed.
        """
        if self._fixed is not None:
            return torch.tensor(self._fixed.scale), torch.tensor(self._fixed.zero_point)
        if not self._batches:
            raise StageError(f"{self.name!r} saw no calibration data", fix="give the calibration split images")
        scale, zero_point = self.grid.parameters(*self._observer.range(self.grid))
        if self.axis is None:
            scale, zero_point = scale[0], zero_point[0]
        elif len(self._observer_span()) > 1:
            scale = _revive_dead_channels(scale, self._observer_span())
        return (scale if self.floor is None else torch.maximum(scale, self.floor)), zero_point
