"""Files compiled for the Edge TPU: TFLite files of which a part is code for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import COMPILED_SUFFIX, Format, Precision
from compress.formats.base import DeviceRuntime, NoSource, Profiler

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "EdgetpuSupport"]


class EdgetpuSupport(NoSource):
    """Facts of compiled files, none of which is opened for them."""

    format = Format.EDGETPU
    suffixes = (COMPILED_SUFFIX,)
    tools = ("ai-edge-litert",)
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {
        "edgetpu": DeviceRuntime(("pycoral", "ai_edge_litert", "tflite_runtime"), "edgetpu")
    }
    profiler: Profiler | str = "the Edge TPU runs the whole file as one operator"
    on_accelerator = True
    shows_integers = False
    multiplies_bytes = False
    made_elsewhere = "nothing to measure here: only what the Edge TPU compiler makes of it runs, on the device"
    why_no_source = "a compiled file is the end of a run: it has no layers left to prune or quantize"

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.edgetpu.file import EdgetpuFile

        return EdgetpuFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return None


SUPPORT: FormatSupport = EdgetpuSupport()
