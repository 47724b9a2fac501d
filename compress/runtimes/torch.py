"""A live module, run eagerly by PyTorch on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from compress.quantization.stored_weights import with_weights_restored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.types import Artifact

__all__ = ["TorchRunner", "inference", "load"]


class TorchRunner:
    """Runs a module without gradients."""

    def __init__(self, module: nn.Module, *, threads: int) -> None:
        self.name = f"torch {torch.__version__}"
        self._module = module
        self._threads = threads

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with inference(self._threads):
            logits: torch.Tensor = self._module(torch.from_numpy(images))
            return logits.float().numpy()


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


def load(artifact: Artifact, *, threads: int) -> TorchRunner:
    """A runner for a torch artifact."""
    module = artifact.module
    if isinstance(module, fx.GraphModule):
        module = with_weights_restored(module)
    return TorchRunner(module, threads=threads)
