"""Accuracy recovery: one algorithm per file, on captured graphs, each usable without the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

__all__ = ["Batches"]

Batches: TypeAlias = "Callable[[], Iterable[torch.Tensor]]"
"""Gives the calibration images, batches of float32 `[N, C, H, W]`, afresh each time it is called."""
