"""Forward pass from a batch of numpy arrays to class scores on the training device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.core.errors import DataError, StageError
from compress.core.stage import Batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["logits_of", "on_device", "require_scores"]


def on_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 `[N, C, H, W]` and labels int64 `[N]`."""
    return torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.labels).to(device)


def logits_of(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Class scores `[N, classes]`, in training mode too, where some networks return auxiliary scores after them.

    Raises:
        StageError: the output is not one row of scores per image.
    """
    output: object = module(images)
    logits = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(images):
        form = f"shape {list(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise StageError(
            f"the model gives {form} for {len(images)} images, training needs one row of class scores for each",
            fix="use a classifier that gives [N, classes] for any batch size N",
        )
    return logits


def require_scores(logits: torch.Tensor, labels: NDArray[np.int64]) -> None:
    """Raise `DataError` when a label lies beyond the scores; on a GPU the loss would fail without saying why."""
    classes = logits.shape[1]
    if labels.max() >= classes:
        raise DataError(
            f"the data has label {labels.max()}, but the model gives {classes} classes (0 to {classes - 1})",
            fix="use a model trained for this data set",
        )
