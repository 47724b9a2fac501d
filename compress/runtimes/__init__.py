"""Running artifacts: one module per format, named after it, each with `load(artifact, *, threads) -> Runner`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from compress.runtimes.base import Runner
    from compress.types import Artifact

__all__ = ["load"]


class _Runtime(Protocol):
    def load(self, artifact: Artifact, *, threads: int) -> Runner: ...


def load(artifact: Artifact, *, threads: int) -> Runner:
    """A runner for the artifact in its own runtime, on this machine's CPU with `threads` threads.

    Raises:
        StageError: the runtime cannot load the file.
    """
    runtime = cast("_Runtime", importlib.import_module(f"compress.runtimes.{artifact.format.value}"))
    return runtime.load(artifact, threads=threads)
