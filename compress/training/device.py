"""Device on which the training computes, its precision, and the random state it begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from compress.core.errors import StageError
from compress.training.options import Device

__all__ = ["RandomState", "autocast_dtype", "choose_device", "home_of", "random_state", "restore_random", "seeded"]

RandomState = dict[str, torch.Tensor]
"""State of torch's generators, by device type."""


def choose_device(wanted: Device) -> torch.device:
    """The device to train on; `auto` takes the current CUDA GPU where there is one.

    Raises:
        StageError: `cuda` is wanted and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError("device=cuda, but torch finds no usable CUDA GPU on this machine", fix="device=auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def autocast_dtype(device: torch.device, *, mixed: bool) -> torch.dtype | None:
    """Arithmetic of mixed precision on `device`; None is FP32. Before Ampere (sm_80) bfloat16 is emulated: float16."""
    if not mixed or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def home_of(module: nn.Module) -> torch.device:
    """The device that holds the module; the CPU for one without tensors."""
    tensors: Iterator[torch.Tensor] = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside the block; the state outside is as if the block had not run.

    Only the generators used here are seeded: `torch.manual_seed` would also seed every GPU of the machine.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


def random_state(device: torch.device) -> RandomState:
    """Random state that `restore_random` takes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: RandomState, device: torch.device) -> None:
    """Go on where `random_state` was called."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
