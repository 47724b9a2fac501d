"""The earlier name of `mse`, for configurations that use it."""

from __future__ import annotations

from compress.quantization.observers.mse import Mse

__all__ = ["Histogram"]


class Histogram(Mse):
    """`Mse`."""
