"""One module per format, each with `record` and `launch_us` (see `compress.profile.layer.Reader`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from compress.errors import ConfigError
from compress.types import Format

if TYPE_CHECKING:
    from compress.profile.layer import Reader

__all__ = ["PROFILED", "RUNTIMES", "find_reader"]

RUNTIMES = {Format.ONNX: "onnxruntime", Format.TORCH: "torch", Format.TENSORRT: "tensorrt"}
"""What profiles a format."""

PROFILED = frozenset(RUNTIMES)

_WHY_NOT = {
    Format.TFLITE: "LiteRT's Python interpreter times whole calls only",
    Format.EDGETPU: "the Edge TPU runs the whole file as one operator",
    Format.TORCHSCRIPT: "a frozen script has no modules left to tell apart",
}
_ELSEWHERE = "profile the ONNX file or the PyTorch model it was made from"


def find_reader(format: Format, runtime: str | None = None) -> Reader:
    """The module that profiles `format`.

    Args:
        runtime: as the user asked for it; None takes the only one there is.

    Raises:
        ConfigError: nothing profiles the format, or not in that runtime.
    """
    if format not in RUNTIMES:
        known = ", ".join(sorted(kind.value for kind in RUNTIMES))
        raise ConfigError(
            f"layers of a {format} file cannot be timed ({_WHY_NOT[format]}); formats that can: {known}", fix=_ELSEWHERE
        )
    if runtime is not None and runtime != RUNTIMES[format]:
        raise ConfigError(
            f"runtime {runtime!r} does not profile {format} files", fix=f"--runtime {RUNTIMES[format]}, or leave it out"
        )
    return cast("Reader", importlib.import_module(f"compress.profile.readers.{format.value}"))
