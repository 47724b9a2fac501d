"""The integer grid a tensor is rounded to, and the one formula from a range to scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.quantization.policy import NumberFormat

__all__ = ["SMALLEST_SCALE", "Grid", "activation_grid", "weight_grid"]

SMALLEST_SCALE = 2.0**-60
"""Scales never fall below: the product of two is a bias scale and must be a normal float32 (2^-126 and up)."""

_REDUCED = 64
"""Largest weight with `reduce_range`: 2 x 255 x 64 = 32640 fits the saturating int16 sum of x86's vpmaddubsw."""


@dataclass(frozen=True)
class Grid:
    """Integers `minimum..maximum`; a symmetric grid represents the real zero by the integer 0."""

    dtype: torch.dtype
    minimum: int
    maximum: int
    symmetric: bool

    def parameters(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int64) whose integers span `[low, high]`, widened to include zero.

        Real value = scale x (integer - zero point) (Jacob et al. 2018, equation 1). Including zero makes padding and
        ReLU exact. An empty range (a constant zero, a dead channel) is taken as that of a value of 1: every scale
        represents zero exactly, and this one keeps the bias that is added in its units fine enough.

        Args:
            low: smallest real values, any shape.
            high: largest real values, same shape.
        """
        low, high = low.double().clamp(max=0), high.double().clamp(min=0)
        high = torch.where(low == high, 1.0, high)
        if self.symmetric:
            scale = torch.maximum(-low, high) / self.maximum
        else:
            scale = (high - low) / (self.maximum - self.minimum)
        scale = scale.clamp(min=SMALLEST_SCALE).float()
        if self.symmetric:
            return scale, torch.zeros_like(scale, dtype=torch.int64)
        zero_point = self.minimum - (low / scale.double()).round().long()
        return scale, zero_point.clamp(self.minimum, self.maximum)

    def round_trip(self, values: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        """`values` after quantizing and dequantizing; `scale` and `zero_point` broadcast against them.

        Multiplies by the reciprocal, as `quantized_decomposed` does. The rounding passes gradients straight through;
        clipped values have none.
        """
        exact = values * (1.0 / scale)
        rounded = exact + (exact.round() - exact).detach() if exact.requires_grad else exact.round()
        integers = rounded + zero_point
        return (integers.clamp(self.minimum, self.maximum) - zero_point) * scale


def activation_grid(format: NumberFormat) -> Grid:
    """Grid of activations."""
    return Grid(getattr(torch, format.dtype), *format.bounds, format.symmetric)


def weight_grid(format: NumberFormat, *, reduce_range: bool) -> Grid:
    """Grid of weights; `reduce_range` keeps them in 7 bits for CPUs whose 8-bit multiply-add saturates."""
    low, high = (-_REDUCED, _REDUCED) if reduce_range else format.bounds
    return Grid(getattr(torch, format.dtype), low, high, format.symmetric)
