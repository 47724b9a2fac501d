"""One TFLite file, read once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from compress.formats.base import Activation, Unanswered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact, Port
    from compress.core.measurement import IntegerShare, Sparsity
    from compress.formats.runner import Runner
    from compress.formats.tflite.contents import TfliteContents

__all__ = ["TfliteFile"]


class TfliteFile(Unanswered):
    """Answers of the flatbuffer."""

    why = "a TFLite file is not asked that: see the ONNX file or the module it was made of"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._read: TfliteContents | None = None

    @property
    def contents(self) -> TfliteContents:
        if self._read is None:
            from compress.formats.tflite.contents import TfliteContents

            self._read = TfliteContents(self._artifact.path)
        return self._read

    def release(self) -> None:
        self._read = None

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.tflite.runtime import load

        return load(self._artifact, threads=threads)

    def parameters(self) -> int:
        return self.contents.parameters()

    def sparsity(self) -> Sparsity:
        return self.contents.sparsity()

    def macs(self) -> int:
        return self.contents.macs()

    def integers(self) -> IntegerShare:
        return self.contents.integers()

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        from compress.formats.tflite.runtime import inner_values

        return [Activation(name, values) for name, values in inner_values(self._artifact.path, image).items()]

    def ports(self) -> tuple[Port, Port]:
        return self._ports

    def minimum_runtime(self) -> str:
        return self._minimum_runtime

    @cached_property
    def _ports(self) -> tuple[Port, Port]:
        return self.contents.ports()

    @cached_property
    def _minimum_runtime(self) -> str:
        return self.contents.minimum_runtime()
