"""Run a freshly loaded model on a few made-up images, so that what it cannot do is known before any work starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.support.quiet import first_line

__all__ = ["does_not_take", "probe", "probe_module", "require_logits"]

_Images = NDArray[np.float32]

_SAME = 1e-4
"""Of the largest logit: one image in two batches of one size goes through the same kernels, in the same order."""
_ALIKE = 2e-2
"""Of the largest logit: batches of other sizes sum in another order, and INT8 may round to the next level (1/127)."""


def probe_module(module: nn.Module, input: InputSpec) -> bool:
    """Tell whether `module` answers for many images at once as it does for each alone; raises as `probe`."""

    def run(images: _Images) -> object:
        with torch.inference_mode():
            output: object = module(torch.from_numpy(images))
        return output

    return probe(run, input)


def probe(run: Callable[[_Images], object], input: InputSpec) -> bool:
    """Tell whether a batch gives the answers that its images give one by one; False: run them one by one.

    Args:
        run: the model, from images `[N, C, H, W]` to logits, as a torch tensor.

    Raises:
        ModelError: it does not take a batch of one, what it returns is not a tensor `[N, classes]`, two runs differ,
            or the answer for an image depends on its neighbours.
    """
    image, near, far = _images(input)
    try:
        output = run(image)
    except ModelError:
        raise
    except Exception as error:  # whatever the user's forward raises
        raise does_not_take(input, error) from error
    require_logits(output, batch=1)
    alone, again = _values(output), _values(run(image))
    if np.isnan(alone).any():
        raise ModelError(
            "the model's answer for an image of noise holds values that are not numbers (NaN)",
            fix="check the weights, and model.input (mean, std): its values become too large, or are divided by zero",
        )
    if not _agree(alone, again, _SAME):
        raise ModelError(
            "the model gives two different answers for one image, in eval mode: it draws random numbers or keeps state",
            fix="F.dropout(x, training=self.training), nn.Dropout, or no random operator in forward()",
        )
    first, second = _beside(run, image, near), _beside(run, image, far)
    if first is None or second is None:
        return False
    if not _agree(first, second, _SAME):
        raise ModelError(
            "the model's answer for an image depends on the other images of its batch",
            fix="BatchNorm with track_running_stats=True, and statistics per image only: x.mean(dim=(1, 2, 3))",
        )
    return _agree(first, alone, _ALIKE)


def does_not_take(input: InputSpec, error: Exception) -> ModelError:
    """The one line for a model that raises `error` on one image."""
    return ModelError(
        f"the model fails on the declared input {(1, *input.shape)}: {first_line(error)}",
        fix="model.input.shape=[channels,height,width] as the model takes it",
    )


def require_logits(output: object, *, batch: int) -> int:
    """Number of classes; raises `ModelError` unless `output` is one tensor `[batch, classes]`."""
    if not isinstance(output, torch.Tensor):
        raise ModelError(
            f"the model returns a {type(output).__name__}, not one tensor [N, classes]",
            fix="wrap it in a module that returns the logits only",
        )
    if output.dim() != 2 or output.shape[0] != batch:
        raise ModelError(
            f"the model returns the shape {tuple(output.shape)} for a batch of {batch}, not [{batch}, classes]",
            fix="wrap it in a module that returns one row of logits per image",
        )
    return output.shape[1]


def _images(input: InputSpec) -> tuple[_Images, _Images, _Images]:
    """An image of noise in the range of pictures, another one, and one far brighter than any picture."""
    pixels = np.random.default_rng(0).random((3, *input.shape), np.float32)
    pixels[2] = 3 * pixels[2] + 2
    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (input.mean, input.std))
    image, near, far = np.split(((pixels - mean) / std).astype(np.float32), 3)
    return image, near, far


def _beside(run: Callable[[_Images], object], image: _Images, neighbour: _Images) -> NDArray[np.float64] | None:
    """The logits of `image` in a batch with `neighbour`; None where the model does not take a batch of two."""
    try:
        output = run(np.concatenate([image, neighbour]))
    except Exception:  # a graph captured for one image; fine for deployment
        return None
    if not isinstance(output, torch.Tensor) or output.dim() != 2 or output.shape[0] != 2:
        return None
    return _values(output)[:1]


def _values(output: object) -> NDArray[np.float64]:
    assert isinstance(output, torch.Tensor)
    values: NDArray[np.float64] = output.double().cpu().numpy()
    return values


def _agree(first: NDArray[np.float64], second: NDArray[np.float64], tolerance: float) -> bool:
    if first.shape != second.shape:
        return False
    largest = float(np.max(np.abs(first), initial=0.0, where=np.isfinite(first)))
    return bool(np.allclose(first, second, rtol=0, atol=tolerance * largest, equal_nan=True))
