"""TensorRT engines, which run on the GPU they were built on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, NoSource, Profiler

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "TensorrtSupport"]


class TensorrtSupport(NoSource):
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
    why_no_source = "an engine is the end of a run: it does not show its weights"

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.tensorrt.file import EngineFile

        return EngineFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return None


SUPPORT: FormatSupport = TensorrtSupport()
