"""The files of this package that run on the device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

__all__ = ["AGENT", "COURIER", "agent_files"]

AGENT = Path(__file__).parent / "agent"
"""A package for the device, Python 3.6 or later; `start.py`, which starts its programs there; a bundle's README."""

COURIER = AGENT / "courier.py"

_START = "start.py"
_PROGRAMS = {"benchmark.py": None, "build_engine.py": "tensorrt"}
"""Programs of the agent, each with the runtime it is for; None goes into every bundle."""

_PARTS = {"builder": "tensorrt"}
"""Folders of the agent that belong to the program of one runtime."""


def agent_files(runtimes: Collection[str]) -> Mapping[PurePosixPath, Path]:
    """Location of each file of the agent, by its path in a bundle for these runtimes."""
    special = {**_PROGRAMS, **_PARTS}.items()
    left_out = {name for name, runtime in special if runtime and runtime not in runtimes} | {_START, COURIER.name}
    paths = (path for path in sorted(AGENT.rglob("*.py")) if path.relative_to(AGENT).parts[0] not in left_out)
    package = {PurePosixPath(AGENT.name, path.relative_to(AGENT).as_posix()): path for path in paths}
    return {**{PurePosixPath(name): AGENT / _START for name in _PROGRAMS if name not in left_out}, **package}
