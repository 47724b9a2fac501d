"""One file compiled for the Edge TPU: a TFLite file around code that does not show its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.formats.base import Activation, NotMeasured
from compress.formats.tflite.file import TfliteFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.measurement import IntegerShare, Sparsity
    from compress.formats.runner import Runner

__all__ = ["EdgetpuFile"]


class EdgetpuFile(TfliteFile):
    """Answers of the flatbuffer's ends; what lies between them is compiled."""

    why = "what is compiled for an Edge TPU does not show its weights; see the TFLite file it was made of"

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.edgetpu.runtime import load

        return load(self._artifact, threads=threads)

    def parameters(self) -> int:
        raise self._absent()

    def sparsity(self) -> Sparsity:
        raise self._absent()

    def macs(self) -> int:
        raise self._absent()

    def integers(self) -> IntegerShare:
        raise self._absent()

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        raise self._absent()

    def minimum_runtime(self) -> str:
        raise NotMeasured("a compiled file needs the Edge TPU runtime it was compiled for")
