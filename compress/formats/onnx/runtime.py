"""ONNX files, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Precision
from compress.core.errors import StageError
from compress.support.quiet import first_line

# Linux wheels from 1.29 on report usage to their maker unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["OnnxRunner", "load", "open_session"]

_ERRORS_ONLY = 3

_CRASHES_ON_FLOAT16 = "NchwcTransformer"
"""On x86 it follows a null pointer where Transpose -> Cast to float32 -> MatMul meet, as in every float16 transformer
(microsoft/onnxruntime#28392, seen with 1.31 too). The crash takes the whole process down, so it cannot be caught."""


class OnnxRunner:
    """Runs a session; a file with a fixed batch of 1 runs sample by sample."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._session = session
        self._input = session.get_inputs()[0].name
        self._one_by_one = session.get_inputs()[0].shape[0] == 1

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._one_by_one and len(images) != 1:
            return np.concatenate([self._run(images[i : i + 1]) for i in range(len(images))])
        return self._run(images)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = self._session.run(None, {self._input: images})[0]
        return np.asarray(logits, dtype=np.float32)


def load(artifact: Artifact, *, threads: int, fused: bool = True, timed: bool = True) -> OnnxRunner:
    """A session on `threads` intra-op threads.

    Args:
        fused: with all graph optimizations, as the model is deployed; False runs every operator as the ONNX
            specification says, so DequantizeLinear, Conv and QuantizeLinear are three float steps.
        timed: see `open_session`.

    Raises:
        StageError: ONNX Runtime refuses the file.
    """
    return OnnxRunner(
        open_session(
            artifact.path, threads=threads, fused=fused, timed=timed, half=artifact.precision is Precision.FP16
        )
    )


def open_session(
    model: Path | bytes,
    *,
    threads: int,
    fused: bool = True,
    timed: bool = True,
    half: bool = False,
    profile: Path | None = None,
    optimized: Path | None = None,
) -> onnxruntime.InferenceSession:
    """A session as every number of this package is measured with; for what takes other inputs than images.

    Args:
        model: a file, or the content of one.
        timed: as it is deployed, where threads that wait for work keep their core busy; False lets them sleep, which
            halves the processor time of small operators on a machine that has other work.
        half: the weights are float16.
        profile: beginning of the name of the file that `end_profiling()` writes; None does not profile.
        optimized: where the graph is written as it runs, after fusion.

    Raises:
        StageError: ONNX Runtime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    if not timed:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[_CRASHES_ON_FLOAT16] if half else [],
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        name = "the model" if isinstance(model, bytes) else model
        raise StageError(f"ONNX Runtime cannot load {name}: {first_line(error)}") from error
