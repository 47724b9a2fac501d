"""TensorRT engines, which run on the GPU they were built on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, NotMeasured, Profiler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compress.core.artifact import Artifact, InputSpec
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "TensorrtSupport"]


class TensorrtSupport:
    """Facts of engines, none of which is opened for them."""

    format = Format.TENSORRT
    suffixes = (".engine", ".plan")
    tools = ("tensorrt",)
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {"tensorrt": DeviceRuntime(("tensorrt",), "tensorrt")}
    profiler: Profiler | str = Profiler("tensorrt", "compress.profile.readers.tensorrt")
    on_accelerator = True
    shows_integers = False
    multiplies_bytes = False
    made_elsewhere = "nothing to measure here: it is made on the device"
    is_source = False

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.tensorrt.file import EngineFile

        return EngineFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return None

    def precision_of(self, path: Path) -> Precision:
        return Precision.FP32

    def trial(self, path: Path, spec: InputSpec, most_bytes: int) -> Callable[[], object]:
        raise NotMeasured("only what a pipeline starts from is tried")

    def load_source(self, path: Path, spec: InputSpec) -> Artifact:
        raise NotMeasured("an engine is the end of a run: it does not show its weights")


SUPPORT: FormatSupport = TensorrtSupport()
