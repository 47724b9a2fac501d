"""One live module, asked what a file is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.formats.base import Unanswered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compress.core.artifact import Artifact
    from compress.core.measurement import Sparsity
    from compress.formats.base import Activation
    from compress.formats.runner import Runner
    from compress.formats.size import Size

__all__ = ["OpenModule"]


class OpenModule(Unanswered):
    """Answers of a module, run eagerly."""

    why = "a module is not asked that before it is exported"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._runner: Runner | None = None

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.torch.runtime import load

        self._runner = load(self._artifact, threads=threads)
        return self._runner

    def answers(self) -> Runner:
        from compress.formats.runtimes import usable_cores
        from compress.formats.torch.runtime import load

        return load(self._artifact, threads=usable_cores(), timed=False)

    def size(self) -> Size:
        from compress.formats.size import module_size

        return module_size(self._artifact.module)

    def as_module(self) -> nn.Module:
        return self._artifact.module

    def digest(self) -> str:
        from compress.formats.digest import module_digest

        return module_digest(self._artifact.module)

    def parameters(self) -> int:
        from compress.formats.torch.weights import module_parameters

        return module_parameters(self._artifact.module)

    def sparsity(self) -> Sparsity:
        from compress.formats.torch.weights import module_sparsity

        return module_sparsity(self._artifact.module)

    def macs(self) -> int:
        from compress.formats.torch.macs import dispatched_macs

        return dispatched_macs(self._runner or self.runner(threads=1), self._artifact.input)

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        from compress.formats.torch.activations import module_activations

        return module_activations(self._artifact, image)
