"""One engine; it shows its layers' names and times, and none of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.formats.base import Unanswered

if TYPE_CHECKING:
    from compress.formats.runner import Runner

__all__ = ["EngineFile"]


class EngineFile(Unanswered):
    """Runs, and has a size."""

    why = "an engine does not show its weights; see the ONNX file it was built from"

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.tensorrt.runtime import load

        return load(self._artifact, threads=threads)
