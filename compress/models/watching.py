"""Look at what passes through the parts of a module, and leave no hook behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.core.artifact import InputSpec

__all__ = ["Look", "watch_one_image", "watched"]

Look = Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]
"""Called after a part ran, with the part, its positional and named arguments, and its output."""


@contextmanager
def watched(parts: Iterable[nn.Module], look: Look) -> Iterator[None]:
    """Call `look` whenever one of `parts` runs inside the block."""
    hooks = [part.register_forward_hook(look, with_kwargs=True) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def watch_one_image(module: nn.Module, input: InputSpec, parts: Iterable[nn.Module], look: Look) -> None:
    """Call `look` for each of `parts` of `module` as one blank image runs through it."""
    with watched(parts, look), torch.no_grad():
        module(torch.zeros(1, *input.shape))
