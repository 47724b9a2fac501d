"""Preparation of a module before a stage trains it."""

from __future__ import annotations

import copy

import torch
from torch import nn

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import StageError
from compress.core.stage import Context
from compress.support.quiet import first_line
from compress.training.device import home_of
from compress.training.forward import logits_of
from compress.training.mode import set_training

__all__ = ["require_batches", "source_or", "source_teacher", "trainable_copy"]


def trainable_copy(module: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters all require a gradient; those of captured and folded ones often do not."""
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return module


def require_batches(module: nn.Module, artifact: Artifact, stage: str) -> None:
    """Raise `StageError` for a graph that was captured for single images: it cannot be trained in batches."""
    set_training(module, False)
    try:
        with torch.no_grad():
            logits_of(module, torch.zeros(2, *artifact.input.shape, device=home_of(module)))
    except (RuntimeError, AssertionError) as error:
        raise StageError(
            f"stage {stage!r}: the model does not take a batch of 2 images: {first_line(error)}",
            fix="export it with a dynamic batch dimension, or give it as Python code (model=factory)",
        ) from error


def source_teacher(context: Context) -> nn.Module:
    """The model as loaded, which nothing was removed from.

    Raises:
        StageError: there is none that can teach.
    """
    if context.source is None or context.source.format is not Format.TORCH:
        raise StageError(
            f"stage {context.name!r}: distillation needs the source model as a PyTorch module",
            fix=f"stage.{context.name}.distill=false",
        )
    return context.source.module


def source_or(source: Artifact | None, module: nn.Module) -> nn.Module:
    """The model as loaded, which pruning has not touched; `module` where that is no FP32 PyTorch module."""
    if source is not None and source.format is Format.TORCH and source.precision is Precision.FP32:
        return source.module
    return module
