"""A `.tar.gz` that depends on nothing but the files' names and content."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

from compress.files import atomic_path

__all__ = ["pack"]

_LEVEL = 6


def pack(folder: Path, archive: Path) -> None:
    """Write every file of `folder` below its name, sorted, with owner, times and permissions fixed.

    The same files give the same bytes: times are 0 (the epoch), owner is root, and scripts are executable.

    Raises:
        StageError: the archive cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with (
        atomic_path(archive) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile("", "wb", _LEVEL, stream, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in paths:
            entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix in (".py", ".sh") else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)
