"""Library versions and this package's own code: they decide a result besides its inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

__all__ = ["source_digest", "source_files", "tool_versions"]

_SELF = "edge-compress"

_ONLY_SHOWN = frozenset({"jinja2", "matplotlib", "mlflow-skinny", "platformdirs", "psutil", "rich", "tensorboard"})
"""Requirements that draw, watch or keep what was computed. Any other may change a result, also one that is added and
forgotten here: a stage is then computed once more than it had to be, and never too seldom."""

_NO_TOOLS = frozenset({"all", "dev"})
"""Extras for people who work on this package, and those that only name others."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # PEP 508; what follows is versions, extras and markers
_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)["']""")


@lru_cache(maxsize=1)
def tool_versions() -> dict[str, str]:
    """Installed versions of every library that may decide a result: what this package's metadata requires.

    Where it is run from its folder without being installed, nobody says what it requires: everything installed counts.
    """
    return {name: _version(name) for name in (_SELF, *_tools())}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Hex SHA-256 over this package's Python and YAML files: results of older code are not reused."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in source_files(root):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files(root: Path) -> list[Path]:
    """Everything below the package that decides what it computes: code, placement policies, tables of parsers."""
    return sorted([*root.rglob("*.py"), *root.rglob("*.yaml")])


def _tools() -> list[str]:
    try:
        required = set(_required(metadata.requires(_SELF) or []))
    except metadata.PackageNotFoundError:
        required = {_normal(distribution.name) for distribution in metadata.distributions() if distribution.name}
    return sorted(required - _ONLY_SHOWN - {_SELF})


def _required(lines: list[str]) -> Iterator[str]:
    """Distributions that lines of metadata name (`torch<2.15,>=2.14; extra == "x"`), those of extras with tools too."""
    for line in lines:
        name, extra = _NAME.match(line), _EXTRA.search(line)
        if name is not None and (extra is None or extra[1] not in _NO_TOOLS):
            yield _normal(name[0])


def _normal(name: str) -> str:
    """One spelling for a name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
