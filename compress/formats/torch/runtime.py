"""A live module, run eagerly by PyTorch on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from compress.graph.capture import static_batch_reason
from compress.graph.stored_weights import with_weights_restored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["TorchRunner", "inference", "load"]


class TorchRunner:
    """Runs a module without gradients; one that takes a single image, or was captured for one, runs them one by one.

    Args:
        channels_last: lay each image out pixel by pixel, where the module takes it so: the same sums, and for
            convolutions a third less processor time, but not what a user times who runs the module as it is.
    """

    def __init__(
        self, module: nn.Module, *, threads: int, one_by_one: bool = False, channels_last: bool = False
    ) -> None:
        self.name = f"torch {torch.__version__}"
        self._module = module
        self._threads = threads
        captured = isinstance(module, fx.GraphModule) and static_batch_reason(module) is not None
        self._one_by_one = one_by_one or captured
        self._channels_last = channels_last

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with inference(self._threads):
            batch = torch.from_numpy(images)
            pieces = batch.split(1) if self._one_by_one else (batch,)
            return torch.cat([self._run(piece) for piece in pieces]).float().numpy()

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        if self._channels_last:
            try:
                return self._call(images.contiguous(memory_format=torch.channels_last))
            except RuntimeError:  # a `view` that merges axes which are no neighbours now; whatever else comes again
                self._channels_last = False
        return self._call(images)

    def _call(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._module(images)
        return logits


@contextmanager
def inference(threads: int) -> Iterator[None]:
    """Inference mode on `threads` intra-op threads; PyTorch's setting is global and is restored after."""
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(previous)


def load(artifact: Artifact, *, threads: int, timed: bool = True) -> TorchRunner:
    """A runner for a torch artifact.

    Args:
        timed: run it as it is; False in the layout that takes the least time.
    """
    module = artifact.module
    if isinstance(module, fx.GraphModule):
        module = with_weights_restored(module)
    return TorchRunner(module, threads=threads, one_by_one=not artifact.dynamic_batch, channels_last=not timed)
