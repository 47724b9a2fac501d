"""Running artifacts: one module per runtime, each with `load(artifact, *, threads) -> Runner`; formats name theirs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.runner import Runner

__all__ = ["load", "load_for_answers", "usable_cores"]


def load(artifact: Artifact, *, threads: int) -> Runner:
    """A runner for the artifact in its own runtime, on this machine's CPU with `threads` threads.

    Raises:
        StageError: the runtime cannot load the file.
    """
    from compress.formats.registry import open_file

    return open_file(artifact).runner(threads=threads)


def load_for_answers(artifact: Artifact) -> Runner:
    """A runner on all cores whose outputs count, and not its time.

    Raises:
        StageError: the runtime cannot load the file.
    """
    from compress.formats.registry import open_file

    return open_file(artifact).answers()


def usable_cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
