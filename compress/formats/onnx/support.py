"""ONNX files, run by ONNX Runtime here and on boards, or built into engines by TensorRT there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, Profiler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compress.core.artifact import Artifact, InputSpec
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "OnnxSupport"]


class OnnxSupport:
    """Facts of ONNX files, none of which is opened for them."""

    format = Format.ONNX
    suffixes: tuple[str, ...] = (".onnx",)
    tools = ("onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxslim")
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {
        "onnxruntime": DeviceRuntime(("onnxruntime",), "onnxruntime"),
        "tensorrt": DeviceRuntime(("tensorrt",), "onnxruntime"),  # the engine built of it has a runner of its own
    }
    profiler: Profiler | str = Profiler("onnxruntime", "compress.profile.readers.onnx")
    on_accelerator = False
    shows_integers = True
    multiplies_bytes = True
    made_elsewhere = "nothing to measure here: it is made on the device"
    is_source = True

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.onnx.file import OnnxFile

        return OnnxFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        if precision is Precision.FP16 and architecture.lower() in ("x86_64", "amd64"):
            return "ONNX Runtime computes FP16 in float32 with casts on x86"
        return None

    def precision_of(self, path: Path) -> Precision:
        from compress.formats.onnx.read import read_graph
        from compress.formats.onnx.source import graph_precision

        return graph_precision(read_graph(path).graph)

    def trial(self, path: Path, spec: InputSpec, most_bytes: int) -> Callable[[], object]:
        from compress.formats.onnx.source import run_once

        return lambda: run_once(path, spec, most_bytes)

    def load_source(self, path: Path, spec: InputSpec) -> Artifact:
        from compress.formats.onnx.source import load_onnx

        return load_onnx(path, spec)


SUPPORT: FormatSupport = OnnxSupport()
