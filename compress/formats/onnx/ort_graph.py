"""ONNX Runtime's own graph optimizer, run offline: the graph it would execute, as a file.

Levels (onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html): `basic` keeps to ONNX operators,
`extended` fuses into operators that only ONNX Runtime's CPU provider has. The layout level is not offered: it bakes the
vector width of the machine that writes the file into every convolution (NCHWc blocks of 16 with AVX-512, of 8 with
AVX2, none on Arm), and a session applies it by itself when it loads a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.core.errors import StageError
from compress.support.quiet import first_line
from compress.support.scratch import scratch_folder

if TYPE_CHECKING:
    import onnx

__all__ = ["Level", "optimized_graph", "write_optimized"]

Level = Literal["basic", "extended", "layout"]

_ERRORS_ONLY = 3
"""It warns that a file with fused operators suits ONNX Runtime only, which is what is wanted."""

_ARM = ("aarch64", "armv7l")


def optimized_graph(path: Path, level: Level = "extended") -> onnx.ModelProto:
    """Return what ONNX Runtime makes of the file at `path` when a session on this machine's CPU loads it.

    Inner values carry the shapes and types that ONNX Runtime inferred (`graph.value_info`).

    Args:
        level: `layout` shows everything a session does; for counting only, the graph suits this CPU alone.

    Raises:
        StageError: ONNX Runtime refuses the file.
    """
    import onnx

    with scratch_folder() as folder:
        written = folder / "optimized.onnx"
        write_optimized(path, written, level=level)
        return onnx.load(written)


def write_optimized(
    source: Path, path: Path, *, level: Level, architecture: str = "x86_64", ort_format: bool = False
) -> None:
    """Optimize `source` as ONNX Runtime does on load, and write the result to `path`.

    Args:
        architecture: of the device that will run it. Arm kernels take signed activations, x86 ones want them unsigned.
        ort_format: write a flatbuffer (`.ort`), which starts without protobuf and without optimizing again, instead of
            an ONNX file (onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html).

    Raises:
        StageError: ONNX Runtime refuses the file.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "layout": levels.ORT_ENABLE_ALL,
    }[level]
    options.optimized_model_filepath = str(path)
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    if architecture in _ARM:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if ort_format:
        options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise StageError(f"ONNX Runtime cannot load {source}: {first_line(error)}") from error
