"""Location of the configuration files: inside an installed wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from compress.core.errors import ConfigError
from compress.support.reading import read_text

__all__ = ["conf_folder", "describe_choices", "targets_folder"]

_PACKAGE = Path(__file__).resolve().parents[1]
_LARGEST_BYTES = 1 << 20


def conf_folder() -> Path:
    """The Hydra configuration tree."""
    return _first(_PACKAGE / "_conf", _PACKAGE.parent / "conf")


def targets_folder() -> Path:
    """The device profiles."""
    return _first(_PACKAGE / "_targets", _PACKAGE.parent / "targets")


def describe_choices(group: Path) -> dict[str, str]:
    """Name and one-line description (first comment that is not a Hydra directive) of every YAML in a group.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {path.stem: _first_comment(path) for path in sorted(group.glob("*.yaml"))}


def _first_comment(path: Path) -> str:
    try:
        text = read_text(path, _LARGEST_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", fix="mend or remove it") from error
    for line in text.splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def _first(*folders: Path) -> Path:
    return next((folder for folder in folders if folder.is_dir()), folders[-1])
