"""Running artifacts: one module per format, named after it, each with `load(artifact, *, threads) -> Runner`."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Protocol, cast

from compress.types import Format, Precision

if TYPE_CHECKING:
    from compress.runtimes.base import Runner
    from compress.types import Artifact

__all__ = ["load", "load_for_answers", "usable_cores"]


class _Runtime(Protocol):
    def load(self, artifact: Artifact, *, threads: int) -> Runner: ...


def load(artifact: Artifact, *, threads: int) -> Runner:
    """A runner for the artifact in its own runtime, on this machine's CPU with `threads` threads.

    Raises:
        StageError: the runtime cannot load the file.
    """
    runtime = cast("_Runtime", importlib.import_module(f"compress.runtimes.{artifact.format.value}"))
    return runtime.load(artifact, threads=threads)


def load_for_answers(artifact: Artifact, *, as_written: bool = False) -> Runner:
    """A runner on all cores whose outputs count, and not its time.

    Args:
        as_written: run every operator of an INT8 ONNX file as ONNX specifies it, not as ONNX Runtime fuses them.

    Raises:
        StageError: the runtime cannot load the file.
    """
    if artifact.format is not Format.ONNX:
        return load(artifact, threads=usable_cores())
    from compress.runtimes import onnx

    fused = not as_written or artifact.precision is not Precision.INT8
    return onnx.load(artifact, threads=usable_cores(), fused=fused, timed=False)


def usable_cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
