"""TFLite files, run by LiteRT."""

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

__all__ = ["SUPPORT", "TfliteSupport"]


class TfliteSupport:
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
    is_source = False

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.tflite.file import TfliteFile

        return TfliteFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return "LiteRT computes in float32 with weights stored as FP16" if precision is Precision.FP16 else None

    def precision_of(self, path: Path) -> Precision:
        return Precision.FP32

    def trial(self, path: Path, spec: InputSpec, most_bytes: int) -> Callable[[], object]:
        raise NotMeasured("only what a pipeline starts from is tried")

    def load_source(self, path: Path, spec: InputSpec) -> Artifact:
        raise NotMeasured("a TFLite file is the end of a run: it has no layers left to prune or quantize")


SUPPORT: FormatSupport = TfliteSupport()
