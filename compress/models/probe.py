"""Run a freshly loaded model once, so that a wrong shape is known before any work starts."""

from __future__ import annotations

import torch
from torch import nn

from compress.errors import ModelError
from compress.quiet import first_line
from compress.types import InputSpec

__all__ = ["probe_module", "require_logits"]


def probe_module(module: nn.Module, input: InputSpec) -> bool:
    """Whether `module` takes any batch size; False when it takes a batch of one only.

    Raises:
        ModelError: it does not take a batch of one, or what it returns is not a tensor `[N, classes]`.
    """
    try:
        single = _run(module, input, batch=1)
    except Exception as error:  # whatever the user's forward raises
        raise ModelError(
            f"the model fails on the declared input {(1, *input.shape)}: {first_line(error)}",
            fix="model.input.shape=[channels,height,width] as the model takes it",
        ) from error
    classes = require_logits(single, batch=1)
    try:
        pair = _run(module, input, batch=2)
    except Exception:  # a graph captured for one image; fine for deployment
        return False
    return isinstance(pair, torch.Tensor) and pair.shape == (2, classes)


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


def _run(module: nn.Module, input: InputSpec, *, batch: int) -> object:
    with torch.inference_mode():
        output: object = module(torch.zeros(batch, *input.shape))
    return output
