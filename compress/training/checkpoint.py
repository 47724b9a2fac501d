"""A training that was killed goes on after its last finished epoch."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, cast

import torch

from compress.support.files import write_bytes
from compress.training.device import RandomState
from compress.training.learner import LearnerState, Weights

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]


class Checkpoint(TypedDict):
    """Everything that decides the rest of a training; tensors and plain values only.

    Attributes:
        signature: of the training; a checkpoint of another one is not used.
        history: one row `(loss, top-1, validation loss, validation samples)` for each finished epoch.
        best: weights of the best epoch so far.
    """

    signature: str
    history: list[tuple[float, float | None, float | None, int]]
    learner: LearnerState
    best: Weights
    random: RandomState


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file atomically. Serialized in memory first: torch reports a full disk as an error of its own."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path, signature: str, log: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint, on the CPU; None, with a log line, when the file is damaged or of another training."""
    if not path.exists():
        return None
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        log(f"checkpoint {path.name} is damaged and not used: {type(error).__name__}")
        return None
    if not isinstance(loaded, dict) or loaded.get("signature") != signature:
        log(f"checkpoint {path.name} is of another training and not used")
        return None
    return cast(Checkpoint, loaded)
