"""TFLite files, run by LiteRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, NoSource, Profiler

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "TfliteSupport"]


class TfliteSupport(NoSource):
    """Facts of TFLite files, none of which is opened for them."""

    format = Format.TFLITE
    suffixes = (".tflite",)
    tools = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch")
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {
        "litert": DeviceRuntime(("ai_edge_litert", "tflite_runtime"), "litert")
    }
    profiler: Profiler | str = "LiteRT's Python interpreter times whole calls only"
    on_accelerator = False
    shows_integers = True
    multiplies_bytes = False  # XNNPACK's kernels for x86 without VNNI multiply in 16 bits
    made_elsewhere = "nothing to measure here: it is made on the device"
    why_no_source = "a TFLite file is the end of a run: it has no layers left to prune or quantize"

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.tflite.file import TfliteFile

        return TfliteFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return "LiteRT computes in float32 with weights stored as FP16" if precision is Precision.FP16 else None


SUPPORT: FormatSupport = TfliteSupport()
