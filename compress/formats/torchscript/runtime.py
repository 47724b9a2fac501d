"""TorchScript files, run by PyTorch's TorchScript interpreter on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compress.core.errors import ModelError, StageError
from compress.formats.torch.runtime import inference
from compress.formats.torchscript.script_file import load_script

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["TorchScriptRunner", "load"]


class TorchScriptRunner:
    """Runs a scripted module; a file with a fixed batch of 1 runs sample by sample."""

    def __init__(self, module: torch.jit.ScriptModule, *, threads: int, one_by_one: bool) -> None:
        self.name = f"torchscript {torch.__version__}"
        self._module = module
        self._threads = threads
        self._one_by_one = one_by_one

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with inference(self._threads):
            batch = torch.from_numpy(images)
            if self._one_by_one and len(batch) != 1:
                logits = torch.cat([self._module(sample) for sample in batch.split(1)])
            else:
                logits = self._module(batch)
            return logits.float().numpy()


def load(artifact: Artifact, *, threads: int) -> TorchScriptRunner:
    """The file as saved: exporters freeze it, so nothing is left to optimize that would not change its numbers.

    Raises:
        StageError: PyTorch cannot read the file.
    """
    try:
        module = load_script(artifact.path)
    except ModelError as error:
        raise StageError(f"PyTorch cannot load {artifact.path}: {error.problem}", fix=error.fix) from error
    return TorchScriptRunner(module, threads=threads, one_by_one=not artifact.dynamic_batch)
